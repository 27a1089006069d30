"""Run one child process, keep it running, and leave nothing of it behind.

A :class:`Supervisor` starts a :class:`ChildSpec`, restarts it with exponential back-off when it ends, gives
up when it ends too often, and stops it cleanly: SIGTERM to its process group, then SIGKILL after some grace.

Nothing outlives its owner, in three ways:

- the direct child asks the kernel to be killed when its parent dies (``PR_SET_PDEATHSIG``, prctl(2)), through
  a trampoline of a few lines that then becomes the real program, so that no Python code runs between fork and
  exec in a process full of threads;
- the child leads its own session and process group, which is signalled as a whole;
- whatever left the group is found by a marker in its environment (:mod:`tacit.descendants`).

Linux only. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tacit.descendants import end_marked, mark, marked
from tacit.errors import ProcessError

_TAIL_LINES = 20
_TAIL_BYTES = 64 * 1024
_READY_POLL_S = 0.05
_LEFTOVER_GRACE_S = 3.0
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

# Runs as `python -I -S -c TRAMPOLINE <supervisor's pid> <program> <arguments...>` and becomes <program>. The
# parent is compared after prctl, because it may have died before.
_TRAMPOLINE = """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0):
    sys.exit("prctl(PR_SET_PDEATHSIG) failed: " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the supervising process died before this one started")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit("cannot start " + sys.argv[2] + ": " + str(error))
"""

EventKind = Literal["started", "exited", "waiting", "gave-up", "stopped"]


@dataclass(frozen=True)
class ChildSpec:
    """What to run and how to know that it works.

    Args:
        name: what people call the process; it appears in every message.
        argv: program and arguments; the program is looked up in ``PATH`` of the child's environment.
        log_path: standard output and error are appended to this file (created with mode 0600).
        env: added to, and overriding, this process's environment.
        cwd: the child's working folder; this process's when None.
        ready: returns whether the running child does its work; a child without one is ready once started.
        restart: whether a child that ends is started again.
        explain: given the last lines of the log of a child that ended, says in a few words why it must wait,
            or None when there is nothing to add.
    """

    name: str
    argv: tuple[str, ...]
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    ready: Callable[[], bool] | None = None
    restart: bool = True
    explain: Callable[[Sequence[str]], str | None] | None = None


@dataclass(frozen=True)
class RestartPolicy:
    """When and how often a child that ended is started again.

    The n-th wait in a row is ``initial_s * 2**n``, at most ``maximum_s``, multiplied by a random factor in
    [1 - jitter, 1 + jitter]. A child that lived for ``stable_s`` starts again at ``initial_s``. More than
    ``max_restarts`` within ``window_s`` is given up.
    """

    initial_s: float = 0.5
    maximum_s: float = 30.0
    jitter: float = 0.2
    stable_s: float = 60.0
    max_restarts: int = 10
    window_s: float = 600.0


class Backoff:
    """The pure part of restarting: no clock, no process. One instance for one child."""

    def __init__(self, policy: RestartPolicy, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._policy = policy
        self._uniform = uniform
        self._in_a_row = 0
        self._restarts: deque[float] = deque()

    def after_exit(self, *, now_s: float, uptime_s: float) -> float | None:
        """Return the seconds to wait before the next start, or None to give up.

        Args:
            now_s: a monotonic clock at the moment the child ended.
            uptime_s: how long it had been running.
        """
        policy = self._policy
        if uptime_s >= policy.stable_s:
            self._in_a_row = 0
        while self._restarts and now_s - self._restarts[0] >= policy.window_s:
            self._restarts.popleft()
        if len(self._restarts) >= policy.max_restarts:
            return None
        self._restarts.append(now_s)
        # 2**64 times any start is beyond every sensible maximum; the bound keeps the power finite
        wait_s = min(policy.maximum_s, policy.initial_s * 2.0 ** min(self._in_a_row, 64))
        self._in_a_row += 1
        return wait_s * self._uniform(1 - policy.jitter, 1 + policy.jitter)


@dataclass(frozen=True)
class ChildEvent:
    """Something that happened to a child, for logs and people."""

    kind: EventKind
    name: str
    message: str
    pid: int | None = None
    returncode: int | None = None
    wait_s: float | None = None


class Supervisor:
    """Keeps one child running.

    Args:
        spec: what to run.
        policy: when to restart.
        on_event: called from the supervisor's own thread for every :class:`ChildEvent`; must not block for
            long and must not call :meth:`stop`.
        on_failure: called once, from the same thread, when the supervisor gives up.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        policy: RestartPolicy | None = None,
        on_event: Callable[[ChildEvent], None] | None = None,
        on_failure: Callable[[ProcessError], None] | None = None,
    ) -> None:
        self.spec = spec
        self._policy = policy or RestartPolicy()
        self._on_event = on_event
        self._on_failure = on_failure
        self._marker = secrets.token_hex(8)
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._grace_s = _LEFTOVER_GRACE_S
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: ProcessError | None = None
        self._starts = 0
        self._log_offset = 0

    def start(self) -> Self:
        """Start the child and return at once.

        Raises:
            ProcessError: it was started before, or the program does not exist.
        """
        if self._thread is not None:
            raise ProcessError(f"{self.spec.name} was started before", hint="make a new supervisor")
        if shutil.which(self.spec.argv[0], path=self._environment().get("PATH")) is None:
            raise ProcessError(
                f"{self.spec.name}: the program {self.spec.argv[0]} does not exist or cannot be executed",
                hint="check that the installation is complete",
            )
        self.spec.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name=f"supervise-{self.spec.name}", daemon=True)
        self._thread.start()
        return self

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the child does its work.

        Raises:
            ProcessError: it gave up, was stopped, or is not ready in time; the message shows the log's end.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                failure, process = self._failure, self._process
            if failure is not None:
                raise failure
            if self._thread is None or not self._thread.is_alive():
                raise ProcessError(f"{self.spec.name} is not running", hint="start it first")
            if process is not None and process.poll() is None and self._is_ready():
                return
            if time.monotonic() >= deadline:
                raise self._error(f"{self.spec.name} was not ready within {timeout_s:g} s")
            with self._changed:
                if self._process is process:
                    self._changed.wait(_READY_POLL_S)

    def stop(self, grace_s: float = 10.0) -> None:
        """Stop the child and everything below it; return when nothing is left. Safe to call twice.

        Args:
            grace_s: seconds between SIGTERM and SIGKILL.
        """
        if self._thread is None:
            return
        with self._changed:
            self._grace_s = grace_s
            self._stopping.set()
            process = self._process
        if process is not None:
            _signal_group(process, signal.SIGTERM)
            self._thread.join(grace_s)
            if self._thread.is_alive():
                _signal_group(process, signal.SIGKILL)
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Process id of the running child, or None."""
        with self._changed:
            return None if self._process is None else self._process.pid

    @property
    def starts(self) -> int:
        """How often the child has been started."""
        with self._changed:
            return self._starts

    @property
    def failure(self) -> ProcessError | None:
        """Why the supervisor gave up, or None."""
        with self._changed:
            return self._failure

    def tail(self, lines: int = _TAIL_LINES) -> list[str]:
        """Return the last lines the child wrote since its latest start, without colour codes."""
        try:
            with self.spec.log_path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_offset, end - _TAIL_BYTES))
                text = log.read().decode("utf-8", errors="replace")
        except OSError:
            return []
        return [_ANSI.sub("", line).rstrip() for line in text.splitlines() if line.strip()][-lines:]

    def processes(self) -> list[int]:
        """Return the ids of the child and of every process below it that is alive."""
        return marked(self._marker)

    # The supervisor's own thread. It starts the child itself: the kernel ties PR_SET_PDEATHSIG to the
    # *thread* that forked, and this one lives as long as the child.

    def _run(self) -> None:
        try:
            self._supervise()
        except Exception as error:
            if self._process is not None:
                _signal_group(self._process, signal.SIGKILL)
                self._process.wait()
            end_marked(self._marker, grace_s=0.0)
            self._give_up(ProcessError(f"{self.spec.name} cannot be supervised: {error}"))
        finally:
            with self._changed:
                self._process = None
                self._changed.notify_all()

    def _supervise(self) -> None:
        backoff = Backoff(self._policy)
        while (process := self._spawn()) is not None:
            started_s = time.monotonic()
            self._tell("started", f"{self.spec.name} started (process {process.pid})", pid=process.pid)
            returncode = process.wait()
            uptime_s = time.monotonic() - started_s
            with self._changed:
                self._process = None
                self._changed.notify_all()
            end_marked(self._marker, grace_s=self._grace_s)
            if self._stopping.is_set():
                break
            ended = f"{self.spec.name} {describe_exit(returncode)} after {uptime_s:.1f} s"
            self._tell("exited", ended, pid=process.pid, returncode=returncode)
            if not self.spec.restart:
                if returncode != 0:
                    self._give_up(self._error(ended))
                return
            wait_s = backoff.after_exit(now_s=time.monotonic(), uptime_s=uptime_s)
            if wait_s is None:
                window = f"{self._policy.max_restarts} restarts within {self._policy.window_s:g} s"
                self._give_up(self._error(f"{ended}; given up after {window}"))
                return
            reason = self.spec.explain(self.tail()) if self.spec.explain else None
            because = f": {reason}" if reason else ""
            self._tell("waiting", f"{self.spec.name} starts again in {wait_s:.1f} s{because}", wait_s=wait_s)
            if self._stopping.wait(wait_s):
                break
        self._tell("stopped", f"{self.spec.name} stopped")

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        """Start the child, or return None when the supervisor is being stopped."""
        with self._changed:
            if self._stopping.is_set():
                return None
            handle = os.open(self.spec.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "ab") as log:
                self._log_offset = os.fstat(handle).st_size
                self._process = subprocess.Popen(  # noqa: S603 - no shell
                    [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), *self.spec.argv],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    cwd=self.spec.cwd,
                    start_new_session=True,
                )
            self._starts += 1
            self._changed.notify_all()
            return self._process

    def _environment(self) -> dict[str, str]:
        return mark({**os.environ, **self.spec.env}, self._marker)

    def _is_ready(self) -> bool:
        return self.spec.ready is None or self.spec.ready()

    def _give_up(self, error: ProcessError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()
        self._tell("gave-up", error.message)
        if self._on_failure is not None:
            self._on_failure(error)

    def _error(self, message: str) -> ProcessError:
        lines = self.tail() or ["(it wrote nothing)"]
        shown = "\n".join(f"  | {line}" for line in lines)
        hint = f"the whole log is in {self.spec.log_path}"
        return ProcessError(f"{message}; the end of its log:\n{shown}", hint=hint)

    def _tell(
        self,
        kind: EventKind,
        message: str,
        *,
        pid: int | None = None,
        returncode: int | None = None,
        wait_s: float | None = None,
    ) -> None:
        if self._on_event is not None:
            self._on_event(ChildEvent(kind, self.spec.name, message, pid, returncode, wait_s))


def describe_exit(returncode: int) -> str:
    """Say how a process ended: ``"exited with code 1"`` or ``"was killed by SIGKILL"``."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal the child's whole process group; nothing happens once the child has been reaped."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
