"""The supervisor, with real children: small Python programs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.descendants import MARKER_VARIABLE, marked
from tacit.errors import ProcessError
from tacit.supervisor import Backoff, ChildEvent, ChildSpec, RestartPolicy, Supervisor, describe_exit

QUICK = RestartPolicy(initial_s=0.01, maximum_s=0.02, max_restarts=3)
NEVER = RestartPolicy(initial_s=600.0, maximum_s=600.0)
LONG_S = 20.0


def wait_until(condition: Callable[[], bool], timeout_s: float = LONG_S) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        pause.wait(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that its own parent has not collected yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


class Bench:
    """Makes supervisors in a folder, and stops them at the end of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[ChildEvent] = []
        self.failures: list[ProcessError] = []
        self.made: list[Supervisor] = []

    def supervise(self, program: str, policy: RestartPolicy = QUICK, **options: object) -> Supervisor:
        spec = ChildSpec("child", (sys.executable, "-I", "-c", program), self.folder / "logs" / "child.log", **options)
        supervisor = Supervisor(spec, policy=policy, on_event=self.events.append, on_failure=self.failures.append)
        self.made.append(supervisor)
        return supervisor

    def pid_in(self, name: str) -> int:
        path = self.folder / name
        wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
        return int(path.read_text())

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for supervisor in made.made:
        supervisor.stop(grace_s=0.1)


FOREVER = "import threading; threading.Event().wait()"


def test_a_child_runs_until_it_is_stopped(bench: Bench) -> None:
    supervisor = bench.supervise(FOREVER).start()
    supervisor.wait_ready(LONG_S)
    pid = supervisor.pid
    assert pid is not None
    assert alive(pid)
    assert supervisor.processes() == [pid]
    supervisor.stop()
    assert not alive(pid)
    assert supervisor.pid is None
    assert supervisor.failure is None
    assert bench.kinds() == ["started", "stopped"]
    supervisor.stop()  # twice is fine


def test_a_child_that_is_killed_is_started_again(bench: Bench) -> None:
    supervisor = bench.supervise(FOREVER).start()
    supervisor.wait_ready(LONG_S)
    first = supervisor.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: supervisor.starts == 2)
    supervisor.wait_ready(LONG_S)
    assert supervisor.pid != first
    assert bench.kinds() == ["started", "exited", "waiting", "started"]
    assert "was killed by SIGKILL" in bench.events[1].message
    assert bench.events[1].returncode == -signal.SIGKILL


def test_a_child_that_always_fails_is_given_up_with_the_end_of_its_log(bench: Bench) -> None:
    supervisor = bench.supervise("import sys; [print('line', i) for i in range(30)]; sys.exit(3)").start()
    wait_until(lambda: bool(bench.failures))
    (error,) = bench.failures
    assert supervisor.failure is error
    assert supervisor.starts == 1 + QUICK.max_restarts
    assert error.message.startswith("child exited with code 3")
    assert "3 restarts within 600 s" in error.message
    shown = [line for line in error.message.splitlines() if line.startswith("  | ")]
    assert shown == [f"  | line {i}" for i in range(10, 30)]
    assert "child.log" in str(error.hint)
    with pytest.raises(ProcessError, match="exited with code 3"):
        supervisor.wait_ready(LONG_S)
    assert bench.kinds()[-1] == "gave-up"


def test_the_tail_is_of_the_latest_start_and_without_colours(bench: Bench) -> None:
    log = bench.folder / "logs" / "child.log"
    log.parent.mkdir()
    log.write_text("from another day\n")
    supervisor = bench.supervise(r"print('\x1b[92mINFO\x1b[0m: hello\n\n', flush=True);" + FOREVER).start()
    wait_until(lambda: supervisor.tail() == ["INFO: hello"])
    assert log.read_text().startswith("from another day\n")


def test_a_new_log_is_private(bench: Bench) -> None:
    bench.supervise(FOREVER).start().wait_ready(LONG_S)
    assert (bench.folder / "logs" / "child.log").stat().st_mode & 0o777 == 0o600


def test_a_child_that_need_not_run_again_may_end(bench: Bench) -> None:
    supervisor = bench.supervise("pass", restart=False).start()
    wait_until(lambda: "exited" in bench.kinds())
    with pytest.raises(ProcessError, match="not running"):
        supervisor.wait_ready(LONG_S)
    assert bench.failures == []
    assert supervisor.starts == 1


def test_a_child_that_must_not_run_again_fails_once(bench: Bench) -> None:
    supervisor = bench.supervise("raise SystemExit('no disk')", restart=False).start()
    wait_until(lambda: bool(bench.failures))
    assert "no disk" in bench.failures[0].message
    assert supervisor.starts == 1


