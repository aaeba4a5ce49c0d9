"""The objects on a device: what they are, who may see them, and how much room is left."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from yubihsm.defs import ALGORITHM, CAPABILITY, ERROR, LIST_FILTER, OBJECT, ORIGIN

from sigsum_ops.hsm.rehearsal.frames import DeviceError, Fields

LABEL_SIZE = 40
ALL_DOMAINS = 0xFFFF
# The factory's key has the bits of capabilities that later firmware defines, too.
ALL_CAPABILITIES = 2**64 - 1
FACTORY_KEY = 1
FACTORY_LABEL = b"DEFAULT AUTHKEY CHANGE THIS ASAP"
# PBKDF2 of the passphrase "password", as every YubiHSM tool derives it.
FACTORY_SECRET = bytes.fromhex("090b47dbed595654901dee1cc655e420592fd483f759e29909a04c4505d2ce0a")

_RECORDS, _PAGES, _PAGE_SIZE = 256, 1024, 126
_RESERVED_ID = 0xFFFF
_INFO = struct.Struct(f"!QHHHBBBB{LABEL_SIZE}sQ")
# These give capabilities to what is made with them; where they are stored, that takes 8 bytes.
DELEGATING = (OBJECT.AUTHENTICATION_KEY, OBJECT.WRAP_KEY)


@dataclass(frozen=True)
class Object:
    """One object. ``body`` is its key or data, in the form that keys.py describes."""

    id: int
    type: OBJECT
    algorithm: ALGORITHM
    label: bytes  # 40 bytes, filled up with NUL
    domains: int  # bit n-1 is domain n
    capabilities: int
    delegated: int
    origin: int
    sequence: int  # how many objects with this id the device had before, modulo 256
    body: bytes

    @property
    def key(self) -> tuple[OBJECT, int]:
        """What makes it unique on a device."""
        return self.type, self.id

    @property
    def length(self) -> int:
        """Bytes, as the device reports them."""
        return len(self.body) + (8 if self.type in DELEGATING else 0)

    def info(self) -> bytes:
        """The reply to GET_OBJECT_INFO, 66 bytes."""
        return _INFO.pack(
            self.capabilities,
            self.id,
            self.length,
            self.domains,
            self.type,
            self.algorithm,
            self.sequence,
            self.origin,
            self.label,
            self.delegated,
        )

    def need(self, capability: CAPABILITY) -> None:
        """INSUFFICIENT_PERMISSIONS where the object may not be used for that."""
        if not self.capabilities & capability:
            raise DeviceError(ERROR.INSUFFICIENT_PERMISSIONS)


def factory_key() -> Object:
    """The authentication key that a device has after a reset."""
    return Object(
        id=FACTORY_KEY,
        type=OBJECT.AUTHENTICATION_KEY,
        algorithm=ALGORITHM.AES128_YUBICO_AUTHENTICATION,
        label=FACTORY_LABEL.ljust(LABEL_SIZE, b"\0"),
        domains=ALL_DOMAINS,
        capabilities=ALL_CAPABILITIES,
        delegated=ALL_CAPABILITIES,
        origin=ORIGIN.IMPORTED,
        sequence=0,
        body=FACTORY_SECRET,
    )


class Store:
    """All objects of one device. ``changes`` grows with each change of it."""

    def __init__(self, objects: Iterator[Object], sequences: dict[int, int]) -> None:
        self._objects = {item.key: item for item in objects}
        self.sequences = sequences  # of each id that was ever used since the reset: the last one
        self.changes = 0

    @classmethod
    def factory(cls) -> Store:
        """As after a reset."""
        return cls(iter([factory_key()]), {FACTORY_KEY: 0})

    def __iter__(self) -> Iterator[Object]:
        return iter(sorted(self._objects.values(), key=lambda item: (item.id, item.type)))

    def __len__(self) -> int:
        return len(self._objects)

    def find(self, kind: OBJECT, object_id: int, domains: int = ALL_DOMAINS) -> Object:
        """The object, if it is in one of these domains; otherwise it does not exist."""
        found = self._objects.get((kind, object_id))
        if found is None or not found.domains & domains:
            raise DeviceError(ERROR.OBJECT_NOT_FOUND)
        return found

    def add(self, wanted: Object) -> Object:
        """Store a new object and return it as stored: with an id, where it asked for any (0).

        Raises:
            DeviceError: INVALID_ID, OBJECT_EXISTS, or STORAGE_FAILED where there is no room.
        """
        if wanted.id == _RESERVED_ID:
            raise DeviceError(ERROR.INVALID_ID)
        if wanted.key in self._objects:
            raise DeviceError(ERROR.OBJECT_EXISTS)
        if len(self) >= _RECORDS or self._used_pages() + _pages(wanted) > _PAGES:
            raise DeviceError(ERROR.STORAGE_FAILED)
        return self._put(replace(wanted, id=wanted.id or self._free_id(wanted.type)))

    def replace(self, item: Object) -> None:
        """Overwrite an object; it counts as another one with the same id."""
        self._put(item)

    def remove(self, item: Object) -> None:
        """Delete an object."""
        del self._objects[item.key]
        self.changes += 1

    def storage(self) -> bytes:
        """The reply to GET_STORAGE_INFO: records, free ones, pages, free ones, bytes a page."""
        free = _PAGES - self._used_pages()
        return struct.pack("!5H", _RECORDS, _RECORDS - len(self), _PAGES, free, _PAGE_SIZE)

    def select(self, filters: bytes, domains: int) -> Iterator[Object]:
        """What LIST_OBJECTS finds: in one of the domains, and matching every filter."""
        tests = list(_filters(filters))
        return (o for o in self if o.domains & domains and all(test(o) for test in tests))

    def _put(self, item: Object) -> Object:
        before = self.sequences.get(item.id)
        sequence = 0 if before is None else (before + 1) % 256
        item = replace(item, sequence=sequence)
        self._objects[item.key] = item
        self.sequences[item.id] = sequence
        self.changes += 1
        return item

    def _free_id(self, kind: OBJECT) -> int:
        while True:
            candidate = 1 + secrets.randbelow(_RESERVED_ID - 1)
            if (kind, candidate) not in self._objects:
                return candidate

    def _used_pages(self) -> int:
        return sum(_pages(item) for item in self._objects.values())


def _pages(item: Object) -> int:
    return -(-item.length // _PAGE_SIZE)


# How many bytes the value has, and when an object matches it.
_NUMERIC_FILTERS: dict[int, tuple[int, Callable[[Object, int], bool]]] = {
    LIST_FILTER.ID: (2, lambda o, value: o.id == value),
    LIST_FILTER.TYPE: (1, lambda o, value: o.type == value),
    LIST_FILTER.DOMAINS: (2, lambda o, value: bool(o.domains & value)),
    LIST_FILTER.CAPABILITIES: (8, lambda o, value: bool(o.capabilities & value)),
    LIST_FILTER.ALGORITHM: (1, lambda o, value: o.algorithm == value),
}


def _filters(data: bytes) -> Iterator[Callable[[Object], bool]]:
    fields = Fields(data)
    try:
        while fields.left:
            yield _filter(fields)
    except DeviceError:
        raise DeviceError(ERROR.INVALID_DATA) from None


def _filter(fields: Fields) -> Callable[[Object], bool]:
    """The next filter; a bit mask asks for any of its bits."""
    tag = fields.number(1)
    if tag == LIST_FILTER.LABEL:
        label = fields.take(LABEL_SIZE)
        return lambda o: o.label == label
    if tag not in _NUMERIC_FILTERS:
        raise DeviceError(ERROR.INVALID_DATA)
    size, test = _NUMERIC_FILTERS[tag]
    value = fields.number(size)
    return lambda o: test(o, value)
