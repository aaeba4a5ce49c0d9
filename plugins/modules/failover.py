#!/usr/bin/python
"""One step of changing which machine is a log's primary."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: failover
short_description: One step of changing which machine is a log's primary
version_added: 0.1.0
description:
  - The steps that playbooks/promote.yml, reseed.yml and handover.yml are made of. Each reads back
    what it did, can be repeated, and refuses what could make a second history.
  - Needs the Debian package C(sigsum-ops) on the machine; the roles install it.
author:
  - The Sigsum Ops project
attributes:
  check_mode:
    support: full
    description: Only C(look) does anything.
options:
  step:
    description:
      - C(look) reads what a procedure needs to know and changes nothing.
      - C(fence) masks and stops everything with which a primary signs, and says so in
        C(/etc/sigsum/fenced.json).
      - C(unfence) undoes that. Only where no other machine was promoted meanwhile.
      - C(adopt) makes the tree of a secondary, which is stopped and masked, the tree of a primary.
        Of a machine in quarantine it wants the proof; then it ends the quarantine.
      - C(abandon) undoes what a promotion did before it came to that; it starts nothing.
      - C(retire) puts aside what a former primary signed, and empties its database. That ends a
        quarantine, too.
      - C(follow) looks until the tree extends all that is O(seen), and says how far it is.
      - C(allow) has the controller's journal keep who lets the primary go on alone, until when and
        why (O(reason)), and changes nothing on the machine.
      - C(gate) sees that the primary waits for a secondary and may not go on alone, and changes
        nothing either.
    type: str
    choices: [look, fence, unfence, adopt, abandon, retire, follow, allow, gate]
    required: true
  log_key:
    description: The log's public key, as an OpenSSH line or 64 hex digits.
    type: str
    required: true
  seen:
    description:
      - Tree heads that the tree must extend. Each has C(source), and either C(signed) (what
        get-tree-head answers, an sth file or a proof) or C(size) and C(root_hash) of one that
        another machine has verified.
    type: list
    elements: dict
    default: []
  reason:
    description: >-
      For C(fence), who does it and why, to be kept on the machine. For C(allow), C(until), C(by)
      and C(why).
    type: dict
    default: {}
  ports:
    description: For C(fence), those that nobody may listen on afterwards.
    type: list
    elements: int
    default: []
  address:
    description: The machine's address for C(ports), beside loopback.
    type: str
  witnesses:
    description:
      - For C(look), also ask the witnesses of the machine's policy up to which size they have
        cosigned the log, with the last tree head that is known. None of them cosigns anything new.
    type: bool
    default: false
  trillian:
    description: Host and port of the machine's Trillian log server.
    type: str
    default: 127.0.0.1:8090
"""

EXAMPLES = r"""
- name: Look at the machine
  sigsum_ops.site.failover:
    step: look
    log_key: "{{ log_server_public_key }}"
"""

RETURN = r"""
found:
  description: What C(look) found after the step.
  type: dict
  returned: success
head:
  description: For C(adopt), size and root hash with which the log goes on.
  type: dict
  returned: when step is adopt
followed:
  description: For C(follow), the tree's size at the end, and how many seconds it took.
  type: dict
  returned: when step is follow
aside:
  description: For C(retire), where the machine's past is.
  type: str
  returned: when step is retire
"""

import fcntl
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from sigsum_ops.backup import quarantine
    from sigsum_ops.errors import OpsError, UsageError
    from sigsum_ops.failover import units
    from sigsum_ops.failover.adopt import Places, adopt
    from sigsum_ops.failover.look import look, witnesses
    from sigsum_ops.failover.retire import abandon, retire
    from sigsum_ops.failover.seen import Seen, parse, parse_signed
    from sigsum_ops.log.keys import PublicKey
    from sigsum_ops.log.treehead import TreeHead
    from sigsum_ops.log.trillian import CannotTell, Trillian, retry
except ImportError:
    IMPORT_ERROR: str | None = traceback.format_exc()
else:
    IMPORT_ERROR = None

WAIT = 30.0  # seconds for Trillian to answer
READS = ("look", "allow", "gate")
LOCK = Path("/run/sigsum-failover.lock")


