"""What the pages may say of a site: its inventory's own variables, by their own names.

Ansible renders the variables and contacts no machine. Only those named here are asked for, so that
nothing secret reaches a printed page.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm import plan as plans
from sigsum_ops.lab.spec import DEFAULT_NAME
from sigsum_ops.log import policy
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.site import ansible
from sigsum_ops.site.inventory import CLIENTS, LOG_MACHINES
from sigsum_ops.site.runbook import MEASUREMENTS, REPOSITORY

# What pages and this module use of a host.
VARIABLES = (
    "ansible_host",
    "lab_state",
    "log_server_role",
    "log_server_internal_address",
    "log_server_gating_secondary",
    "log_server_public_key",
    "log_server_policy_file",
    "log_url",
    "runbook_contacts",
    "runbook_hands",
    "runbook_hsm_plan",
    "runbook_place",
    "runbook_promise",
)
# In a value, these would be Markdown's and not the reader's.
_MARKUP = ("\n", "|", "`", "{{", "{%")


class Named(dict[str, Any]):
    """A mapping that knows what it is called, for messages about what it lacks."""

    def __init__(self, label: str, items: Mapping[str, Any]) -> None:
        super().__init__(items)
        self.label = label


@dataclass(frozen=True)
class Site:
    """Everything that a page can name.

    ``inventory`` is as the operator wrote it, ``revision`` the commit that it was taken from, and
    ``values`` what placeholders find: ``primary``, ``secondary``, ``client`` and ``machines`` have
    the variables of their hosts, and ``name``.
    """

    inventory: Path
    revision: str
    today: date
    values: Mapping[str, Any]

    def host(self, part: str) -> str:
        """The machine that has a part: primary, secondary or client."""
        return str(self.values[part]["name"])


def read(inventory: Path, today: date | None = None) -> Site:
    """Have Ansible render an inventory for the pages.

    Raises:
        UsageError: it cannot be rendered, has no primary, secondary or client, or a value that
            would change the page around it.
        OpsError: Ansible is not installed.
    """
    wanted = {name: f"{{{{ {name} | default(none) }}}}" for name in VARIABLES}
    wanted["groups"] = "{{ group_names }}"
    # On each machine's behalf: a variable is rendered as its own host sees it.
    done = ansible.run(
        "ansible",
        "all",
        "--module-name=ansible.builtin.debug",
        "--args",
        json.dumps({"msg": wanted}),
        inventory=inventory,
    )
    if done.returncode != 0:
        raise UsageError(
            f"Ansible cannot render {inventory}:\n{(done.stderr + done.stdout).strip()[-2000:]}"
        )
    hosts = parse(done.stdout)
    day = today or datetime.now(UTC).date()
    return Site(inventory, revision(inventory), day, model(inventory, hosts, measured()))


def parse(answer: str) -> dict[str, dict[str, Any]]:
    """The variables of each host, from what ``ansible all -m debug`` prints."""
    hosts = {}
    before, *answers = answer.split(" | SUCCESS => ")
    for text in answers:
        name = before.rsplit("\n", 1)[-1]
        hosts[name] = json.JSONDecoder().raw_decode(text)[0]["msg"]
        before = text
    return hosts


def model(
    inventory: Path,
    hosts: Mapping[str, Mapping[str, Any]],
    drills: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What placeholders find.

    Args:
        inventory: as it is to stand in commands.
        hosts: the variables of each host; ``groups`` are those that it is in.
        drills: what the newest drill measured, None where there was none.
    """
    machines = [_host(name, its) for name, its in hosts.items() if LOG_MACHINES in its["groups"]]
    clients = [_host(name, its) for name, its in hosts.items() if CLIENTS in its["groups"]]
    primaries = [host for host in machines if host.get("log_server_role") == "primary"]
    secondaries = [host for host in machines if host.get("log_server_role") == "secondary"]
    for what, found in (
        ("primary", primaries),
        ("secondary", secondaries),
        (f"machine in the group {CLIENTS}", clients),
    ):
        if not found:
            raise UsageError(
                f"{inventory}: there is no {what}", hint="sigsum-ops inventory check says more."
            )
    primary = primaries[0]
    gating = primary.get("log_server_gating_secondary")
    secondary = next((host for host in secondaries if host["name"] == gating), secondaries[0])
    shared = Named(primary.label, primary)
    contacts = _named("runbook_contacts", _needed(shared, "runbook_contacts"))
    key = PublicKey.parse(_needed(shared, "log_server_public_key"))
    plan = _plan(Path(_needed(shared, "runbook_hsm_plan")))
    # The devices of the log machines are called as the machines are.
    serials = {device["name"]: device["serial"] for device in plan["devices"]}
    for machine in machines:
        machine.update({"serial": serials[name]} if (name := machine["name"]) in serials else {})
    url = str(_needed(shared, "log_url"))
    policy_file = shared.get("log_server_policy_file")
    return {
        "inventory": str(inventory),
        # The lab to practise in: the inventory's own, where it is one's.
        "lab": Path(shared.get("lab_state", DEFAULT_NAME)).name,
        "primary": primary,
        "secondary": secondary,
        "secondaries": secondaries,
        "machines": [primary, *secondaries],
        "client": clients[0],
        "contacts": contacts,
        "promise": _needed(shared, "runbook_promise"),
        "log": Named(
            "log",
            {
                "url": f"{url.rstrip('/')}/",
                "place": urlsplit(url).netloc,
                "key": key.hex,
                "ssh": key.ssh,
                "hash": key.hash,
            },
        ),
        "witnesses": [
            {"name": name, "url": witness.url or "no URL", "key": witness.key.hex}
            for name, witness in policy.load(Path(policy_file)).witnesses.items()
        ]
        if policy_file
        else [],
        "plan": plan,
        "measured": Named("measured", drills) if drills else None,
    }


