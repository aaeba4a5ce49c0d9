"""The lab's log key: in rehearsal devices, made by a key ceremony as a production site's is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sigsum_ops.errors import OpsError

CEREMONY = "ceremony"
VERDICT = "verdict.json"
PUBLIC_KEY = "log-key.pub"
PASSPHRASES = "passphrases"


def ensure(state: Path, plan: Path) -> None:
    """Have ``state/ceremony``, with the devices in it, and ``state/log-key.pub``.

    ``state/ceremony/verdict.json`` is what ``ceremony verify --json`` says of it, and
    ``state/passphrases`` leads to this ceremony's directory on the medium for credentials. The
    public key is written last: a ceremony without it was interrupted, and is performed anew.

    Raises:
        OpsError: the ceremony stopped, or its record does not verify.
    """
    # Hosts have our package, but not what a ceremony needs.
    from sigsum_ops.hsm.ceremony.rehearse import CREDENTIALS, MEDIA, Unattended, rehearse
    from sigsum_ops.hsm.ceremony.runner import ALLOWED_SIGNERS, TRANSCRIPT
    from sigsum_ops.hsm.ceremony.verify import verify
    from sigsum_ops.hsm.plan import load

    public_key, out = state / PUBLIC_KEY, state / CEREMONY
    if public_key.exists():
        return
    if out.exists():
        shutil.rmtree(out)
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