def known(items: list[dict[str, Any]], key: PublicKey) -> list[Seen]:
    """The tree heads of the option ``seen``."""
    found = []
    for item in items:
        source = str(item["source"])
        if "signed" in item:
            found.append(parse(str(item["signed"]).encode(), source, key))
        else:
            head = TreeHead(int(item["size"]), bytes.fromhex(item["root_hash"]))
            found.append(Seen(head, source))
    return found


def asked(module: AnsibleModule, key: PublicKey, places: Places) -> list[dict[str, Any]]:
    """What the witnesses say."""
    items = [item for item in module.params["seen"] if "signed" in item]
    given = [parse_signed(str(item["signed"]).encode(), str(item["source"]), key) for item in items]
    return witnesses(key, places, given)


@contextmanager
def alone() -> Iterator[None]:
    """One step at a time: one that a controller began which died since goes on without it."""
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fence(module: AnsibleModule) -> bool:
    """Mark, mask, stop; and see that nobody listens any more."""
    changed = units.mark(module.params["reason"])
    changed |= units.mask(units.PRIMARY)
    for address in ("127.0.0.1", module.params["address"]):
        if address and (open_ports := units.listening(address, module.params["ports"])):
            raise OpsError(f"somebody still listens at {address} on {open_ports}")
    return changed


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do the step, then look."""
    step, places = module.params["step"], Places()
    key = PublicKey.parse(module.params["log_key"])
    seen = known(module.params["seen"], key)
    result: dict[str, Any] = {"changed": False}
    # First: a look tells the machine's clock, and one that says nothing is waited for.
    told = {"witnesses": asked(module, key, places)} if module.params["witnesses"] else {}
    with ExitStack() as stack:
        trillian = stack.enter_context(Trillian(module.params["trillian"]))
        if step not in READS and not module.check_mode:
            stack.enter_context(alone())
        if step not in READS and module.check_mode:
            result["changed"] = True
        elif step == "fence":
            result["changed"] = fence(module)
        elif step == "unfence":
            result["changed"] = units.unmask(units.PRIMARY)
            units.MARK.unlink(missing_ok=True)
        elif step == "adopt":
            seen += quarantine.integrate()
            head, result["changed"] = retry(
                lambda: adopt(trillian, key, seen, places), wait=WAIT, say=lambda _: None
            )
            quarantine.lift()
            result["head"] = {"size": head.size, "root_hash": head.root.hex()}
        elif step == "abandon":
            result["changed"] = retry(
                lambda: abandon(trillian, places), wait=WAIT, say=lambda _: None
            )
        elif step == "retire":
            aside = retire(places)
            result |= {"changed": True, "aside": str(aside) if aside else ""}
        if step != "retire":
            result["found"] = {**look(trillian, key, seen, places), **told}
    if step == "gate":
        refuse_ungated(result["found"])
    return result


def refuse_ungated(found: dict[str, Any]) -> None:
    """Raise OpsError for a primary that could sign what no secondary has."""
    if not found["replicated"]:
        raise OpsError("its configuration, /etc/sigsum/config.toml, names no secondary")
    if found["permit"] != "":
        raise OpsError(
            f"its oracle lets it go on alone until {found['permit'] or 'nobody knows when'}"
            " (/etc/sigsum/oracle.toml)"
        )


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "step": {
                "type": "str",
                "choices": [
                    *("look", "fence", "unfence", "adopt", "abandon", "retire", "allow", "gate")
                ],
                "required": True,
            },
            "log_key": {"type": "str", "required": True, "no_log": False},
            "seen": {"type": "list", "elements": "dict", "default": []},
            "reason": {"type": "dict", "default": {}},
            "ports": {"type": "list", "elements": "int", "default": []},
            "address": {"type": "str"},
            "witnesses": {"type": "bool", "default": False},
            "trillian": {"type": "str", "default": "127.0.0.1:8090"},
        },
        supports_check_mode=True,
    )
    if IMPORT_ERROR:
        module.fail_json(
            msg=missing_required_lib("sigsum_ops")
            + " It is in the Debian package sigsum-ops, which this project builds:"
            " playbooks/site.yml installs it.",
            exception=IMPORT_ERROR,
        )
    try:
        module.exit_json(**run(module))
    except (OpsError, UsageError, CannotTell) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")


if __name__ == "__main__":
    main()
