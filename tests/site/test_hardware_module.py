"""hardware_raw: what it reads of a machine, and what it must not let out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from plugins.modules import hardware_raw
from plugins.modules.hardware_raw import Collector, oui, run_command, without_private_lines

SALT = "0123456789abcdef"
WWN_REST = 0xEAC404DE76E
SECRETS = (
    "S3CRETDISK",
    "S3CRETNVME",
    "S3CRETDIMM",
    "S3CRETPSU",
    "S3CRETTAG",
    "eac404de76e",
    str(WWN_REST),
)

LSBLK = {
    "blockdevices": [
        {
            "name": "sda",
            "type": "disk",
            "vendor": "ATA     ",
            "model": "MZ7LM1T9HMJP0D3",
            "rev": "GC57",
            "serial": "S3CRETDISK",
            "size": 1920383410176,
            "rota": False,
            "tran": "sata",
            "rm": False,
            "wwn": "0x5002538eac404de76e",
        },
        {"name": "loop0", "type": "loop", "serial": None, "wwn": None},
    ]
}
SCAN = {"devices": [{"name": "/dev/sda", "type": "sat", "protocol": "ATA"}]}
INFO = {
    "smartctl": {"exit_status": 0},
    "device": {"name": "/dev/sda", "type": "sat"},
    "model_name": "MZ7LM1T9HMJP0D3",
    "firmware_version": "GC57",
    "serial_number": "S3CRETDISK",
    "wwn": {"naa": 5, "oui": 9528, "id": WWN_REST},
}
DMIDECODE = """\
# dmidecode 3.6
Handle 0x1100, DMI type 17, 40 bytes
Memory Device
\tSize: 16 GB
\tSerial Number: S3CRETDIMM
\tAsset Tag: S3CRETTAG
\tPart Number: HMA82GU7DJR8N-VK
"""
FRU = """\
FRU Device Description : Power Supply 1 (ID 3)
 Product Manufacturer  : DELTA
 Product Part Number   : DPS-550AB-5
 Product Serial        : S3CRETPSU
 Product Extra         : S3CRETTAG
