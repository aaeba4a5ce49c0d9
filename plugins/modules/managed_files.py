#!/usr/bin/python
"""Put a set of files in place: all are checked before any is replaced."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: managed_files
short_description: Put a role's files in place in one step, all checked before any is replaced
version_added: 0.1.0
description:
  - Renders the templates of a role on the controller and writes them on the machine in one
    round trip.
  - Every file that would change is first validated by the program that will read it; when one
    is refused,
    none has been replaced. Each replacement is atomic (temporary file, fsync, rename).
  - One task instead of one for each file is what keeps a converge that has nothing to do within
    seconds.
author:
  - The Sigsum Ops project
attributes:
  check_mode:
    support: full
    description: Validates and reports, and writes nothing.
  diff_mode:
    support: full
    description: A file that is C(secret) shows only that it changed.
options:
  files:
    description: The files, in the order in which they are written.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: >-
          Absolute path on the machine. Its directory must exist or be listed in
          O(directories).
        type: path
        required: true
      template:
        description: Name of a template of the role. Rendered on the controller.
        type: str
      content:
        description: The content itself, in place of a template.
        type: str
      owner:
        description: Owning user.
        type: str
        default: root
      group:
        description: Owning group.
        type: str
        default: root
      mode:
        description: Permission bits, octal, quoted.
        type: str
        default: "0644"
      validate:
        description:
          - Command, as a list, that exits 0 where the content is good; C(%s) stands for the
            candidate file.
          - A command that is not installed yet is passed over only while the file does not
            exist yet.
        type: list
        elements: str
        default: []
      secret:
        description: Whether the content must not be shown in a diff.
        type: bool
        default: false
  directories:
    description: Directories to make first.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path on the machine.
        type: path
        required: true
      owner:
        description: Owning user.
        type: str
        default: root
      group:
        description: Owning group.
        type: str
        default: root
      mode:
        description: Permission bits, octal, quoted.
        type: str
        default: "0755"
  absent:
    description: Files that must not be there.
    type: list
    elements: path
    default: []
"""

EXAMPLES = r"""
- name: Configure the database
  sigsum_ops.site.managed_files:
    directories:
      - path: /etc/mysql/mariadb.conf.d
    files:
      - path: /etc/mysql/mariadb.conf.d/60-sigsum.cnf
        template: 60-sigsum.cnf.j2
        validate: [mariadbd, "--defaults-file=%s", --help]
"""

RETURN = r"""
paths:
  description: The files and directories that changed, or would.
  returned: always
  type: list
  elements: str
"""

import grp
import os
import pathlib
import pwd
import shutil
import stat
import subprocess
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

FILE_SPEC = {
    "path": {"type": "path", "required": True},
    "template": {"type": "str"},
    "content": {"type": "str", "no_log": False},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "str", "default": "0644"},
    "validate": {"type": "list", "elements": "str", "default": []},
    "secret": {"type": "bool", "default": False, "no_log": False},
}
DIRECTORY_SPEC = {
    "path": {"type": "path", "required": True},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "str", "default": "0755"},
}


class RefusalError(Exception):
    """A candidate was refused by its validator, or an account is missing."""


def _ids(item: dict[str, Any]) -> tuple[int, int]:
    try:
        return pwd.getpwnam(item["owner"]).pw_uid, grp.getgrnam(item["group"]).gr_gid
    except KeyError as error:
        raise RefusalError(f"{item['path']}: {error.args[0]}") from error


def _differs(path: pathlib.Path, item: dict[str, Any], ids: tuple[int, int]) -> bool:
    """Whether owner, group or mode of an existing path differ."""
    status = path.stat()
    return (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) != (
        *ids,
        int(item["mode"], 8),
    )


def _validate(item: dict[str, Any], candidate: str, *, replaces: bool) -> None:
    argv = [word.replace("%s", candidate) for word in item["validate"]]
    if not argv:
        return
    if shutil.which(argv[0]) is None:
        if replaces:
            raise RefusalError(f"{item['path']}: cannot be checked, {argv[0]} is not installed")
        return
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip())[-2000:]
        raise RefusalError(f"{item['path']}: refused by {argv[0]} ({result.returncode}): {said}")


def _replace(path: pathlib.Path, item: dict[str, Any], ids: tuple[int, int]) -> None:
    """Replace the file atomically; 0600 until owner and mode are set."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".sigsum-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(item["content"])
            file.flush()
            os.fchown(handle, *ids)
            os.fchmod(handle, int(item["mode"], 8))
            os.fsync(handle)
        pathlib.Path(name).replace(path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(directory: pathlib.Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Converge:
    """One run: what changed, and the diff of it."""

    def __init__(self, module: AnsibleModule, staging: str | pathlib.Path = "/run") -> None:
        self.staging = staging
        self.check = module.check_mode
        self.params = module.params
        self.paths: list[str] = []
        self.diff: list[dict[str, str]] = []

    def _account(self, item: dict[str, Any]) -> tuple[int, int]:
        try:
            return _ids(item)
        except RefusalError:
            if self.check:  # the account may be one that this run would have made
                return (-1, -1)
            raise

    def directories(self) -> None:
        """Make the directories."""
        for item in self.params["directories"]:
            path, ids = pathlib.Path(item["path"]), self._account(item)
            if path.is_dir() and not _differs(path, item, ids):
                continue
            self.paths.append(str(path))
            if not self.check:
                path.mkdir(parents=True, exist_ok=True)
                os.chown(path, *ids)
                path.chmod(int(item["mode"], 8))

    def files(self) -> None:
        """Validate every change, then put all in place."""
        changes = []
        with tempfile.TemporaryDirectory(prefix="sigsum-", dir=self.staging) as staging:
            for number, item in enumerate(self.params["files"]):
                path, ids = pathlib.Path(item["path"]), self._account(item)
                old = path.read_text(encoding="utf-8") if path.is_file() else None
                if old == item["content"] and not _differs(path, item, ids):
                    continue
                changes.append((path, item, ids))
                self._record(item, old)
                if old != item["content"]:
                    # Validators such as systemd-analyze go by the file's own name.
                    candidate = pathlib.Path(staging, str(number), path.name)
                    candidate.parent.mkdir()
                    candidate.touch(mode=0o600)
                    candidate.write_text(item["content"], encoding="utf-8")
                    _validate(item, str(candidate), replaces=old is not None)
        if not self.check:
            for change in changes:
                _replace(*change)

    def absent(self) -> None:
        """Remove what must not be there."""
        for name in self.params["absent"]:
            path = pathlib.Path(name)
            if path.exists() or path.is_symlink():
                self.paths.append(name)
                if not self.check:
                    path.unlink()

    def _record(self, item: dict[str, Any], old: str | None) -> None:
        self.paths.append(item["path"])
        shown = ("(secret)\n", "(another secret)\n") if item["secret"] else (old, item["content"])
        header = item["path"]
        self.diff.append(
            {
                "before_header": header,
                "after_header": header,
                "before": (shown[0] if old is not None else "") or "",
                "after": shown[1] or "",
            }
        )


def main() -> None:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "default": [], "options": FILE_SPEC},
            "directories": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": DIRECTORY_SPEC,
            },
            "absent": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    run = Converge(module)
    try:
        run.directories()
        run.files()
        run.absent()
    except RefusalError as refusal:
        module.fail_json(msg=f"Nothing was replaced. {refusal}")
    module.exit_json(changed=bool(run.paths), paths=run.paths, diff=run.diff)


if __name__ == "__main__":
    main()
