"""What taking surplus noise off a sum costs: ``python -m simulations.benchmarks.surplus_cost``.

CPU and wall time, medians. A site draws its share in layers instead of at once; the coordinator draws every layer of
every survivor again, on several cores. Nobody is lost, which is the most there is to take off. Nothing was promised.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from privacy.noise_shares import Layer, SharedNoiseSurplus, ShareGrid, noised_contribution
from privacy.order import TrainingSpec
from privacy.randomness import OsRandomSource
from privacy.secagg.threshold import default_collusion_bound, default_threshold
from simulations.benchmarks.figures import Figure, on_one_thread, publish

_SCALE = 2.0**16
_TRAINING = TrainingSpec(
    local_steps=1,
    sample_rate=0.1,
    expected_batch_size=100.0,
    noise_multiplier=1.0,
    l2_clip_norm=1.0,
    learning_rate=0.1,
    momentum=0.0,
    max_tokens=32,
)


def grid_of(sites: int, length: int) -> ShareGrid:
    """The grid of a step with the default threshold and collusion bound."""
    fewest, colluding = default_threshold(sites), default_collusion_bound(sites)
    return ShareGrid(
        scale=_SCALE,
        value_bound=64.0,
        ring_bits=32,
        summands=sites,
        honest=fewest - colluding,
        length=length,
        absent=sites - fewest,
    )


def measure(sites: int, length: int, repeats: int) -> list[Figure]:
    """One site's contribution with layers and without, and the coordinator's part of one step."""
    grid, vector = grid_of(sites, length), np.zeros(length)
    layers = grid.layers(_TRAINING)
    surplus = SharedNoiseSurplus(tuple(Layer(each.survivors, each.stddev * grid.scale) for each in layers))

    def contribute(where: ShareGrid) -> object:
        return noised_contribution(vector, _TRAINING, where, noise=OsRandomSource(), rounding=OsRandomSource())

    total, seed = np.zeros(length, dtype=np.uint32), bytes(32)

    shown = [(layer, seed) for _ in range(sites) for layer in range(len(layers))]

    where = f"d={length} n={sites}, {len(layers)} layers"
    figures = {
        f"a site's vector with its share in layers, {where}": lambda: contribute(grid),
        f"the same with the share whole, {where}": lambda: contribute(replace(grid, absent=0)),
        f"the coordinator takes all layers off a sum, {where}": lambda: surplus.take_off(total, shown),
    }
    found = []
    for name, work in figures.items():
        cpu_ms, wall_ms = _median_ms(work, repeats)
        found += [Figure(f"{name}: CPU", cpu_ms, "ms"), Figure(f"{name}: wall", wall_ms, "ms")]
    return found


def _median_ms(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """CPU time, of all threads, and wall time."""
    found = []
    for _ in range(repeats + 1):
        before = time.process_time(), time.perf_counter()
        work()
        after = time.process_time(), time.perf_counter()
        found.append([1e3 * (end - start) for start, end in zip(before, after, strict=True)])
    cpu, wall = (statistics.median(column) for column in zip(*found[1:], strict=True))
    return cpu, wall


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description="Measure what taking surplus noise off a sum costs.")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--quick", action="store_true", help="short vectors: to see that it runs")
    parser.add_argument("--fresh", action="store_true", help="changes nothing: nothing is kept between runs")
    chosen = parser.parse_args(arguments)
    length, repeats = (1000, 1) if chosen.quick else (300_000, 5)
    found = [figure for sites in (4, 10, 32) for figure in measure(sites, length, repeats)]
    publish("surplus-quick" if chosen.quick else "surplus", found, chosen.out)


if __name__ == "__main__":
    on_one_thread("simulations.benchmarks.surplus_cost")
    main()
