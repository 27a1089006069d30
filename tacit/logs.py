"""Structured logs: JSON lines, one file a process, on the standard :mod:`logging`.

``configure`` once at the start of a process, ``logger(name)`` anywhere::

    log = logger("client.agent")
    log.info("order accepted", extra={"run_id": run_id, "round": 3})

gives one line, here broken in two::

    {"time": "2026-01-02T03:04:05.678Z", "level": "INFO", "logger": "tacit.client.agent", "process": "site",
     "pid": 4711, "message": "order accepted", "run_id": "...", "round": 3}

A logged exception becomes the object ``exception`` with ``type``, ``message``, ``hint`` (if it has one) and
``traceback``. Logs stay on the machine that wrote them; still, no log line holds a record's text.
"""

from __future__ import annotations

import json
import logging
import math
import os
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from tacit.errors import ConfigError

_ROOT = "tacit"
#: Other libraries may use these loggers for much less than their own chatter.
_OTHERS_LEVEL = logging.WARNING
_MAX_SIZE_BYTES = 16 * 1024 * 1024
_KEPT_FILES = 4

#: What ``logging`` itself puts on a record; everything else on it came through ``extra``.
_RECORD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(
    path: Path,
    process: str,
    *,
    level: str = "INFO",
    max_size_bytes: int = _MAX_SIZE_BYTES,
    kept_files: int = _KEPT_FILES,
) -> None:
    """Send this process's log to ``path``. Called again, it replaces the earlier destination.

    Tacit's own loggers write from ``level`` on, other libraries' from WARNING on. The file has mode 0600 and
    is renamed to ``path.1``, ``path.2``, ... when it grows beyond ``max_size_bytes``.

    Args:
        path: the log file; its folder is created.
        process: which process writes (``"site"``, ``"gateway"``): the field ``process`` of every line.
        level: DEBUG, INFO, WARNING or ERROR.
        max_size_bytes: size at which the file is rotated.
        kept_files: how many rotated files are kept.

    Raises:
        ConfigError: an unknown level, or a file that cannot be opened for writing.
    """
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigError(f"{level!r} is not a log level, expected DEBUG, INFO, WARNING or ERROR")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _JsonLinesHandler(path, max_size_bytes, kept_files)
    except OSError as error:
        raise ConfigError(
            f"cannot write the log file {path}: {error.strerror or error}",
            hint="free the path, or make its folder writable",
        ) from error
    handler.setFormatter(JsonLinesFormatter(process))
    root = logging.getLogger()
    for earlier in [item for item in root.handlers if isinstance(item, _JsonLinesHandler)]:
        root.removeHandler(earlier)
        earlier.close()
    root.addHandler(handler)
    root.setLevel(_OTHERS_LEVEL)
    logging.getLogger(_ROOT).setLevel(level)


def logger(name: str) -> logging.Logger:
    """Return the logger of one part of Tacit: ``logger("client.agent")`` is called ``tacit.client.agent``."""
    return logging.getLogger(f"{_ROOT}.{name}")


class JsonLinesFormatter(logging.Formatter):
    """Formats a record as one line of JSON (RFC 8259).

    Args:
        process: the field ``process`` of every line.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON, without a line feed."""
        line: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "process": self._process,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _exception(record.exc_info[1])
        for key, value in vars(record).items():
            if key not in _RECORD_ATTRIBUTES:
                # A caller's field never hides one of ours.
                line[f"{key}_" if key in line else key] = _plain(value)
        return json.dumps(line, ensure_ascii=False, allow_nan=False)


class _JsonLinesHandler(RotatingFileHandler):
    def __init__(self, path: Path, max_size_bytes: int, kept_files: int) -> None:
        super().__init__(
            path,
            maxBytes=max_size_bytes,
            backupCount=kept_files,
            encoding="utf-8",
            errors="backslashreplace",  # a lone surrogate is written as its JSON escape
        )

    def _open(self) -> TextIOWrapper:
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return open(handle, "a", encoding=self.encoding, errors=self.errors)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _exception(error: BaseException) -> dict[str, Any]:
    result = {
        "type": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    hint = getattr(error, "hint", None)
    return result if hint is None else {**result, "hint": str(hint)}


def _plain(value: object) -> Any:
    """The nearest thing to ``value`` that JSON can say."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)
