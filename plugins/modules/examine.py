#!/usr/bin/python
"""A thin layer over sigsum_ops.doctor.examine, which the package sigsum-ops installs."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: examine
short_description: What one machine tells the doctor of itself
version_added: 0.1.0
description:
  - Units, metrics, certificates, disks, and of a log machine what it is and has signed. Changes
    nothing. C(sigsum-ops doctor) judges it.
author:
  - The Sigsum Ops project
attributes:
  check_mode:
    support: full
    description: Reads only.
options:
  log_key:
    description: The log's public key, on one of its machines.
    type: str
  trillian:
    description: Host and port of the machine's Trillian log server.
    type: str
    default: 127.0.0.1:8090
"""

EXAMPLES = r"""
- name: Examine the machine
  sigsum_ops.site.examine:
"""

RETURN = r"""
found:
  description: Everything.
  type: dict
  returned: success
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from sigsum_ops.doctor.examine import examine
    from sigsum_ops.errors import OpsError
    from sigsum_ops.log.keys import PublicKey
except ImportError:
    IMPORT_ERROR: str | None = traceback.format_exc()
else:
    IMPORT_ERROR = None


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "log_key": {"type": "str", "no_log": False},
            "trillian": {"type": "str", "default": "127.0.0.1:8090"},
        },
        supports_check_mode=True,
    )
    if IMPORT_ERROR:
        module.fail_json(
            msg=missing_required_lib("sigsum_ops") + " Or it is older: converge the machine.",
            exception=IMPORT_ERROR,
        )
    text = module.params["log_key"]
    try:
        key = PublicKey.parse(text) if text else None
        module.exit_json(found=examine(key, module.params["trillian"]))
    except OpsError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
