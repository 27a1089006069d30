"""The cells of the utility benchmark, in the order in which they are worth having, and what each may give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from simulations.benchmarks.utility_recipes import (
    ABLATIONS,
    ADAPTER_ABLATIONS,
    HEAD_ABLATIONS,
    Mode,
    Trains,
    recipe_of,
)

SEEDS = (0, 1, 2)
#: of private rows that take seconds: what a few points of epsilon decide has to be told from what a seed does
PRIVATE_SEEDS = tuple(range(9))
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
    #: against the coordinator with c sites ("joint-alone": without), composed over all that was drawn; None without
    #: privacy
    epsilon: float | None
    noise_multiplier: float | None
    train_records: int
    test_records: int
    trained_parameters: int
    recipe: dict[str, object]
    seconds: float


def default_grid() -> list[Cell]:
    """The cells that a run of under three hours has: all that take seconds, and the most telling ones with LoRA."""
    cells: list[Cell] = []
    for seed in PRIVATE_SEEDS:
        cells += _rows("banking77", (4, 10), (8, 3, 1), seed)
        cells += _rows("clinc150", (10,), (3,), seed)
    return [*cells, *_head_ablations(), *_telling_adapter_cells()]


def full_grid() -> list[Cell]:
    """The default ones, and then everything else, one seed after the other."""
    cells = [*default_grid(), *_adapter_ablations()]
    for seed in SEEDS:
        for trains in _ADAPTERS:
            for epsilon in (8.0, 3.0, 1.0):
                cells += _private("banking77", (4, 10), trains, epsilon, seed)
            cells += _private("clinc150", (10,), trains, 3.0, seed)
        for data, sites in (("banking77", (0, 4, 10)), ("clinc150", (0, 10))):
            cells += [_without_privacy(data, count, "lora", seed) for count in sites]
    return list(dict.fromkeys(cells))


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


def _rows(data: str, sites: Sequence[int], epsilons: Sequence[float], seed: int) -> Iterator[Cell]:
    """Everything that takes seconds: heads and probes."""
    if seed in SEEDS:
        for count in (0, *sites):
            yield _without_privacy(data, count, "head", seed)
    for epsilon in map(float, epsilons):
        yield from _private(data, sites, "head", epsilon, seed)
    for epsilon in map(float, epsilons):
        for count in sites:
            yield Cell(data, count, "joint-alone", "head", epsilon, seed)
    for epsilon in map(float, epsilons):
        yield Cell(data, 0, "central", "probe", epsilon, seed)
        for count in sites:
            yield Cell(data, count, "local", "probe", epsilon, seed)


def _without_privacy(data: str, sites: int, trains: Trains, seed: int) -> Cell:
    return Cell(data, sites, "federated" if sites else "plain", trains, None, seed)


def _private(data: str, sites: Sequence[int], trains: Trains, epsilon: float, seed: int) -> Iterator[Cell]:
    yield Cell(data, 0, "central", trains, epsilon, seed)
    modes: tuple[Mode, ...] = ("joint-all", "joint", "local")
    for mode in modes:
        for count in sites:
            yield Cell(data, count, mode, trains, epsilon, seed)


def _telling_adapter_cells() -> Iterator[Cell]:
    """Of one seed: does LoRA gain on the head, at which budget, and does it stand the sites' noise?"""
    yield _without_privacy("banking77", 0, "lora", 0)
    for epsilon in (8.0, 3.0, 1.0):
        for trains in _ADAPTERS:
            yield Cell("banking77", 0, "central", trains, epsilon, 0)
    telling: tuple[tuple[Mode, Trains, float], ...] = (
        ("joint", "two-stage", 8.0),
        ("joint", "two-stage", 3.0),
        ("joint", "lora", 8.0),
        ("local", "lora", 3.0),
        ("local", "two-stage", 3.0),
    )
    for mode, trains, epsilon in telling:
        yield Cell("banking77", 4, mode, trains, epsilon, 0)


def _head_ablations() -> Iterator[Cell]:
    for epsilon in (1.0, 8.0):
        usual = recipe_of("central", "head", 0, epsilon)
        for name in HEAD_ABLATIONS:
            # where the usual number of steps is 50, "50 steps" is no ablation
            if ABLATIONS[name](usual) != usual:
                yield Cell("banking77", 0, "central", "head", epsilon, 0, name)
        yield Cell("banking77", 4, "local", "head", epsilon, 0, "local-steps-5")
    for name in ("example", "example-twice"):
        yield Cell("banking77", 4, "joint-all", "head", 8.0, 0, name)


def _adapter_ablations() -> Iterator[Cell]:
    for trains, names in ADAPTER_ABLATIONS.items():
        for name in names:
            yield Cell("banking77", 0, "central", trains, 8.0, 0, name)