"""


def a_machine(root: Path) -> Path:
    """A directory like /, with an NVMe disk and three network ports, one of them a slice."""
    for name, text in {
        "proc/cpuinfo": "processor\t: 0\nmodel\t\t: 85\nflags\t\t: fpu vme\n\nprocessor\t: 1\n",
        "proc/sys/kernel/osrelease": "6.12.48+deb13-amd64\n",
        "proc/sys/kernel/random/boot_id": "5d3a0a2e-0000-4000-8000-000000000000\n",
        "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
        "sys/class/dmi/id/board_name": "H12SSW-NT\n",
        "sys/class/dmi/id/board_serial": "S3CRETTAG\n",
        "sys/class/nvme/nvme0/model": "SAMSUNG MZ1L2960HCJR-00A07              \n",
        "sys/class/nvme/nvme0/firmware_rev": "GDC7302Q\n",
        "sys/class/nvme/nvme0/serial": "S3CRETNVME          \n",
        "sys/class/nvme/nvme0/device/vendor": "0x144d\n",
        "sys/devices/0000:06:00.0/vendor": "0x14e4\n",
        "sys/devices/0000:06:00.0/device": "0x165f\n",
        "sys/devices/0000:06:10.0/vendor": "0x14e4\n",
        "sys/devices/0000:06:10.0/device": "0x16dc\n",
        "sys/devices/0000:06:10.0/physfn/vendor": "0x14e4\n",
        "sys/class/net/lo/type": "772\n",
        "sys/class/net/usb0/device/interface": "CDC\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for port, slot in {"eno1": "0000:06:00.0", "eno1v0": "0000:06:10.0"}.items():
        (root / "sys/class/net" / port).mkdir()
        (root / "sys/class/net" / port / "device").symlink_to(root / "sys/devices" / slot)
    driver = root / "sys/bus/pci/drivers/tg3"
    driver.mkdir(parents=True)
    (root / "sys/devices/0000:06:00.0/driver").symlink_to(driver)
    return root


class Tools:
    """Answers of programs by the first words of their command lines; the others are missing."""

    def __init__(self, answers: Mapping[str, object]) -> None:
        self.answers = answers
        self.calls: list[str] = []

    def __call__(self, argv: Sequence[str]) -> tuple[str, str]:
        line = " ".join(argv)
        self.calls.append(line)
        for start, answer in self.answers.items():
            if line.startswith(start):
                return (answer if isinstance(answer, str) else json.dumps(answer)), ""
        return "", "missing"


ALL_TOOLS: dict[str, object] = {
    "lsblk": LSBLK,
    "smartctl --scan": SCAN,
    "smartctl --info --json --device sat /dev/sda": INFO,
    "dmidecode": DMIDECODE,
    "ipmitool fru": FRU,
    "lspci": '0000:06:00.0 "Ethernet controller" "Broadcom Inc." "NetXtreme BCM5720" "Dell" ""\n',
    "ethtool -i eno1": "driver: tg3\nfirmware-version: FFV21.60.8 bc 5720-v1.39\nbus-info: x\n",
    "systemd-detect-virt --container": "none\n",
    "systemd-detect-virt --vm": "none\n",
}


def collect(root: Path, answers: Mapping[str, object], salt: str = SALT) -> dict[str, Any]:
    return Collector(root, Tools(answers), salt).collect()


def test_a_whole_machine(tmp_path: Path) -> None:
    found = collect(a_machine(tmp_path), ALL_TOOLS)
    assert found["problems"] == {}
    assert found["lsblk"][0]["model"] == "MZ7LM1T9HMJP0D3"
    assert found["lsblk"][0]["wwn"] == "002538"
    assert found["smartctl"][0]["firmware_version"] == "GC57"
    assert found["smartctl"][0]["oui"] == "002538"
    assert found["nvme"]["nvme0"]["firmware"] == "GDC7302Q"
    assert found["dmi"]["board_name"] == "H12SSW-NT"
    assert "Part Number: HMA82GU7DJR8N-VK" in found["dmidecode"]
    assert "DPS-550AB-5" in found["ipmi_fru"]
    assert found["cpuinfo"] == "processor\t: 0\nmodel\t\t: 85"
    assert found["kernel"] == "6.12.48+deb13-amd64"
    assert found["vm"] == "none"
    assert found["network"] == [
        {
            "port": "eno1",
            "pci": "14e4:165f",
            "driver": "tg3",
            "firmware": "FFV21.60.8 bc 5720-v1.39",
            "name": "Broadcom Inc. NetXtreme BCM5720",
        }
    ]


@pytest.mark.parametrize("salt", [SALT, ""])
def test_nothing_private_leaves_the_machine(tmp_path: Path, salt: str) -> None:
    answer = json.dumps(collect(a_machine(tmp_path), ALL_TOOLS, salt)).lower()
    assert [secret for secret in (*SECRETS, SALT, "5d3a0a2e") if secret.lower() in answer] == []


def test_one_disk_has_one_digest_however_it_is_read(tmp_path: Path) -> None:
    found = collect(a_machine(tmp_path), ALL_TOOLS)
    digest = found["lsblk"][0]["serial"]
    assert digest == found["smartctl"][0]["serial_number"]
    assert len(digest) == 16
    assert digest not in {found["nvme"]["nvme0"]["serial"], found["boot"]}
    assert found["nvme"]["nvme0"]["serial"]  # the blanks that fill it up do not count


def test_digests_need_a_salt_and_differ_by_it(tmp_path: Path) -> None:
    root = a_machine(tmp_path)
    first, again, other, none = (collect(root, ALL_TOOLS, s) for s in (SALT, SALT, SALT[::-1], ""))
    assert first == again
    assert first["lsblk"][0]["serial"] != other["lsblk"][0]["serial"]
    assert none["lsblk"][0]["serial"] == none["boot"] == ""


def test_a_machine_without_any_tool_or_file(tmp_path: Path) -> None:
    found = collect(tmp_path, {})
    assert found["lsblk"] == found["smartctl"] == found["network"] == []
    assert found["nvme"] == {}
    assert found["cpuinfo"] == found["kernel"] == found["dmidecode"] == ""
    programs = {"lsblk", "smartctl", "dmidecode", "ipmitool", "lspci", "systemd-detect-virt"}
    assert found["problems"] == dict.fromkeys(programs, "missing")


def test_dmidecode_that_only_explains_itself_is_a_problem(tmp_path: Path) -> None:
    text = "# dmidecode 3.6\nScanning /dev/mem for entry point.\n"
    found = collect(tmp_path, {"dmidecode": text})
    assert found["dmidecode"] == ""
    assert found["problems"]["dmidecode"] == "Scanning /dev/mem for entry point."


def test_an_answer_that_is_not_json_is_a_problem(tmp_path: Path) -> None:
    found = collect(tmp_path, {"lsblk": "lsblk: unknown column: WWN", "smartctl --scan": []})
    assert found["lsblk"] == []
    assert "not JSON" in found["problems"]["lsblk"]


def test_the_type_asked_for_tells_what_is_behind_a_controller(tmp_path: Path) -> None:
    scan = {"devices": [{"name": "/dev/bus/0", "type": "megaraid,0"}]}
    info = {**INFO, "device": {"name": "/dev/bus/0", "type": "sat+megaraid,0"}}
    answers = {"smartctl --scan": scan, "smartctl --info --json --device megaraid,0 /dev/": info}
    (found,) = collect(tmp_path, answers)["smartctl"]
    assert found["device"] == {"name": "/dev/bus/0", "type": "megaraid,0"}


def test_what_smartctl_says_of_a_disk_it_cannot_read_is_kept(tmp_path: Path) -> None:
    refusal = {"smartctl": {"messages": [{"string": "open failed", "severity": "error"}]}}
    answers = {"smartctl --scan": SCAN, "smartctl --info": refusal}
    assert collect(tmp_path, answers)["smartctl"][0]["messages"] == ["open failed"]


def test_disks_behind_a_smart_array_are_asked_for_by_number(tmp_path: Path) -> None:
    volume = {"name": "sda", "type": "disk", "model": "LOGICAL VOLUME  "}
    tools = Tools(
        {
            "lsblk": {"blockdevices": [volume]},
            "smartctl --scan": {"devices": []},
            "smartctl --info --json --device cciss,0 /dev/sda": INFO,
            "smartctl --info --json --device cciss,1 /dev/sda": INFO,
            "smartctl --info": {"smartctl": {"exit_status": 2}},
        }
    )
    found = Collector(tmp_path, tools, SALT).collect()["smartctl"]
    assert [info["device"]["type"] for info in found] == ["cciss,0", "cciss,1"]
    assert sum("cciss" in call for call in tools.calls) == 3  # the first that fails is the last


@pytest.mark.parametrize(
    ("wwn", "expected"),
    [
        ("0x5002538c404de76e", "002538"),
        ("0x600605b00a1b2c3d", "00605b"),
        ("eui.0025385b71b00e6b", "002538"),
        ("eui.36344730526002960025384500000001", "002538"),
        ("nvme.1987-3531", ""),
        ("t10.ATA_QEMU", ""),
        ("", ""),
    ],
)
def test_maker_in_a_world_wide_name(wwn: str, expected: str) -> None:
    assert oui(wwn) == expected


def test_private_lines() -> None:
    kept = "Handle 0x0001, DMI type 1\n\tSKU Number: P44111-B21\n Board Part Number : 0X1"
    private = "\n\tUUID: 1\n\tSerial Number: 2\n\tAsset Tag: 3\n Chassis Serial : 4\n GUID : 5"
    assert without_private_lines(kept + private) == kept


def test_programs_are_run_without_a_shell_and_never_fail_the_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run_command(["printf", "%s", "a b; c"]) == ("a b; c", "")
    assert run_command(["no-such-program-anywhere"]) == ("", "missing")
    # smartctl and systemd-detect-virt answer with a status that is not zero.
    assert run_command(["sh", "-c", "echo none; exit 4"]) == ("none\n", "")
    assert run_command(["sh", "-c", "echo denied >&2; exit 1"]) == ("", "denied")
    assert run_command(["sh", "-c", "exit 3"]) == ("", "no output, exit status 3")
    monkeypatch.setattr(hardware_raw, "SECONDS", 0.05)
    assert run_command(["sleep", "5"]) == ("", "no answer within 0.05 s")
