"""The grid of a benchmark, and what each of its cells gave: kept on disk, so that a long run can be taken up again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tacit.durable import write_atomic


@dataclass(frozen=True, slots=True)
class Cell:
    """One size of a secure step."""

    length: int
    """Coordinates of a vector (``d``)."""
    sites: int
    """Of the cohort (``n``)."""
    dropped: int
    """Sites that vanish between their shares and their upload."""

    @property
    def key(self) -> str:
        return f"d={self.length} n={self.sites} dropped={self.dropped}"

    @property
    def survivors(self) -> int:
        return self.sites - self.dropped


@dataclass(frozen=True, slots=True)
class Measured:
    """What a cell gave: CPU seconds, one entry a pair of runs, ours and Flower's side by side."""

    cell: Cell
    ours_client_s: tuple[float, ...]
    ours_encode_s: tuple[float, ...]
    ours_server_s: tuple[float, ...]
    flower_client_s: tuple[float, ...]
    flower_quantize_s: tuple[float, ...]
    flower_server_s: tuple[float, ...]
    ours_sent_bytes: int
    flower_sent_bytes: int
    ours_phases_s: dict[str, float]
    """Of one run: ``site encode``, ``coordinator unmask``, ..."""


def dropped_of(sites: int, percent: int) -> int:
    """Return how many of ``sites`` are dropped at ``percent``: at least one where it is not zero."""
    return max(1, sites * percent // 100) if percent else 0


def grid(lengths: Sequence[int], sites: Sequence[int], percents: Sequence[int]) -> list[Cell]:
    """Return the cells, small ones first. Percentages that drop the same number of sites share a cell."""
    cells = {
        Cell(length, count, dropped_of(count, percent)): None
        for length in sorted(lengths)
        for count in sorted(sites)
        for percent in sorted(percents)
    }
    return list(cells)


class CellFile:
    """The cells measured so far, for one machine and one set of versions.

    Args:
        path: a JSON file; written anew after each cell.
        facts: what the numbers depend on. A file with other facts is not taken up.
        fresh: forget what is there.
    """

    def __init__(self, path: Path, facts: dict[str, str], *, fresh: bool = False) -> None:
        self.path = path
        self._facts = facts
        self._measured: dict[str, Measured] = {}
        #: why nothing was taken up from a file that is there
        self.refused = ""
        if path.exists() and not fresh:
            self._read(json.loads(path.read_text(encoding="utf-8")))

    def get(self, cell: Cell) -> Measured | None:
        """Return what the cell gave, if it was measured."""
        return self._measured.get(cell.key)

    def keep(self, measured: Measured) -> None:
        """Remember a cell, on disk at once."""
        self._measured[measured.cell.key] = measured
        kept = {"facts": self._facts, "cells": [asdict(one) for one in self._measured.values()]}
        write_atomic(self.path, json.dumps(kept, indent=1).encode() + b"\n")

    def _read(self, kept: dict[str, Any]) -> None:
        differing = [key for key in self._facts if kept["facts"].get(key) != self._facts[key]]
        if differing:
            self.refused = f"{self.path} was measured with another {', '.join(differing)}; it is measured again"
            return
        for record in kept["cells"]:
            fields = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
            measured = Measured(**(fields | {"cell": Cell(**record["cell"])}))
            self._measured[measured.cell.key] = measured
