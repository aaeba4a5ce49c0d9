"""The controller loads this collection's filters once, and not each of its workers."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: quick_workers
type: aggregate
short_description: Load the filters of this collection once
version_added: 0.1.0
description:
  - Ansible forks a worker for each task on each machine. One that uses a filter of a collection
    loads all of them.
  - With this, the controller has loaded them before it forks the first one. It prints nothing.
  - Half of the processor time of a converge that changed nothing was spent so.
author:
  - The Sigsum Ops project
requirements:
  - enabled in ansible.cfg, under C(callbacks_enabled)
"""

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core is not typed
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "sigsum_ops.site.quick_workers"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: object) -> None:  # noqa: ARG002 - Ansible's name for it
        """Before the first fork. To find one filter, all files of the collection are loaded."""
        filter_loader.get("sigsum_ops.site.ed25519")
