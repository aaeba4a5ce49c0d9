"""What a log machine is made of, from what the module hardware_raw read there.

Each component becomes a :class:`Reading`: its parts, and why it is not fully known. A part that a
firmware leaves at its vendor's placeholder counts as not known, never as different from another's.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sigsum_ops.errors import UsageError
from sigsum_ops.site.disks import Disks, as_mapping, as_sequence, as_text, find

# What firmware says in place of nothing.
_PLACEHOLDERS = {
    "",
    "-",
    "0",
    "0123456789",
    "default string",
    "empty",
    "n/a",
    "no module installed",
    "none",
    "not available",
    "not present",
    "not provided",
    "not specified",
    "o.e.m.",
    "oem",
    "system manufacturer",
    "system product name",
    "to be filled by o.e.m.",
    "type2 - board product name1",
    "type2 - board vendor name1",
    "undefined",
    "unknown",
}
# JEDEC's maker codes, which some firmware does not translate ("00AD00000A07", "80AD000080AD").
_JEDEC = {
    "002C": "Micron",
    "802C": "Micron",
    "00AD": "SK hynix",
    "80AD": "SK hynix",
    "00CE": "Samsung",
    "80CE": "Samsung",
    "0198": "Kingston",
    "859B": "Crucial",
}
# PCI vendors whose network cards exist in software only: Red Hat, VMware, Microsoft, XenSource.
_VIRTUAL_CARDS = {"1af4", "15ad", "1414", "5853"}


@dataclass(frozen=True)
class Part:
    """One thing that a component consists of.

    Args:
        key: equal for parts that fail alike.
        label: for people; never a serial number.
        partial: the key may be only a piece, so it is compared by containment.
        scope: the key means something only within it, where it is known: the same firmware
            revision of two makers is chance.
    """

    key: str
    label: str
    partial: bool = False
    scope: str = ""

    def same_as(self, other: Part) -> bool:
        """Whether the two may be of one kind: where in doubt, they are."""
        if self.scope and other.scope and self.scope != other.scope:
            return False
        if self.partial or other.partial:
            return self.key in other.key or other.key in self.key
        return self.key == other.key


@dataclass(frozen=True)
class Reading:
    """A component of one machine: what was seen, and why that may not be all ("" where it is)."""

    parts: tuple[Part, ...]
    unknown: str = ""

    @property
    def labels(self) -> list[str]:
        """The parts for people, equal ones counted together."""
        counts = Counter(part.label for part in self.parts)
        return [label if n == 1 else f"{n} x {label}" for label, n in counts.items()]


@dataclass(frozen=True)
class Hardware:
    """A machine's components; the field names are their ids in policies and reports."""

    machine: Reading
    disk: Reading
    disk_serial: Reading
    disk_firmware: Reading
    disk_maker: Reading
    board: Reading
    bios: Reading
    cpu: Reading
    microcode: Reading
    memory: Reading
    network: Reading
    power_supply: Reading
    kernel: Reading
    os: Reading


def parse(raw: object) -> Hardware:
    """Work out the components from the module's answer.

    Raises:
        UsageError: this is not an answer of hardware_raw.
    """
    if not isinstance(raw, Mapping) or "lsblk" not in raw or "problems" not in raw:
        raise UsageError(
            "this is not what the module hardware_raw answers",
            hint="Record the facts with: sigsum-ops diversity --record DIR",
        )
    problems = {name: as_text(why) for name, why in as_mapping(raw["problems"]).items()}
    disks = find(raw, problems)
    structures = list(_structures(as_text(raw.get("dmidecode"))))
    virtual = _virtual(raw)
    dmi = {name: _clean(value) for name, value in as_mapping(raw.get("dmi")).items()}
    cpu, microcode = _cpu(as_text(raw.get("cpuinfo")))
    return Hardware(
        machine=_machine(raw, virtual),
        disk=Reading(
            tuple(Part(d.key, d.label, d.model_cut) for d in disks.seen), "; ".join(disks.hidden)
        ),
        disk_serial=_serials(disks),
        disk_firmware=_firmware(disks),
        disk_maker=_makers(disks),
        board=virtual or _board(dmi),
        bios=virtual or _bios(dmi),
        cpu=cpu,
        microcode=microcode,
        memory=virtual or _memory(structures, problems),
        network=_network(raw),
        power_supply=virtual or _power_supplies(structures, as_text(raw.get("ipmi_fru")), problems),
        kernel=_one(as_text(raw.get("kernel")), "the kernel's release was not readable"),
        os=_os(as_text(raw.get("os_release"))),
    )


# --- The machine itself, and its disks ----------------------------------------------------------


