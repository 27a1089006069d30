"""The cells of the utility benchmark, in the order in which they are worth having, and what each gave, a file each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from simulations.benchmarks.utility_recipes import ABLATIONS, Mode, Trains, recipe_of
from tacit.durable import write_atomic

SEEDS = (0, 1, 2)
_ADAPTERS: tuple[Trains, ...] = ("two-stage", "lora", "ffa")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run to the end: trained on a data set, tested on its test set."""

    data: str
    #: 0 where there are none: all records lie in one place
    sites: int
    mode: Mode
    trains: Trains
    #: None without privacy
    epsilon: float | None
    #: of split, sampling and noise
    seed: int
    #: a name of ``ABLATIONS``
    ablation: str = ""

    @property
    def key(self) -> str:
        """Also the name of its file."""
        where = f"-{self.sites}-sites" if self.sites else ""
        spent = "" if self.epsilon is None else f"-eps{self.epsilon:g}"
        change = f"-{self.ablation}" if self.ablation else ""
        return f"{self.data}{where}-{self.mode}-{self.trains}{spent}{change}-seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cell gave."""

    cell: Cell
    accuracy_percent: float
    #: against the coordinator with c sites, composed over all that was drawn; None without privacy
    epsilon: float | None
    noise_multiplier: float | None
    train_records: int
    test_records: int
    trained_parameters: int
    recipe: dict[str, object]
    seconds: float


def full_grid() -> list[Cell]:
    """All cells; those that take seconds come first."""
    cells = [
        *_rows("banking77", (4, 10), (8, 3, 1), SEEDS),
        *_rows("clinc150", (10,), (3,), SEEDS),
        *_probes("banking77", (4, 10), (8, 3, 1), SEEDS),
        *_probes("clinc150", (10,), (3,), SEEDS),
        *_ablations(),
    ]
    for seed in SEEDS:
        cells += [Cell("banking77", 0, "plain", "lora", None, seed)]
        for trains in _ADAPTERS:
            for epsilon in (8.0, 3.0, 1.0):
                cells += _adapter_cells("banking77", (4, 10), trains, epsilon, seed)
            cells += _adapter_cells("clinc150", (10,), trains, 3.0, seed)
        cells += [Cell("banking77", sites, "federated", "lora", None, seed) for sites in (4, 10)]
        cells += [
            Cell("clinc150", 0, "plain", "lora", None, seed),
            Cell("clinc150", 10, "federated", "lora", None, seed),
        ]
    return cells


def quick_grid() -> list[Cell]:
    """A few cells, to see that it runs: every mode and everything that can be trained."""
    plain: list[Cell] = [
        Cell("banking77", 0, "plain", "head", None, 0),
        Cell("banking77", 3, "federated", "lora", None, 0),
    ]
    private: list[tuple[int, Mode, Trains]] = [
        (0, "central", "probe"),
        (3, "local", "probe"),
        (0, "central", "head"),
        (3, "local", "head"),
        (3, "joint", "head"),
        (3, "joint-all", "head"),
        (3, "joint", "two-stage"),
        (3, "local", "ffa"),
        (0, "central", "lora"),
    ]
    return plain + [Cell("banking77", sites, mode, trains, 8.0, 0) for sites, mode, trains in private]


class CellFolder:
    """A JSON file for each cell that is done, so that a long run can be taken up again.

    Args:
        folder: of the files.
        facts: what the numbers depend on. A file with other facts counts as not there.
        fresh: measure again what is there.
    """

    def __init__(self, folder: Path, facts: dict[str, str], *, fresh: bool = False) -> None:
        self._folder, self._facts, self._fresh = folder, facts, fresh

    def get(self, cell: Cell, recipe: dict[str, object]) -> Outcome | None:
        """Return what the cell gave under this recipe, if it was measured."""
        path = self._path(cell)
        if self._fresh or not path.exists():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("facts") != self._facts or kept["recipe"] != recipe:
            return None
        return Outcome(**(kept | {"cell": Cell(**kept["cell"])}))

    def keep(self, outcome: Outcome) -> None:
        """Write the cell's file at once."""
        content = asdict(outcome) | {"facts": self._facts}
        write_atomic(self._path(outcome.cell), json.dumps(content, indent=1).encode() + b"\n")

    def _path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.key}.json"


def _rows(data: str, sites: Sequence[int], epsilons: Sequence[float], seeds: Sequence[int]) -> Iterator[Cell]:
    for seed in seeds:
        yield Cell(data, 0, "plain", "head", None, seed)
        for count in sites:
            yield Cell(data, count, "federated", "head", None, seed)
        for epsilon in map(float, epsilons):
            yield from _adapter_cells(data, sites, "head", epsilon, seed)


def _probes(data: str, sites: Sequence[int], epsilons: Sequence[float], seeds: Sequence[int]) -> Iterator[Cell]:
    for seed in seeds:
        for epsilon in map(float, epsilons):
            yield Cell(data, 0, "central", "probe", epsilon, seed)
            for count in sites:
                yield Cell(data, count, "local", "probe", epsilon, seed)


def _adapter_cells(data: str, sites: Sequence[int], trains: Trains, epsilon: float, seed: int) -> Iterator[Cell]:
    yield Cell(data, 0, "central", trains, epsilon, seed)
    modes: tuple[Mode, ...] = ("joint-all", "joint", "local")
    for mode in modes:
        for count in sites:
            yield Cell(data, count, mode, trains, epsilon, seed)


def _ablations() -> Iterator[Cell]:
    elsewhere = ("local-steps-5", "example", "example-twice")
    for epsilon in (1.0, 8.0):
        usual = recipe_of("central", "head", 0, epsilon)
        for name, change in ABLATIONS.items():
            # where the usual number of steps is 50, "50 steps" is no ablation
            if name not in elsewhere and replace(usual, **change) != usual:  # type: ignore[arg-type]
                yield Cell("banking77", 0, "central", "head", epsilon, 0, name)
        yield Cell("banking77", 4, "local", "head", epsilon, 0, "local-steps-5")
    for name in ("example", "example-twice"):
        yield Cell("banking77", 4, "joint-all", "head", 8.0, 0, name)
