"""What a stranger finds of machines."""

from __future__ import annotations

import re

from testinfra.host import Host

Ports = dict[str, set[int]]


def scanned(client: Host, *addresses: str) -> dict[str, Ports]:
    """What nmap says of all ports at addresses of one family, by address.

    ``open`` and ``closed``; the others do not answer at all.
    """
    client.check_output(
        "command -v nmap || (apt-get update && apt-get install --yes --no-install-recommends nmap)"
    )
    family = "-6" if ":" in addresses[0] else "-4"
    said = client.check_output(
        f"nmap {family} -n -Pn -sS -p- --min-rate 30000 --max-retries 3 -oG - {' '.join(addresses)}"
    )
    found: dict[str, Ports] = {address: {"open": set(), "closed": set()} for address in addresses}
    for line in said.splitlines():
        if match := re.match(r"Host: (\S+) .*Ports: ", line):
            for port, state in re.findall(r"(\d+)/(open|closed)/tcp", line):
                found[match[1]][state].add(int(port))
    return found