def _virtual(raw: Mapping[str, object]) -> Reading | None:
    """What is said of components that a hypervisor makes up; None on a physical machine."""
    vm = as_text(raw.get("vm"))
    if vm in {"", "none"}:
        return None
    return Reading((), f"runs in a virtual machine ({vm}), which hides it")


def _machine(raw: Mapping[str, object], virtual: Reading | None) -> Reading:
    """Whether two are one: containers of one machine share its kernel, hence its boot id."""
    container = as_text(raw.get("container"))
    label = "virtual" if virtual else "physical"
    if container not in {"", "none"}:
        label = f"{label}, in a container ({container})"
    boot = as_text(raw.get("boot"))
    if not boot:
        return Reading((), "the boot id was not recorded: hardware_raw was given no salt")
    return Reading(
        (Part(boot, label),),
        "a virtual machine cannot see what else its computer runs" if virtual else "",
    )


def _serials(disks: Disks) -> Reading:
    parts = tuple(Part(d.serial, f"{d.label} ({d.place})") for d in disks.seen if d.serial)
    silent = [d.place for d in disks.seen if not d.serial]
    unknown = [f"no serial number of {', '.join(silent)}"] if silent else []
    return Reading(parts, "; ".join([*disks.hidden, *unknown]))


def _firmware(disks: Disks) -> Reading:
    parts = tuple(
        Part(_key(d.firmware), f"{d.firmware} ({d.label})", d.firmware_cut, d.maker)
        for d in disks.seen
        if d.firmware
    )
    silent = [d.place for d in disks.seen if not d.firmware]
    unknown = [f"no firmware revision of {', '.join(silent)}"] if silent else []
    return Reading(parts, "; ".join([*disks.hidden, *unknown]))


def _makers(disks: Disks) -> Reading:
    parts = tuple(Part(d.maker, d.maker) for d in disks.seen if d.maker)
    silent = [d.label for d in disks.seen if not d.maker]
    unknown = [f"the maker of {', '.join(silent)} is not known"] if silent else []
    return Reading(parts, "; ".join([*disks.hidden, *unknown]))


# --- Board, BIOS, CPU ---------------------------------------------------------------------------


def _board(dmi: Mapping[str, str]) -> Reading:
    product = dmi.get("product_name", "")
    # Some servers name no board of their own: then the product is as good.
    name = dmi.get("board_name") or product
    vendor = dmi.get("board_vendor") or dmi.get("sys_vendor", "")
    if not name:
        return Reading((), "the firmware names no board in /sys/class/dmi/id")
    label = _join(vendor, name, dmi.get("board_version", ""))
    if product and product != name:
        label += f" ({product})"
    return Reading((Part(_key(f"{vendor} {name}"), label),))


def _bios(dmi: Mapping[str, str]) -> Reading:
    version = dmi.get("bios_version", "")
    if not version:
        return Reading((), "the firmware names no BIOS version in /sys/class/dmi/id")
    key = _join(dmi.get("bios_vendor", ""), version)
    date = dmi.get("bios_date", "")
    return Reading((Part(_key(f"{key} {date}"), f"{key} of {date}" if date else key),))


def _cpu(cpuinfo: str) -> tuple[Reading, Reading]:
    """Model and microcode; two CPUs of one family and model share their errata."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    block = {name.strip(): value.strip() for name, _, value in lines}
    vendor = block.get("vendor_id") or block.get("CPU implementer", "")
    model = block.get("model") or block.get("CPU part", "")
    if not vendor or not model:
        unknown = Reading((), "/proc/cpuinfo names no model")
        return unknown, unknown
    family = block.get("cpu family") or block.get("CPU architecture", "")
    stepping = block.get("stepping") or block.get("CPU revision", "")
    name = re.sub(r"\((?:R|TM)\)", "", block.get("model name") or vendor)
    key = f"{vendor} {family}/{model}"
    cpu = Part(key, f"{_clean(name)} (family {family}, model {model}, stepping {stepping})")
    microcode = block.get("microcode", "")
    if not microcode:
        return Reading((cpu,)), Reading((), "/proc/cpuinfo names no microcode")
    return Reading((cpu,)), Reading((Part(f"{key}/{stepping} {microcode}", microcode),))


# --- Memory, power, network ---------------------------------------------------------------------


def _structures(dmidecode: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The type and the fields of each structure that dmidecode printed."""
    for block in re.split(r"^(?=Handle 0x)", dmidecode, flags=re.MULTILINE):
        if head := re.match(r"Handle 0x[0-9A-Fa-f]+, DMI type (\d+)", block):
            fields = (line.partition(":") for line in block.splitlines()[2:])
            yield int(head[1]), {name.strip(): _clean(value) for name, _, value in fields}


