"""Filter: an Ed25519 public key in the form that a file needs."""

from __future__ import annotations

from collections.abc import Callable

DOCUMENTATION = r"""
---
name: ed25519
short_description: An Ed25519 public key in another form
version_added: 0.1.0
description: >-
  Reads an OpenSSH line or hex digits and renders either, or the SHA-256 of the raw key in hex, or
  that of the OpenSSH form in base64, as ssh-keygen shows it.
  Anything but an Ed25519 key is an error.
author:
  - The Sigsum Ops project
options:
  _input:
    description: The public key.
    type: str
    required: true
  form:
    description: The form wanted.
    type: str
    choices: [ssh, hex, hash, fingerprint]
    default: ssh
"""

EXAMPLES = r"""
policy: "log {{ log_server_public_key | sigsum_ops.site.ed25519('hex') }}"
"""

RETURN = r"""
_value:
  description: The key.
  type: str
"""

from ansible.errors import AnsibleFilterError

from sigsum_ops.errors import OpsError
from sigsum_ops.log.keys import PublicKey


def ed25519(text: str, form: str = "ssh") -> str:
    """Render the key as an OpenSSH line without a comment, as hex, or one of its hashes."""
    try:
        key = PublicKey.parse(text)
    except OpsError as error:
        raise AnsibleFilterError(str(error)) from error
    forms = {"ssh": key.ssh, "hex": key.hex, "hash": key.hash, "fingerprint": key.fingerprint}
    return forms[form]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Name the filters."""
        return {"ed25519": ed25519}
