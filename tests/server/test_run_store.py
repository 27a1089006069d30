"""A run's folder: events in order, watchers, torn lines."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from server.run_store import RunStore
from tacit.errors import ConfigError, InputError

RUN = "00112233445566ff"


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "runs")
    store.create(RUN, {"run_name": "test", "rounds": 2}, b"agreement: {}\n")
    return store


def test_events_are_numbered_stamped_and_survive_a_restart(store: RunStore, tmp_path: Path) -> None:
    store.emit(RUN, {"event": "round-started", "round": 1})
    again = RunStore(tmp_path / "runs")
    again.emit(RUN, {"event": "round-finished", "round": 1})
    events = RunStore(tmp_path / "runs").events(RUN)
    assert [event["seq"] for event in events] == [1, 2, 3]
    assert [event["event"] for event in events] == ["run-submitted", "round-started", "round-finished"]
    assert all(event["time"].endswith("+00:00") for event in events)


def test_a_torn_last_line_is_dropped_and_the_numbers_go_on(store: RunStore, tmp_path: Path) -> None:
    with (tmp_path / "runs" / RUN / "events.jsonl").open("ab") as stream:
        stream.write(b'{"seq": 2, "event": "round-sta')
    again = RunStore(tmp_path / "runs")
    assert len(again.events(RUN)) == 1
    again.emit(RUN, {"event": "round-started"})
    assert [event["seq"] for event in RunStore(tmp_path / "runs").events(RUN)] == [1, 2]


def test_a_watcher_sees_what_happens_until_the_run_has_finished(store: RunStore) -> None:
    seen: list[str] = []

    def watch() -> None:
        seen.extend(event["event"] for event in store.watch(RUN))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for kind in ("round-started", "round-finished", "run-finished"):
        store.emit(RUN, {"event": kind})
    watcher.join(10.0)
    assert seen == ["run-submitted", "round-started", "round-finished", "run-finished"]


def test_watching_starts_after_what_was_seen_and_need_not_follow(store: RunStore) -> None:
    store.emit(RUN, {"event": "round-started"})
    assert [event["seq"] for event in store.watch(RUN, 1, follow=False)] == [2]


def test_a_resumed_run_is_running_again(store: RunStore) -> None:
    store.emit(RUN, {"event": "run-finished"})
    assert store.finished(RUN)
    store.emit(RUN, {"event": "run-resumed"})
    assert not store.finished(RUN)


def test_unknown_and_impossible_run_ids_are_clear_errors(store: RunStore) -> None:
    with pytest.raises(ConfigError, match="no run ffff"):
        store.facts("ffff")
    with pytest.raises(InputError, match="not a run id"):
        store.folder_of("../escape")
    assert store.run_ids() == [RUN]
