"""Reading a YAML file so that every complaint names the setting, its line and what is allowed.

Values are read from the nodes of the document, not from what YAML makes of them: a node knows its
line, and ``on``, ``0100`` and ``2.4`` stay what was written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import cast

import yaml

from sigsum_ops.errors import UsageError


def load(path: Path) -> Value:
    """The file's document. Raises UsageError where it cannot be read or is not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return loads(text, str(path))


def loads(text: str, source: str) -> Value:
    """The document in a text; ``source`` is what complaints call it."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{source} is not YAML: {error}") from error
    if node is None:
        raise UsageError(f"{source} is empty")
    return Value(node, "", source)


class Value:
    """One value of the file, which knows its place and complains with it."""

    def __init__(self, node: yaml.Node, setting: str, source: str) -> None:
        self.node = node
        self.setting = setting
        self.source = source

    def refuse(self, found: str, allowed: str) -> UsageError:
        """The error: ``found`` goes on from the setting's name."""
        line = self.node.start_mark.line + 1
        setting = self.setting or "the plan"
        return UsageError(f"{self.source}:{line}: {setting} {found}", hint=f"Allowed: {allowed}.")

    @property
    def is_scalar(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode)

    @property
    def is_null(self) -> bool:
        return self.is_scalar and self.node.tag == "tag:yaml.org,2002:null"

    def word(self, allowed: str) -> str:
        """A scalar as it is written, whatever YAML would make of it (``on`` means true to it)."""
        if not self.is_scalar:
            kind = "list" if isinstance(self.node, yaml.SequenceNode) else "mapping"
            raise self.refuse(f"is a {kind}", allowed)
        return cast(str, self.node.value)

    def text(self, form: re.Pattern[str], allowed: str) -> str:
        value = self.word(allowed)
        if not form.fullmatch(value):
            raise self.refuse(f"is {value!r}", allowed)
        return value

    def number(self, allowed: range, what: str | None = None) -> int:
        said = what or f"{allowed.start} to {allowed.stop - 1}"
        value = self.word(said)
        # YAML would read 0100 as 64 and 1:30 as 90.
        if not re.fullmatch(r"0|[1-9][0-9]{0,18}", value, re.ASCII) or int(value) not in allowed:
            raise self.refuse(f"is {value!r}", said)
        return int(value)

    def boolean(self) -> bool:
        value = self.word("true or false")
        if value not in ("true", "false"):
            raise self.refuse(f"is {value!r}", "true or false")
        return value == "true"

    def choice(self, options: Collection[str]) -> str:
        allowed = ", ".join(options)
        value = self.word(allowed)
        if value not in options:
            raise self.refuse(f"is {value!r}{nearest(value, options)}", allowed)
        return value

    def items(self, allowed: str) -> list[Value]:
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.refuse("is not a list", allowed)
        return [
            Value(node, f"{self.setting}[{n}]", self.source)
            for n, node in enumerate(self.node.value)
        ]

    def entries(self, allowed: str) -> dict[str, Value]:
        """A mapping with keys of any name."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.refuse("is not a mapping", allowed)
        found: dict[str, Value] = {}
        for key, node in self.node.value:
            name = Value(key, f"{self.setting}: a key", self.source).word("a name")
            value = Value(node, f"{self.setting}.{name}".lstrip("."), self.source)
            if name in found:
                raise Value(key, value.setting, self.source).refuse("is there twice", "once")
            found[name] = value
        return found

    def fields(self, required: Collection[str], optional: Collection[str]) -> dict[str, Value]:
        """A mapping of which the keys are known; optional ones that are null are left out."""
        known = (*required, *optional)
        found = self.entries(f"a mapping of {', '.join(known)}")
        for name, value in found.items():
            if name not in known:
                raise value.refuse(f"is unknown{nearest(name, known)}", ", ".join(known))
        if missing := [name for name in required if name not in found]:
            raise self.refuse(f"lacks {', '.join(missing)}", f"all of {', '.join(required)}")
        return {n: value for n, value in found.items() if n in required or not value.is_null}


def nearest(value: str, options: Iterable[str]) -> str:
    close = difflib.get_close_matches(value, options, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
