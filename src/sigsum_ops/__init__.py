"""Sigsum Ops: run a production Sigsum transparency log."""

__version__ = "0.1.0"
