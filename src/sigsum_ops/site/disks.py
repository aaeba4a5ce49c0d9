"""Which disks a machine really has: behind RAID controllers, under hypervisors, and made by whom.

Two disks fail together when they run the same firmware, whatever label they carry. So this looks
for the disk behind a RAID volume, for the maker behind a server vendor's part number, and says
what it could not see instead of passing over it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# What stands for "no vendor" in a SCSI inquiry: ATA is the translation layer's name.
_NO_VENDOR = {"", "ata", "nvme", "generic"}

# Block devices that are no disks of this machine, though lsblk may call them so.
_NOT_A_DISK = re.compile(
    r"(?:loop|zram|ram|dm-|md|sr|fd|nullb|bcache|mtdblock)\d|mmcblk\d+(?:boot|rpmb)"
)
# Devices and names that a hypervisor or a network makes up.
_VIRTUAL_NAME = re.compile(r"(?:vd|xvd)[a-z]|(?:nbd|rbd|drbd)\d")
_VIRTUAL = re.compile(
    r"\b(?:qemu|virtio|vmware|vbox|msft|xen|persistentdisk|nvme_card|lio-org)\b|0x1af4"
    r"|virtual (?:disk|hd)|amazon (?:elastic|ec2)",
    re.IGNORECASE,
)
_NETWORK_TRANSPORTS = {"iscsi", "fc", "fcoe"}
# What a RAID controller calls a volume, and how smartctl calls the disks behind it. The last are
# those behind which it does not see.
_VOLUMES = (
    (re.compile(r"\bperc\b|megaraid|\bmr\d{3,4}|serveraid|\braid \d{3}|\brs3", re.I), "megaraid"),
    (re.compile(r"logical volume|smart array", re.I), "cciss"),
    (re.compile(r"\braid\b|\bvd\b|virtual drive|logicaldrv|-vol#|boot controller", re.I), ""),
)

# Makers by what a model name starts with, after a company's name has been taken off.
_MODELS = (
    (re.compile(r"mz[0-9a-z]{3}"), "Samsung"),
    (re.compile(r"mtfd|ct\d+\w*ssd"), "Micron"),
    (re.compile(r"ssd(?:sc|pe|pf)"), "Intel/Solidigm"),
    (re.compile(r"k(?:cd|xg|xd|cm|pm)\d?|thns|mg\d\d|al\d\d|mq\d\d|hdw"), "Toshiba/Kioxia"),
    (re.compile(r"wd\d|wus|wuh|hus|huh|hds|hts|hms|hdn|l[tb]\d{4}m"), "Western Digital"),
    (re.compile(r"st\d{2,}[a-z]|x[sap]\d"), "Seagate"),
    (re.compile(r"hfs"), "SK hynix"),
)
# Makers by the company's word before a model, longest first.
_NAMES = {
    "western digital": "Western Digital",
    "samsung": "Samsung",
    "crucial": "Micron",
    "hitachi": "Western Digital",
    "kingston": "Kingston",
    "micron": "Micron",
    "sandisk": "Western Digital",
    "seagate": "Seagate",
    "sk hynix": "SK hynix",
    "solidigm": "Intel/Solidigm",
    "toshiba": "Toshiba/Kioxia",
    "hynix": "SK hynix",
    "intel": "Intel/Solidigm",
    "kioxia": "Toshiba/Kioxia",
    "hgst": "Western Digital",
    "wdc": "Western Digital",
}
# IEEE OUIs in world-wide names, and PCI vendors of NVMe controllers.
_OUIS = {
    "000039": "Toshiba/Kioxia",
    "00080d": "Toshiba/Kioxia",
    "8ce38e": "Toshiba/Kioxia",
    "0014ee": "Western Digital",
    "000cca": "Western Digital",
    "001b44": "Western Digital",
    "000c50": "Seagate",
    "002538": "Samsung",
    "00a075": "Micron",
    "5cd2e4": "Intel/Solidigm",
    "ace42e": "SK hynix",
    "0026b7": "Kingston",
}
_PCI_VENDORS = {
    0x025E: "Intel/Solidigm",
    0x1179: "Toshiba/Kioxia",
    0x1344: "Micron",
    0x144D: "Samsung",
    0x15B7: "Western Digital",
    0x1B96: "Western Digital",
    0x1BB1: "Seagate",
    0x1C58: "Western Digital",
    0x1C5C: "SK hynix",
    0x1E0F: "Toshiba/Kioxia",
    0x2646: "Kingston",
    0x8086: "Intel/Solidigm",
    0xC0A9: "Micron",
}
# A SCSI inquiry has room for this much; lsblk shows no more where udev's data is missing.
_INQUIRY_MODEL = 16
_INQUIRY_REVISION = 4


@dataclass(frozen=True)
class Disk:
    """One physical disk; "" is what could not be read.

    ``model_cut`` tells that the model may be only its first 16 characters, ``firmware_cut`` that
    the firmware may be only the last four: all that the kernel keeps of an ATA disk's.
    """

    place: str
    model: str
    firmware: str
    maker: str
    serial: str
    model_cut: bool = False
    firmware_cut: bool = False

    @property
    def label(self) -> str:
        """Maker and model, for people."""
        named = _blanks(self.model) != self.key
        return self.model if named or not self.maker else f"{self.maker} {self.model}"

    @property
    def key(self) -> str:
        """The model as it compares: without the company's name, in one case and spacing."""
        return _bare(self.model)


