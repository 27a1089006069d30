"""The night's bookkeeping; libFuzzer itself is replaced, so that nothing here needs atheris."""

from __future__ import annotations

from pathlib import Path

import nightly
import pytest
from decoders import DECODERS


class Worker:
    """Runs what it is told to, and breaks where it is told to."""

    def __init__(self, *, crash_in: str = "", die_in: str = "") -> None:
        self.crash_in, self.die_in = crash_in, die_in
        self.runs: dict[str, int] = {}

    def __call__(self, name: str, log: Path, arguments: list[str]) -> tuple[int, int]:
        options = dict(argument.split("=", 1) for argument in arguments if argument.startswith("-"))
        self.runs[name] = int(options["-runs"])
        if name == self.crash_in:
            Path(options["-artifact_prefix"] + "crash-0").write_bytes(b"{")
        log.write_bytes(b"")
        return self.runs[name], 77 if name in (self.crash_in, self.die_in) else 0


def night(monkeypatch: pytest.MonkeyPatch, out: Path, worker: Worker, *names: str, inputs: int = 1_000_000) -> int:
    monkeypatch.setattr(nightly, "_run_worker", worker)
    return nightly._night(list(names), inputs, out, 1)


def test_every_decoder_gets_its_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = Worker()
    assert night(monkeypatch, tmp_path, worker) == 0
    assert set(worker.runs) == set(DECODERS)
    assert sum(worker.runs.values()) >= 1_000_000
    seeds = [path.read_bytes() for path in sorted((tmp_path / "valid" / "json").iterdir())]
    assert seeds == list(DECODERS["json"].seeds)


def test_a_broken_promise_is_kept_and_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = Worker(crash_in="json")
    assert night(monkeypatch, tmp_path, worker, "json", "yaml", inputs=100) == 1
    told = capsys.readouterr().out
    crash = tmp_path / "crashes" / "json-crash-0"
    assert f"nightly.py json --try {crash}" in told
    assert "100 inputs over 2 decoders, 1 broken promises" in told
    nightly._try("json", crash.read_bytes())
    assert "json: refused, as promised" in capsys.readouterr().out


def test_a_worker_that_dies_is_no_success(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert night(monkeypatch, tmp_path, Worker(die_in="yaml"), "json", "yaml", inputs=10) == 1
    assert "FAILED with status 77" in capsys.readouterr().out


def test_an_unknown_decoder_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no decoder nonsense"):
        night(monkeypatch, tmp_path, Worker(), "nonsense")


@pytest.mark.parametrize("token", [b"abc", b'"\\', b"\xff\0", b"[[\n"])
def test_tokens_are_written_as_libfuzzer_reads_them(token: bytes) -> None:
    written = nightly._escaped(token)
    assert written.isascii()
    assert written.encode().decode("unicode_escape").encode("latin-1") == token
