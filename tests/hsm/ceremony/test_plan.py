"""The object plan: the standard sets, what a file may say, and how it is told what it may not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yubihsm.defs import ALGORITHM, AUDIT, CAPABILITY, COMMAND, OBJECT

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm import names, plan
from sigsum_ops.hsm.ceremony.records import ReadBack, Role, StoredObject
from sigsum_ops.hsm.identity import is_rehearsal
from sigsum_ops.hsm.plan import DeviceRole, Generation, Plan, differences, loads

ROOT = Path(__file__).parents[3]
ALL = names.ALL_CAPABILITIES
SIGN = CAPABILITY.SIGN_EDDSA
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0ObGvhXLz8Wr0i9aXIYyOVPsqfQ3QzdqsDYxgXc3dm"

TEXT = """\
site: test
generation: established
participants:
  - {name: olga, role: operator}
  - {name: wim, role: witness}
devices:
  - {name: backup-1, role: backup, serial: 1001}
  - {name: backup-2, role: backup, serial: 1002}
  - {name: log-1, role: log-oracle, serial: 1003}
  - {name: log-2, role: log-oracle, serial: 1004}
  - {name: witness-1, role: witness-oracle, serial: 1005}
"""


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)


def test_the_established_plan_is_what_operators_have() -> None:
    site = loads(TEXT, "plan.yml")
    everywhere, both = 0xFFFF, CAPABILITY.EXPORTABLE_UNDER_WRAP | SIGN
    wrap = CAPABILITY.IMPORT_WRAPPED | CAPABILITY.EXPORT_WRAPPED
    key, signing = OBJECT.AUTHENTICATION_KEY, OBJECT.ASYMMETRIC_KEY
    assert {
        (s.id, s.type, s.label, s.domains, s.capabilities, s.delegated)
        for s in site.objects.values()
    } == {
        (100, key, "Backup authentication", everywhere, ALL, ALL),
        (200, key, "Logsrv authentication", 1 << 9, SIGN, 0),
        (300, key, "Witness authentication", 1 << 10, SIGN, 0),
        (400, OBJECT.WRAP_KEY, "Common wrap key", everywhere, wrap, both),
        (500, signing, "Log server signing key", 1 << 9, both, 0),
        (600, signing, "Witness signing key", 1 << 10, both, 0),
    }
    assert site.objects["wrap-key"].algorithm == ALGORITHM.AES128_CCM_WRAP
    held = {d.name: [site.objects[name].id for name in d.objects] for d in site.devices}
    assert held == {
        "backup-1": [100, 400, 500, 600],
        "backup-2": [100, 400, 500, 600],
        "log-1": [200, 500],
        "log-2": [200, 500],
        "witness-1": [300, 600],
    }
    assert not any(d.command_audit or d.forced_audit for d in site.devices)


def test_new_sites_get_more_by_default() -> None:
    old = loads(TEXT, "plan.yml")
    new = loads(changed("generation: established\n", ""), "plan.yml")
    assert new.generation == Generation.NEW
    assert new.objects["wrap-key"].algorithm == ALGORITHM.AES256_CCM_WRAP
    audit = new.objects["audit-authentication"]
    assert audit.capabilities == CAPABILITY.GET_LOG_ENTRIES
    assert audit.delegated == 0
    added = set(new.objects) - set(old.objects)
    assert added == {"audit-authentication", "health-authentication", "health-key"}
    health = new.objects["health-key"]
    assert health.domains == new.objects["health-authentication"].domains
    others = [s for s in new.objects.values() if s.domains != 0xFFFF and "health" not in s.name]
    assert all(not s.domains & health.domains for s in others)
    for device in new.devices:
        assert device.command_audit[COMMAND.SIGN_EDDSA] == AUDIT.ON
        assert device.command_audit[COMMAND.PUT_WRAP_KEY] == AUDIT.ON
        assert "audit-authentication" in device.objects
        assert not device.forced_audit
        assert ("health-key" in device.objects) == (device.role != DeviceRole.BACKUP)
    assert [spec.name for spec in new.cloned()] == ["log-signing-key", "witness-signing-key"]


BOTH = pytest.mark.parametrize("generation", list(Generation))


@BOTH
def test_no_oracle_keeps_a_wrap_key_or_the_default_key(generation: Generation) -> None:
    site = loads(changed("established", generation), "plan.yml")
    for device in site.with_role(DeviceRole.LOG_ORACLE, DeviceRole.WITNESS_ORACLE):
        for spec in site.specs(device):
            assert spec.type != OBJECT.WRAP_KEY
            assert (spec.type, spec.id) != (OBJECT.AUTHENTICATION_KEY, plan.DEFAULT_KEY_ID)
            assert spec.type != OBJECT.AUTHENTICATION_KEY or spec.capabilities in (
                SIGN,
                CAPABILITY.GET_LOG_ENTRIES,
            )


@BOTH
def test_the_plan_made_explicit_is_the_same_plan(generation: Generation) -> None:
    site = loads(changed("established", generation), "plan.yml")
    again = loads(json.dumps(site.to_json()), "again")
    assert again == site
    assert again.hash() == site.hash()


def test_the_hash_is_of_the_meaning() -> None:
    site = loads(TEXT, "plan.yml")
    more = f"# a comment\n{TEXT}objects:\n  wrap-key: {{id: 400}}\n"
    assert loads(more, "x").hash() == site.hash()
    assert loads(changed("1004", "1006"), "x").hash() != site.hash()
    named = changed("name: olga,", f"name: olga, public_key: {KEY} a comment,")
    assert loads(named, "x").participants[0].public_key == KEY
    assert loads(named.replace("a comment", "another"), "x").hash() == loads(named, "x").hash()


WRONG = {
    "no text": ("", "is empty", ""),
    "no YAML": ("site: [", "is not YAML", ""),
    "no mapping": ("- site", "plan.yml:1: the plan is not a mapping", "site"),
    "unknown setting": (
        TEXT + "device: 1\n",
        "plan.yml:12: device is unknown (did you mean devices?)",
        "devices",
    ),
    "twice": (TEXT + "site: other\n", "plan.yml:12: site is there twice", "once"),
    "missing": (changed("site: test\n", ""), "plan.yml:1: the plan lacks site", "site"),
    "site": (changed("site: test", "site: Te st"), "plan.yml:1: site is 'Te st'", "lower-case"),
    "generation": (
        changed("established", "establish"),
        "plan.yml:2: generation is 'establish' (did you mean established?)",
        "established, new",
    ),
    "role": (
        changed("log-2, role: log-oracle", "log-2, role: oracle"),
        "plan.yml:10: devices[3].role is 'oracle'",
        "log-oracle",
    ),
    "equal serials": (
        changed("1004", "1003"),
        "plan.yml:10: devices[3] has the serial 1003, as another before it",
        "each serial once",
    ),
    "equal names": (
        changed("log-2", "log-1"),
        "plan.yml:10: devices[3] has the name log-1",
        "each name once",
    ),
    "serial": (changed("1004", "0"), "plan.yml:10: devices[3].serial is '0'", "printed"),
    "octal": (changed("1004", "01004"), "devices[3].serial is '01004'", "printed"),
    "hexadecimal": (changed("1004", "0x3ec"), "devices[3].serial is '0x3ec'", "printed"),
    "one backup": (
        changed("  - {name: backup-2, role: backup, serial: 1002}\n", ""),
        "plan.yml:7: devices has 1 of role backup",
        "two backups or more",
    ),
    "no log oracle": (
        TEXT.replace("log-oracle", "witness-oracle"),
        "plan.yml:7: devices has no log-oracle",
        "log-oracle",
    ),
    "no devices": (TEXT[: TEXT.index("devices")] + "devices: []\n", "has 0 of role backup", "two"),
    "no witness": (
        changed("role: witness}", "role: operator}"),
        "plan.yml:4: participants has no witness",
        "one operator and one witness",
    ),
    "one person twice": (
        changed("wim", "olga"),
        "plan.yml:5: participants[1] has the name olga",
        "each name once",
    ),
    "one key twice": (
        changed("role: operator}", f"role: operator, public_key: {KEY} a}}").replace(
            "role: witness}", f"role: witness, public_key: {KEY} b}}"
        ),
        "plan.yml:5: participants[1] has the key",
        "each key once",
    ),
    "no key": (
        changed("role: operator}", "role: operator, public_key: ssh-ed25519 AAAA}"),
        "plan.yml:4: participants[0].public_key is not a public key",
        "ssh-ed25519",
    ),
    "a path as a name": (
        changed("olga", "../olga"),
        "plan.yml:4: participants[0].name is '../olga'",
        "letters",
    ),
    "firmware": (
        changed("serial: 1004", "serial: 1004, firmware: 2.4"),
        "plan.yml:10: devices[3].firmware is '2.4'",
        "three numbers, as 2.4.0",
    ),
    "forced audit": (
        changed("serial: 1004", "serial: 1004, forced_audit: maybe"),
        "plan.yml:10: devices[3].forced_audit is 'maybe'",
        "true or false",
    ),
    "audit of no command": (
        changed("serial: 1004", "serial: 1004, command_audit: {sign-edsa: on}"),
        "plan.yml:10: devices[3].command_audit.sign-edsa is no command (did you mean sign-eddsa?)",
        "commands",
    ),
    "audit": (
        changed("serial: 1004", "serial: 1004, command_audit: {sign-eddsa: yes}"),
        "plan.yml:10: devices[3].command_audit.sign-eddsa is 'yes'",
        "off, on, fixed",
    ),
    "unknown object on a device": (
        changed("serial: 1004", "serial: 1004, objects: [log-signing-kee]"),
        "plan.yml:10: devices[3].objects[0] is 'log-signing-kee' (did you mean log-signing-key?)",
        "log-signing-key",
    ),
    "wrap key on an oracle": (
        changed("serial: 1004", "serial: 1004, objects: [log-authentication, wrap-key]"),
        "plan.yml:10: devices[3] keeps wrap-key",
        "wrap keys on backups only",
    ),
    "no way in": (
        changed("serial: 1004", "serial: 1004, objects: [log-signing-key]"),
        "plan.yml:10: devices[3] holds no authentication key",
        "no way in",
    ),
    "threshold": (
        TEXT + "backup: {form: shares, threshold: 4, shares: 3}\n",
        "plan.yml:12: backup.threshold is '4'",
        "2 to the 3 shares",
    ),
    "one share is enough": (
        TEXT + "backup: {form: shares, threshold: 1, shares: 3}\n",
        "plan.yml:12: backup.threshold is '1'",
        "2 to the 3 shares",
    ),
    "form": (
        TEXT + "backup: {form: paper}\n",
        "plan.yml:12: backup.form is 'paper'",
        "hex, shares",
    ),
    "one medium": (TEXT + "backup: {form: hex, media: 1}\n", "backup.media is '1'", "2 to 16"),
    "media of shares": (
        TEXT + "backup: {form: shares, threshold: 2, shares: 3, media: 2}\n",
        "plan.yml:12: backup.media is unknown",
        "form, threshold, shares",
    ),
}

# The same for objects: what is wrong, the settings of the object, the error and what is allowed.
WRONG_OBJECTS = {
    "equal ids": (
        "log-signing-key: {id: 600}",
        "witness-signing-key with the id 600 of log",
        "differ",
    ),
    "id 0": ("wrap-key: {id: 0}", "objects.wrap-key.id is '0'", "1 to 65534"),
    "id 0xffff": ("wrap-key: {id: 65535}", "objects.wrap-key.id is '65535'", "1 to 65534"),
    "the default key's id": (
        "log-authentication: {id: 1}",
        "log-authentication with the id 1 of the default authentication key",
        "differ",
    ),
    "domain 17": ("wrap-key: {domains: [17]}", "wrap-key.domains[0] is '17'", "1 to 16"),
    "domain 0": ("wrap-key: {domains: [0]}", "wrap-key.domains[0] is '0'", "1 to 16"),
    "a domain twice": ("wrap-key: {domains: [3, 3]}", "names a domain twice", "1 to 16"),
    "no domain": ("wrap-key: {domains: []}", "wrap-key.domains is empty", "1 to 16"),
    "domains": ("wrap-key: {domains: some}", "wrap-key.domains is 'some'", "all, or a list"),
    "unknown capability": (
        "wrap-key: {capabilities: [sign-edsa]}",
        "wrap-key.capabilities[0] is 'sign-edsa' (did you mean sign-eddsa?)",
        "sign-eddsa",
    ),
    "a capability twice": (
        "wrap-key: {capabilities: [sign-eddsa, sign-eddsa]}",
        "wrap-key.capabilities[1] is there twice",
        "once",
    ),
    "capabilities": (
        "wrap-key: {capabilities: sign-eddsa}",
        "wrap-key.capabilities is 'sign-eddsa'",
        "a list",
    ),
    "long label": (
        "wrap-key: {label: ääääääääääääääääääääx}",
        "(41 bytes)",
        "1 to 40 bytes",
    ),
    "no label": ('wrap-key: {label: ""}', "(0 bytes)", "1 to 40 bytes"),
    "unprintable label": ('wrap-key: {label: "a\\tb"}', "label is", "control characters"),
    "surrogate": ('wrap-key: {label: "\\ud800"}', "label is", "UTF-8"),
    "algorithm of another type": (
        "wrap-key: {algorithm: ed25519}",
        "objects.wrap-key has the algorithm ed25519",
        "aes256-ccm-wrap",
    ),
    "clone without delegation": (
        "wrap-key: {delegated: [exportable-under-wrap]}",
        "wrap-key, whose delegated capabilities lack sign-eddsa of log-signing-key",
        "cover those of log-signing-key",
    ),
    "wrap key that exports nothing": (
        "wrap-key: {capabilities: [import-wrapped]}",
        "no wrap key on backup-1 to clone log-signing-key with",
        "export-wrapped and import-wrapped",
    ),
    "wrap key in another domain": (
        "wrap-key: {domains: [10]}",
        "no wrap key on backup-1 to clone witness-signing-key with",
        "in a domain of the key",
    ),
    "clone that cannot be exported": (
        "log-signing-key: {capabilities: [sign-eddsa]}",
        "log-signing-key on several devices, but it is not exportable-under-wrap",
        "exportable-under-wrap",
    ),
    "maker without delegation": (
        "backup-authentication: {delegated: [sign-eddsa, exportable-under-wrap]}",
        "devices[0] has backup-authentication, which may create wrap-key but cannot delegate",
        "cover those of wrap-key",
    ),
    "delegated of a signing key": (
        "log-signing-key: {delegated: [sign-eddsa]}",
        "objects.log-signing-key has delegated capabilities",
        "none for an asymmetric-key",
    ),
    "new object without settings": ("other: {id: 7}", "objects.other lacks type", "label"),
    "object on no device": (
        "other: {id: 7, type: wrap-key, label: x, algorithm: aes256-ccm-wrap, domains: all, "
        "capabilities: none}",
        "objects.other is on no device",
        "objects",
    ),
    "name": ("Wrap_Key: {id: 7}", "objects.Wrap_Key is no name", "lower-case"),
    "type": ("wrap-key: {type: opaque}", "wrap-key.type is 'opaque'", "authentication-key"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_place_and_what_is_allowed(case: str) -> None:
    text, found, allowed = WRONG[case]
    with pytest.raises(UsageError) as caught:
        loads(text, "plan.yml")
    assert found in caught.value.message
    assert allowed in (caught.value.hint or "")


@pytest.mark.parametrize("case", WRONG_OBJECTS)
def test_what_is_wrong_with_an_object_is_named(case: str) -> None:
    setting, found, allowed = WRONG_OBJECTS[case]
    with pytest.raises(UsageError) as caught:
        loads(f"{TEXT}objects:\n  {setting}\n", "plan.yml")
    assert caught.value.message.startswith("plan.yml:")
    assert found in caught.value.message
    assert allowed in (caught.value.hint or "")


@given(st.integers(0, len(TEXT) - 1), st.text(max_size=3), st.integers(0, 3))
def test_no_edit_of_the_file_is_a_crash(where: int, put: str, cut: int) -> None:
    try:
        site = loads(TEXT[:where] + put + TEXT[where + cut :], "plan.yml")
    except UsageError:
        return
    assert loads(json.dumps(site.to_json()), "again") == site


def test_a_site_can_add_objects_of_its_own() -> None:
    text = TEXT.replace(
        "serial: 1003", "serial: 1003, objects: [log-authentication, log-signing-key, extra]"
    )
    extra = "extra: {id: 7, type: asymmetric-key, label: x, algorithm: ed25519, domains: [16]"
    site = loads(f"{text}objects:\n  {extra}, capabilities: [sign-eddsa]}}\n", "plan.yml")
    assert site.objects["extra"].domains == 1 << 15
    assert "extra" in site.devices[2].objects
    assert site.objects["extra"] not in site.cloned()


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.yml cannot be read"):
        plan.load(tmp_path / "no.yml")
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        plan.load(tmp_path / "binary.yml")


# --- comparison with a device -------------------------------------------------------------------


def read_back(site: Plan, name: str) -> ReadBack:
    """What a device answers that is as planned."""
    device = next(device for device in site.devices if device.name == name)
    objects = [
        StoredObject(
            type=names.name_of(names.TYPES, spec.type),
            id=spec.id,
            label=spec.label,
            algorithm=names.name_of(names.ALGORITHMS, spec.algorithm),
            domains=names.domain_numbers(spec.domains),
            capabilities=names.flag_names(names.CAPABILITIES, spec.capabilities),
            delegated=names.flag_names(names.CAPABILITIES, spec.delegated),
            size=40,
            sequence=0,
            origin=("generated",) if spec.type == OBJECT.ASYMMETRIC_KEY else ("imported",),
        )
        for spec in site.specs(device)
    ]
    audit = {names.name_of(names.COMMANDS, c): int(v) for c, v in device.command_audit.items()}
    return ReadBack(device.serial, 100, tuple(names.DOMAINS), tuple(objects), 0, audit)


SITE = loads(changed("established", "new"), "plan.yml")
BACKUP = read_back(SITE, "backup-1")


def test_a_device_as_planned_has_no_differences() -> None:
    for device in SITE.devices:
        assert differences(SITE, device, read_back(SITE, device.name)) == []


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("label", "Common wrap kex", "wrap-key: label 'Common wrap kex', not 'Common wrap key'"),
        ("algorithm", "aes128-ccm-wrap", "wrap-key: algorithm 'aes128-ccm-wrap', not"),
        ("domains", (1, 2), "wrap-key: domains (1, 2), not"),
        ("capabilities", ("import-wrapped",), "wrap-key: capabilities import-wrapped, not"),
        ("delegated", (), "wrap-key: delegated capabilities none, not sign-eddsa, exportable"),
    ],
)
def test_each_field_is_compared(field: str, value: object, said: str) -> None:
    item = next(item for item in BACKUP.objects if item.type == "wrap-key")
    objects = [
        replace(item, **{field: value}) if item.type == "wrap-key" else item  # type: ignore[arg-type]
        for item in BACKUP.objects
    ]
    assert item in BACKUP.objects
    found = differences(SITE, SITE.devices[0], replace(BACKUP, objects=tuple(objects)))
    assert len(found) == 1
    assert found[0].startswith(said)


@pytest.mark.parametrize("origin", [("imported",), ("imported", "imported-wrapped"), ()])
def test_a_signing_key_from_outside_is_a_difference(origin: tuple[str, ...]) -> None:
    objects = [replace(item, origin=origin) if item.id == 500 else item for item in BACKUP.objects]
    found = differences(SITE, SITE.devices[0], replace(BACKUP, objects=tuple(objects)))
    assert [line for line in found if "not generated in a device" in line] == found != []


def test_missing_and_foreign_objects_are_differences() -> None:
    default = replace(BACKUP.objects[0], id=1)
    found = differences(
        SITE, SITE.devices[0], replace(BACKUP, objects=(*BACKUP.objects[1:], default))
    )
    assert found == [
        "backup-authentication (id 100) is missing",
        "the default authentication key is not in the plan",
    ]
    leaving = replace(BACKUP, objects=(*BACKUP.objects, default))
    assert differences(SITE, SITE.devices[0], leaving, leaving=1) == []


def test_audit_options_are_compared() -> None:
    audit = {**BACKUP.command_audit, "sign-eddsa": 0}
    found = differences(SITE, SITE.devices[0], replace(BACKUP, force_audit=1, command_audit=audit))
    assert found == ["forced audit is on", "audit of sign-eddsa is off, not on"]


def test_all_means_all_that_the_firmware_knows() -> None:
    known = names.flag_names(names.CAPABILITIES, ALL & ~CAPABILITY.PUBLIC_WRAP_KEY_WRITE)
    older = replace(BACKUP.objects[0], capabilities=known, delegated=known)
    found = replace(BACKUP, objects=(older, *BACKUP.objects[1:]))
    assert len(differences(SITE, SITE.devices[0], found)) == 2
    everything = names.flags(names.CAPABILITIES, known)
    assert differences(SITE, SITE.devices[0], found, everything=everything) == []


# --- the plans that come with the project -------------------------------------------------------


def test_the_labs_plan_is_for_rehearsal_devices_only() -> None:
    site = plan.load(ROOT / "inventories/lab/hsm-plan.yml")
    assert site.generation == Generation.NEW
    assert [len(site.with_role(role)) for role in DeviceRole] == [2, 2, 1]
    assert all(is_rehearsal(device.serial, None) for device in site.devices)
    assert {person.role for person in site.participants} == set(Role)


def test_the_example_is_for_real_devices() -> None:
    site = plan.load(ROOT / "inventories/example/hsm-plan.yml")
    assert not any(is_rehearsal(device.serial, None) for device in site.devices)
    assert site.backup.form == "shares"
