"""``sigsum-ops token``: a submit token, made by upstream's sigsum-token.

log.md, section 4.2: the token is a signature over the log's public key, the same for every leaf.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.log.keys import PublicKey

PROGRAM = "sigsum-token"


def create(signing_key: Path, log_key: PublicKey, domain: str) -> str:
    """The HTTP header that a submitter sends; the private key goes to no program but upstream's.

    Args:
        signing_key: the private key, or the public one of a key that an ssh-agent holds.
        log_key: the log for which the token is good, and no other.
        domain: the domain whose TXT record has the key.

    Raises:
        OpsError: the program is not here, or refused.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
        file.write(f"{log_key.ssh}\n")
        file.flush()
        arguments = ["create", f"--signing-key={signing_key}", f"--log-key={file.name}"]
        return _run(*arguments, f"--domain={domain}").strip()


def _run(*arguments: str) -> str:
    if shutil.which(PROGRAM) is None:
        raise OpsError(
            f"{PROGRAM} is not installed here",
            hint="It is in Debian's package sigsum-go, which a client machine of the site has:"
            " apt install sigsum-go",
        )
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OpsError(f"{PROGRAM} refused: {done.stderr.strip()[-400:]}")
    return done.stdout
