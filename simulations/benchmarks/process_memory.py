"""What a process holds of the machine's memory, as Linux tells it (proc(5), /proc/pid/status)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Resident memory, in bytes."""

    rss_bytes: int
    """Now (VmRSS)."""
    peak_bytes: int
    """The most since the process began (VmHWM)."""


def read_memory(status: Path = Path("/proc/self/status")) -> ProcessMemory:
    """Read this process's own.

    Raises:
        ValueError: the system does not say: this needs Linux.
    """
    fields = {}
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            fields[name] = value.split()
    try:
        rss, peak = (int(fields[name][0]) * 1024 for name in ("VmRSS", "VmHWM"))
    except (KeyError, IndexError) as error:
        raise ValueError(f"{status} does not give VmRSS and VmHWM; this is measured on Linux only") from error
    return ProcessMemory(rss, peak)
