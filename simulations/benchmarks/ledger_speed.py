"""How quick a long ledger is: ``python -m simulations.benchmarks.ledger_speed``.

A ledger on disk, every entry synced, filled with rounds as an agent writes them: a reservation, a commit, and the
receipt that left. Then single moves are timed: what a step costs a site beside its training. Wall time, medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from certs.identity import Identity
from certs.names import PeerName, Role
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from privacy.ledger import Budget, Ledger, Reservation, StepKey
from simulations.benchmarks.figures import Figure, below, on_one_thread, publish, say

_AGREEMENT = "sha256:" + "a" * 64
_DATASET = "main"
_BUDGET = Budget(epsilon_per_run=1e6, epsilon_lifetime=1e6, delta=1e-6)


@dataclass(frozen=True, slots=True)
class Case:
    """A size: entries of the log, different events in the dataset's past, and repeats of each timed move."""

    entries: int
    kinds: int
    repeats: int


FULL = Case(10_000, 100, 41)
QUICK = Case(60, 4, 3)


class Spender:
    """Writes a ledger as an agent does. Every run has noise and a sample rate of its own."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._steps = 0

    def reserve(self, run: int) -> Reservation:
        """Reserve the next step of run number ``run``."""
        self._steps += 1
        event = SubsampledGaussian(
            mode=PrivacyMode.LOCAL,
            unit=PrivacyUnit.RECORD,
            adjacency=Adjacency.ADD_REMOVE,
            noise_multiplier=4.0 + run / 100,
            sample_rate=0.01 + run / 20_000,
            steps=5,
        )
        key = StepKey(f"{run:016x}", self._steps, self._steps)
        return self._ledger.reserve(key, _DATASET, _AGREEMENT, event, _BUDGET, noise_secret=True)

    def commit(self, reservation: Reservation) -> None:
        """Carry a reserved step out."""
        self._ledger.commit(reservation, ctx="c" * 64, bytes_sent=1_200_000)

    def round(self, run: int) -> None:
        """One whole round of run number ``run``."""
        self.commit(self.reserve(run))

    def fill(self, case: Case) -> None:
        """Write a round of each of ``case.kinds`` runs, then what left the site, up to ``case.entries`` entries."""
        self._ledger.accept_agreement(_AGREEMENT, {})
        for run in range(case.kinds):
            self.round(run)
        while self._ledger.tree_head().size < case.entries:
            self._ledger.record_egress("receipt", 900)


def median_ms(move: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of ``move``, after one that is not counted."""
    move()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        move()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def measure(case: Case, folder: Path) -> list[Figure]:
    """Fill a ledger in ``folder`` and time it."""
    identity = Identity(PeerName("bench", Role.SITE, "alpha"), b"", Ed25519PrivateKey.generate())
    path, where = folder / "ledger.sqlite", f"{case.entries} entries, {case.kinds} different events"
    with Ledger.open(path, identity) as ledger:
        spender = Spender(ledger)
        spender.fill(case)
        fresh = iter(range(case.kinds, case.kinds + case.repeats + 1))
        old = iter(range(case.repeats + 1))
        size = ledger.tree_head().size
        moves: list[tuple[str, Callable[[], object], float]] = [
            ("reserve and commit, the same run again", lambda: spender.round(0), 10),
            ("inclusion proof", lambda: ledger.inclusion_proof(size // 3), 1),
            ("consistency proof", lambda: ledger.consistency_proof(size // 3), 1),
            ("reserve, a new event", lambda: spender.reserve(next(fresh)), 200),
            ("reserve, an old run again", lambda: spender.reserve(next(old) % case.kinds), 200),
        ]
        found = [
            below(f"{name}, {where}", median_ms(move, case.repeats), "ms", bound_ms) for name, move, bound_ms in moves
        ]
        appended = median_ms(lambda: ledger.record_egress("receipt", 1), case.repeats)
    opened = median_ms(lambda: Ledger.open(path, identity).close(), 1)
    return [*found, Figure(f"append alone, {where}", appended, "ms"), Figure(f"open and verify, {where}", opened, "ms")]


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description="Measure reservations, commits and proofs of a long ledger.")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--quick", action="store_true", help="a short ledger: to see that it runs")
    parser.add_argument("--fresh", action="store_true", help="changes nothing: nothing is kept between runs")
    chosen = parser.parse_args(arguments)
    case = QUICK if chosen.quick else FULL
    say(f"a ledger of {case.entries} entries, every one synced")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(case, Path(folder))
    publish("ledger-speed-quick" if chosen.quick else "ledger-speed", found, chosen.out)


if __name__ == "__main__":
    on_one_thread("simulations.benchmarks.ledger_speed")
    main()
