"""What a machine is made of, from recorded answers of hardware_raw; see fixtures/hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from sigsum_ops.errors import UsageError
from sigsum_ops.site.disks import Disk, find, maker_of
from sigsum_ops.site.hardware import Hardware, Part, Reading, parse

FIXTURES = Path(__file__).parent / "fixtures" / "hardware"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.yml"))


def raw(name: str, **changes: object) -> dict[str, Any]:
    recorded: dict[str, Any] = yaml.safe_load((FIXTURES / f"{name}.yml").read_text())
    return recorded | changes


def machine(name: str, **changes: object) -> Hardware:
    return parse(raw(name, **changes))


# --- The recorded machines ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_component_of_each_machine_is_read_or_said_to_be_unknown(name: str) -> None:
    hardware = machine(name)
    for component in fields(hardware):
        reading = getattr(hardware, component.name)
        assert reading.parts or reading.unknown, component.name


@pytest.mark.parametrize("name", NAMES)
def test_no_digest_is_shown(name: str) -> None:
    recorded = raw(name)
    digests = {disk["serial"] for disk in recorded["lsblk"]} | {recorded["boot"]}
    digests |= {info["serial_number"] for info in recorded["smartctl"]}
    hardware = parse(recorded)
    shown = [getattr(hardware, component.name) for component in fields(hardware)]
    text = " ".join([*(label for r in shown for label in r.labels), *(r.unknown for r in shown)])
    assert [digest for digest in digests if digest and digest in text] == []


def test_disks_behind_a_perc_take_the_place_of_its_volume() -> None:
    found = machine("dell-r340-perc")
    assert found.disk == Reading((Part("mz7km480hmhq0d3", "Samsung MZ7KM480HMHQ0D3"),) * 2)
    assert found.disk.labels == ["2 x Samsung MZ7KM480HMHQ0D3"]
    assert found.disk_maker.labels == ["2 x Samsung"]  # by the world-wide name: Dell's label
    assert found.disk_firmware.labels == ["2 x GD53 (Samsung MZ7KM480HMHQ0D3)"]
    assert [part.key for part in found.disk_serial.parts] == [
        "d3110000d3110000",
        "d3110001d3110001",
    ]


def test_the_rest_of_a_dell() -> None:
    found = machine("dell-r340-perc")
    assert found.machine.labels == ["physical"]
    assert found.board.labels == ["Dell Inc. 045M96 A02 (PowerEdge R340)"]
    assert found.bios.labels == ["Dell Inc. 2.3.5 of 09/27/2018"]
    assert found.cpu.labels == [
        "Intel Xeon E-2246G CPU @ 3.60GHz (family 6, model 158, stepping 10)"
    ]
    assert found.memory.labels == ["2 x SK hynix HMA82GU7DJR8N-VK 16384 MB"]
    assert found.power_supply.labels == ["2 x DELL 06V43GA00 PWR SPLY,550W,RDNT,DELTA"]
    assert [part.key for part in found.network.parts] == ["14e4:165f"] * 2 + ["14e4:16d6"] * 2
    assert found.os.labels == ["Debian GNU/Linux 10 (buster)"]


def test_nvme_and_sata_without_smartmontools() -> None:
    found = machine("supermicro-h12-nvme-sata")
    assert found.disk.labels == ["Micron_5300_MTFDDAK480TDS", "2 x SAMSUNG MZ1L2960HCJR-00A07"]
    assert found.disk.unknown == ""  # the BMC's empty virtual disk is none
    assert found.disk_maker.labels == ["Micron", "2 x Samsung"]
    sata, *nvme = found.disk_firmware.parts
    assert (sata.key, sata.partial) == ("u001", True)  # the last four of D3MU001
    assert {(part.key, part.partial) for part in nvme} == {("gdc7302q", False)}
    assert found.network.labels == ["2 x bnxt_en 14e4:16d8"]
    assert found.cpu.labels == ["AMD EPYC 7352 24-Core Processor (family 23, model 49, stepping 0)"]


def test_two_makers_under_one_label() -> None:
    found = machine("hpe-dl20-gen10-plus")
    assert found.disk.labels == ["4 x SK hynix MK000480GXPRT", "Micron VR000240GXBBL"]
    first, last = found.disk_firmware.parts[0], found.disk_firmware.parts[-1]
    assert first.key == last.key == "hpg1"
    assert not first.same_as(last)
    assert found.power_supply.labels == ["2 x HPE 865408-B21"]
    assert found.memory.labels == ["2 x Samsung M391A2G43BB2-CWE 16 GB"]


def test_placeholders_and_a_missing_dmidecode() -> None:
    found = machine("asrockrack-x570d4u")
    assert found.board.labels == ["ASRockRack X570D4U"]
    assert found.disk.labels == ["Toshiba/Kioxia KCD61LUL3T84"]
    assert found.memory == Reading((), "install dmidecode to see the memory modules")
    assert "install dmidecode" in found.power_supply.unknown
    assert "ipmitool" in found.power_supply.unknown


def test_a_raid_volume_that_nothing_looks_behind() -> None:
    found = machine("hpe-dl380p-gen8-smart-array")
    for reading in (found.disk, found.disk_serial, found.disk_firmware, found.disk_maker):
        assert reading.parts == ()
        assert "sda (HP LOGICAL VOLUME) is a RAID volume" in reading.unknown
        assert "install smartmontools" in reading.unknown
    assert found.board.labels == ["HP ProLiant DL380p Gen8"]  # the product, for want of a board


@pytest.mark.parametrize("name", ["qemu-vm", "container"])
def test_virtual_hardware_is_unknown(name: str) -> None:
    found = machine(name)
    assert found.disk.parts == ()
    assert "vda (0x1af4) is virtual" in found.disk.unknown
    for reading in (found.board, found.bios, found.memory, found.power_supply):
        assert reading == Reading((), "runs in a virtual machine (kvm), which hides it")
    assert found.network.unknown == "a virtual network card hides the real one"
    assert found.machine.unknown


def test_a_container_says_so() -> None:
    assert machine("container").machine.labels == ["virtual, in a container (docker)"]
    assert machine("container", vm="none").machine.labels == ["physical, in a container (docker)"]


def test_without_a_salt_nothing_is_known_of_identity() -> None:
    found = machine("dell-r340-perc", boot="")
    assert found.machine.parts == ()
    assert "salt" in found.machine.unknown


# --- Disks: odd cases ---------------------------------------------------------------------------


def block(**changes: object) -> dict[str, object]:
    plain: dict[str, object] = {
        "name": "sda",
        "type": "disk",
        "vendor": "ATA     ",
        "model": "INTEL SSDSC2KB480G8",
        "rev": "0132",
        "serial": "aa",
        "size": 480103981056,
        "rota": False,
        "tran": "sata",
        "rm": False,
        "wwn": "5cd2e4",
    }
    return plain | changes


def disks(
    *devices: Mapping[str, object],
    smartctl: tuple[Mapping[str, object], ...] = (),
    problems: Mapping[str, str] | None = None,
) -> tuple[list[Disk], str]:
    found = find({"lsblk": devices, "smartctl": smartctl, "nvme": {}}, problems or {})
    return list(found.seen), "; ".join(found.hidden)


@pytest.mark.parametrize(
    "device",
    [
        block(name="loop3"),
        block(name="zram0"),
        block(name="dm-0"),
        block(name="md127"),
        block(name="mmcblk0boot0"),
        block(name="sr0", type="rom"),
        block(name="sda1", type="part"),
        block(rm=True),
        block(rm="1"),  # util-linux before 2.33
        block(size="0"),
    ],
)
def test_what_is_no_disk_of_the_machine(device: Mapping[str, object]) -> None:
    assert disks(block(name="sdz"), device)[0] == disks(block(name="sdz"))[0]


@pytest.mark.parametrize(
    ("vendor", "model", "tran"),
    [
        ("QEMU    ", "QEMU HARDDISK", None),
        ("VMware  ", "Virtual disk", "spi"),
        ("Msft    ", "Virtual Disk", None),
        ("ATA     ", "VBOX HARDDISK", "sata"),
        ("Google  ", "PersistentDisk", None),
        (None, "Amazon Elastic Block Store", "nvme"),
        ("LIO-ORG ", "volume", "iscsi"),
        ("NETAPP  ", "LUN C-Mode", "fc"),
    ],
)
def test_virtual_disks(vendor: str | None, model: str, tran: str | None) -> None:
    seen, hidden = disks(block(vendor=vendor, model=model, tran=tran))
    assert seen == []
    assert "is virtual" in hidden


@pytest.mark.parametrize(
    ("vendor", "model"),
    [
        ("DELL    ", "PERC H740P Mini "),
        ("AVAGO   ", "MR9361-8i       "),
        ("LSI     ", "MegaRAID"),
        ("Lenovo  ", "RAID 930-8i-2GB "),
        ("IBM     ", "ServeRAID M5110e"),
        ("HPE     ", "LOGICAL VOLUME  "),
        ("Intel   ", "Raid 1 Volume"),
        ("ATA     ", "DELLBOSS VD"),
        ("Adaptec ", "LogicalDrv 0"),
        (None, "HPE NS204i-p Gen10+ Boot Controller"),
    ],
)
def test_raid_volumes(vendor: str | None, model: str) -> None:
    seen, hidden = disks(block(vendor=vendor, model=model))
    assert seen == []
    assert "is a RAID volume: smartctl does not reach the disks behind it" in hidden


def behind(number: int, **changes: object) -> dict[str, object]:
    plain: dict[str, object] = {
        "device": {"name": "/dev/bus/0", "type": f"megaraid,{number}"},
        "model_name": "SAMSUNG MZ7L31T9HBLT-00A07",
        "firmware_version": "JXTC304Q",
        "serial_number": f"b{number}",
        "oui": "002538",
    }
    return plain | changes


def test_a_boot_volume_stays_hidden_beside_a_perc_that_is_not() -> None:
    perc = block(vendor="DELL    ", model="PERC H740P Mini")
    boss = block(name="sdb", model="DELLBOSS VD")
    seen, hidden = disks(perc, boss, smartctl=(behind(0),))
    assert [disk.place for disk in seen] == ["megaraid,0"]
    assert hidden.startswith("sdb (DELLBOSS VD) is a RAID volume")


def test_a_disk_that_a_controller_passes_through_counts_once() -> None:
    info = behind(0, model_name="INTEL SSDSC2KB480G8", serial_number="aa")
    seen, hidden = disks(block(), smartctl=(info, behind(1), behind(1)))
    assert [disk.place for disk in seen] == ["sda", "megaraid,1"]
    assert hidden == ""


def test_two_paths_to_a_disk_are_one_disk() -> None:
    seen, _ = disks(block(), block(name="sdb"), block(name="sdc", serial="other"))
    assert [disk.place for disk in seen] == ["sda", "sdc"]


@pytest.mark.parametrize("serial", ["n1", ""])
def test_an_nvme_namespace_is_not_given_the_firmware_of_another_controller(serial: str) -> None:
    namespace = block(name="nvme0n1", vendor=None, model="B", rev=None, serial=serial, tran="nvme")
    nvme = {
        "nvme0": {"model": "A", "firmware": "FA", "serial": "n0", "pci_vendor": "0x144d"},
        "nvme1": {"model": "B", "firmware": "FB", "serial": "n1", "pci_vendor": "0x1344"},
    }
    (disk,) = find({"lsblk": [namespace], "smartctl": [], "nvme": nvme}, {}).seen
    assert disk.model == "B"
    assert disk.firmware == ("FB" if serial else "")


def test_one_of_several_disks_behind_a_controller_is_not_readable() -> None:
    perc = block(vendor="DELL    ", model="PERC H330 Adp")
    refused = behind(1, model_name="", messages=["INQUIRY failed"])
    seen, hidden = disks(perc, smartctl=(behind(0), refused))
    assert len(seen) == 1
    assert hidden == "megaraid,1 names no model: INQUIRY failed"


def test_a_sas_disk_names_vendor_and_product() -> None:
    names: dict[str, object] = {"vendor": "SEAGATE", "product": "ST4000NM0043", "revision": "MS03"}
    newer = {f"scsi_{key}": value for key, value in names.items()}
    for answer in (names, newer):
        info = behind(0, model_name="", firmware_version="", oui="000c50") | answer
        ((disk,), _) = disks(smartctl=(info,))
        assert (disk.label, disk.firmware, disk.maker) == (
            "SEAGATE ST4000NM0043",
            "MS03",
            "Seagate",
        )


def test_smartctl_is_more_exact_than_lsblk() -> None:
    info = {
        "device": {"name": "/dev/sda", "type": "sat"},
        "model_name": "INTEL SSDSC2KB480G8",
        "firmware_version": "XCV10132",
        "serial_number": "aa",
    }
    (disk,), _ = disks(block(model="INTEL SSDSC2KB48"), smartctl=(info,))
    assert (disk.model, disk.firmware) == ("INTEL SSDSC2KB480G8", "XCV10132")
    assert not disk.model_cut
    assert not disk.firmware_cut


def test_without_udev_a_model_is_cut_and_matches_what_it_may_be() -> None:
    (cut,), _ = disks(block(model="INTEL SSDSC2KB48"))
    (whole,), _ = disks(block())
    (other,), _ = disks(block(model="INTEL SSDSC2KG960G8"))
    assert cut.model_cut
    part = Part(cut.key, cut.label, cut.model_cut)
    assert part.same_as(Part(whole.key, whole.label))
    assert Part(whole.key, whole.label).same_as(part)
    assert not part.same_as(Part(other.key, other.label))


def test_four_characters_of_a_firmware_match_what_they_may_end() -> None:
    cut = Part("304q", "304Q", partial=True, scope="Samsung")
    assert cut.same_as(Part("jxtc304q", "JXTC304Q", scope="Samsung"))
    assert not cut.same_as(Part("jxtc504q", "JXTC504Q", scope="Samsung"))
    assert cut.same_as(Part("jxtc304q", "JXTC304Q"))  # of an unknown maker: in doubt, the same


@pytest.mark.parametrize(
    ("model", "same"),
    [
        ("INTEL_SSDSC2KB480G8", "INTEL SSDSC2KB480G8"),
        ("intel  SSDSC2KB480G8 ", "SSDSC2KB480G8"),
        ("Micron_5300_MTFDDAK480TDS", "MTFDDAK480TDS"),
        ("SAMSUNG MZ7LH480HAHQ-00005", "MZ7LH480HAHQ-00005"),
    ],
)
def test_spellings_of_one_model(model: str, same: str) -> None:
    (first,), _ = disks(block(model=model))
    (second,), _ = disks(block(model=same))
    assert first.key == second.key


@pytest.mark.parametrize(
    ("model", "oui", "pci", "maker"),
    [
        ("MK000480GWXFF", "ace42e", 0, "SK hynix"),
        ("MZ7KM480HMHQ0D3", "", 0, "Samsung"),
        ("SSDSCKJB240G7R", "", 0, "Intel/Solidigm"),
        ("SSDSC2KB038T8L       01PE328D7A09676LEN", "", 0, "Intel/Solidigm"),
        ("WDC WD40EFRX-68N32N0", "", 0, "Western Digital"),
        ("WD4000FYYX", "", 0, "Western Digital"),
        ("HGST HUS726T4TALE6L4", "", 0, "Western Digital"),
        ("LT0400MO", "", 0, "Western Digital"),
        ("CT500MX500SSD1", "", 0, "Micron"),
        ("ST4000NM0035-1V4107", "", 0, "Seagate"),
        ("TOSHIBA MG08ACA16TE", "", 0, "Toshiba/Kioxia"),
        ("KCD61LUL3T84", "", 0x1E0F, "Toshiba/Kioxia"),
        ("VENDOR X", "002538", 0, "Samsung"),  # the number outweighs the name
        ("SSD 480GB", "", 0, ""),
    ],
)
def test_makers(model: str, oui: str, pci: int, maker: str) -> None:
    assert maker_of(model, oui, pci) == maker


def test_disks_that_say_nothing() -> None:
    missing = {"smartctl": "missing"}
    assert (
        disks(block(model=None), problems=missing)[1] == "sda names no model: install smartmontools"
    )
    assert disks(block(model=None))[1] == "sda names no model"
    assert "no disk is visible" in disks()[1]
    assert "install util-linux" in disks(problems={"lsblk": "missing"})[1]
    assert (
        "smartctl answered: Permission denied"
        in disks(
            block(vendor="DELL", model="PERC H330"), problems={"smartctl": "Permission denied"}
        )[1]
    )


# --- Other components: odd cases ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"board_vendor": "技嘉科技  ", "board_name": "MZ32-AR0-00"}, "技嘉科技 MZ32-AR0-00"),
        ({"board_vendor": "\uff21\uff33\uff35\uff33", "board_name": "P12R-M "}, "ASUS P12R-M"),
        ({"board_vendor": "Intel\x00\x1f ", "board_name": "M50CYP"}, "Intel M50CYP"),
        ({"sys_vendor": "HP", "product_name": "ProLiant"}, "HP ProLiant"),
        ({"board_vendor": "Default string", "board_name": "Default string"}, None),
        ({"board_vendor": "Dell Inc.", "board_name": "xxxxxxxx"}, None),
        ({}, None),
    ],
)
def test_boards(found: Mapping[str, str], expected: str | None) -> None:
    board = machine("dell-r340-perc", dmi=found).board
    assert board.labels == ([expected] if expected else [])
    assert bool(board.unknown) == (expected is None)


def test_boards_compare_without_regard_to_case_and_blanks() -> None:
    first = machine("dell-r340-perc", dmi={"board_vendor": "ASRockRack", "board_name": "X570D4U "})
    second = machine("dell-r340-perc", dmi={"board_vendor": "asrockrack", "board_name": "X570D4U"})
    assert first.board.parts[0].same_as(second.board.parts[0])


def test_an_arm_cpu() -> None:
    text = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0c\n"
    found = machine("dell-r340-perc", cpuinfo=text)
    assert found.cpu.parts[0].key == "0x41 8/0xd0c"
    assert found.microcode.unknown


def test_steppings_of_one_cpu_are_alike_and_their_microcode_is_not() -> None:
    one = machine("dell-r340-perc")
    text = raw("dell-r340-perc")["cpuinfo"].replace("stepping\t: 10", "stepping\t: 13")
    other = machine("dell-r340-perc", cpuinfo=text)
    assert one.cpu.parts[0].same_as(other.cpu.parts[0])
    assert not one.microcode.parts[0].same_as(other.microcode.parts[0])


def structure(kind: int, **named: str) -> str:
    lines = "".join(f"\n\t{name.replace('_', ' ')}: {value}" for name, value in named.items())
    return f"Handle 0x0001, DMI type {kind}, 40 bytes\nTitle{lines}\n\n"


def test_modules_without_a_part_number_are_unknown() -> None:
    text = structure(17, Size="8 GB", Part_Number="Unknown") + structure(
        17, Size="8 GB", Manufacturer="80AD000080AD", Part_Number="HMA81GU7"
    )
    memory = machine("dell-r340-perc", dmidecode=text).memory
    assert memory.labels == ["SK hynix HMA81GU7 8 GB"]
    assert memory.unknown == "1 modules have no part number"


def test_an_empty_bay_is_no_power_supply() -> None:
    text = structure(39, Model_Part_Number="PWS-1", Status="Not Present") + structure(
        39, Model_Part_Number="PWS-2", Status="Present, OK"
    )
    assert machine("dell-r340-perc", dmidecode=text).power_supply.labels == ["PWS-2"]


def test_the_bmc_knows_power_supplies_that_the_firmware_does_not_list() -> None:
    fru = """\
