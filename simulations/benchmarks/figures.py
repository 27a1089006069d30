"""Figures: what a benchmark measured, beside what was promised; and the arithmetic that makes them robust.

A benchmark writes ``out/bench-NAME.json``, a list of :class:`Figure`, and prints it as a table. A target that was
missed is printed as missed and is no error: a figure is a finding, and a noisy machine is not a broken program.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
from cryptography.hazmat.backends.openssl import backend

from tacit.durable import write_atomic

First = TypeVar("First")
Second = TypeVar("Second")

#: Libraries read these when they are loaded; a benchmark that counts CPU seconds of one thread sets them first.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    ``target`` says what was promised (``">= 15"``) and ``holds`` whether it came true; both are None when nothing was
    promised.
    """

    figure: str
    value: float
    unit: str
    target: str | None = None
    holds: bool | None = None


def at_least(figure: str, value: float, unit: str, bound: float) -> Figure:
    """A figure that was promised not to be below ``bound``."""
    return Figure(figure, value, unit, f">= {bound:g}", value >= bound)


def at_most(figure: str, value: float, unit: str, bound: float) -> Figure:
    """A figure that was promised not to be above ``bound``."""
    return Figure(figure, value, unit, f"<= {bound:g}", value <= bound)


def below(figure: str, value: float, unit: str, bound: float) -> Figure:
    """A figure that was promised to stay under ``bound``."""
    return Figure(figure, value, unit, f"< {bound:g}", value < bound)


def interleaved(
    first: Callable[[], First], second: Callable[[], Second], repeats: int
) -> Iterable[tuple[First, Second]]:
    """Yield ``repeats`` pairs of results, measured A B A B: what slows the machine for a while slows both."""
    for _ in range(repeats):
        yield first(), second()


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios within each pair.

    Raises:
        ValueError: no pairs, or lists of different lengths.
    """
    if not numerators:
        raise ValueError("got no pairs; a ratio needs at least one")
    return statistics.median(top / bottom for top, bottom in zip(numerators, denominators, strict=True))


def on_one_thread(module: str) -> None:
    """Start ``module`` again with numerical libraries kept to one thread, unless it runs so already.

    They read their environment when they are loaded, which is before any line of a benchmark.
    """
    if any(os.environ.get(name) != "1" for name in THREAD_VARIABLES):
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])  # noqa: S606 (itself)


def machine_facts() -> dict[str, str]:
    """Return what the numbers were measured on; a result without it means nothing."""
    return {
        "cpu": cpu_model(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "openssl": backend.openssl_version_text(),
        "cryptography": version("cryptography"),
        "flwr": version("flwr"),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name, as well as the operating system knows it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as lines of text, targets beside them."""
    rows = [("figure", "value", "unit", "target", "")]
    for one in figures:
        verdict = "" if one.holds is None else "holds" if one.holds else "MISSED"
        rows.append((one.figure, f"{one.value:.4g}", one.unit, one.target or "", verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for figure, value, unit, target, verdict in rows:
        columns = (
            figure.ljust(widths[0]),
            value.rjust(widths[1]),
            unit.ljust(widths[2]),
            target.ljust(widths[3]),
            verdict,
        )
        lines.append("  ".join(columns).rstrip() + "\n")
    return "".join(lines)


def publish(name: str, figures: Sequence[Figure], out: Path) -> Path:
    """Write ``out/bench-NAME.json`` and print the table under the facts of this machine; return the file."""
    path = out / f"bench-{name}.json"
    write_atomic(path, json.dumps([asdict(one) for one in figures], indent=2).encode() + b"\n")
    say("; ".join(f"{key} {value}" for key, value in machine_facts().items()))
    sys.stdout.write(table(figures))
    missed = sum(one.holds is False for one in figures)
    say(f"{path}: {len(figures)} figures, {missed} targets missed" if missed else f"{path}: {len(figures)} figures")
    return path


def say(line: str) -> None:
    """Print a line of progress at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
