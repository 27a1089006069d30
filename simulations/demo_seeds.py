"""How reliable the demo's recipe is: the demo's run, simulated for several seeds of data, and what came out.

``python -m simulations.demo_seeds --seeds 1 2 3 4 5 --out out/bench-demo``; ``make bench-demo`` does that. The noise
has no seed, so figures differ a little from time to time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from server.release import summary_of, write_report
from server.run_spec import load_run_spec
from simulations.demo_consortium import demo_plan, write_data
from simulations.local_consortium import make_consortium
from simulations.simulate import prepare
from tacit.durable import write_atomic


def measure(seed: int, folder: Path) -> dict[str, Any]:
    """Simulate the demo with messages of ``seed`` in ``folder``; return its summary and the seconds it took."""
    write_data(folder, seed)
    made = make_consortium(folder, demo_plan(folder))
    started = time.monotonic()
    with prepare(load_run_spec(made.run_file), folder / "simulated") as consortium:
        run_folder = consortium.run(consortium.submit())
    summary = summary_of(write_report(run_folder))
    worst = max(site["epsilon"] for site in summary["sites"].values())
    return {
        "seed": seed,
        "accuracy_before": summary["accuracy_before"],
        "accuracy_after": summary["accuracy_after"],
        "epsilon": worst,
        "seconds": round(time.monotonic() - started, 1),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure each seed in turn and print a table; results go to ``OUT.json`` after every seed."""
    parser = argparse.ArgumentParser(description="Simulate the demo for several seeds of its messages.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--out", type=Path, default=Path("out/bench-demo"))
    chosen = parser.parse_args(arguments)
    results: list[dict[str, Any]] = []
    sys.stdout.write("seed  before  after  epsilon  seconds\n")
    for seed in chosen.seeds:
        result = measure(seed, chosen.out / f"seed-{seed}-{int(time.time())}")
        results.append(result)
        sys.stdout.write(
            f"{seed:4d}  {result['accuracy_before']:.3f}   {result['accuracy_after']:.3f}  "
            f"{result['epsilon']:.3f}    {result['seconds']:.0f}\n"
        )
        sys.stdout.flush()
        write_atomic(chosen.out.with_suffix(".json"), json.dumps(results, indent=2).encode())
    after = [result["accuracy_after"] for result in results]
    sys.stdout.write(f"accuracy after: median {statistics.median(after):.3f}, {min(after):.3f} to {max(after):.3f}\n")


if __name__ == "__main__":
    main()
