"""The lab's log key: in rehearsal devices, made by a key ceremony as a production site's is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from sigsum_ops.errors import OpsError

CEREMONY = "ceremony"
VERDICT = "verdict.json"
PUBLIC_KEY = "log-key.pub"
PASSPHRASES = "passphrases"


def ensure(state: Path, plan: Path, more: Mapping[str, int] | None = None) -> None:
    """Have ``state/ceremony``, with the devices in it, and ``state/log-key.pub``.

    ``state/ceremony/verdict.json`` is what ``ceremony verify --json`` says of it, and
    ``state/passphrases`` leads to this ceremony's directory on the medium for credentials. The
    public key is written last: a ceremony without it was interrupted, and is performed anew.

    Args:
        state: the lab's directory.
        plan: which devices there are.
        more: log machines that only this lab has, with the serial numbers of their devices.

    Raises:
        OpsError: the ceremony stopped, or its record does not verify; or it was without ``more``.
    """
    # Hosts have our package, but not what a ceremony needs.
    from sigsum_ops.hsm.ceremony.rehearse import CREDENTIALS, MEDIA, Unattended, rehearse
    from sigsum_ops.hsm.ceremony.runner import ALLOWED_SIGNERS, TRANSCRIPT
    from sigsum_ops.hsm.ceremony.verify import verify
    from sigsum_ops.hsm.plan import load

    public_key, out = state / PUBLIC_KEY, state / CEREMONY
    if public_key.exists():
        if missing := [name for name in more or {} if not (state / PASSPHRASES / name).is_dir()]:
            raise OpsError(
                f"the lab's key ceremony was performed without {', '.join(missing)}",
                hint="`sigsum-ops lab down`, then `lab up` with all machines that it is to have",
            )
        return
    if out.exists():
        shutil.rmtree(out)
    if more:
        content = yaml.safe_load(plan.read_text(encoding="utf-8"))
        content["devices"] += [
            {"name": name, "role": "log-oracle", "serial": serial} for name, serial in more.items()
        ]
        plan = state / plan.name
        plan.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    planned = load(plan)
    rehearse(planned, out, Unattended(lambda _: None))
    verdict = verify(
        out / TRANSCRIPT,
        allowed_signers=out / ALLOWED_SIGNERS,
        plan=planned,
        rehearsal=True,
    )
    if not verdict.ok:
        raise OpsError(
            f"the record of the lab's ceremony, {out / TRANSCRIPT}, does not verify:"
            f" {verdict.reason} (line {verdict.line})",
            hint="`sigsum-ops lab up` performs it anew; if this happens again, report it",
        )
    (out / VERDICT).write_text(json.dumps(verdict.to_json()) + "\n")
    (ceremony,) = (out / MEDIA / CREDENTIALS).iterdir()
    passphrases = state / PASSPHRASES
    passphrases.unlink(missing_ok=True)
    passphrases.symlink_to(ceremony.relative_to(state))
    temporary = public_key.with_suffix(".new")
    temporary.write_text(f"{verdict.public_keys['log-signing-key']} log key of a lab\n")
    temporary.rename(public_key)
