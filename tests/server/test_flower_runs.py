"""How a run's end is told when several notice it."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.gateway import FlowerRuns
from server.run_store import RunStore
from server.steps import StepRegistry

RUN = "00112233445566ff"


class EndsAtOnce:
    """Flower's side: the run is over, and followed to its end, before the call that stops it returns."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.followed = threading.Event()

    def stop_run(self, run_id: int) -> bool:
        self.ended.set()
        assert self.followed.wait(10.0)
        return True

    def wait_finished(self, run_id: int) -> str:
        assert self.ended.wait(10.0)
        return "stopped"

    def log_of(self, run_id: int) -> str:
        return ""


@pytest.mark.parametrize(("by_operator", "status"), [(True, "stopped"), (False, "failed")])
def test_a_run_that_was_stopped_did_not_fail(
    tmp_path: Path, registry: StepRegistry, by_operator: bool, status: str
) -> None:
    store = RunStore(tmp_path)
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "run.json").write_text("{}")
    store.emit(RUN, {"event": "run-submitted"})
    coordinator: Any = SimpleNamespace(store=store, steps=registry, emit=store.emit, run_folder=store.folder_of)
    flower: Any = EndsAtOnce()
    runs = FlowerRuns(coordinator, flower)
    runs._flower_ids[RUN] = 7

    def follow() -> None:
        runs._follow(RUN, 7)
        flower.followed.set()

    follower = threading.Thread(target=follow)
    follower.start()
    if by_operator:
        runs.stop(RUN)
    else:
        flower.ended.set()
    follower.join(10.0)
    ends = [event["status"] for event in store.events(RUN) if event["event"] == "run-finished"]
    assert ends == [status]
