"""A service's configuration: one TOML file in which nothing is unknown and nothing is guessed."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sigsum_ops.errors import UsageError

T = TypeVar("T")
_REQUIRED: Any = object()


def read(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    """What ``parse`` makes of a TOML file; every UsageError names the file."""
    try:
        return parse(tomllib.loads(path.read_bytes().decode()))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from error


class Table:
    """A table whose settings are taken one by one; what is left over at the end is refused."""

    def __init__(self, values: dict[str, Any], name: str = "") -> None:
        self.name = name
        self._values = dict(values)

    def take(self, key: str, kind: type[T], default: Any = _REQUIRED) -> T:
        if key not in self._values:
            if default is _REQUIRED:
                raise UsageError(f"{self._named(key)} is missing")
            return default  # type: ignore[no-any-return]
        value = self._values.pop(key)
        if type(value) is not kind:  # bool is an int to Python, not here
            raise self.wrong(key, value, f"a {kind.__name__}")
        return value

    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        value = self.take(key, str, default)
        if value is not default and (not value or not value.isprintable()):
            raise self.wrong(key, value, "printable text")
        return value

    def path(self, key: str, default: Any = _REQUIRED) -> Any:
        value = self.text(key, default)
        if value is default:
            return default
        if not value.startswith("/"):
            raise self.wrong(key, value, "an absolute path")
        return Path(value)

    def number(self, key: str, low: int, high: int, default: Any = _REQUIRED) -> Any:
        value = self.take(key, int, default)
        if value is not default and not low <= value <= high:
            raise self.wrong(key, value, f"a number from {low} to {high}")
        return value

    def either(self, one: str, other: str) -> Table:
        """Exactly one of two tables."""
        if (one in self._values) == (other in self._values):
            raise UsageError(f"exactly one of the tables [{one}] and [{other}] must be there")
        name = one if one in self._values else other
        return Table(self.take(name, dict), name)

    def done(self) -> None:
        if self._values:
            raise UsageError(f"{self._named(sorted(self._values)[0])} is not a setting")

    def wrong(self, key: str, value: Any, allowed: str) -> UsageError:
        return UsageError(f"{self._named(key)} is {str(value)[:80]!r}: allowed is {allowed}")

    def _named(self, key: str) -> str:
        return f"{key} in [{self.name}]" if self.name else key
