"""The coordinator without transports: one run at a time, and commands that can be typed as they stand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.coordinator import Coordinator
from tacit.errors import ConfigError

RUN = "00112233445566aa"


def test_a_run_in_progress_is_named_with_whole_commands(tmp_path: Path) -> None:
    terms = SimpleNamespace(roster=dict, secure_aggregation=SimpleNamespace(collusion_bound=1))
    agreement: Any = SimpleNamespace(agreement=terms)
    coordinator = Coordinator(agreement, b"", tmp_path / "state" / "runs", tmp_path / "state", dict)
    coordinator.require_idle()
    coordinator.store.create(RUN, {"run_id": RUN}, b"")
    with pytest.raises(ConfigError, match=f"run {RUN} is still in progress") as refused:
        coordinator.require_idle()
    assert refused.value.hint == (
        f"`tacit run watch {RUN} --home {tmp_path}` follows it, `tacit run stop {RUN} --home {tmp_path}` ends it"
    )
    coordinator.emit(RUN, {"event": "run-finished", "status": "stopped"})
    coordinator.require_idle()
