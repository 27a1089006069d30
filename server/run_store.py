"""A run's folder: what was submitted, what happened, and who is watching."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tacit.canonical import canonical_json
from tacit.durable import write_atomic
from tacit.errors import ConfigError, InputError

_TERMINAL = "run-finished"


class RunStore:
    """The folder ``runs/``: one sub-folder a run. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = threading.Condition()
        self._events: dict[str, list[dict[str, Any]]] = {}

    def create(self, run_id: str, facts: dict[str, Any], agreement_yaml: bytes) -> Path:
        """Create the run's folder with its submission facts and the agreement it runs under."""
        folder = self.folder_of(run_id)
        folder.mkdir(parents=True, exist_ok=False)
        write_atomic(folder / "agreement.yaml", agreement_yaml)
        write_atomic(folder / "run.json", canonical_json(facts))
        self.emit(run_id, {"event": "run-submitted", **facts})
        return folder

    def folder_of(self, run_id: str) -> Path:
        """Return the run's folder (existing or not)."""
        if not run_id.isalnum():
            raise InputError(f"{run_id!r} is not a run id", hint="`tacit run status` lists the runs")
        return self._folder / run_id

    def run_ids(self) -> list[str]:
        """Return the ids of all runs, oldest first."""
        if not self._folder.is_dir():
            return []
        folders = [path for path in self._folder.iterdir() if (path / "run.json").is_file()]
        return [path.name for path in sorted(folders, key=lambda path: (path / "run.json").stat().st_mtime_ns)]

    def facts(self, run_id: str) -> dict[str, Any]:
        """Return what was submitted.

        Raises:
            ConfigError: there is no such run.
        """
        path = self.folder_of(run_id) / "run.json"
        if not path.is_file():
            raise ConfigError(f"there is no run {run_id}", hint="`tacit run status` lists the runs")
        facts: dict[str, Any] = json.loads(path.read_bytes())
        return facts

    def emit(self, run_id: str, event: dict[str, Any]) -> None:
        """Append one event to ``events.jsonl`` and wake the watchers."""
        with self._changed:
            events = self._load(run_id)
            stamped = {
                "seq": len(events) + 1,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                **event,
            }
            path = self.folder_of(run_id) / "events.jsonl"
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, json.dumps(stamped, ensure_ascii=False).encode() + b"\n")
            finally:
                os.close(handle)
            events.append(stamped)
            self._changed.notify_all()

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """Return all events so far."""
        with self._changed:
            return list(self._load(run_id))

    def watch(
        self, run_id: str, after: int = 0, *, follow: bool = True, poll_s: float = 0.5
    ) -> Iterator[dict[str, Any]]:
        """Yield events with a sequence number above ``after``; with ``follow``, until the run has finished.

        A resumed run goes on after an earlier ``run-finished``: only a terminal event that is the last one ends.
        """
        self.facts(run_id)
        seen = after
        while True:
            with self._changed:
                events = self._load(run_id)
                if len(events) <= seen and follow and not self._finished(events):
                    self._changed.wait(poll_s)
                fresh = events[seen:]
                finished = self._finished(events)
            yield from fresh
            seen += len(fresh)
            if not follow or (finished and not fresh):
                return

    def finished(self, run_id: str) -> bool:
        """Return whether the run's last event is its end."""
        with self._changed:
            return self._finished(self._load(run_id))

    @staticmethod
    def _finished(events: list[dict[str, Any]]) -> bool:
        return bool(events) and events[-1]["event"] == _TERMINAL

    def _load(self, run_id: str) -> list[dict[str, Any]]:
        if run_id not in self._events:
            path = self.folder_of(run_id) / "events.jsonl"
            lines = path.read_bytes().split(b"\n") if path.is_file() else []
            if lines and lines[-1]:
                # a crash tore the last line; everything before it is whole
                os.truncate(path, path.stat().st_size - len(lines[-1]))
            self._events[run_id] = [json.loads(line) for line in lines[:-1]]
        return self._events[run_id]
