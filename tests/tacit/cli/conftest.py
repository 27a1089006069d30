"""The command line as a person meets it: a consortium made once, copies of its folders to spoil, and a shell."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from simulations.local_consortium import ConsortiumPlan, LocalConsortium, Recipe, make_consortium
from tacit.cli.main import main

LABELS = ("animal", "fruit", "metal")
SITES = ("alpha", "beta", "gamma")
_PATIENCE_S = 90.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Answer:
    """What a command left behind on the terminal."""

    code: int
    out: str
    err: str

    def fails(self, code: int, *parts: str) -> None:
        """Assert that it failed as promised: one error, one hint, nothing else on standard error."""
        lines = self.err.splitlines()
        assert self.code == code, self
        assert [line.split(":")[0] for line in lines] == ["error", "hint"], self.err
        assert "Traceback" not in self.out + self.err
        for part in parts:
            assert part in self.err, self.err


Shell = Callable[..., Answer]


@pytest.fixture
def tacit(capfd: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    """Run ``tacit`` with the arguments given, in this process."""
    root, package = logging.getLogger(), logging.getLogger("tacit")
    before = (list(root.handlers), root.level, package.level, logging.raiseExceptions)

    def run(*arguments: str | Path) -> Answer:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *capfd.readouterr())

    yield run
    for handler in [each for each in root.handlers if each not in before[0]]:
        root.removeHandler(handler)
        handler.close()
    logging.raiseExceptions = before[3]
    root.setLevel(before[1])
    package.setLevel(before[2])


def write_records(path: Path, rows: int = 60) -> Path:
    """Write a file of records with the agreed labels."""
    lines = [f"the old {LABELS[row % 3]} is here,{LABELS[row % 3]}" for row in range(rows)]
    path.write_text("\n".join(["text,label", *lines, ""]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> ConsortiumPlan:
    """Three sites, a small model, a short run."""
    data = tmp_path_factory.mktemp("records")
    return ConsortiumPlan(
        consortium="tests",
        title="A small agreement",
        purpose="To test.",
        sites={site: write_records(data / f"{site}.csv") for site in SITES},
        labels=LABELS,
        base_model=str(tiny_model),
        base_model_name="tiny",
        recipe=Recipe(
            rounds=2,
            local_steps=2,
            sample_rate=0.2,
            noise_multiplier=1.0,
            l2_clip_norm=1.0,
            learning_rate=0.5,
            public_dataset_size=60,
            max_tokens=16,
            lora_rank=2,
            lora_alpha=4.0,
        ),
        test_data=write_records(data / "test.csv"),
        run_name="small",
        epsilon_per_run=20.0,
        epsilon_lifetime=40.0,
        delta=1e-4,
    )


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, plan: ConsortiumPlan) -> LocalConsortium:
    """A whole consortium; its folders are copied before they are changed."""
    return make_consortium(tmp_path_factory.mktemp("made"), plan)


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory, plan: ConsortiumPlan) -> LocalConsortium:
    """Another consortium of the same name, with the same sites and a CA of its own."""
    return make_consortium(tmp_path_factory.mktemp("strangers"), replace(plan, title="Another agreement"))


@pytest.fixture
def site(made: LocalConsortium, tmp_path: Path) -> Path:
    """A copy of the folder of alpha."""
    return Path(shutil.copytree(made.site("alpha"), tmp_path / "alpha"))


@pytest.fixture
def coordinator(made: LocalConsortium, tmp_path: Path) -> Path:
    """A copy of the coordinator's folder."""
    return Path(shutil.copytree(made.coordinator, tmp_path / "hub"))


def edit(path: Path, old: str, new: str) -> None:
    """Replace ``old``, which must be there, in a text file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(name="edit")
def _edit() -> Callable[[Path, str, str], None]:
    return edit


class Living:
    """A ``tacit`` command at work; what it prints goes into two files."""

    def __init__(self, argv: list[str], notes: Path) -> None:
        self._out, self._err = notes / "out.txt", notes / "err.txt"
        # as on a person's terminal, whatever the libraries imported by the tests have set
        inherited = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        environment = {**inherited, "HF_HUB_OFFLINE": "1"}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(argv, stdout=out, stderr=err, env=environment, start_new_session=True)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def until_it_says(self, part: str) -> None:
        self.until(lambda: part in self.out, f"{part!r} on standard output")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition while the process lives."""
        await_condition(lambda: condition() or self.process.poll() is not None, what, self)
        assert condition(), f"it ended before {what}: {self.process.returncode}\n{self.out}\n{self.err}"

    def ends(self) -> int:
        return self.process.wait(_PATIENCE_S)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


def await_condition(condition: Callable[[], bool], what: str, seen: Living | None = None) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        shown = f"\n{seen.out}\n{seen.err}" if seen is not None else ""
        assert time.monotonic() < deadline, f"waited {_PATIENCE_S} s for {what}{shown}"
        time.sleep(_POLL_S)


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Living]]:
    """Start ``python -m tacit`` with the arguments given, or ``program`` instead; what still runs is stopped."""
    started: list[Living] = []

    def start(*arguments: str | Path, program: tuple[str, ...] = ("-m", "tacit")) -> Living:
        argv = [sys.executable, *program, *map(str, arguments)]
        started.append(Living(argv, tmp_path_factory.mktemp("printed")))
        return started[-1]

    yield start
    for each in reversed(started):
        if each.process.poll() is None:
            each.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                each.process.wait(20.0)
            each.process.kill()
            each.process.wait()


@pytest.fixture
def no_process_is_left() -> Callable[[Path], None]:
    """Wait until nothing runs any more whose command line, working folder or environment names a path in a folder."""
    return lambda folder: await_condition(lambda: not processes_of(folder), f"the end of all processes of {folder}")


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the living processes whose command line, working folder or environment names a path in ``folder``."""
    mark = str(folder.resolve())
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            told = [*process.cmdline(), process.cwd(), *process.environ().values()]
            if any(mark in each for each in told):
                found.append(process)
    return found
