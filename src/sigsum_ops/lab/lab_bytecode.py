"""Keeps on a lab's machine what Python compiled of a zip file, as it does for other modules.

Ansible sends its library as a zip file with each task, and Python compiles all of it anew: a third
of what a task costs on the machine. Each Python on a lab's machine imports this file at its start,
which image.py puts there. It is never on a real machine, and nothing here imports it.
"""

from __future__ import annotations

import zipimport

TYPE_CHECKING = False  # that of typing takes each Python some milliseconds to import
if TYPE_CHECKING:
    from types import CodeType

KEPT = "/var/cache/lab-bytecode"


def compile_source(pathname: str, source: bytes) -> CodeType:
    """Return the code of a module's source, which some other zip file may have brought before."""
    # Each Python pays for what is imported at its start, and more for pathlib than it saves.
    import marshal
    import os
    from _imp import source_hash
    from contextlib import suppress

    kept = f"{KEPT}/{source_hash(0, source).hex()}-{len(source)}"
    # Not kept yet, or damaged: it is compiled as ever.
    with suppress(OSError, EOFError, ValueError, TypeError), open(kept, "rb") as file:  # noqa: PTH123
        code: CodeType = marshal.load(file)  # noqa: S302
        return code
    code = _compile(pathname, source)
    with suppress(OSError):  # of another user, or read-only to a service
        os.makedirs(KEPT, exist_ok=True)  # noqa: PTH103
        new = f"{kept}.{os.getpid()}"
        with open(new, "xb") as file:  # noqa: PTH123
            marshal.dump(code, file)
        os.replace(new, kept)  # noqa: PTH105
    return code


# Python has no other place where that of a zip file can be changed, and no types for this one.
_compile = zipimport._compile_source  # type: ignore[attr-defined]
zipimport._compile_source = compile_source  # type: ignore[attr-defined]
