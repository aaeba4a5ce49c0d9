"""What a new primary leaves to be done outside the machines, and whether it was done.

The log's name must lead to it and to no other machine, and the inventory must be committed.
playbooks/outside.yml asks the controller by::

    python -m sigsum_ops.failover.outside URL LOG_KEY SIZE DIRECTORY

which prints a JSON list of what is not so.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path

from yarl import URL

from sigsum_ops.failover.judge import Problem
from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.keys import BadSignature, PublicKey

TIMEOUT = 10.0  # seconds for a machine to answer
_NO_REPOSITORY = 128  # git's exit status


async def names(url: str, key: PublicKey, size: int) -> list[Problem]:
    """What the log's URL leads to that is not its primary.

    Args:
        url: where the users of the log find it.
        key: the log's.
        size: of the tree head that the primary has signed already.
    """
    base = URL(url)
    if base.host is None or base.port is None:
        return [Problem("name", f"{url}: is no URL of a log")]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(base.host, base.port, type=socket.SOCK_STREAM)
    except OSError as error:
        return [Problem("name", f"{base.host} has no address: {error.strerror}", "Mend the DNS.")]
    addresses = sorted({str(item[4][0]) for item in found})
    answers = await asyncio.gather(*(_leads(url, address, key, size) for address in addresses))
    return [
        Problem(
            "name",
            f"{url} leads to {address}: {why}",
            "Point the log's name to the primary, and to nothing else.",
        )
        for address, why in zip(addresses, answers, strict=True)
        if why
    ]


async def _leads(url: str, address: str, key: PublicKey, size: int) -> str:
    """Why it is not the primary that answers there; empty where it is."""
    try:
        async with LogClient(url, timeout=TIMEOUT, address=address) as client:
            signed = (await client.get_tree_head()).signed
        signed.verify(key)
    except (ApiError, BadSignature) as error:
        return error.message
    if signed.head.size < size:
        return f"its tree head has size {signed.head.size}, and the primary has signed {size}"
    return ""


def uncommitted(directory: Path) -> list[Problem]:
    """Files of the inventory that git has not; nothing is said where there is no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), "status", "--porcelain", "--", "."],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return []
    if done.returncode == _NO_REPOSITORY:
        return []
    files = [line[3:] for line in done.stdout.splitlines()]
    if done.returncode or files:
        what = f"not committed: {', '.join(files)}" if files else done.stderr.strip()
        return [Problem("inventory", f"{directory}: {what}", "Commit it.")]
    return []


def main(arguments: list[str]) -> list[str]:
    """Ask the controller; the problems, as text."""
    url, key, size, directory = arguments
    found = asyncio.run(names(url, PublicKey.parse(key), int(size))) if url else []
    return [str(problem) for problem in (*found, *uncommitted(Path(directory)))]


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