def measured(directory: Path = MEASUREMENTS) -> dict[str, Any] | None:
    """The newest result of ``sigsum-ops drill failover --json`` that is kept; None without one.

    Of its runs: how many, in how many of them the new primary has ``signed``, and after how many
    seconds (``median`` and ``slowest`` of those).
    """
    kept = sorted(directory.glob("drill-*.json"))
    if not kept:
        return None
    try:
        result = json.loads(kept[-1].read_text(encoding="utf-8"))
        seconds = sorted(float(each) for each in result["seconds_to_sign"] if each is not None)
        return {
            "file": f"docs/measurements/{kept[-1].name}",
            "runs": len(result["runs"]),
            "signed": len(seconds),
            "split_views": int(result["split_views"]),
            "lost_leaves": int(result["lost_leaves"]),
            "median": round(seconds[len(seconds) // 2]),
            "slowest": round(seconds[-1]),
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise OpsError(f"{kept[-1]}: not a drill's result: {error!r}") from error


def revision(inventory: Path) -> str:
    """The commit that the inventory is at, and whether it differs from it."""
    directory = inventory if inventory.is_dir() else inventory.parent
    commit = _git(directory, "log", "-1", "--format=%h", "--", ".")
    if not commit:
        return "not in git"
    changed = _git(directory, "status", "--porcelain", "--", ".")
    return f"{commit} with uncommitted changes" if changed else commit


def _git(directory: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _host(name: str, variables: Mapping[str, Any]) -> Named:
    own = {"ansible_host": name, **_given(variables), "name": name}
    return Named(name, {key: _named(f"{name}: {key}", value) for key, value in own.items()})


def _given(items: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is null or empty, which is not set."""
    return {key: value for key, value in items.items() if value not in (None, "", [], {})}


def _named(name: str, value: Any) -> Any:
    """Mappings with names all the way down, and texts that stay within their place."""
    if isinstance(value, Mapping):
        items = _given(value).items()
        return Named(name, {key: _named(f"{name}: {key}", its) for key, its in items})
    if isinstance(value, list):
        return [_named(f"{name}[{number}]", its) for number, its in enumerate(value)]
    if isinstance(value, str) and (found := [mark for mark in _MARKUP if mark in value]):
        raise UsageError(
            f"{name}: has {found[0]!r}, which would change the page around it",
            hint="One line of plain words.",
        )
    return value


def _needed(host: Named, variable: str) -> Any:
    if variable not in host:
        raise UsageError(
            f"{host.label}: {variable} is not set",
            hint="inventories/example/group_vars/all/runbook.yml shows what the runbook needs.",
        )
    return host[variable]


def _plan(path: Path) -> Named:
    """The devices of the site, from the plan of its key ceremony."""
    plan = plans.load(path)
    return Named(
        "plan",
        {
            "file": str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path),
            "site": plan.site,
            "hash": plan.hash(),
            "backup": f"{plan.backup.threshold} of {plan.backup.shares} shares"
            if plan.backup.form == "shares"
            else f"any one of {plan.backup.media} media",
            "devices": [
                {"name": device.name, "role": str(device.role), "serial": device.serial}
                for device in plan.devices
            ],
        },
    )
