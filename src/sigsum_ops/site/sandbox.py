"""The sandbox that every unit of this project gets, in one place.

Each directive is explained in systemd.exec(5). ``systemd-analyze security`` rates a unit with these
between 1 and 2 of 10; a test bounds it for each unit as deployed.
"""

from __future__ import annotations

from collections.abc import Sequence

COMMON = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "strict",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "PrivateDevices": "yes",
    "PrivateTmp": "disconnected",
    "PrivateIPC": "yes",
    "PrivateUsers": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "RemoveIPC": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallErrorNumber": "EPERM",
    "KeyringMode": "private",
    "UMask": "0077",
}
NETWORKS = {
    # Nothing but the machine itself: the kernel drops all else, whatever the program is made to do.
    "loopback": [
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        "IPAddressDeny=any",
        "IPAddressAllow=localhost",
    ],
    "internet": ["RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"],
    # The kernel's own settings of the network, and no packet.
    "netlink": ["RestrictAddressFamilies=AF_UNIX AF_NETLINK"],
}


def directives(
    *, network: str = "loopback", writable: Sequence[str] = (), without: Sequence[str] = ()
) -> str:
    """Return the lines for a unit's ``[Service]`` section.

    ``writable`` are the directories that the service owns; a path that does not exist is fatal to a
    unit (status 226), so name only what the role makes. ``without`` leaves out directives that the
    program cannot live with; say why beside the call.
    """
    unknown = set(without) - COMMON.keys()
    if unknown or network not in NETWORKS:
        raise ValueError(f"no such directive or network: {sorted(unknown) or network}")
    lines = [f"{key}={value}" for key, value in COMMON.items() if key not in without]
    lines += NETWORKS[network]
    # The second line takes away from what the first allows.
    lines += ["SystemCallFilter=@system-service", "SystemCallFilter=~@privileged @resources"]
    if writable:
        lines.append(f"ReadWritePaths={' '.join(writable)}")
    return "\n".join(lines)
