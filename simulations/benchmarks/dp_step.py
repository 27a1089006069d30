"""What differential privacy costs a step of LoRA, on one thread: ``python -m simulations.benchmarks.dp_step``.

CPU seconds of one step, forward to updated weights, as medians of ratios within runs that alternate between: the step
of stock ``peft`` without privacy, one without privacy whose LoRA layers are fused as ours are, and ours. Opacus's
engines stand beside them at a few sizes. Noise is drawn once for each step, however many physical batches it is cut
into, so it has figures of its own.

Memory is measured twice, in a fresh process for each step. What was promised is the most bytes of tensors that a step
holds at once, from the allocations and releases that torch's profiler records. Beside it stands what the kernel says:
the growth of the high-water mark (VmHWM) over what was resident (VmRSS) when the step began. That one depends on the C
library's allocator, whose gaps grow with every short-lived wide tensor.

A cell that is measured is kept in ``OUT/bench-dp/cells.json`` and not measured again. Results: ``OUT/bench-dp.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from simulations.benchmarks.figures import (
    Figure,
    at_most,
    machine_facts,
    median_ratio,
    on_one_thread,
    publish,
    say,
)
from simulations.benchmarks.lora_step import Size, Workload, fused_step, private_step, stock_step
from simulations.benchmarks.process_memory import read_memory
from tacit.durable import write_atomic

_MODULE = "simulations.benchmarks.dp_step"
_MIB = 2**20
#: promised: private over stock on the median of the grid and in every cell, over fused, and the peak of memory
MOST_IN_THE_MEDIAN, MOST_EVERYWHERE, MOST_OVER_FUSED, MOST_MEMORY_PERCENT = 0.94, 1.0, 1.02, 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    name: str
    sizes: tuple[Size, ...]
    beside: tuple[Size, ...]
    """Where Opacus's engines are measured, too."""
    memory: tuple[Size, ...]
    rounds: tuple[int, int]
    """Fewest and most rounds of a cell."""
    seconds: float
    """CPU seconds after which a cell has no further round, once it has the fewest."""


def _grid(shapes: tuple[tuple[int, int], ...], targets: tuple[str, ...] = ("attention", "all")) -> tuple[Size, ...]:
    return tuple(Size(model, which, *shape) for shape in shapes for model in ("minilm", "llama") for which in targets)


