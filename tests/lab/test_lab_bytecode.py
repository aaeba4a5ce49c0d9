"""What a lab's machine keeps of the zip files that Ansible sends."""

from __future__ import annotations

import marshal
import subprocess
import sys
import zipfile
from pathlib import Path

import sigsum_ops.lab

HERE = Path(sigsum_ops.lab.__file__).parent
SENT = """
import sys
sys.path.insert(0, sys.argv[1])
import lab_bytecode
lab_bytecode.KEPT = sys.argv[2]
sys.path.insert(0, sys.argv[3])
import sent
print(sent.VALUE)
"""


def value(tmp_path: Path, source: str, kept: Path) -> str:
    """What a Python of its own finds in a module that came in a zip file."""
    archive = tmp_path / "sent.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("sent.py", source)
    command = [sys.executable, "-c", SENT, str(HERE), str(kept), str(archive)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_same_source_is_compiled_once(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert value(tmp_path, "VALUE = 1", kept) == "1"
    (code,) = kept.iterdir()
    code.write_bytes(marshal.dumps(compile("VALUE = 'kept'", "sent.py", "exec")))
    assert value(tmp_path, "VALUE = 1", kept) == "kept"


def test_another_source_is_compiled_anew(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert value(tmp_path, "VALUE = 1", kept) == "1"
    assert value(tmp_path, "VALUE = 2", kept) == "2"
    assert len(list(kept.iterdir())) == 2


def test_what_is_kept_may_be_damaged(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for damage in (b"", b"?", marshal.dumps(compile("VALUE = 3", "sent.py", "exec"))[:-9]):
        assert value(tmp_path, "VALUE = 1", kept) == "1"
        (code,) = kept.iterdir()
        code.write_bytes(damage)
        assert value(tmp_path, "VALUE = 1", kept) == "1"


def test_where_nothing_can_be_kept_it_goes_on(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.touch()
    assert value(tmp_path, "VALUE = 1", blocked) == "1"
