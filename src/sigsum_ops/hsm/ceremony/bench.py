"""The devices on the table: found by their serial number, at whatever connector they are.

One connector with one device after the other will do, and so will a connector for each. A device is
asked who it is each time a step turns to it, and must be what the plan says before anything else is
sent to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from yubihsm.defs import ALGORITHM

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm import names
from sigsum_ops.hsm.ceremony import recording, records
from sigsum_ops.hsm.ceremony.presentation import People
from sigsum_ops.hsm.ceremony.records import Mode
from sigsum_ops.hsm.device import Device, DeviceError, Exchange, Identity, connect_again
from sigsum_ops.hsm.identity import is_rehearsal
from sigsum_ops.hsm.plan import DevicePlan, ObjectSpec, Plan

Record = Callable[[records.Record], None]
Commitment = Callable[[ObjectSpec, DevicePlan], str]


class WrongDevice(OpsError):  # noqa: N818 - an answer
    """A device that must not take part in this ceremony."""


def check_identity(plan: Plan, device: DevicePlan, found: Identity, mode: Mode) -> None:
    """Refuse a device that is not what the plan says or the mode allows. Raises WrongDevice."""
    rehearsal = is_rehearsal(found.serial, found.part_number)
    if rehearsal and mode == Mode.PRODUCTION:
        raise WrongDevice(
            f"{found.serial} is a rehearsal device, whose keys anyone can read",
            hint="Use the real device, or rehearse: sigsum-ops ceremony rehearse.",
        )
    if not rehearsal and mode == Mode.REHEARSAL:
        raise WrongDevice(
            f"{found.serial} is a real device; a rehearsal would erase it",
            hint="Rehearse with rehearsal devices only.",
        )
    if found.serial != device.serial:
        raise WrongDevice(
            f"YubiHSM {found.serial} is not {device.name}, which is {device.serial}",
            hint="Plug in the device that the plan names, or correct the plan.",
        )
    if device.firmware and found.firmware < device.firmware:
        has, needs = (".".join(map(str, version)) for version in (found.firmware, device.firmware))
        raise WrongDevice(
            f"{device.name} has firmware {has}; the plan wants {needs} or later",
            hint="Firmware cannot be updated: use another device, or change the plan.",
        )
    lacking = _algorithms(plan, device) - found.algorithms
    if lacking:
        missing = ", ".join(sorted(names.name_of(names.ALGORITHMS, each) for each in lacking))
        raise WrongDevice(
            f"{device.name} does not know {missing}", hint="Use another device, or change the plan."
        )


def _algorithms(plan: Plan, device: DevicePlan) -> set[ALGORITHM]:
    return {spec.algorithm for spec in plan.specs(device)}


class Bench:
    """Gives out devices, and has everything that is sent to them recorded."""

    def __init__(
        self,
        plan: Plan,
        mode: Mode,
        connectors: Sequence[str],
        people: People,
        record: Record,
        commitment: Commitment,
    ) -> None:
        self._plan = plan
        self._mode = mode
        self._connectors = connectors
        self._people = people
        self._record = record
        self._commitment = commitment
        self._devices: dict[int, Device] = {}

    def device(self, planned: DevicePlan) -> Device:
        """The device, wherever it is; people are asked to bring it where it is nowhere.

        Raises:
            OpsError: it is not what the plan says, or nobody brings it.
        """
        known = self._devices.get(planned.serial)
        if known:
            try:
                if known.identify().serial == planned.serial:
                    return known
            except DeviceError:
                pass
            self.forget(planned)
        while True:
            device, others = self._look(planned)
            if device:
                return self._adopt(planned, device)
            self._people.bring(planned, others)

    def present(self) -> list[tuple[DevicePlan, Device]]:
        """The devices of the plan that answer now. Raises OpsError for one that must not."""
        found = []
        for device in filter(None, map(_connect, self._connectors)):
            planned = self._plan.device(device.identity.serial)
            if planned is None:
                device.close()
            elif planned.serial not in self._devices:
                found.append((planned, self._adopt(planned, device)))
        return found

    def restarted(self, planned: DevicePlan) -> Device:
        """The device after its reset, once it answers again."""
        url = self._devices[planned.serial].url
        self.forget(planned)
        return self._adopt(planned, connect_again(url, planned.serial))

    def forget(self, planned: DevicePlan) -> None:
        if device := self._devices.pop(planned.serial, None):
            device.close()

    def close(self) -> None:
        for device in self._devices.values():
            device.close()
        self._devices.clear()

    def _look(self, planned: DevicePlan) -> tuple[Device | None, list[str]]:
        others = []
        for url in self._connectors:
            try:
                device = Device(url)
            except DeviceError as error:
                others.append(error.message)
                continue
            if device.identity.serial == planned.serial:
                return device, []
            others.append(f"YubiHSM {device.identity.serial} at {url}")
            device.close()
        return None, others

    def _adopt(self, planned: DevicePlan, device: Device) -> Device:
        found = device.identity
        try:
            check_identity(self._plan, planned, found, self._mode)
        except OpsError:
            device.close()
            raise
        self._record(
            records.Device(
                name=planned.name,
                serial=found.serial,
                firmware=found.firmware,
                part_number=found.part_number,
                connector=device.url,
                algorithms=tuple(
                    sorted(names.name_of(names.ALGORITHMS, each) for each in found.algorithms)
                ),
                log_size=found.log_size,
                log_used=found.log_used,
            )
        )

        def observe(exchange: Exchange) -> None:
            self._record(
                recording.command(
                    planned.serial, exchange, lambda spec: self._commitment(spec, planned)
                )
            )

        device.observe = observe
        self._devices[planned.serial] = device
        return device


def _connect(url: str) -> Device | None:
    try:
        return Device(url)
    except DeviceError:
        return None
