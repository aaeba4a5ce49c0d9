"""The lab's log key comes out of a rehearsed ceremony."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.plan import load
from sigsum_ops.hsm.rehearsal.state import State
from sigsum_ops.lab import keys
from sigsum_ops.lab.lab import Lab
from sigsum_ops.lab.spec import MACHINES, more_devices
from sigsum_ops.log.keys import load_public_key

PLAN = Lab().hsm_plan
ORACLES = tuple(m.host_vars["rehearsal_hsm_serial"] for m in MACHINES if m.group == "log_machines")
MORE = more_devices({machine.name for machine in MACHINES})


@pytest.mark.slow
def test_the_log_key_is_in_all_machines_devices(tmp_path: Path) -> None:
    """Also after a ceremony that was interrupted, whose key nobody knows."""
    interrupted = tmp_path / keys.CEREMONY / "devices"
    interrupted.mkdir(parents=True)
    (interrupted / f"{ORACLES[0]}.json").write_text("half of a dev")
    keys.ensure(tmp_path, PLAN, MORE)
    key = load_public_key(tmp_path / keys.PUBLIC_KEY)
    for serial in ORACLES:
        device = State.from_json((interrupted / f"{serial}.json").read_bytes())
        assert [item.id for item in device.store if item.body.endswith(key.raw)] == [500]

        devices = load(tmp_path / PLAN.name).devices
        (machine,) = (d.name for d in devices if d.serial == serial)
        assert (tmp_path / keys.PASSPHRASES / machine / "log-authentication.passphrase").exists()

    made = (tmp_path / keys.PUBLIC_KEY).stat()
    keys.ensure(tmp_path, PLAN, MORE)
    assert (tmp_path / keys.PUBLIC_KEY).stat() == made
    with pytest.raises(OpsError, match="without log4"):
        keys.ensure(tmp_path, PLAN, {**MORE, "log4": 90000007})


def test_a_record_that_does_not_verify_makes_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_plan: object, out: Path, _people: object) -> None:
        out.mkdir()
        (out / "transcript.jsonl").write_text("{}\n")
        (out / "allowed_signers").touch()

    monkeypatch.setattr("sigsum_ops.hsm.ceremony.rehearse.rehearse", nothing)
    with pytest.raises(OpsError, match="does not verify"):
        keys.ensure(tmp_path, PLAN)
    assert not (tmp_path / keys.PUBLIC_KEY).exists()
