"""What of systemd the tests of this room need: it knows units by what it last read from disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sigsum_ops.errors import OpsError


@dataclass
class Systemd:
    """Units whose files are in ``directory``; ``running`` are those that run.

    ``stubborn`` ones cannot be stopped. ``calls`` are those that change something.
    """

    directory: Path
    running: set[str] = field(default_factory=set)
    enabled: set[str] = field(default_factory=set)
    stubborn: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    loaded: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def install(self, *names: str, running: bool = True) -> None:
        """As a role does."""
        for name in names:
            (self.directory / name).write_text(f"the unit {name}\n")
            if running:
                self.running.add(name)
        self.enabled |= set(names)
        self.reload()

    def reload(self) -> None:
        self.loaded = {
            path.name: "masked" if path.is_symlink() and not path.exists() else "loaded"
            for path in self.directory.iterdir()
            if path.suffix in (".service", ".timer")
        } | {
            path.name: "masked"
            for path in self.directory.iterdir()
            if path.is_symlink() and path.readlink() == Path("/dev/null")
        }

    def boot(self) -> None:
        """The machine was off: what is enabled and not masked runs."""
        self.reload()
        self.running = {name for name in self.enabled if self.loaded.get(name) == "loaded"}

    def start(self, name: str) -> bool:
        """Whether somebody could start it now."""
        return self.loaded.get(name) == "loaded"

    def __call__(self, *arguments: str) -> str:
        verb = arguments[0]
        options = {word for word in arguments if word.startswith("--")}
        names = [word for word in arguments[1:] if word not in options]
        if verb == "show":
            return "\n".join(map(self._block, names))
        self.calls.append(arguments)
        if verb == "daemon-reload":
            self.reload()
        elif verb == "stop":
            if missing := [name for name in names if name not in self.loaded]:
                raise OpsError(f"Unit {missing[0]} not loaded.")
            # Without waiting for it, it is not seen yet that they have ended.
            self.running -= set() if "--no-block" in options else set(names) - self.stubborn
        elif verb == "kill":
            if missing := [name for name in names if name not in self.running]:
                raise OpsError(f"Unit {missing[0]} not running.")
            self.running -= set(names) - self.stubborn
        elif verb == "disable":
            self.enabled -= set(names)
        else:
            raise AssertionError(arguments)
        return ""

    def _block(self, name: str) -> str:
        load = self.loaded.get(name, "not-found")
        active = "failed" if name in self.failed else "inactive"
        fields = {
            "Id": name,
            "LoadState": load,
            "ActiveState": "active" if name in self.running else active,
            "UnitFileState": "masked" if load == "masked" else "",
        }
        if load == "loaded":
            fields["UnitFileState"] = "enabled" if name in self.enabled else "disabled"
        return "".join(f"{key}={value}\n" for key, value in fields.items())
