"""What secure aggregation costs beside Flower's SecAgg+, on one thread: ``python -m simulations.benchmarks.secagg``.

CPU seconds, not wall time, of one site and of the coordinator's opening of the sum; medians of runs that alternate
between the two. A cell that is measured is kept in ``OUT/bench-secagg/cells.json`` and not measured again, so an
interrupted run goes on where it was. Results: ``OUT/bench-secagg.json`` and ``OUT/bench-secagg.svg``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from privacy.secagg import default_threshold
from simulations.benchmarks import cost_model, flower_secagg, secure_step
from simulations.benchmarks.cells import Cell, CellFile, Measured, dropped_of, grid
from simulations.benchmarks.figures import (
    Figure,
    at_least,
    at_most,
    interleaved,
    machine_facts,
    median_ratio,
    on_one_thread,
    publish,
    say,
)
from simulations.benchmarks.keystream_rate import mask_rate, one_core, plain_rate
from simulations.benchmarks.scaling_plot import Panel, Series, draw
from tacit.durable import write_atomic


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    name: str
    lengths: tuple[int, ...]
    sites: tuple[int, ...]
    repeats: int
    percents: tuple[int, ...] = (0, 10, 30)
    mask_length: int = 10**7


FULL = Plan("secagg", (10**5, 10**6, 10**7), (4, 10, 32), repeats=5)
#: for CI: minutes become seconds, and no figure is one that was promised
QUICK = Plan("secagg-quick", (10**3, 10**4), (4, 10), repeats=1, mask_length=10**5)


def measure(cell: Cell, repeats: int, limit_s: float) -> Measured:
    """Measure one cell, ours and Flower's in turn.

    When one of Flower's runs takes longer than ``limit_s`` of wall time, there is no second pair.

    Raises:
        RuntimeError: our sum is not exact.
    """
    values = np.random.default_rng(cell.length).uniform(-1.0, 1.0, cell.length).astype(np.float32)
    threshold = default_threshold(cell.sites)
    took_s = 0.0

    def ours() -> secure_step.StepCost:
        return secure_step.run_step(values, cell.sites, cell.dropped)

    def flower() -> flower_secagg.FlowerCost:
        nonlocal took_s
        started = time.monotonic()
        cost = flower_secagg.measure(values, cell.sites, cell.dropped, threshold)
        took_s = time.monotonic() - started
        return cost

    pairs: list[tuple[secure_step.StepCost, flower_secagg.FlowerCost]] = []
    for pair in interleaved(ours, flower, repeats):
        _check(pair[0], values, cell)
        pairs.append(pair)
        if took_s > limit_s and len(pairs) < repeats:
            say(
                f"    Flower took {took_s:.0f} s, more than {limit_s:g} s: {len(pairs)} of {repeats} pairs are measured"
            )
            break
    first, theirs = pairs[0]
    phases = {f"site {phase}": first.site_phase_s(phase) for phase in next(iter(first.sites_s.values()))}
    return Measured(
        cell=cell,
        ours_client_s=tuple(mine.site_s for mine, _ in pairs),
        ours_encode_s=tuple(mine.site_phase_s(secure_step.ENCODE) for mine, _ in pairs),
        ours_server_s=tuple(mine.open_s for mine, _ in pairs),
        flower_client_s=tuple(cost.client_s for _, cost in pairs),
        flower_quantize_s=tuple(cost.quantize_s for _, cost in pairs),
        flower_server_s=tuple(cost.unmask_s for _, cost in pairs),
        ours_sent_bytes=first.sent_bytes,
        flower_sent_bytes=theirs.upload_bytes,
        ours_phases_s=phases | {f"coordinator {phase}": spent for phase, spent in first.coordinator_s.items()},
    )


def _check(cost: secure_step.StepCost, values: np.ndarray, cell: Cell) -> None:
    found = secure_step.decode(cost.total, secure_step.SCALE, len(cost.survivors))
    # every site uploaded the same encoding, which rounded each coordinate by less than one unit
    error = np.abs(found - cell.survivors * values.astype(np.float64)).max()
    if len(cost.survivors) != cell.survivors or error > cell.survivors / secure_step.SCALE:
        raise RuntimeError(f"the sum of {cell.key} is off by {error}")


def mask_figures(plan: Plan) -> list[Figure]:
    """Our masks against the plain keystream of this core."""
    with one_core():
        pairs = list(interleaved(lambda: mask_rate(plan.mask_length, 10), plain_rate, plan.repeats))
    say(f"plain keystream: {pairs[0][1].source}")
    ours, plain = [mine for mine, _ in pairs], [yardstick.bytes_per_s for _, yardstick in pairs]
    return [
        Figure("mask stream and add", statistics.median(ours) / 1e9, "GB/s"),
        Figure("plain AES-256 keystream", statistics.median(plain) / 1e9, "GB/s"),
        at_most("mask stream and add, times slower a byte than plain keystream", median_ratio(plain, ours), "x", 2.5),
    ]


def ratio_figures(measured: Sequence[Measured]) -> list[Figure]:
    """Flower's cost over ours where something was promised, and how it comes about."""
    figures = []
    for one in measured:
        cell = one.cell
        client = f"client compute, Flower / ours, {cell.key}"
        server = f"server unmask, Flower / ours, {cell.key}"
        client_ratio = median_ratio(one.flower_client_s, one.ours_client_s)
        server_ratio = median_ratio(one.flower_server_s, one.ours_server_s)
        if cell.sites == 10 and cell.dropped == 1:
            promised = cell.length in (10**6, 10**7)
            figures.append(at_least(client, client_ratio, "x", 15) if promised else Figure(client, client_ratio, "x"))
            figures.append(
                Figure(f"client compute without fixed point, Flower / ours, {cell.key}", _without_encoding(one), "x")
            )
            promised = cell.length == 10**7
            figures.append(at_least(server, server_ratio, "x", 15) if promised else Figure(server, server_ratio, "x"))
            figures += _byte_figures(one)
        elif cell.dropped == dropped_of(cell.sites, 10):
            figures += [Figure(client, client_ratio, "x"), Figure(server, server_ratio, "x")]
    return figures


