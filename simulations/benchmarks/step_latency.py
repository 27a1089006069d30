"""How long one step takes once its setup is done: ``python -m simulations.benchmarks.step_latency``.

Wall time over loopback gRPC with mutual TLS, from when the last site is ready to when the gateway has opened the sum;
all steps are taken on one session, and every site syncs its journal before each message. Sites live in two processes.
All share one machine, so with many sites this is mostly their own work, done on as many cores as there are.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import dataclass
from pathlib import Path

from simulations.benchmarks.figures import Figure, below, on_one_thread, publish, say
from simulations.benchmarks.loopback import StepTimes, loopback

_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Case:
    """A size, and what was promised for it."""

    sites: int
    length: int
    steps: int
    bound_ms: float | None = None


FULL = (Case(4, 300_000, 15, 60), Case(32, 300_000, 7, 400))
QUICK = (Case(4, 1000, 2),)


def measure(case: Case) -> list[StepTimes]:
    """Take the case's steps on one session, between two that are not counted: the first warms up, and nothing has to
    be told after the last."""
    with loopback(case.sites, _WORKERS) as running:
        return running.session(case.length, case.steps + 2)[1:-1]


def figures(case: Case, steps: list[StepTimes]) -> list[Figure]:
    """Medians over the steps."""
    where = f"d={case.length} n={case.sites}"
    name = f"one step after setup, {where}, median of {len(steps)}"
    whole_ms = 1e3 * statistics.median(step.latency_s for step in steps)
    encoded_ms = 1e3 * statistics.median(step.encoded_latency_s for step in steps)
    told_ms = 1e3 * statistics.median(step.told_latency_s for step in steps)
    return [
        Figure(name, whole_ms, "ms") if case.bound_ms is None else below(name, whole_ms, "ms", case.bound_ms),
        Figure(f"the same from the last encoded update, {where}", encoded_ms, "ms"),
        Figure(f"the same until every site has the sum, {where}", told_ms, "ms"),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description="Measure the latency of one secure step after its setup.")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--quick", action="store_true", help="one small case: to see that it runs")
    parser.add_argument("--fresh", action="store_true", help="changes nothing: nothing is kept between runs")
    chosen = parser.parse_args(arguments)
    say(f"{_WORKERS} processes of sites and a gateway on {os.cpu_count()} cores")
    found = [figure for case in (QUICK if chosen.quick else FULL) for figure in figures(case, measure(case))]
    publish("step-latency-quick" if chosen.quick else "step-latency", found, chosen.out)


if __name__ == "__main__":
    on_one_thread("simulations.benchmarks.step_latency")
    main()
