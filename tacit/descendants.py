"""Find and end the processes below a child, wherever they went.

A process group is not enough: Flower's SuperLink starts its SuperExec in a session of its own, and whatever
loses its parent belongs to nobody. Environment variables are inherited by everything, so each supervisor puts
a random marker into its child's, and ``/proc/<pid>/environ`` shows who carries it (as Jenkins does with its
``BUILD_ID``).

Linux only. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Environment variable holding the colon-separated markers of every supervisor above a process.
MARKER_VARIABLE = "TACIT_SUPERVISED"

_EXEC_LOOKS = 10
_EXEC_PAUSE_S = 0.002
#: Linux, include/linux/sched.h: the process is a kernel thread.
_PF_KTHREAD = 0x00200000


def mark(environment: Mapping[str, str], marker: str) -> dict[str, str]:
    """Return ``environment`` with ``marker`` added to the markers inherited from this process."""
    inherited = os.environ.get(MARKER_VARIABLE)
    return {**environment, MARKER_VARIABLE: f"{inherited}:{marker}" if inherited else marker}


def marked(marker: str) -> list[int]:
    """Return the ids of the living processes, apart from this one, that carry ``marker``."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return sorted(pid for pid in pids if pid != os.getpid() and _carries(pid, marker))


def end_marked(marker: str, *, grace_s: float, kill_wait_s: float = 3.0) -> None:
    """End every process that carries ``marker``: SIGTERM, then SIGKILL for those left after ``grace_s``."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, kill_wait_s)):
        pids = marked(marker)
        if not pids:
            return
        _signal_and_wait(pids, marker, number, patience_s)


def _carries(pid: int, marker: str) -> bool:
    """Whether the process carries ``marker``. Zombies and other users' processes do not show theirs."""
    prefix = f"{MARKER_VARIABLE}=".encode()
    try:
        variables = _environment(pid).split(b"\0")
    except OSError:
        return False
    return any(v.startswith(prefix) and marker.encode() in v[len(prefix) :].split(b":") for v in variables)


def _environment(pid: int) -> bytes:
    """Read a process's environment. In the middle of execve(2) it is empty for a moment: look again."""
    for _ in range(_EXEC_LOOKS):
        content = Path(f"/proc/{pid}/environ").read_bytes()
        # of user programs only those in execve, zombies, and those really without environment have none
        if content or not _may_be_starting(pid):
            return content
        time.sleep(_EXEC_PAUSE_S)
    return b""


def _may_be_starting(pid: int) -> bool:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return fields[0] != "Z" and not int(fields[6]) & _PF_KTHREAD


def _signal_and_wait(pids: Sequence[int], marker: str, number: int, patience_s: float) -> None:
    """Signal the processes and wait until they are gone or ``patience_s`` is over."""
    poller = select.poll()
    with contextlib.ExitStack() as handles:
        waiting = set()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                handles.callback(os.close, handle)
                # The handle is bound to one process for good: look again, so that a process id which was
                # reused between the listing and now is never signalled.
                if _carries(pid, marker):
                    signal.pidfd_send_signal(handle, number)
                    poller.register(handle, select.POLLIN)
                    waiting.add(handle)
        deadline = time.monotonic() + patience_s
        while waiting and (left_s := deadline - time.monotonic()) > 0:
            for handle, _ in poller.poll(left_s * 1000):
                poller.unregister(handle)
                waiting.discard(handle)
