"""``tacit report``: from a run's folder, from its out/, from a report.json alone, and from nothing."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from tacit.cli import main

_MAKE = runpy.run_path(str(Path(__file__).parents[1] / "privacy" / "report" / "conftest.py"))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder: Path = _MAKE["write_plain_run"](tmp_path / "runs" / "00112233445566aa", rounds=2).write()
    return folder


@pytest.mark.parametrize("part", ["", "out"])
def test_a_run_is_reported_again_from_its_record(
    run_folder: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_folder / "out").mkdir()
    assert main(["report", str(run_folder / part)]) == 0
    printed = capsys.readouterr().out
    for name in ("report.html", "report.json", "summary.json"):
        assert (run_folder / "out" / name).is_file()
    assert str(Path("out") / "report.html") in printed
    for adversary in ("coordinator", "coordinator+c sites", "site", "public"):
        assert f"against {adversary}: epsilon 2.196 at delta 10⁻⁵" in printed
    summary = json.loads((run_folder / "out" / "summary.json").read_text())
    assert summary["adversaries"]["public"]["epsilon"] == pytest.approx(2.1958880)


def test_the_page_is_made_again_from_a_report_alone(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["report", str(run_folder)])
    alone = tmp_path / "demo" / "out"
    alone.mkdir(parents=True)
    (alone / "report.json").write_bytes((run_folder / "out" / "report.json").read_bytes())
    capsys.readouterr()
    assert main(["report", str(alone)]) == 0
    printed = capsys.readouterr().out
    assert "no figure was recomputed" in printed
    assert "against public: epsilon 2.196" in printed
    assert (alone / "report.html").read_bytes() == (run_folder / "out" / "report.html").read_bytes()


def test_what_touches_the_privacy_claim_is_printed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run: Any = _MAKE["write_plain_run"](tmp_path / "run", rounds=1, testing=True)
    assert main(["report", str(run.write())]) == 0
    printed = capsys.readouterr()
    assert "against public: no privacy is claimed at delta 10⁻⁵" in printed.out
    assert "alarm: There is NO privacy claim" in printed.err


def test_a_folder_with_neither_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {tmp_path} holds neither a run")
    assert "hint: name a run's folder" in printed


def test_the_out_folder_of_something_else_is_not_taken_for_a_run(run_folder: Path) -> None:
    other = run_folder / "checkpoints"
    other.mkdir()
    assert main(["report", str(other)]) == 2


@pytest.mark.parametrize("content", ["{}", "not json", '{"tacit_report": 2}'])
def test_a_report_of_another_version_is_refused(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a report of this version" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_record_is_one_clear_error(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_folder / "events.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[2:]) + "\n")
    assert main(["report", str(run_folder)]) == 2
    printed = capsys.readouterr().err
    assert "line 1: event number 3, expected 1" in printed
    assert "hint:" in printed
