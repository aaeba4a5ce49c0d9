"""How a rehearsal device is told from a real one, so that production can refuse it.

This is apart from the rehearsal device itself: whoever only has to refuse needs nothing else of it.
"""

from __future__ import annotations

# Far above what has been sold; a real device with such a number would be refused, never accepted.
REHEARSAL_SERIALS = range(90_000_000, 100_000_000)
REHEARSAL_PART_NUMBER = "REHEARSAL"
REHEARSAL_SUBJECT = "YubiHSM rehearsal device"  # common name of its attestation certificates


def is_rehearsal(serial: int, part_number: str | None) -> bool:
    """Whether a device says, by either mark, that it is a rehearsal device.

    ``part_number`` is None from firmware before 2.4.0, and may end in NUL bytes as the device
    sends it.
    """
    part = (part_number or "").rstrip("\0")
    return serial in REHEARSAL_SERIALS or part == REHEARSAL_PART_NUMBER