def test_ready_is_asked_until_it_says_yes(bench: Bench) -> None:
    sign = bench.folder / "ready"
    supervisor = bench.supervise(f"import pathlib; pathlib.Path({str(sign)!r}).touch();" + FOREVER, ready=sign.exists)
    supervisor.start().wait_ready(LONG_S)
    assert sign.exists()


def test_a_child_that_is_never_ready_is_an_error_with_its_log(bench: Bench) -> None:
    supervisor = bench.supervise("print('still loading', flush=True);" + FOREVER, ready=lambda: False).start()
    wait_until(lambda: supervisor.tail() == ["still loading"])
    with pytest.raises(ProcessError, match=r"child was not ready within 0\.1 s(.|\n)*still loading"):
        supervisor.wait_ready(0.1)


def test_a_dead_child_is_not_ready_even_if_the_check_says_so(bench: Bench) -> None:
    supervisor = bench.supervise("raise SystemExit(1)", NEVER, ready=lambda: True).start()
    wait_until(lambda: "waiting" in bench.kinds())
    with pytest.raises(ProcessError, match="not ready"):
        supervisor.wait_ready(0.1)


def test_stopping_does_not_wait_for_the_back_off(bench: Bench) -> None:
    supervisor = bench.supervise("pass", NEVER).start()
    wait_until(lambda: "waiting" in bench.kinds())
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < LONG_S
    assert bench.kinds()[-1] == "stopped"
    assert supervisor.starts == 1


def test_the_reason_for_waiting_comes_from_the_spec(bench: Bench) -> None:
    supervisor = bench.supervise("print('Exit Code: 305')", NEVER, explain=lambda tail: f"it said {tail[-1]!r}")
    supervisor.start()
    wait_until(lambda: "waiting" in bench.kinds())
    assert bench.events[-1].message.endswith("s: it said 'Exit Code: 305'")
    assert bench.events[-1].wait_s is not None


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(bench: Bench) -> None:
    sign = bench.folder / "deaf"
    supervisor = bench.supervise(
        "import signal, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"pathlib.Path({str(sign)!r}).touch();" + FOREVER
    ).start()
    wait_until(sign.exists)
    pid = supervisor.pid
    assert pid is not None
    supervisor.stop(grace_s=0.2)
    assert not alive(pid)


def test_a_child_may_take_its_grace_to_end_well(bench: Bench) -> None:
    sign, last = bench.folder / "started", bench.folder / "last-words"
    supervisor = bench.supervise(
        "import signal, pathlib, sys, threading\n"
        f"def end(*_):\n  pathlib.Path({str(last)!r}).touch()\n  sys.exit(0)\n"
        f"signal.signal(signal.SIGTERM, end)\npathlib.Path({str(sign)!r}).touch()\n{FOREVER}"
    ).start()
    wait_until(sign.exists)
    supervisor.stop(grace_s=LONG_S)
    assert last.exists()


# A grandchild in a session of its own that ignores SIGTERM: what a process group alone cannot reach.
DETACHED = """
import subprocess, sys, pathlib
program = (
    "import signal, pathlib, sys, os, threading;"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()) + '\\\\n');"
    "threading.Event().wait()"
)
subprocess.Popen([sys.executable, "-I", "-c", program, {path!r}], start_new_session=True)
"""


def test_stopping_reaches_what_left_the_process_group(bench: Bench) -> None:
    path = bench.folder / "grandchild"
    supervisor = bench.supervise(DETACHED.format(path=str(path)) + FOREVER).start()
    grandchild = bench.pid_in("grandchild")
    assert sorted(supervisor.processes()) == sorted([grandchild, supervisor.pid])
    assert os.getpgid(grandchild) != supervisor.pid
    supervisor.stop(grace_s=0.2)
    assert not alive(grandchild)
    assert supervisor.processes() == []


def test_what_a_dead_child_left_behind_is_ended_before_the_next_start(bench: Bench) -> None:
    path = bench.folder / "grandchild"
    supervisor = bench.supervise(DETACHED.format(path=str(path)) + FOREVER, NEVER)
    supervisor._grace_s = 0.2
    supervisor.start()
    grandchild = bench.pid_in("grandchild")
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: "waiting" in bench.kinds())
    assert not alive(grandchild)


OWNER = """
import sys, pathlib, threading
sys.path.insert(0, {root!r})
from tacit.supervisor import ChildSpec, Supervisor
folder = pathlib.Path({folder!r})
program = "import os, pathlib, threading; pathlib.Path({pid!r}).write_text(str(os.getpid()) + '\\\\n');" + {forever!r}
Supervisor(ChildSpec("child", (sys.executable, "-I", "-c", program), folder / "log")).start()
threading.Event().wait()
"""


def test_the_child_dies_with_its_supervisor(bench: Bench) -> None:
    pid_file = str(bench.folder / "pid")
    program = OWNER.format(root=str(Path.cwd()), folder=str(bench.folder), pid=pid_file, forever=FOREVER)
    owner = subprocess.Popen([sys.executable, "-I", "-c", program])
    try:
        child = bench.pid_in("pid")
        assert alive(child)
    finally:
        owner.kill()
        owner.wait()
    wait_until(lambda: not alive(child))


