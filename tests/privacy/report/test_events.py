"""Reading a run's record: everything that is there is checked, and nothing missing goes unnoticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy.report.events import RoundFinished, RunSubmitted, SiteReceipt, read_events, read_submission
from tacit.errors import InputError


def test_a_whole_record_is_read_in_order(plain_run: Any) -> None:
    record = read_events(plain_run.write() / "events.jsonl")
    assert isinstance(record.events[0], RunSubmitted)
    assert sum(isinstance(event, RoundFinished) for event in record.events) == 5
    assert sum(isinstance(event, SiteReceipt) for event in record.events) == 15
    assert [event.seq for event in record.events] == sorted(event.seq for event in record.events)
    assert (record.unknown_kinds, record.torn) == ((), False)


def test_fields_and_kinds_of_a_later_version_are_left_alone_and_told(plain_run: Any) -> None:
    plain_run.emit("site-sighed", site="alpha")
    plain_run.emit("round-started", round=6, step=6, mood="good")
    record = read_events(plain_run.write() / "events.jsonl")
    assert record.unknown_kinds == ("site-sighed",)


def test_a_line_that_a_crash_cut_off_is_left_out_and_told(plain_run: Any) -> None:
    path = plain_run.write() / "events.jsonl"
    whole = read_events(path)
    path.write_bytes(path.read_bytes() + b'{"seq": 999, "event": "round-fin')
    torn = read_events(path)
    assert torn.torn
    assert torn.events == whole.events


def test_a_whole_last_line_without_its_line_end_counts(plain_run: Any) -> None:
    path = plain_run.write() / "events.jsonl"
    whole = read_events(path)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert read_events(path) == whole


def _drop(lines: list[str]) -> list[str]:
    return lines[:20] + lines[21:]


def _swap(lines: list[str]) -> list[str]:
    return [*lines[:20], lines[21], lines[20], *lines[22:]]


def _garble(lines: list[str]) -> list[str]:
    return [*lines[:20], lines[20][:-10], *lines[21:]]


def _array(lines: list[str]) -> list[str]:
    return [*lines[:20], "[1, 2]", *lines[21:]]


def _repeat_key(lines: list[str]) -> list[str]:
    return [*lines[:20], '{"seq": 21, "seq": 21, "event": "checkpoint", "time": "x"}', *lines[21:]]


def _empty_line(lines: list[str]) -> list[str]:
    return [*lines[:20], "", *lines[20:]]


def _headless(lines: list[str]) -> list[str]:
    first = json.loads(lines[0])
    return [json.dumps({**first, "event": "sites-waiting", "present": [], "missing": []}), *lines[1:]]


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[list[str]], list[str]]:
    def edited(lines: list[str]) -> list[str]:
        at = next(index for index, line in enumerate(lines) if '"site-receipt"' in line)
        event = json.loads(lines[at])
        change(event)
        return [*lines[:at], json.dumps(event), *lines[at + 1 :]]

    return edited


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop, "line 21: event number 22, expected 21"),
        (_swap, "line 21: event number 22, expected 21"),
        (_garble, "line 21: not valid JSON"),
        (_array, "line 21: received list, expected a JSON object"),
        (_repeat_key, "line 21: duplicate key"),
        (_empty_line, "line 21: not valid JSON"),
        (_headless, "does not begin with a run-submitted event"),
        (_edit(lambda event: event.update(site="beta")), "the receipt is for"),
        (_edit(lambda event: event.update(round="1")), "not a run event: site-receipt.round"),
        (_edit(lambda event: event["receipt"].pop("outcome")), "outcome: Field required"),
        (_edit(lambda event: event["receipt"].update(epsilon_run=-1.0)), "epsilon_run"),
        (_edit(lambda event: event["receipt"].update(row_count=1400)), "row_count"),
    ],
)
def test_a_record_that_was_edited_or_damaged_is_refused(
    plain_run: Any, spoil: Callable[[list[str]], list[str]], message: str
) -> None:
    path: Path = plain_run.write() / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(spoil(lines)) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_events(path)
    assert caught.value.hint


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"events\.jsonl cannot be read: No such file"):
        read_events(tmp_path / "events.jsonl")
    with pytest.raises(InputError, match=r"run\.json cannot be read: No such file"):
        read_submission(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds"),
        ({"budget": {"epsilon": 8.0}}, "budget.delta: Field required"),
        ({"agreement_digest": "sha256:12"}, "agreement_digest"),
        ({"testing": "no"}, "testing"),
        ({"mode": "moon"}, "mode"),
    ],
)
def test_a_wrong_submission_is_refused(plain_run: Any, change: dict[str, Any], message: str) -> None:
    plain_run.facts.update(change)
    with pytest.raises(InputError, match=message):
        read_submission(plain_run.write() / "run.json")