@dataclass(frozen=True)
class Disks:
    """The disks that were seen, and for each device that hides its disks, why."""

    seen: tuple[Disk, ...]
    hidden: tuple[str, ...]


def find(raw: Mapping[str, object], problems: Mapping[str, str]) -> Disks:
    """Work out the disks from what the module hardware_raw read.

    Args:
        raw: the module's answer; its members lsblk, smartctl and nvme are used.
        problems: for each command that failed, why.
    """
    smart = [as_mapping(info) for info in as_sequence(raw.get("smartctl"))]
    nvme = {name: as_mapping(info) for name, info in as_mapping(raw.get("nvme")).items()}
    direct = {_place(info)[0]: info for info in smart if not _place(info)[1]}
    behind = [info for info in smart if _place(info)[1]]

    seen: list[Disk] = []
    hidden: list[str] = []
    known: set[str] = set()

    def add(disk: Disk) -> None:
        # One disk may show twice: by two paths, as two namespaces, or behind a controller that also
        # passes it through.
        if not disk.serial or disk.serial not in known:
            seen.append(disk)
            known.add(disk.serial)

    for device in (as_mapping(device) for device in as_sequence(raw.get("lsblk"))):
        if not _is_disk(device):
            continue
        name = as_text(device.get("name"))
        words = _words(device)
        volume = next((kind for pattern, kind in _VOLUMES if pattern.search(words)), None)
        if _is_virtual(device, words):
            hidden.append(f"{name} ({words or 'no model'}) is virtual: the real disk is hidden")
        elif volume is not None:
            if not any(_place(info)[1].startswith(volume or "-") for info in behind):
                hidden.append(f"{name} ({words}) is a RAID volume: {_how_to_look(problems)}")
        else:
            controller = _controller(device, nvme)
            info = direct.get(f"/dev/{name}") or direct.get(f"/dev/{controller}") or {}
            disk = _from_lsblk(device, info, nvme.get(controller, {}))
            if disk.model:
                add(disk)
            else:
                hidden.append(f"{name} names no model{_or_install(problems)}")
    for info in behind:
        disk = _from_smartctl(info)
        if disk.model:
            add(disk)
        else:
            messages = " ".join(map(str, as_sequence(info.get("messages"))))
            hidden.append(f"{disk.place} names no model: {messages or 'smartctl gave no reason'}")
    if not seen and not hidden:
        hidden.append(_no_disks(problems))
    return Disks(tuple(seen), tuple(hidden))


def maker_of(model: str, oui: str = "", pci_vendor: int = 0) -> str:
    """Who makes a disk, by the identifiers that a relabelled disk keeps, else by its model's name.

    Companies that took over another's disks count as one, since the firmware went with them:
    Solidigm and Intel, Kioxia and Toshiba, HGST, SanDisk and Western Digital. "" is unknown.
    """
    if by_number := _OUIS.get(oui) or _PCI_VENDORS.get(pci_vendor):
        return by_number
    words = _blanks(model)
    for name, maker in _NAMES.items():
        if words.startswith(name):
            return maker
    bare = _bare(model)
    return next((maker for pattern, maker in _MODELS if pattern.match(bare)), "")


# --- From the tools' answers --------------------------------------------------------------------


def _is_disk(device: Mapping[str, object]) -> bool:
    """A disk with a medium that stays: no partition, loop, virtual medium of a BMC or card slot."""
    removable = str(device.get("rm")).lower() in {"true", "1"}  # "1" before util-linux 2.33
    size = as_text(device.get("size"))
    return (
        device.get("type") == "disk"
        and not removable
        and size not in {"", "0", "0B"}
        and not _NOT_A_DISK.match(as_text(device.get("name")))
    )


def _words(device: Mapping[str, object]) -> str:
    """Vendor and model, the vendor only where it says something that the model does not."""
    vendor, model = as_text(device.get("vendor")), as_text(device.get("model"))
    if vendor.lower() in _NO_VENDOR or _blanks(model).startswith(_blanks(vendor)):
        return model
    return f"{vendor} {model}".strip()


def _is_virtual(device: Mapping[str, object], words: str) -> bool:
    return (
        _VIRTUAL_NAME.match(as_text(device.get("name"))) is not None
        or _VIRTUAL.search(words) is not None
        or as_text(device.get("tran")) in _NETWORK_TRANSPORTS
    )


def _place(info: Mapping[str, object]) -> tuple[str, str]:
    """The device that smartctl was given, and the number behind a controller: megaraid,0 or ""."""
    device = as_mapping(info.get("device"))
    kind = as_text(device.get("type")).split("+")[-1]  # sat+megaraid,0: ATA commands through it
    return as_text(device.get("name")), kind if "," in kind else ""