def test_a_program_that_does_not_exist_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="/nowhere/program does not exist"):
        Supervisor(ChildSpec("child", ("/nowhere/program",), tmp_path / "log")).start()


def test_a_supervisor_starts_once(bench: Bench) -> None:
    supervisor = bench.supervise(FOREVER).start()
    with pytest.raises(ProcessError, match="started before"):
        supervisor.start()


def test_the_environment_is_added_to_and_marked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARKER_VARIABLE, "0123456789abcdef")
    monkeypatch.setenv("KEPT", "yes")
    supervisor = bench.supervise(
        "import os; print(os.environ['KEPT'], os.environ['ADDED'], os.environ['TACIT_SUPERVISED'], flush=True);"
        + FOREVER,
        env={"ADDED": "too"},
    ).start()
    wait_until(lambda: bool(supervisor.tail()))
    kept, added, markers = supervisor.tail()[0].split()
    assert (kept, added) == ("yes", "too")
    assert markers.startswith("0123456789abcdef:")
    assert supervisor.pid in marked("0123456789abcdef")
    assert marked("no-such-marker") == []


def test_a_broken_callback_does_not_leave_the_child_alone(tmp_path: Path) -> None:
    def broken(event: ChildEvent) -> None:
        if event.kind == "started":
            raise RuntimeError("the log is full")

    failures: list[ProcessError] = []
    spec = ChildSpec("child", (sys.executable, "-I", "-c", FOREVER), tmp_path / "log")
    supervisor = Supervisor(spec, on_event=broken, on_failure=failures.append).start()
    wait_until(lambda: bool(failures))
    assert "the log is full" in failures[0].message
    wait_until(lambda: supervisor.processes() == [])


def test_as_a_context_it_starts_and_stops(bench: Bench) -> None:
    with bench.supervise(FOREVER) as supervisor:
        supervisor.wait_ready(LONG_S)
        assert supervisor.pid is not None
    assert supervisor.processes() == []


def test_describe_exit() -> None:
    assert describe_exit(0) == "exited with code 0"
    assert describe_exit(-9) == "was killed by SIGKILL"
    assert describe_exit(-200) == "was killed by signal 200"


class TestBackoff:
    """The pure part, against the sentence in :class:`RestartPolicy`."""

    @staticmethod
    def middle(low: float, high: float) -> float:
        return (low + high) / 2

    def test_waits_double_up_to_the_maximum(self) -> None:
        backoff = Backoff(RestartPolicy(), self.middle)
        waits = [backoff.after_exit(now_s=float(i), uptime_s=0.0) for i in range(9)]
        assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]

    def test_a_stable_child_starts_again_at_the_beginning(self) -> None:
        backoff = Backoff(RestartPolicy(), self.middle)
        assert [backoff.after_exit(now_s=0.0, uptime_s=u) for u in (0.0, 59.9, 60.0, 1.0)] == [0.5, 1.0, 0.5, 1.0]

    def test_too_many_in_the_window_are_given_up(self) -> None:
        backoff = Backoff(RestartPolicy(max_restarts=2, window_s=100.0), self.middle)
        assert backoff.after_exit(now_s=0.0, uptime_s=0.0) is not None
        assert backoff.after_exit(now_s=50.0, uptime_s=0.0) is not None
        assert backoff.after_exit(now_s=99.0, uptime_s=0.0) is None

    def test_restarts_outside_the_window_do_not_count(self) -> None:
        backoff = Backoff(RestartPolicy(max_restarts=2, window_s=100.0), self.middle)
        for now_s in (0.0, 50.0, 100.0, 150.0):
            assert backoff.after_exit(now_s=now_s, uptime_s=0.0) is not None

    @given(
        seed=st.integers(),
        uptimes=st.lists(st.floats(min_value=0, max_value=59), max_size=80),
        initial_s=st.floats(min_value=0.01, max_value=10),
        jitter=st.floats(min_value=0, max_value=0.9),
    )
    def test_every_wait_is_within_jitter_of_the_power(
        self, seed: int, uptimes: list[float], initial_s: float, jitter: float
    ) -> None:
        policy = RestartPolicy(initial_s=initial_s, jitter=jitter, max_restarts=10_000)
        backoff = Backoff(policy, random.Random(seed).uniform)
        for number, uptime_s in enumerate(uptimes):
            expected = min(policy.maximum_s, initial_s * 2**number)
            wait_s = backoff.after_exit(now_s=0.0, uptime_s=uptime_s)
            assert wait_s is not None
            assert expected * (1 - jitter) * 0.999 <= wait_s <= expected * (1 + jitter) * 1.001
