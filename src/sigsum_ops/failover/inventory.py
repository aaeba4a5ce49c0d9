"""What the inventory says of the log machines, and what they are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from sigsum_ops.failover.judge import Look, Problem


def differs(
    looks: Mapping[str, Look | None],
    roles: Mapping[str, str],
    permits: Mapping[str, str],
    replaced: Collection[str] = (),
) -> list[Problem]:
    """What the inventory says of the machines, and is not so.

    Args:
        looks: of every log machine, None for one that does not answer.
        roles: ``log_server_role`` of each.
        permits: ``signing_oracle_ungated_until`` of those that have one.
        replaced: machines that were replaced as primary, and take themselves for it still.
    """
    primaries = sorted(
        name
        for name, look in looks.items()
        if look and "primary" in look["parts"] and name not in replaced
    )
    if len(primaries) != 1:
        return [
            Problem(
                "primary",
                f"there must be one primary; there is {' and '.join(primaries) or 'none'}",
                "playbooks/promote.yml goes on.",
            )
        ]
    return [*_roles(primaries[0], roles), *_permits(primaries[0], looks, permits)]


def _roles(primary: str, roles: Mapping[str, str]) -> Iterator[Problem]:
    for name, role in sorted(roles.items()):
        wanted = "primary" if name == primary else "secondary"
        if role != wanted:
            yield Problem(
                "inventory",
                f"log_server_role of {name} is {role}, and {primary} is the primary",
                f"Make it {wanted}. Until then site.yml refuses.",
            )


def _permits(
    primary: str, looks: Mapping[str, Look | None], permits: Mapping[str, str]
) -> Iterator[Problem]:
    there = (looks[primary] or {}).get("permit") or ""
    for name in sorted({primary, *permits}):
        wanted = there if name == primary else ""
        if permits.get(name, "") != wanted:
            yield Problem(
                "inventory",
                f"signing_oracle_ungated_until of {name} is {permits.get(name) or 'not set'},"
                f" and its oracle has {wanted or 'none'}",
                f'Make it "{wanted}".' if wanted else "Take it out.",
            )
