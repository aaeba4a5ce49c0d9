"""A log to ask."""

from tests.log.conftest import start_log

__all__ = ["start_log"]
