"""The DNS of a lab's test zones, with records that come and go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from testinfra.host import Host

TTL = 2  # seconds, of all records, and of the proof that there are none


@dataclass(frozen=True)
class Names:
    """The test zones' server, with records that come and go."""

    infra: Host

    @contextmanager
    def having(self, *records: str, zone: str = "example.org") -> Iterator[None]:
        """Serve a zone with these records."""
        self.write(zone, "\n".join(records))
        try:
            yield
        finally:
            self.write(zone, "")

    def write(self, zone: str, records: str) -> None:
        """Sign and serve a zone's records, and wait until nobody remembers that there are none."""
        local = f"/var/lib/lab-zones/{zone}.local"
        self.infra.check_output("printf '%%s\\n' %s > %s && lab-zone %s", records, local, zone)
        time.sleep(TTL + 0.5)
