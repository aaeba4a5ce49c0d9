#!/usr/bin/python
"""Read what a machine says of its hardware, for the comparison of the log machines."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: hardware_raw
short_description: What a machine says of its hardware
version_added: 0.1.0
description:
  - Reads disks (also those behind a RAID controller), board, BIOS, CPU, memory modules, network
    cards, power supplies, kernel and operating system image, nearly as the tools print them. The
    controller parses and judges (see the playbook C(diversity.yml)).
  - Needs nothing but Python's standard library, so it works on a machine before the first converge.
    A command that is missing or fails is reported in C(problems) and is not an error. As root, with
    smartmontools, dmidecode, ethtool, pciutils and ipmitool installed, it sees most.
  - Serial numbers, asset tags and UUIDs never leave the machine. With O(salt) a serial number is
    replaced by a keyed digest, so that one disk seen by two machines is recognised; without it,
    it is left out.
author:
  - The Sigsum Ops project
options:
  salt:
    description:
      - Key of the digests. Use a new random one in each run, the same for all machines, and do not
        keep it. Serial numbers are guessable, so digests are only as private as this value.
      - At least 16 characters, or none.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Reads only.
"""

EXAMPLES = r"""
- name: Read the hardware
  sigsum_ops.site.hardware_raw:
    salt: "{{ random_for_this_run }}"
  register: found
  no_log: true
"""

RETURN = r"""
hardware:
  description: What was read. A part that could not be read is empty, and C(problems) says why.
  returned: always
  type: dict
  contains:
    lsblk:
      description: The C(blockdevices) of C(lsblk --json), with digests for serial numbers.
      returned: always
      type: list
      elements: dict
    smartctl:
      description: The identifying members of C(smartctl --json --info) of each device it finds.
      returned: always
      type: list
      elements: dict
    nvme:
      description: Model, firmware, serial digest and PCI vendor by NVMe controller, from sysfs.
      returned: always
      type: dict
    dmi:
      description: Board, BIOS and product names from sysfs.
      returned: always
      type: dict
    dmidecode:
      description: Memory modules and power supplies (types 17 and 39) without private lines.
      returned: always
      type: str
    ipmi_fru:
      description: The output of C(ipmitool fru print) without private lines.
      returned: always
      type: str
    cpuinfo:
      description: The first processor's block of C(/proc/cpuinfo).
      returned: always
      type: str
    network:
      description: The PCI network cards, one for each port, without virtual functions.
      returned: always
      type: list
      elements: dict
    kernel:
      description: The kernel's release.
      returned: always
      type: str
    os_release:
      description: The contents of C(os-release).
      returned: always
      type: str
    container:
      description: The container engine this runs in, C(none), or empty where that is not known.
      returned: always
      type: str
    vm:
      description: The hypervisor this runs on, C(none), or empty where that is not known.
      returned: always
      type: str
    boot:
      description: A digest of the kernel's boot id, the same in all containers of one machine.
      returned: always
      type: str
    problems:
      description: For each command that was of no use, C(missing) or what it answered.
      returned: always
      type: dict
"""

import hashlib
import hmac
import json
import os
import pathlib
import re
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule

SALT_CHARACTERS = 16
SECONDS = 30  # for one command: a disk that spins up, or a BMC, answers slowly

LSBLK_COLUMNS = "NAME,TYPE,VENDOR,MODEL,REV,SERIAL,SIZE,ROTA,TRAN,RM,WWN"
SMARTCTL_MEMBERS = (
    "ata_additional_product_id",
    "firmware_version",
    "model_family",
    "model_name",
    "nvme_ieee_oui_identifier",
    "nvme_pci_vendor",
    "revision",
    "rotation_rate",
    "scsi_product",
    "scsi_revision",
    "scsi_vendor",
    "product",
    "user_capacity",
    "vendor",
)
DMI_FILES = (
    "bios_date",
    "bios_release",
    "bios_vendor",
    "bios_version",
    "board_name",
    "board_vendor",
    "board_version",
    "chassis_vendor",
    "product_family",
    "product_name",
    "product_version",
    "sys_vendor",
)
CPUINFO_LONG = ("flags", "vmx flags", "bugs", "Features")  # long, and no part of the model
# Lines that would tell one specimen from another; a FRU's extras are often serial numbers, too.
PRIVATE = re.compile(
    r"^\s*(?:\w+ )*(?:Serial(?: Number)?|Asset Tag|UUID|GUID|Extra)\s*:", re.IGNORECASE
)
# HPE's Smart Arrays: smartctl reaches their disks by number, but does not list them in a scan.
CCISS_VOLUME = re.compile(r"\s*LOGICAL VOLUME\s*", re.IGNORECASE)
CCISS_DISKS = 16

