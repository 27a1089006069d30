"""What the utility benchmark's cells gave: a file each while they are run, a line each to keep and to read again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simulations.benchmarks.utility_cells import Cell, Outcome
from tacit.durable import write_atomic
from tacit.errors import InputError

Facts = dict[str, str]


class CellStore:
    """A JSON file for each cell that is done, so that a long run can be taken up again.

    Args:
        folder: of the files.
        facts: what the numbers depend on. What was measured under other facts counts as not there.
        known: what was measured elsewhere, from :func:`read_lines`; a file in ``folder`` goes before it.
        fresh: measure again what is there.
    """

    def __init__(
        self, folder: Path, facts: Facts, *, known: Sequence[tuple[Outcome, Facts]] = (), fresh: bool = False
    ) -> None:
        self._folder, self._facts, self._fresh = folder, facts, fresh
        self._known = {outcome.cell: outcome for outcome, under in known if under == facts}

    def get(self, cell: Cell, recipe: dict[str, object]) -> Outcome | None:
        """Return what the cell gave under this recipe, if it was measured."""
        if self._fresh:
            return None
        path = self._path(cell)
        if path.exists():
            outcome, facts = _parsed(json.loads(path.read_text(encoding="utf-8")))
            if facts == self._facts and outcome.recipe == recipe:
                return outcome
        found = self._known.get(cell)
        return found if found is not None and found.recipe == recipe else None

    def keep(self, outcome: Outcome) -> None:
        """Write the cell's file at once."""
        content = asdict(outcome) | {"facts": self._facts}
        write_atomic(self._path(outcome.cell), json.dumps(content, indent=1).encode() + b"\n")

    def write_lines(self, outcomes: Iterable[Outcome], path: Path) -> None:
        """Write ``path``: a line of JSON for each outcome, with the facts and in the order given."""
        lines = [json.dumps(asdict(outcome) | {"facts": self._facts}) + "\n" for outcome in outcomes]
        write_atomic(path, "".join(lines).encode())

    def _path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.key}.json"


def read_lines(path: Path) -> list[tuple[Outcome, Facts]]:
    """Read what :meth:`CellStore.write_lines` wrote: each outcome and the facts it was measured under.

    Raises:
        InputError: the file cannot be read, a line is no outcome, or a cell is there twice.
    """
    hint = "give a file that this program wrote, such as docs/utility.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); expected a line of JSON for each cell", hint=hint
        ) from error
    found: dict[Cell, tuple[Outcome, Facts]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            outcome, facts = _parsed(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: {error}; expected what a cell gave, as JSON", hint=hint
            ) from error
        if outcome.cell in found:
            raise InputError(f"{path}, line {number}: {outcome.cell.key} is there twice; expected it once", hint=hint)
        found[outcome.cell] = (outcome, facts)
    return list(found.values())


def _parsed(content: dict[str, Any]) -> tuple[Outcome, Facts]:
    fields = dict(content)
    facts = fields.pop("facts")
    return Outcome(**(fields | {"cell": Cell(**fields["cell"])})), facts
