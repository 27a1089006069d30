"""JSON lines: every line parses, says when and who, and holds what was given."""

from __future__ import annotations

import json
import logging
import math
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit import logs
from tacit.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root, ours = logging.getLogger(), logging.getLogger("tacit")
    before = list(root.handlers), root.level, ours.level
    yield
    for handler in set(root.handlers) - set(before[0]):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(before[1])
    ours.setLevel(before[2])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def formatted(**extra: object) -> dict[str, Any]:
    record = logging.makeLogRecord({"name": "tacit.x", "msg": "m", "levelname": "INFO", **extra})
    text = logs.JsonLinesFormatter("test").format(record)
    assert "\n" not in text
    result = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert isinstance(result, dict)
    return result


def test_a_line_says_when_who_and_what(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "site.jsonl"
    before = datetime.now(UTC)
    logs.configure(path, "site")
    logs.logger("client.agent").info("order %s accepted", "o1", extra={"round": 3, "site": "alpha"})
    (line,) = lines(path)
    assert list(line)[:6] == ["time", "level", "logger", "process", "pid", "message"]
    assert line["time"].endswith("Z")
    written = datetime.fromisoformat(line["time"])
    assert before.timestamp() - 0.001 <= written.timestamp() <= datetime.now(UTC).timestamp()
    assert (line["level"], line["logger"], line["process"]) == ("INFO", "tacit.client.agent", "site")
    assert (line["message"], line["round"], line["site"]) == ("order o1 accepted", 3, "alpha")


def test_times_are_utc_wherever_the_machine_stands() -> None:
    assert formatted(created=1767323045.678)["time"] == "2026-01-02T03:04:05.678Z"


def test_an_exception_is_a_field(tmp_path: Path) -> None:
    path = tmp_path / "site.jsonl"
    logs.configure(path, "site")
    try:
        raise DataError("no column 'text'", hint="columns found: a, b")
    except DataError:
        logs.logger("x").exception("cannot load")
    (line,) = lines(path)
    assert (line["level"], line["message"]) == ("ERROR", "cannot load")
    assert line["exception"]["type"] == "DataError"
    assert line["exception"]["message"] == "no column 'text'"
    assert line["exception"]["hint"] == "columns found: a, b"
    assert "test_an_exception_is_a_field" in line["exception"]["traceback"]


def test_an_exception_without_a_hint_has_none() -> None:
    try:
        raise ValueError("v")
    except ValueError:
        line = formatted(exc_info=sys.exc_info())
    assert set(line["exception"]) == {"type", "message", "traceback"}


def test_without_an_exception_there_is_no_field() -> None:
    assert "exception" not in formatted()
    assert "exception" not in formatted(exc_info=(None, None, None))


def test_a_line_feed_in_a_message_does_not_make_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    logs.configure(path, "x")
    logs.logger("x").warning('a\n{"level": "INFO", "message": "forged"}\r\n', extra={"what": "b\nc"})
    assert [line["level"] for line in lines(path)] == ["WARNING"]


def test_levels_ours_from_the_one_asked_for_others_from_warning(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    logs.configure(path, "x", level="DEBUG")
    logs.logger("x").debug("ours")
    logging.getLogger("flwr").info("chatter")
    logging.getLogger("flwr").warning("trouble")
    logs.configure(path, "x", level="WARNING")
    logs.logger("x").info("quiet")
    assert [line["message"] for line in lines(path)] == ["ours", "trouble"]


def test_configured_again_the_log_goes_to_the_new_file_only(tmp_path: Path) -> None:
    logs.configure(tmp_path / "a.jsonl", "a")
    logs.configure(tmp_path / "b.jsonl", "b")
    logs.logger("x").info("once")
    assert lines(tmp_path / "a.jsonl") == []
    assert [line["process"] for line in lines(tmp_path / "b.jsonl")] == ["b"]


def test_a_restarted_process_appends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for message in ("first", "second"):
        logs.configure(path, "a")
        logs.logger("x").info(message)
    assert [line["message"] for line in lines(path)] == ["first", "second"]


def test_a_file_is_rotated_by_size_and_every_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    logs.configure(path, "x", max_size_bytes=2_000, kept_files=2)
    for number in range(100):
        logs.logger("x").info("line", extra={"number": number})
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["x.jsonl", "x.jsonl.1", "x.jsonl.2"]
    assert all(file.stat().st_size <= 2_000 for file in files)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    kept = [line["number"] for file in (files[2], files[1], files[0]) for line in lines(file)]
    assert kept == list(range(kept[0], 100))


class Sample:
    def __str__(self) -> str:
        return "a sample"


@pytest.mark.parametrize(
    ("given_value", "written"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ((1, 2.5, None, True), [1, 2.5, None, True]),
        ({"b": {3: Path("x")}}, {"b": {"3": "x"}}),
        (Sample(), "a sample"),
        (b"\xff", "b'\\xff'"),
        (DataError("e"), "e"),
    ],
)
def test_extra_values_become_json(given_value: object, written: object) -> None:
    assert formatted(extra_field=given_value)["extra_field"] == written


def test_an_extra_field_never_hides_one_of_ours() -> None:
    line = formatted(level="DEBUG", time="yesterday", pid=0)
    assert (line["level"], line["level_"]) == ("INFO", "DEBUG")
    assert line["time"] != "yesterday"
    assert (line["time_"], line["pid_"]) == ("yesterday", 0)


@given(st.text(st.characters()), st.text(st.characters()))
def test_any_text_comes_back(message: str, value: str) -> None:
    line = formatted(msg=message, args=(), value=value)
    assert (line["message"], line["value"]) == (message, value)


def test_even_a_lone_surrogate_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    logs.configure(path, "x")
    logs.logger("x").info("half \ud83d, 医院")
    assert [line["message"] for line in lines(path)] == ["half \ud83d, 医院"]
    assert "医院" in path.read_text(encoding="utf-8")


def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'LOUD' is not a log level"):
        logs.configure(tmp_path / "x.jsonl", "x", level="LOUD")


def test_a_log_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x.jsonl", tmp_path):
        with pytest.raises(ConfigError, match="cannot write the log file") as caught:
            logs.configure(path, "x")
        assert caught.value.hint
