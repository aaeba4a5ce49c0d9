"""The one error that a person is meant to read."""

from __future__ import annotations


class OpsError(Exception):
    """Something an operator can act on.

    The message says what went wrong and where; ``hint`` says what to do about it. The command line
    prints both and exits with ``exit_code``; any other exception is a bug and keeps its traceback.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(OpsError):
    """The arguments or an input file are not of the form that the command takes."""

    exit_code = 2
