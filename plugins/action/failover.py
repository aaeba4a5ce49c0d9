"""Controller side of failover: the step that takes long says how far it is."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from sigsum_ops.errors import OpsError
from sigsum_ops.failover import procedure
from sigsum_ops.log.keys import PublicKey

NOTED = ("fence", "unfence", "adopt", "abandon", "retire", "follow", "allow", "gate")
POLL = 2.0  # seconds between two looks
STALLED = 60.0  # seconds without a leaf more after which it is given up


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core is not typed
    """See the documentation of the module of the same name."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module once; for C(follow), look until the tree extends all that is ``seen``."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments.get("step") in NOTED:
            return result | self._noted(arguments, task_vars)
        return result | self._module(arguments, task_vars)

    def _follow(
        self, arguments: dict[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Look until the tree extends all that is ``seen``."""
        wanted = max((int(item["size"]) for item in arguments.get("seen", [])), default=0)
        begun = moved = time.monotonic()
        first = size = -1
        while True:
            found = self._module({**arguments, "step": "look"}, task_vars)
            if found.get("failed"):
                return found
            tree, now = found["found"]["tree"], time.monotonic()
            if tree is not None:
                if not tree["behind"]:
                    seconds = now - begun
                    report = {"size": tree["size"], "seconds": round(seconds, 1)}
                    return {"changed": False, "followed": report, "found": found["found"]}
                first = tree["size"] if first < 0 else first
                if tree["size"] > size:
                    size, moved = tree["size"], now
                    Display().display(progress(size, wanted, first, now - begun))
            if tree is not None and tree["size"] >= wanted and tree["behind"]:
                return {"failed": True, "msg": f"another tree: {tree['behind']}"}
            if now - moved > STALLED:
                why = (tree or {}).get("behind") or found["found"]["unreadable"]
                return {
                    "failed": True,
                    "msg": f"no leaf more for {STALLED:.0f} s at size {size} of {wanted}: {why}."
                    " Do sigsum-log-secondary and trillian-log-signer run there?",
                }
            time.sleep(POLL)

    def _noted(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Take a step that the controller's journal knows of before and after."""
        take = self._follow if arguments["step"] == "follow" else self._module
        if self._task.check_mode:
            return take(arguments, task_vars)
        host = self._task.delegate_to or (task_vars or {})["inventory_hostname"]
        entry = {
            "step": arguments["step"],
            "host": host,
            "reason": dict(arguments.get("reason") or {}),
        }
        try:
            path = procedure.journal(PublicKey.parse(str(arguments["log_key"])).hash)
            procedure.note(path, {**entry, "done": False})
            done = take(arguments, task_vars)
            if done.get("failed"):
                procedure.note(path, {**entry, "done": False, "failed": str(done.get("msg", ""))})
            else:
                head = {"head": done["head"]} if "head" in done else {}
                procedure.note(path, {**entry, **head, "done": True})
        except OpsError as error:
            return {"failed": True, "msg": str(error)}
        return done

    def _module(
        self, arguments: dict[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        done: dict[str, Any] = self._execute_module(
            module_name="sigsum_ops.site.failover", module_args=arguments, task_vars=task_vars
        )
        if "found" in done:
            # By the controller's clock: what the machine's is compared with.
            done["found"]["received"] = time.time()
        return done


def progress(size: int, wanted: int, first: int, seconds: float) -> str:
    """How far, how fast, how long still; in leaves and seconds."""
    line = f"  {size} of {wanted} leaves"
    if size > first and seconds > 0:
        rate = (size - first) / seconds
        line += f", {rate:.0f}/s, {(wanted - size) / rate:.0f} s left"
    return line