FULL = Plan(
    "dp",
    sizes=_grid(((8, 32), (32, 32), (64, 32), (8, 128), (32, 128), (8, 512), (32, 512))),
    beside=_grid(((8, 32), (32, 32), (8, 128))),
    memory=_grid(((32, 32), (32, 128))),
    rounds=(3, 15),
    seconds=10.0,
)
#: to see that it runs
QUICK = Plan(
    "dp-quick",
    sizes=_grid(((2, 4),), ("attention",)),
    beside=(Size("minilm", "attention", 2, 4),),
    memory=(Size("minilm", "attention", 2, 4),),
    rounds=(1, 1),
    seconds=0.0,
)


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU seconds of each round of a cell, or bytes (of tensors, of the process), by what was measured."""

    key: str
    values: dict[str, list[float]]
    failures: dict[str, str]
    """Errors of what does not run."""


class MeasuredFile:
    """What was measured so far, for one machine and one set of versions; a file with other facts is not taken up."""

    def __init__(self, path: Path, facts: dict[str, str], *, fresh: bool) -> None:
        self._path, self._facts = path, facts
        self._kept: dict[str, Measured] = {}
        if path.exists() and not fresh:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["facts"] == facts:
                self._kept = {one["key"]: Measured(**one) for one in kept["cells"]}
            else:
                say(f"{path} was measured on another machine or with other versions; it is measured again")

    def get(self, key: str, measure: Callable[[], Measured]) -> Measured:
        """What ``key`` gave, measured now if it was not before."""
        if key in self._kept:
            say(f"{key}: measured before")
        else:
            self._kept[key] = measure()
            content = {"facts": self._facts, "cells": [asdict(one) for one in self._kept.values()]}
            write_atomic(self._path, json.dumps(content, indent=1).encode() + b"\n")
        return self._kept[key]


def measure_time(size: Size, plan: Plan) -> Measured:
    """Rounds of stock, fused and private, in turn; and one round before that is not counted."""
    work = Workload(size)
    values: dict[str, list[float]] = {"stock": [], "fused": [], "private": [], "noise": []}
    started = time.process_time()
    for done in range(plan.rounds[1] + 1):
        # There and back: what one step leaves in caches and heap must not always meet the same one.
        if done % 2:
            private, fused, stock = private_step(work), fused_step(work), stock_step(work)
        else:
            stock, fused, private = stock_step(work), fused_step(work), private_step(work)
        if done:
            values["stock"].append(stock)
            values["fused"].append(fused)
            values["private"].append(private.step_s)
            values["noise"].append(private.noise_s)
        if done >= plan.rounds[0] and time.process_time() - started > plan.seconds:
            break
    say(
        f"{size.key}: stock {1e3 * statistics.median(values['stock']):.0f} ms, private / stock "
        f"{median_ratio(values['private'], values['stock']):.3f}, private / fused "
        f"{median_ratio(values['private'], values['fused']):.3f}, noise "
        f"{1e3 * statistics.median(values['noise']):.0f} ms ({done} rounds)"
    )
    return Measured(size.key, values, {})


def measure_beside(size: Size, plan: Plan) -> Measured:
    """Ours and each engine of Opacus, in turn."""
    from simulations.benchmarks.opacus_steps import ENGINES

    work = Workload(size)
    values: dict[str, list[float]] = {"stock": [], "ours": []}
    failures: dict[str, str] = {}
    rounds = plan.rounds[0]
    for done in range(rounds + 1):
        found = {"stock": stock_step(work), "ours": private_step(work).step_s}
        for name, step in ENGINES.items():
            if name not in failures:
                try:
                    found[name] = step(work)
                except Exception as error:  # whatever a library raises about a model it does not take
                    failures[name] = f"{type(error).__name__}: {error}"
                    work = Workload(size)
        if done:
            for name, seconds in found.items():
                values.setdefault(name, []).append(seconds)
    ratios = {name: median_ratio(seconds, values["stock"]) for name, seconds in values.items() if name != "stock"}
    say(f"{size.key}, over stock: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    for name, failure in failures.items():
        say(f"{size.key}: {name} does not run: {failure[:120]}")
    return Measured(f"beside {size.key}", values, failures)


def measure_memory(size: Size) -> Measured:
    """Bytes by which a fresh process grows at the height of one step, without privacy and with it."""
    values = {}
    for step in ("stock", "private"):
        answer = subprocess.run(  # noqa: S603 (itself)
            [sys.executable, "-W", "ignore", "-m", _MODULE, "--peak", step, *map(str, asdict(size).values())],
            check=True,
            capture_output=True,
            text=True,
        )
        values[step] = [float(number) for number in answer.stdout.split()]
    told = (f"{name} {tensors / _MIB:.0f} and {process / _MIB:.0f} MiB" for name, (tensors, process) in values.items())
    say(f"{size.key}: tensors at the peak and growth of the process: " + ", ".join(told))
    return Measured(f"memory {size.key}", values, {})


def _peak_bytes(step: str, model: str, targets: str, batch: str, length: str) -> tuple[int, int]:
    """(most bytes of tensors at once, growth of the process) in one step."""
    take = private_step if step == "private" else stock_step
    # A step of one record first: libraries allocate what they need once.
    for records in ("1", batch):
        work = Workload(Size(model, targets, int(records), int(length)))
        before = read_memory().rss_bytes
        take(work)
    growth = read_memory().peak_bytes - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take(work)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held), growth


def figures(timed: list[Measured], beside: list[Measured], memory: list[Measured]) -> list[Figure]:
    """Promised figures first, then those of each cell."""

    def ratios(over: str, *, noise: bool = False) -> dict[str, float]:
        found = {}
        for cell in timed:
            ours = cell.values["private"]
            if noise:
                ours = [step + drawn for step, drawn in zip(ours, cell.values["noise"], strict=True)]
            found[cell.key] = median_ratio(ours, cell.values[over])
        return found

    stock, noised, fused = ratios("stock"), ratios("stock", noise=True), ratios("fused")
    tensors, grown = (
        {
            cell.key.removeprefix("memory "): 100 * (cell.values["private"][which] / cell.values["stock"][which] - 1)
            for cell in memory
        }
        for which in (0, 1)
    )
    found = [
        at_most(
            "private / stock peft, median of the grid", statistics.median(stock.values()), "ratio", MOST_IN_THE_MEDIAN
        ),
        at_most("private / stock peft, largest of the grid", max(stock.values()), "ratio", MOST_EVERYWHERE),
        at_most("the same with noise, median", statistics.median(noised.values()), "ratio", MOST_IN_THE_MEDIAN),
        at_most("the same with noise, largest", max(noised.values()), "ratio", MOST_EVERYWHERE),
        at_most("private / fused without privacy, median", statistics.median(fused.values()), "ratio", MOST_OVER_FUSED),
        at_most("private / fused without privacy, largest", max(fused.values()), "ratio", MOST_OVER_FUSED),
        at_most("peak of tensors above stock, largest", max(tensors.values()), "%", MOST_MEMORY_PERCENT),
        Figure("growth of the process above stock, largest", max(grown.values()), "%"),
    ]
    for key, ratio in stock.items():
        found.append(at_most(f"private / stock, {key}", ratio, "ratio", MOST_EVERYWHERE))
    found += [Figure(f"private with noise / stock, {key}", ratio, "ratio") for key, ratio in noised.items()]
    found += [Figure(f"private / fused, {key}", ratio, "ratio") for key, ratio in fused.items()]
    for cell in beside:
        for name, seconds in cell.values.items():
            if name != "stock":
                key = cell.key.removeprefix("beside ")
                found.append(Figure(f"{name} / stock, {key}", median_ratio(seconds, cell.values["stock"]), "ratio"))
    found += [Figure(f"peak of tensors above stock, {key}", percent, "%") for key, percent in tensors.items()]
    found += [Figure(f"growth of the process above stock, {key}", percent, "%") for key, percent in grown.items()]
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description="Measure what differential privacy costs a step of LoRA.")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--quick", action="store_true", help="two tiny cells: to see that it runs")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--peak", nargs=5, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if chosen.peak:
        tensors, growth = _peak_bytes(*chosen.peak)
        sys.stdout.write(f"{tensors} {growth}\n")
        return
    plan = QUICK if chosen.quick else FULL
    facts = machine_facts() | {name: version(name) for name in ("torch", "transformers", "peft", "opacus")}
    folder = chosen.out / f"bench-{plan.name}"
    folder.mkdir(parents=True, exist_ok=True)
    kept = MeasuredFile(folder / "cells.json", facts, fresh=chosen.fresh)
    timed = [kept.get(size.key, lambda size=size: measure_time(size, plan)) for size in plan.sizes]
    beside = [kept.get(f"beside {size.key}", lambda size=size: measure_beside(size, plan)) for size in plan.beside]
    memory = [kept.get(f"memory {size.key}", lambda size=size: measure_memory(size)) for size in plan.memory]
    publish(plan.name, figures(timed, beside, memory), chosen.out)


if __name__ == "__main__":
    on_one_thread(_MODULE)
    main()
