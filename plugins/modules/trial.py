#!/usr/bin/python
"""Try a file whose settings may cut the controller off: they are undone unless it comes back."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: trial
short_description: Try settings that may cut the controller off, and undo them unless it comes back
version_added: 0.1.0
description:
  - C(state=tried) has a program take in O(file), and arms a timer of systemd that has it take in
    what was kept last, O(kept), when O(seconds) have passed.
  - C(state=kept) comes over a new connection. It disarms the timer, and copies O(file) to O(kept),
    which is what the machine takes in at its boot. One that is rebooted in between comes back with
    what was kept last.
  - One trial of a name at a time. One that nobody kept is undone before the next begins.
author:
  - The Sigsum Ops project
attributes:
  check_mode:
    support: full
    description: Says whether something would be tried.
options:
  name:
    description: Of the trial; letters and hyphens.
    type: str
    required: true
  file:
    description: What is tried.
    type: path
    required: true
  kept:
    description: What was kept last; there is none before the first.
    type: path
    required: true
  take:
    description: Command that has a file taken in; C(%s) stands for it.
    type: list
    elements: str
    required: true
  there:
    description: Command that fails where nothing is in force, whatever was kept.
    type: list
    elements: str
    required: true
  clear:
    description: Command that undoes the first, before which nothing was kept.
    type: list
    elements: str
    required: true
  seconds:
    description: When it is undone, in seconds after it was taken in.
    type: int
    default: 45
  state:
    description: Whether to begin the trial or to end it well.
    type: str
    choices: [tried, kept]
    required: true
"""

EXAMPLES = r"""
- name: Try the rules
  sigsum_ops.site.trial: &rules
    name: firewall
    file: /etc/sigsum/firewall.nft
    kept: /var/lib/sigsum-firewall/kept.nft
    take: [nft, -f, "%s"]
    there: [nft, list, table, inet, sigsum]
    clear: [nft, delete, table, inet, sigsum]
    state: tried
  register: tried

- name: Come again
  ansible.builtin.wait_for_connection:

- name: Keep them
  sigsum_ops.site.trial:
    <<: *rules
    state: kept
"""

RETURN = r"""
undone:
  description: Whether a trial that nobody had kept was undone first.
  returned: O(state=tried)
  type: bool
"""

import os
import pathlib
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule

RUN = pathlib.Path("/run")
# First the mark goes: while it is there, nothing has been undone.
UNDO = 'rm -f "$0"; exec "$@"'

Run = Callable[..., str]


class TrialError(Exception):
    """It cannot be tried, or was undone already."""


def command(*argv: str) -> str:
    """Run a program; returns what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise TrialError(f"{' '.join(argv[:3])} ({done.returncode}): {said}")
    return done.stdout


class Trial:
    """One trial by its name; ``run`` runs a program."""

    def __init__(self, params: dict[str, Any], run: Run = command, runtime: pathlib.Path = RUN):
        if not re.fullmatch(r"[a-z-]+", params["name"]):
            raise TrialError(f"name is {params['name']!r}; allowed: letters and hyphens")
        self.unit = f"sigsum-trial-{params['name']}"
        self.mark = runtime / self.unit
        self.file = pathlib.Path(params["file"])
        self.kept = pathlib.Path(params["kept"])
        self.params = params
        self.run = run

    @property
    def changes(self) -> bool:
        """Whether something is to be tried."""
        if not self.file.exists():  # in check mode, on a new machine
            return False
        if not self.kept.exists() or self.file.read_bytes() != self.kept.read_bytes():
            return True
        try:
            self.run(*self.params["there"])
        except TrialError:
            return True
        return False

    def begin(self) -> bool:
        """Arm, then take in; whether an earlier one was undone first."""
        undone = self.mark.exists()
        if undone:
            self._disarm()
            self.run(*self._undo())
        self.mark.write_bytes(self.file.read_bytes())
        after = f"--on-active={self.params['seconds']}s"
        timer = ("--timer-property=AccuracySec=1s", "--quiet", "--collect")
        self.run("systemd-run", f"--unit={self.unit}", after, *timer, "--", *self._undo())
        try:
            self.run(*self._take(self.mark))
        except TrialError:
            # It may have been taken in by half.
            self._disarm()
            self.run(*self._undo())
            raise
        return undone

    def end(self) -> None:
        """Keep what was tried.

        Raises:
            TrialError: it was undone already, or never begun.
        """
        self._disarm()
        if not self.mark.exists():
            raise TrialError(
                f"{self.file} was undone after {self.params['seconds']} s, before the controller"
                " came back; nothing was kept"
            )
        # What was tried, whatever is in the file by now.
        tried = self.mark.read_bytes()
        candidate = self.kept.with_name(f".{self.kept.name}.new")
        with candidate.open("wb") as file:
            file.write(tried)
            file.flush()
            os.fsync(file.fileno())
        candidate.chmod(0o600)
        candidate.replace(self.kept)
        _sync(self.kept.parent)
        self.mark.unlink()

    def _disarm(self) -> None:
        """Stop the timer, and let end what it may have begun."""
        units = f"{self.unit}.timer", f"{self.unit}.service"
        if "LoadState=loaded" in self.run("systemctl", "show", "--property=LoadState", units[0]):
            self.run("systemctl", "stop", units[0])
        while "ActiveState=act" in self.run(
            "systemctl", "show", "--property=ActiveState", units[1]
        ):
            time.sleep(0.1)

    def _undo(self) -> Sequence[str]:
        back = self._take(self.kept) if self.kept.exists() else self.params["clear"]
        return "sh", "-c", UNDO, str(self.mark), *back

    def _take(self, file: pathlib.Path) -> Sequence[str]:
        return [word.replace("%s", str(file)) for word in self.params["take"]]


def _sync(directory: pathlib.Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> None:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "file": {"type": "path", "required": True},
            "kept": {"type": "path", "required": True},
            "take": {"type": "list", "elements": "str", "required": True},
            "there": {"type": "list", "elements": "str", "required": True},
            "clear": {"type": "list", "elements": "str", "required": True},
            "seconds": {"type": "int", "default": 45},
            "state": {"type": "str", "choices": ["tried", "kept"], "required": True},
        },
        supports_check_mode=True,
    )
    try:
        trial = Trial(module.params)
        if module.params["state"] == "kept":
            if not module.check_mode:
                trial.end()
            module.exit_json(changed=True)
        changed = trial.changes
        undone = trial.begin() if changed and not module.check_mode else False
        module.exit_json(changed=changed, undone=undone)
    except (TrialError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
