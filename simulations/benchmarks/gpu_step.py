"""What differential privacy costs a step of LoRA on a GPU: ``python -m simulations.benchmarks.gpu_step``.

The table of :mod:`simulations.benchmarks.dp_step`, by the clock on the wall once the GPU has done all that it was
asked, and a decoder of 0.67 billion weights at length 512, in float32 and in bfloat16: ratios to the stock step of
``peft``, tokens a second, and the most memory that torch held in one step. Stock, fused and private steps alternate.
The noise is drawn on the CPU, once for each step however many batches it is cut into, and has figures of its own.

A step without privacy that is fused as ours is, and Opacus's engines, compute in float32 only. Results:
``OUT/bench-gpu.json``. ``--device cpu`` takes the same steps where there is no GPU, to see that the program runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from models.compute import Compute, configure_compute
from models.device_names import Precision
from simulations.benchmarks import dp_step
from simulations.benchmarks.figures import Figure, at_most, median_ratio, publish, say
from simulations.benchmarks.lora_step import Size, Workload, fused_step, private_step, stock_step
from tacit.errors import TacitError

_WARM_UP = 2
_EPILOG = """\
examples:
  python -m simulations.benchmarks.gpu_step                         all of it, on the first GPU
  python -m simulations.benchmarks.gpu_step --device cuda:1 --rounds 30
  python -m simulations.benchmarks.gpu_step --device cpu --quick    one tiny cell, without a GPU
"""

_PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
_DECODERS = tuple(Size("decoder", targets, batch, 512) for targets in ("attention", "all") for batch in (8, 32))
_QUICK = (Size("minilm", "attention", 2, 4),)


@dataclass
class Measured:
    """What a cell gave."""

    key: str
    #: of all records
    tokens: int
    #: of each round: "stock", "fused", and the fields of PrivateSeconds
    seconds: dict[str, list[float]] = field(default_factory=dict)
    #: by step; empty where torch does not count them
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def ratio(self, over: str, *, noise: bool = False) -> float:
        """Median of private over another step, round by round."""
        ours = self.seconds["step_s"]
        if noise:
            ours = [step + drawn for step, drawn in zip(ours, self.seconds["noise_s"], strict=True)]
        return median_ratio(ours, self.seconds[over])

    def tokens_per_second(self, step: str) -> float:
        """By the median round."""
        return self.tokens / statistics.median(self.seconds[step])


def measure(size: Size, compute: Compute, rounds: int) -> Measured:
    """Rounds of stock, fused and private, in turn, there and back; then the memory of one step of each."""
    work = Workload(size, compute)
    fused = compute.precision == "float32"
    found = Measured(f"{size.key} {compute.precision}", size.batch * size.length)
    steps: list[Callable[[], dict[str, float]]] = [
        lambda: {"stock": stock_step(work)},
        lambda: {"fused": fused_step(work)} if fused else {},
        lambda: asdict(private_step(work)),
    ]
    for done in range(_WARM_UP + rounds):
        taken: dict[str, float] = {}
        for step in steps if done % 2 else reversed(steps):
            taken |= step()
        if done >= _WARM_UP:
            for name, seconds in taken.items():
                found.seconds.setdefault(name, []).append(seconds)
    if compute.device.type == "cuda":
        for name, take in (("stock", stock_step), ("private", private_step)):
            torch.cuda.reset_peak_memory_stats(compute.device)
            take(work)
            found.peak_bytes[name] = torch.cuda.max_memory_allocated(compute.device)
    say(
        f"{found.key}: stock {1e3 * statistics.median(found.seconds['stock']):.1f} ms, private / stock "
        f"{found.ratio('stock'):.3f}, {found.tokens_per_second('step_s'):.0f} tokens/s"
    )
    return found


def measure_beside(size: Size, compute: Compute, rounds: int) -> dict[str, float]:
    """Each engine of Opacus over the stock step, in turn; what does not run is said and left out."""
    from simulations.benchmarks.opacus_steps import ENGINES

    found = {}
    for name, step in ENGINES.items():
        work = Workload(size, compute)
        pairs = []
        try:
            for done in range(_WARM_UP + rounds):
                pair = step(work), stock_step(work)
                if done >= _WARM_UP:
                    pairs.append(pair)
        except Exception as error:  # whatever a library raises about a model it does not take
            say(f"{size.key}: {name} does not run: {type(error).__name__}: {str(error)[:120]}")
            continue
        found[f"{name} / stock, {size.key}"] = statistics.median(ours / stock for ours, stock in pairs)
    return found


def figures(cells: list[Measured], beside: dict[str, float]) -> list[Figure]:
    """Promised figures first, then those of each cell."""
    stock = {cell.key: cell.ratio("stock") for cell in cells}
    fused = [cell.ratio("fused") for cell in cells if "fused" in cell.seconds]
    memory = {
        cell.key: 100 * (cell.peak_bytes["private"] / cell.peak_bytes["stock"] - 1) for cell in cells if cell.peak_bytes
    }
    found = [
        at_most("private / stock peft, median", statistics.median(stock.values()), "ratio", dp_step.MOST_IN_THE_MEDIAN),
        at_most("private / stock peft, largest", max(stock.values()), "ratio", dp_step.MOST_EVERYWHERE),
        at_most("private / fused without privacy, median", statistics.median(fused), "ratio", dp_step.MOST_OVER_FUSED),
    ]
    if memory:
        found.append(
            at_most("peak memory above stock, largest", max(memory.values()), "%", dp_step.MOST_MEMORY_PERCENT)
        )
    for cell in cells:
        found.append(at_most(f"private / stock, {cell.key}", stock[cell.key], "ratio", dp_step.MOST_EVERYWHERE))
        found.append(Figure(f"private with noise / stock, {cell.key}", cell.ratio("stock", noise=True), "ratio"))
        if "fused" in cell.seconds:
            found.append(Figure(f"private / fused, {cell.key}", cell.ratio("fused"), "ratio"))
        for name, step in (("stock", "stock"), ("private", "step_s")):
            found.append(Figure(f"{name}, {cell.key}", cell.tokens_per_second(step), "tokens/s"))
        for step, count in cell.peak_bytes.items():
            found.append(Figure(f"peak memory, {step}, {cell.key}", count / 2**20, "MiB"))
    return found + [Figure(name, ratio, "ratio") for name, ratio in beside.items()]


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description="Measure what differential privacy costs a step of LoRA on a GPU.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu")
    parser.add_argument("--rounds", type=int, default=10, help="of each cell")
    parser.add_argument("--quick", action="store_true", help="one tiny cell: to see that it runs")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    try:
        computes = [configure_compute(1, chosen.device, precision) for precision in _PRECISIONS]
    except TacitError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from error
    # Nobody trains for bits here, and deterministic kernels would be measured instead of usual ones.
    torch.use_deterministic_algorithms(False)
    sizes = _QUICK if chosen.quick else (*dp_step.FULL.sizes, *_DECODERS)
    where = computes[0].device
    say(torch.cuda.get_device_name(where) if where.type == "cuda" else "no GPU: these are times of the CPU")
    cells = [measure(size, compute, chosen.rounds) for size in sizes for compute in computes]
    beside: dict[str, float] = {}
    for size in _QUICK if chosen.quick else dp_step.FULL.beside:
        beside |= measure_beside(size, computes[0], min(chosen.rounds, 3))
    publish("gpu-quick" if chosen.quick else "gpu", figures(cells, beside), chosen.out)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