def _without_encoding(one: Measured) -> float:
    """The protocol alone: no turning of floating point into integers on either side."""
    theirs = [client - encode for client, encode in zip(one.flower_client_s, one.flower_quantize_s, strict=True)]
    ours = [client - encode for client, encode in zip(one.ours_client_s, one.ours_encode_s, strict=True)]
    return median_ratio(theirs, ours)


def _byte_figures(one: Measured) -> list[Figure]:
    ours = one.ours_sent_bytes / one.cell.length
    name = f"bytes a coordinate that a site sends, all messages, {one.cell.key}"
    promised = one.cell.length >= 10**6
    return [
        at_most(name, ours, "B", 4.04) if promised else Figure(name, ours, "B"),
        Figure(
            f"bytes a coordinate that Flower's client uploads, {one.cell.key}",
            one.flower_sent_bytes / one.cell.length,
            "B",
        ),
    ]


def model_figures(measured: Sequence[Measured]) -> list[Figure]:
    """Fit how cost grows, print it, and return what one coordinate of one mask costs."""
    figures = []
    for who, side, seconds, work in (
        ("ours", "client", "ours_client_s", _client_work),
        ("Flower", "client", "flower_client_s", _client_work),
        ("ours", "server", "ours_server_s", _our_server_work),
        ("Flower", "server", "flower_server_s", _flower_server_work),
    ):
        samples = []
        for one in measured:
            masks, shares = work(one.cell)
            median_s = statistics.median(getattr(one, seconds))
            samples.append(cost_model.Sample(one.cell.key, one.cell.length, masks, shares, median_s))
        model = cost_model.fit(samples)
        head, *residuals = model.lines()
        say(f"{side}, {who}: {head}; residuals: median {100 * model.median_residual:.0f} %")
        say("\n".join(residuals))
        figures.append(Figure(f"{side}, {who}: one coordinate of one mask", model.b_s * 1e9, "ns"))
    return figures


def _client_work(cell: Cell) -> tuple[int, int]:
    """A mask for itself and one a peer; shares of n secrets (ours) or two (Flower), each a sum over the threshold."""
    return cell.sites, cell.sites**2


