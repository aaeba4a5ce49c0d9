#!/usr/bin/python
"""Ensure that a log machine has its one Trillian tree, and that its tree-id file names it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: trillian_tree
short_description: Have one Trillian tree for a Sigsum log, and never a second one
version_added: 0.1.0
description:
  - Creates a tree in Trillian where neither Trillian nor this machine's files show that there ever
    was one, writes its number into the tree-id file, and reads both back.
  - Writes a lost or emptied tree-id file again where Trillian holds exactly one tree and this
    collection created it.
  - Refuses what would fork the log, with the facts that disagree and the procedure to use. Several
    trees, a tree that the tree-id file names and Trillian does not have, a tree of the other role's
    type, a frozen or deleted tree, no tree on a machine that has had one.
  - Can be interrupted anywhere. The next run finishes what is missing.
author:
  - The Sigsum Ops project
requirements:
  - The Debian package sigsum-ops on the managed machine.
options:
  address:
    description: Where Trillian's log server listens for RPC, as host and port.
    type: str
    default: 127.0.0.1:8090
  type:
    description:
      - Type of the tree. V(LOG) for a primary, V(PREORDERED_LOG) for a secondary.
      - A tree of the other type is never changed by this module; procedures do that.
    type: str
    choices: [LOG, PREORDERED_LOG]
    required: true
  tree_id_file:
    description: File for the tree's number, one line C(tree-id=NUMBER) as log-go reads it.
    type: path
    required: true
  owner:
    description: Owner of the files that this module writes.
    type: str
  group:
    description: Group of the files that this module writes.
    type: str
  mode:
    description: Permissions of the files that this module writes.
    type: raw
    default: '0644'
  evidence_paths:
    description:
      - Files that only a log with a past has, such as the start guard's evidence.
      - Where one of them exists, no tree is created and no startup file written.
    type: list
    elements: path
    default: []
  sth_file:
    description: The log's signed tree head. Counts as evidence too.
    type: path
  startup_file:
    description:
      - Where log-go looks for its startup file, which is O(sth_file) with C(.startup) appended.
      - If given and O(type=LOG), C(startup=empty) is written there as long as the tree is empty and
        there is no evidence, so that a new primary can make its first start.
      - Needs O(sth_file).
    type: path
  wait_seconds:
    description: How long to wait for Trillian to answer.
    type: float
    default: 30
attributes:
  check_mode:
    support: full
    description: Changes nothing. On a machine without a tree-id file and without evidence, where
      Trillian does not answer or the package sigsum-ops is missing, it reports that a tree would be
      created.
  diff_mode:
    support: full
    description: Shows the tree-id file and the startup file.
"""

EXAMPLES = r"""
- name: Have the primary's tree
  sigsum_ops.site.trillian_tree:
    type: LOG
    tree_id_file: /var/lib/sigsum-log/tree-id
    sth_file: /var/lib/sigsum-log/sth
    startup_file: /var/lib/sigsum-log/sth.startup
    evidence_paths: [/var/lib/sigsum-log/guard-evidence.json]
    owner: sigsum-log
    group: sigsum-log

- name: Have the secondary's tree
  sigsum_ops.site.trillian_tree:
    type: PREORDERED_LOG
    tree_id_file: /var/lib/sigsum-log/tree-id
"""

RETURN = r"""
tree_id:
  description: The tree's number in Trillian; V(null) where check mode would create it.
  type: int
  returned: success
type:
  description: The tree's type, as Trillian shows it.
  type: str
  returned: success
state:
  description: The tree's state, as Trillian shows it.
  type: str
  returned: success
size:
  description: Number of leaves that are integrated.
  type: int
  returned: success
root:
  description: The root hash at that size, in hexadecimal.
  type: str
  returned: success
decision:
  description: What was done about the tree, C(create), C(keep) or C(recover) (its tree-id file).
  type: str
  returned: success
"""

import pathlib
import traceback
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from sigsum_ops.errors import OpsError
    from sigsum_ops.log.tree import Outcome, Request, ensure
    from sigsum_ops.log.trillian import CannotTell, Trillian, retry
except ImportError:
    IMPORT_ERROR: str | None = traceback.format_exc()
else:
    IMPORT_ERROR = None