FRU Device Description : Builtin FRU Device (ID 0)
 Board Mfg             : Intel
 Board Part Number     : K12345-001
FRU Device Description : Power Supply 1 (ID 3)
 Product Manufacturer  : DELTA
 Product Name          : DPS-550
 Product Part Number   : DPS-550AB-5 A
FRU Device Description : PSU2 (ID 4)
 Board Mfg             : FSP
 Board Part Number     : FSP500
"""
    found = machine("asrockrack-x570d4u", ipmi_fru=fru).power_supply
    assert found.labels == ["DELTA DPS-550AB-5 A DPS-550", "FSP FSP500"]
    assert found.unknown == ""


def test_dmidecode_that_was_refused_says_why() -> None:
    problems = {"dmidecode": "/dev/mem: Permission denied"}
    memory = machine("dell-r340-perc", dmidecode="", problems=problems).memory
    assert memory.unknown == "dmidecode shows no memory modules: /dev/mem: Permission denied"


def test_a_system_image_is_part_of_the_system() -> None:
    text = 'ID=debian\nVERSION_ID="13"\nIMAGE_ID=log\nIMAGE_VERSION=7\n'
    assert machine("dell-r340-perc", os_release=text).os.labels == ["debian 13, image log 7"]
    assert machine("dell-r340-perc", os_release="").os.unknown


@pytest.mark.parametrize("value", [None, [], "text", {}, {"lsblk": []}])
def test_what_is_no_answer_of_the_module_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="hardware_raw"):
        parse(value)


def test_an_answer_with_parts_of_the_wrong_type_is_all_unknown() -> None:
    found = parse(
        {"lsblk": "?", "problems": [], "smartctl": {}, "nvme": [], "dmi": "", "network": 1}
    )
    assert all(getattr(found, component.name).unknown for component in fields(found))