def _our_server_work(cell: Cell) -> tuple[int, int]:
    """A survivor's own mask, and one for each dropped site it shared a mask with; every pair's commitment."""
    return cell.survivors * (1 + cell.dropped), cell.sites**2


def _flower_server_work(cell: Cell) -> tuple[int, int]:
    """Flower also removes the masks between two dropped sites, which cancel.

    It rebuilds every secret in pieces of 16 bytes by interpolation over all the shares that came: 3 pieces of a seed,
    20 of a private key in PEM.
    """
    pieces = 3 * cell.survivors + 20 * cell.dropped
    return cell.survivors + cell.dropped * (cell.sites - 1), pieces * cell.survivors**2


def panels(measured: Sequence[Measured]) -> list[Panel]:
    """The four plots: client and server, over coordinates and over sites, at 10 % dropped."""
    chosen = [one for one in measured if one.cell.dropped == dropped_of(one.cell.sites, 10)]
    drawn = []
    for side, ours, flower in (
        ("One site", "ours_client_s", "flower_client_s"),
        ("Server's unmasking", "ours_server_s", "flower_server_s"),
    ):
        for across, along, x_label in (("sites", "length", "coordinates (d)"), ("length", "sites", "sites (n)")):
            lines = []
            for fixed in sorted({getattr(one.cell, across) for one in chosen}):
                cells = sorted(
                    (one for one in chosen if getattr(one.cell, across) == fixed),
                    key=lambda one: getattr(one.cell, along),
                )
                label = f"n = {fixed}" if across == "sites" else f"d = {fixed:.0e}".replace("e+0", "e")
                for who, key in (("Tacit", ours), ("Flower", flower)):
                    points = tuple(
                        (float(getattr(one.cell, along)), statistics.median(getattr(one, key))) for one in cells
                    )
                    lines.append(Series(f"{who} {label}", points, who == "Tacit"))
            drawn.append(Panel(f"{side}: CPU seconds over {x_label}", x_label, tuple(lines)))
    return drawn


def main(arguments: list[str] | None = None) -> None:
    """Measure every cell that is not measured yet, then write and print the figures."""
    parser = argparse.ArgumentParser(description="Measure secure aggregation beside Flower's SecAgg+.")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--quick", action="store_true", help="small sizes, one pair each: to see that it runs")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument("--repeats", type=int, help="pairs of runs in each cell")
    parser.add_argument("--cell-limit-s", type=float, default=60.0, help="no second pair when Flower takes longer")
    chosen = parser.parse_args(arguments)
    plan = QUICK if chosen.quick else FULL
    repeats = chosen.repeats or plan.repeats
    cells = grid(plan.lengths, plan.sites, plan.percents)
    kept = CellFile(chosen.out / f"bench-{plan.name}" / "cells.json", machine_facts(), fresh=chosen.fresh)
    if kept.refused:
        say(kept.refused)
    measured = []
    for number, cell in enumerate(cells, 1):
        found = kept.get(cell)
        where = f"[{number}/{len(cells)}] {cell.key}"
        if found is None:
            say(where)
            found = measure(cell, repeats, chosen.cell_limit_s)
            kept.keep(found)
        else:
            say(f"{where}: measured before")
        measured.append(found)
        say(
            f"    client {statistics.median(found.ours_client_s):.4f} s, Flower "
            f"{statistics.median(found.flower_client_s):.4f} s; server {statistics.median(found.ours_server_s):.4f} s, "
            f"Flower {statistics.median(found.flower_server_s):.4f} s; {len(found.ours_client_s)} pairs"
        )
    figures = [*mask_figures(plan), *ratio_figures(measured), *model_figures(measured)]
    publish(plan.name, figures, chosen.out)
    note = f"CPU seconds of one thread, {os.cpu_count()} cores of {machine_facts()['cpu']}; 10 % of the sites dropped"
    plot = chosen.out / f"bench-{plan.name}.svg"
    write_atomic(plot, draw("Secure aggregation: Tacit beside Flower's SecAgg+", panels(measured), note).encode())
    say(str(plot))


if __name__ == "__main__":
    on_one_thread("simulations.benchmarks.secagg")
    main()
