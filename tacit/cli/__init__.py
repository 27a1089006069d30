"""The ``tacit`` command line: errors are ``error:`` and ``hint:`` lines and an exit code, never a traceback."""

from __future__ import annotations

from tacit.cli.main import app, main

__all__ = ["app", "main"]