def _memory(structures: list[tuple[int, dict[str, str]]], problems: Mapping[str, str]) -> Reading:
    modules = [fields for kind, fields in structures if kind == 17 and fields.get("Size")]
    parts = []
    for module in modules:
        number = module.get("Part Number", "")
        if number:
            maker = _memory_maker(module.get("Manufacturer", ""))
            parts.append(Part(_key(number), _join(maker, number, module["Size"])))
    if not modules:
        return Reading((), _dmidecode_hint(problems, "memory modules"))
    silent = len(modules) - len(parts)
    return Reading(tuple(parts), f"{silent} modules have no part number" if silent else "")


def _memory_maker(text: str) -> str:
    code = re.fullmatch(r"(?:0x)?([0-9A-F]{4})[0-9A-F]*", text)
    return _JEDEC.get(code[1], text) if code else text


def _power_supplies(
    structures: list[tuple[int, dict[str, str]]], fru: str, problems: Mapping[str, str]
) -> Reading:
    found = [fields for kind, fields in structures if kind == 39]
    parts = [
        part
        for fields in found
        if fields.get("Status") != ""  # what is left of "Not Present"
        and (
            part := _power_supply(
                fields.get("Manufacturer", ""),
                fields.get("Model Part Number", ""),
                fields.get("Name", ""),
            )
        )
    ]
    if not parts:
        parts = list(_power_supplies_of_fru(fru))
    if parts:
        return Reading(tuple(parts))
    unknown = _dmidecode_hint(problems, "power supplies")
    if problems.get("ipmitool") == "missing":
        unknown += "; ipmitool could ask the BMC"
    return Reading((), unknown)


def _power_supply(maker: str, number: str, name: str) -> Part | None:
    # "Power Supply 1" is a place, "PWR SPLY,550W,RDNT,DELTA" tells who really made it.
    name = "" if re.fullmatch(r"(?i)(?:power supply|psu) ?\d*", name) or name == number else name
    if not number and not name:
        return None
    return Part(_key(number or name), _join(maker, number, name))


def _power_supplies_of_fru(fru: str) -> Iterator[Part]:
    for block in re.split(r"^(?=FRU Device Description)", fru, flags=re.MULTILINE):
        lines = (line.partition(":") for line in block.splitlines())
        fields = {name.strip(): _clean(value) for name, _, value in lines}
        if re.search(r"(?i)power supply|\bpsu?\d?\b", fields.get("FRU Device Description", "")):
            part = _power_supply(
                fields.get("Product Manufacturer") or fields.get("Board Mfg", ""),
                fields.get("Product Part Number") or fields.get("Board Part Number", ""),
                fields.get("Product Name") or fields.get("Board Product", ""),
            )
            if part:
                yield part


def _network(raw: Mapping[str, object]) -> Reading:
    parts = []
    virtual = False
    for card in map(as_mapping, as_sequence(raw.get("network"))):
        pci = as_text(card.get("pci"))
        if pci.partition(":")[0] in _VIRTUAL_CARDS:
            virtual = True
            continue
        name = re.sub(r" (?:Inc\. and subsidiaries|Corporation)\b", "", _clean(card.get("name")))
        name = name or _join(_clean(card.get("driver")), pci)
        firmware = _clean(card.get("firmware"))
        parts.append(Part(pci, f"{name}, firmware {firmware}" if firmware else name))
    if virtual:
        return Reading(tuple(parts), "a virtual network card hides the real one")
    return Reading(tuple(parts), "" if parts else "no network card on PCI is visible")


def _dmidecode_hint(problems: Mapping[str, str], what: str) -> str:
    why = problems.get("dmidecode")
    if why == "missing":
        return f"install dmidecode to see the {what}"
    return f"dmidecode shows no {what}" + (f": {why}" if why else "")


# --- Software -----------------------------------------------------------------------------------


def _os(os_release: str) -> Reading:
    lines = (line.partition("=") for line in os_release.splitlines())
    fields = {name: _clean(value.strip("\"'")) for name, _, value in lines}
    name = fields.get("PRETTY_NAME") or _join(fields.get("ID", ""), fields.get("VERSION_ID", ""))
    image = _join(fields.get("IMAGE_ID", ""), fields.get("IMAGE_VERSION", ""))
    label = f"{name}, image {image}" if image else name
    return _one(label, "os-release names no operating system")


def _one(label: str, unknown: str) -> Reading:
    return Reading((Part(_key(label), label),)) if label else Reading((), unknown)


# --- Text ---------------------------------------------------------------------------------------


def _clean(value: object) -> str:
    """Text as firmware should have written it: one spacing and width of letters, no placeholder."""
    text = unicodedata.normalize("NFKC", as_text(value))
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "" if text.lower() in _PLACEHOLDERS or not text.strip(".x#*") else text


def _key(text: str) -> str:
    return text.casefold()


def _join(*words: str) -> str:
    """The words that there are, each once."""
    return " ".join(dict.fromkeys(word for word in words if word))