def _controller(device: Mapping[str, object], nvme: Mapping[str, Mapping[str, object]]) -> str:
    """The NVMe controller of a namespace. nvme0n1 need not be nvme0's: the kernel numbers apart."""
    serial, model = as_text(device.get("serial")), as_text(device.get("model"))
    for name, info in nvme.items():
        if serial and as_text(info.get("serial")) == serial:
            return name
    name = re.sub(r"n\d+$", "", as_text(device.get("name")))
    return name if as_text(nvme.get(name, {}).get("model")) == model else ""


def _from_smartctl(info: Mapping[str, object]) -> Disk:
    model = _smart_model(info)
    return Disk(
        place=_place(info)[1],
        model=model,
        firmware=_smart_firmware(info),
        maker=_maker(model, info),
        serial=as_text(info.get("serial_number")),
    )


def _from_lsblk(
    device: Mapping[str, object], info: Mapping[str, object], nvme: Mapping[str, object]
) -> Disk:
    """A disk that the kernel sees itself; what smartctl and sysfs say is more exact."""
    exact = _smart_model(info) or as_text(nvme.get("model"))
    model = exact or (_words(device) if device.get("model") else "")
    firmware = _smart_firmware(info) or as_text(nvme.get("firmware"))
    return Disk(
        place=as_text(device.get("name")),
        model=model,
        firmware=firmware or as_text(device.get("rev")),
        maker=_maker(model, info, as_text(device.get("wwn")), _hex(nvme.get("pci_vendor"))),
        serial=as_text(info.get("serial_number") or nvme.get("serial") or device.get("serial")),
        # A blank at the cut goes missing, too.
        model_cut=not exact
        and len(as_text(device.get("model"))) in {_INQUIRY_MODEL - 1, _INQUIRY_MODEL},
        firmware_cut=not firmware and len(as_text(device.get("rev"))) == _INQUIRY_REVISION,
    )


def _smart_model(info: Mapping[str, object]) -> str:
    """The model; SCSI disks have vendor and product, named differently before smartctl 7.3."""
    vendor = as_text(info.get("scsi_vendor") or info.get("vendor"))
    product = as_text(info.get("scsi_product") or info.get("product"))
    if product:
        return f"{vendor} {product}" if vendor.lower() not in _NO_VENDOR else product
    return as_text(info.get("model_name"))


def _smart_firmware(info: Mapping[str, object]) -> str:
    names = ("firmware_version", "scsi_revision", "revision")
    return next((as_text(info[name]) for name in names if info.get(name)), "")


def _maker(model: str, info: Mapping[str, object], oui: str = "", pci_vendor: int = 0) -> str:
    ieee = info.get("nvme_ieee_oui_identifier")
    pci = as_mapping(info.get("nvme_pci_vendor")).get("id")
    return maker_of(
        model,
        f"{ieee:06x}" if isinstance(ieee, int) else as_text(info.get("oui")) or oui,
        pci if isinstance(pci, int) else pci_vendor,
    )


def _how_to_look(problems: Mapping[str, str]) -> str:
    if "smartctl" in problems:
        return f"the disks behind it are hidden: {_install(problems)}"
    return "smartctl does not reach the disks behind it; see what they are in the controller's tool"


def _or_install(problems: Mapping[str, str]) -> str:
    return f": {_install(problems)}" if "smartctl" in problems else ""


def _install(problems: Mapping[str, str]) -> str:
    why = problems["smartctl"]
    return "install smartmontools" if why == "missing" else f"smartctl answered: {why}"


def _no_disks(problems: Mapping[str, str]) -> str:
    if "lsblk" in problems:
        return f"lsblk is of no use here ({problems['lsblk']}): install util-linux"
    return "no disk is visible, as in a container that does not see its host's"


# --- Values -------------------------------------------------------------------------------------


def _blanks(text: str) -> str:
    """Lower case, with each run of blanks and underscores as one blank."""
    return re.sub(r"[\s_]+", " ", text).strip().lower()


def _bare(model: str) -> str:
    words = _blanks(model)
    company = next((name for name in _NAMES if words.startswith(f"{name} ")), "")
    words = words.removeprefix(f"{company} ")
    return re.sub(r"^\d{4}\w* (?=mtfd)", "", words)  # Micron's own label names the series, too


def as_text(value: object) -> str:
    """A value of parsed JSON as text without blanks around it; null is ""."""
    return "" if value is None else str(value).strip()


def _hex(value: object) -> int:
    try:
        return int(as_text(value), 16)
    except ValueError:
        return 0


def as_mapping(value: object) -> Mapping[str, object]:
    """A value of parsed JSON as an object, empty where it is none."""
    return value if isinstance(value, Mapping) else {}


def as_sequence(value: object) -> Sequence[object]:
    """A value of parsed JSON as a list, empty where it is none."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()