ARGUMENTS: dict[str, Any] = {
    "address": {"type": "str", "default": "127.0.0.1:8090"},
    "type": {"type": "str", "choices": ["LOG", "PREORDERED_LOG"], "required": True},
    "tree_id_file": {"type": "path", "required": True},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "raw", "default": "0644"},
    "evidence_paths": {"type": "list", "elements": "path", "default": []},
    "sth_file": {"type": "path"},
    "startup_file": {"type": "path"},
    "wait_seconds": {"type": "float", "default": 30.0},
}


def would_create(params: dict[str, Any], reason: str) -> dict[str, Any]:
    """What check mode answers on a machine where nothing is installed yet."""
    diff = [_diff(params["tree_id_file"], None, "tree-id=<of the new tree>\n")]
    if params["startup_file"] and params["type"] == "LOG":
        diff.append(_diff(params["startup_file"], None, "startup=empty\n"))
    return {
        "changed": True,
        "msg": f"would create a tree of type {params['type']} ({reason})",
        "decision": "create",
        "tree_id": None,
        "type": params["type"],
        "state": "ACTIVE",
        "size": 0,
        "root": None,
        "diff": diff,
    }


def is_new_machine(params: dict[str, Any]) -> bool:
    """Nothing here shows that there ever was a tree."""
    paths = [params["tree_id_file"], params["sth_file"], *params["evidence_paths"]]
    return not any(pathlib.Path(path).exists() for path in paths if path)


def report(outcome: Outcome, params: dict[str, Any], before: str | None) -> dict[str, Any]:
    """The module's result, without the files' ownership."""
    tree, head = outcome.tree, outcome.head
    if tree is None:
        return would_create(params, "check mode")
    diff = []
    if outcome.tree_id_written:
        diff.append(_diff(params["tree_id_file"], before, f"tree-id={tree.id}\n"))
    if outcome.startup_written:
        diff.append(_diff(params["startup_file"], None, "startup=empty\n"))
    return {
        "changed": outcome.changed,
        "decision": outcome.action,
        "tree_id": tree.id,
        "type": tree.type,
        "state": tree.state,
        "size": head.size if head else 0,
        "root": head.root.hex() if head else None,
        "diff": diff,
    }


def _diff(path: str, before: str | None, after: str) -> dict[str, str]:
    return {
        "before_header": path if before is not None else f"{path} (absent)",
        "after_header": path,
        "before": before or "",
        "after": after,
    }


def _own(module: AnsibleModule, path: str) -> bool:
    """Set owner, group and mode of a file that exists; whether that is a change."""
    if not pathlib.Path(path).exists():  # check mode, or consumed by log-go
        return False
    arguments = module.load_file_common_arguments(module.params, path=path)
    return bool(module.set_fs_attributes_if_different(arguments, False))


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do it, and return the result."""
    params = module.params
    path = pathlib.Path(params["tree_id_file"])
    request = Request(
        type=params["type"],
        tree_id_file=path,
        sth_file=pathlib.Path(params["sth_file"]) if params["sth_file"] else None,
        startup_file=pathlib.Path(params["startup_file"]) if params["startup_file"] else None,
        evidence=tuple(pathlib.Path(item) for item in params["evidence_paths"]),
    )
    new_in_check_mode = module.check_mode and is_new_machine(params)
    before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
    try:
        with Trillian(params["address"]) as trillian:
            outcome = retry(
                lambda: ensure(trillian, request, check=module.check_mode),
                wait=0 if new_in_check_mode else params["wait_seconds"],
                say=lambda _: None,
            )
    except CannotTell as error:
        if new_in_check_mode:
            return would_create(params, error.message)
        raise
    result = report(outcome, params, before)
    for file in (params["tree_id_file"], params["startup_file"]):
        if file and _own(module, file):
            result["changed"] = True
    return result


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_by={"startup_file": ["sth_file"]},
        supports_check_mode=True,
    )
    params = module.params
    if params["startup_file"] not in (None, f"{params['sth_file']}.startup"):
        module.fail_json(
            msg=f"startup_file is {params['startup_file']}, but log-go looks for"
            f" {params['sth_file']}.startup only"
        )
    if IMPORT_ERROR:
        if module.check_mode and is_new_machine(params):
            module.exit_json(**would_create(params, "the package sigsum-ops is not installed yet"))
        module.fail_json(
            msg=missing_required_lib("sigsum_ops")
            + " It is in the Debian package sigsum-ops, which this project builds:"
            " the role that uses this module installs it first.",
            exception=IMPORT_ERROR,
        )
    try:
        result = run(module)
    except OpsError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