# Standard output and an explanation, one of which is empty.
Run = Callable[[Sequence[str]], tuple[str, str]]


def run_command(argv: Sequence[str]) -> tuple[str, str]:
    """Run a program and return its output, or "" and why there is none.

    The exit status does not count where something was printed: smartctl's is a bit mask that is
    not zero for an aged disk, and systemd-detect-virt's is 1 on a physical machine.
    """
    try:
        done = subprocess.run(
            list(argv),
            env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return "", "missing"
    except subprocess.TimeoutExpired:
        return "", f"no answer within {SECONDS} s"
    except OSError as error:
        return "", str(error)
    if done.stdout.strip():
        return done.stdout, ""
    explanation = done.stderr.strip().splitlines()
    return "", explanation[0] if explanation else f"no output, exit status {done.returncode}"


def oui(wwn: str) -> str:
    """The three bytes of a world-wide name that name its maker, in hex; "" where it has none.

    NAA 5 and 6 (``0x5``, OUI, …), EUI-64 (``eui.``, OUI, 5 bytes) and NGUID (``eui.``, 8 bytes,
    OUI, 5 bytes). The rest of such a name is a serial number.
    """
    text = wwn.strip().lower()
    if match := re.fullmatch(r"0x[56]([0-9a-f]{6})[0-9a-f]+", text):
        return match[1]
    if match := re.fullmatch(r"eui\.(?:[0-9a-f]{16})?([0-9a-f]{6})[0-9a-f]{10}", text):
        return match[1]
    return ""


def without_private_lines(text: str) -> str:
    """The text less its lines that would identify one specimen."""
    return "\n".join(line for line in text.splitlines() if not PRIVATE.match(line))


class Collector:
    """Reads one machine.

    Args:
        root: the directory that holds /sys, /proc, /etc and /usr; ``/`` but in tests.
        run: runs a program, see :func:`run_command`.
        salt: key of the digests; with "" there are none.
    """

    def __init__(self, root: pathlib.Path, run: Run, salt: str) -> None:
        self.root = root
        self.run = run
        self.salt = salt
        self.problems: dict[str, str] = {}

    def collect(self) -> dict[str, Any]:
        """Read everything; see RETURN."""
        disks = self._lsblk()
        return {
            "lsblk": disks,
            "smartctl": self._smartctl(disks),
            "nvme": self._nvme(),
            "dmi": {name: self._read(f"sys/class/dmi/id/{name}") for name in DMI_FILES},
            "dmidecode": self._dmidecode(),
            "ipmi_fru": without_private_lines(self._output("ipmitool", "fru", "print")),
            "cpuinfo": self._cpuinfo(),
            "network": self._network(),
            "kernel": self._read("proc/sys/kernel/osrelease"),
            "os_release": self._read("etc/os-release") or self._read("usr/lib/os-release"),
            "container": self._output("systemd-detect-virt", "--container").strip(),
            "vm": self._output("systemd-detect-virt", "--vm").strip(),
            "boot": self._digest(self._read("proc/sys/kernel/random/boot_id")),
            "problems": self.problems,
        }

    def _read(self, path: str) -> str:
        try:
            text = (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return text.strip(" \t\n\0")

    def _output(self, *argv: str) -> str:
        output, problem = self.run(argv)
        if problem:
            self.problems[argv[0]] = problem
        return output

    def _json(self, *argv: str) -> dict[str, Any]:
        text = self._output(*argv)
        try:
            found = json.loads(text or "{}")
        except ValueError:
            self.problems[argv[0]] = "its answer is not JSON: too old?"
            return {}
        return found if isinstance(found, dict) else {}

    def _digest(self, text: object) -> str:
        clean = str(text or "").strip().encode()
        if not clean or not self.salt:
            return ""
        return hmac.new(self.salt.encode(), clean, hashlib.sha256).hexdigest()[:16]

    def _lsblk(self) -> list[dict[str, Any]]:
        listed = self._json("lsblk", "--json", "--bytes", "--nodeps", "--output", LSBLK_COLUMNS)
        return [
            {
                **device,
                "serial": self._digest(device.get("serial")),
                "wwn": oui(device.get("wwn") or ""),
            }
            for device in listed.get("blockdevices", [])
        ]

    def _smartctl(self, disks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        scan = self._json("smartctl", "--scan", "--json")
        if "smartctl" in self.problems:
            return []
        targets = [(device["name"], device["type"]) for device in scan.get("devices", [])]
        found = [self._smartctl_info(name, kind) for name, kind in targets]
        for disk in disks:
            if CCISS_VOLUME.fullmatch(disk.get("model") or ""):
                for number in range(CCISS_DISKS):
                    info = self._smartctl_info(f"/dev/{disk['name']}", f"cciss,{number}")
                    if not info.get("model_name") and not info.get("scsi_product"):
                        break
                    found.append(info)
        return found

    def _smartctl_info(self, name: str, kind: str) -> dict[str, Any]:
        answer = self._json("smartctl", "--info", "--json", "--device", kind, name)
        errors = [m["string"] for m in answer.get("smartctl", {}).get("messages", [])]
        info = {key: answer[key] for key in SMARTCTL_MEMBERS if key in answer}
        # The type asked for is what names a disk behind a controller; the answer may say "scsi".
        info["device"] = {"name": name, "type": kind}
        info["serial_number"] = self._digest(answer.get("serial_number"))
        info["oui"] = f"{answer['wwn']['oui']:06x}" if "oui" in answer.get("wwn", {}) else ""
        if errors:
            info["messages"] = errors
        return info

    def _dmidecode(self) -> str:
        text = self._output("dmidecode", "-t", "17,39")
        if text and "Handle 0x" not in text:  # it explains on standard output, too
            self.problems["dmidecode"] = text.strip().splitlines()[-1].removeprefix("# ")
            return ""
        return without_private_lines(text)

    def _cpuinfo(self) -> str:
        lines = self._read("proc/cpuinfo").split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if not line.startswith(CPUINFO_LONG))

    def _nvme(self) -> dict[str, dict[str, str]]:
        return {
            path.name: {
                "model": self._read(f"sys/class/nvme/{path.name}/model"),
                "firmware": self._read(f"sys/class/nvme/{path.name}/firmware_rev"),
                "serial": self._digest(self._read(f"sys/class/nvme/{path.name}/serial")),
                "pci_vendor": self._read(f"sys/class/nvme/{path.name}/device/vendor"),
            }
            for path in sorted((self.root / "sys/class/nvme").glob("nvme*"))
        }

    def _network(self) -> list[dict[str, str]]:
        names = {}
        for line in self._output("lspci", "-Dmm").splitlines():
            quoted = re.findall(r'"([^"]*)"', line)  # class, vendor, device, …
            if len(quoted) > 2:
                names[line.split()[0]] = f"{quoted[1]} {quoted[2]}"
        cards = []
        for path in sorted((self.root / "sys/class/net").glob("*")):
            device = f"sys/class/net/{path.name}/device"
            vendor = self._read(f"{device}/vendor")
            if not vendor or (self.root / device / "physfn").exists():
                continue  # virtual, on USB (often the BMC's), or a slice of a card listed anyway
            product = self._read(f"{device}/device")
            driver = (self.root / device / "driver").resolve().name
            report = self._output("ethtool", "-i", path.name)
            firmware = re.search(r"^firmware-version:[ \t]*(.*)$", report, re.MULTILINE)
            cards.append(
                {
                    "port": path.name,
                    "pci": f"{vendor.removeprefix('0x')}:{product.removeprefix('0x')}",
                    "driver": "" if driver == "driver" else driver,
                    "firmware": firmware[1].strip() if firmware else "",
                    "name": names.get((self.root / device).resolve().name, ""),
                }
            )
        return cards


def main() -> None:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={"salt": {"type": "str", "default": "", "no_log": True}},
        supports_check_mode=True,
    )
    salt = module.params["salt"]
    if salt and len(salt) < SALT_CHARACTERS:
        # Ansible would strike out so short a secret wherever it occurs in the answer, too.
        module.fail_json(
            msg=f"salt has {len(salt)} characters, and needs {SALT_CHARACTERS} or none"
        )
    collector = Collector(pathlib.Path("/"), run_command, salt)
    module.exit_json(changed=False, hardware=collector.collect())


if __name__ == "__main__":
    main()
