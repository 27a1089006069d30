"""Model checker: everything a coordinator with up to ``c`` sites can do to the real machines of the others in a step.

**Adversary.** It has the coordinator, the network and the identities and keys of ``c`` sites. It may deliver any
message it can make to any honest site, in any order, or nothing (so any site may drop out at any time): participants
that differ from site to site; lock requests for any set of survivors, with true upload hashes where it has them, or
made-up ones (two different ones for its own sites), with the shares of survivors only, of all dealers, or none; reveal
requests with any set of signatures it has, also too few, repeated, forged, of its own sites or for another lock;
requests for any dealers' shares; outcomes. With restarts, it may also let a site crash and start again with nothing
but what it kept, once each, and set up with it anew from any adverts it has seen, old ones too. A coordinator that
restarts and forgets is one that does not use what it knows.

**State.** What each honest site did (:class:`~tests.privacy.secagg.model_sites.Life`); the adversary's knowledge is all
that was ever sent, so it is part of that. Every transition is one ``receive`` of a real machine on a real frame.
Visited states are kept and explored once, breadth first, so a trace that is found is a shortest one.

**What is left out, and why nothing is lost.**

- The first setup is honest, and nobody is out of it; liars in setups are the tests' of ``test_malicious_setup.py``. The
  epoch has one step: the next has another ``ctx`` and other keys (``test_pair_chain.py``).
- A site trains, and is granted room, as soon as it is announced a step. Granting no room only withholds a vector.
- A site that failed, ended its step or may not take it again has forgotten its secrets and takes nothing more, so the
  adversary knows as much as before and can do less: such a state is not explored. Nor is an event that a machine calls
  illegal: it is checked that nothing changed. Kinds of messages that a phase does not accept are tried once each.
- What the adversary's own sites deal, it knows; they deal nothing here. A second lock is asked for with true hashes.
  At most one true hash is replaced by a made-up one.
- An upload hash from another session than the receiver's counts as made up. Hashes mean nothing to a site but for its
  own, and locks name the session, so nobody outside it signs the same lock.
- From "uploads": nothing is needed to announce a step, and nothing sent later changes what a site uploads, so every
  announcement can be moved to the front. The initial states are all combinations of participants the sites may have
  been told. From "setup" makes no use of this. From "everybody": all were told the same, that all take part.
- Symmetry: honest sites are interchangeable but for the order of their names, which decides nothing but the signs of
  masks, the order of lists, and who makes the ciphertext of a pair. Of states that differ by a permutation of honest
  sites one is explored. It is not used together with restarts, where the last of these matters.

**Invariants**, after every transition, over what the adversary has seen. It has a secret if a site revealed it or if it
has ``t`` shares of it, those dealt to its own sites included.

- (a) Never b of two honest sites of a session together with their k. (b of one and its k with another is no leak: that
  is how a dropped site's mask is taken out.) More than that: the masks are linear, so which sums of honest vectors it
  can compute follows exactly from the secrets it has: the components of the graph of uploads whose b it has, joined by
  the k it has not, that lack none of their partners (:func:`~tests.privacy.secagg.model_knowledge.opened_sums`).
- (b) At most one lock of a step has a quorum, and at most one sum of honest vectors can be computed.
- (c) Each such sum has at least ``t - c >= 2`` honest sites, and is that of a lock with a quorum and at least
  ``max(t, min_cohort)`` survivors.
- (d) No honest site signs two locks for a step, whatever restarts.

``make model-check`` explores all there is; the tests explore less deep, and show that broken sites are found. States,
without those left out, and the deliveries that lead to the farthest of them::

    n=3 c=1 t=3              from setup, restarts       273 states  depth 14
    n=4 c=1 t=3              from setup, restarts   219,281 states  depth 21
    n=4 c=1 t=4              from setup, restarts     6,347 states  depth 21
    n=4 c=2 t=4              from setup, restarts       273 states  depth 14
    n=4 c=1 t=3 min_cohort=4 from uploads             1,322 states  depth  9
    n=5 c=1 t=5              from uploads             5,970 states  depth 12
    n=5 c=2 t=4              from uploads            23,946 states  depth  9
    n=5 c=2 t=5              from uploads               440 states  depth  9
    n=5 c=3 t=5              from setup, restarts       273 states  depth 14
    n=5 c=1 t=4              from uploads           671,432 states  depth 13
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from itertools import chain, combinations, permutations, product
from typing import Any, NamedTuple

from privacy.secagg import SitePhase
from privacy.secagg.threshold import survivors_required
from tests.privacy.secagg.model_knowledge import Adversary, Known, spelt
from tests.privacy.secagg.model_sites import FAKE, OTHER, TRUE, Digest, Fact, Life, Move, Sites, Survivors, renamed

State = tuple[int, ...]


class Label(NamedTuple):
    """One honest site: what it sent before it crashed, and its life since."""

    past: tuple[Fact, ...]
    life: Life


@dataclass
class Explored:
    """What an exploration came to."""

    title: str
    states: int = 0
    transitions: int = 0
    depth: int = 0
    is_complete: bool = False
    machine_runs: int = 0
    seconds: float = 0.0
    violation: str = ""
    trace: list[str] = field(default_factory=list)
    canonical: Set[State] = field(default_factory=set, repr=False)

    def __str__(self) -> str:
        scope = "all there are" if self.is_complete else "all within it"
        text = (
            f"{self.title}: {self.states} states, {self.transitions} transitions, depth {self.depth} ({scope}), "
            f"{self.machine_runs} machine runs, {self.seconds:.1f} s"
        )
        return "\n".join([text, *(f"violation: {self.violation}" for _ in self.violation[:1]), *self.trace])


def subsets(names: Iterable[str]) -> Iterator[frozenset[str]]:
    listed = sorted(names)
    return map(frozenset, chain.from_iterable(combinations(listed, size) for size in range(len(listed) + 1)))


class Checker:
    """Explores one configuration.

    Args:
        n, c: sites, and how many of them are the adversary's.
        start: ``"setup"``: keys are set up, nothing announced. ``"uploads"``: every combination of announcements.
        restarts: whether sites may crash and start again.
        is_symmetric: explore one of the states that differ by a permutation of honest sites.
        changes: of the descriptor: threshold, min_cohort.
    """

    def __init__(
        self,
        n: int,
        c: int,
        *,
        start: str = "uploads",
        restarts: bool = False,
        is_symmetric: bool = True,
        **changes: int,
    ) -> None:
        assert not (restarts and is_symmetric)
        self.sites = Sites(n, c, **changes)
        self.honest, self.colluders = self.sites.honest, self.sites.colluders
        self.start, self.restarts = start, restarts
        descriptor = self.sites.descriptor
        self.threshold = descriptor.threshold
        required = survivors_required(descriptor.threshold, descriptor.min_cohort)
        self._adversary = Adversary(self.colluders, self.threshold, required)
        self.title = f"n={n} c={c} t={self.threshold} min_cohort={descriptor.min_cohort} from {start}"
        self.title += ", with restarts" if restarts else ""
        self._ids: dict[tuple[str, Label], int] = {}
        self.labels: list[tuple[str, Label]] = []
        self.known: list[Known] = []
        self._after: dict[Any, tuple[tuple[int, Move], ...]] = {}
        self._maps = [dict(zip(self.honest, order, strict=True)) for order in permutations(self.honest)]
        if not is_symmetric:
            del self._maps[1:]
        # where each permutation puts the site at each place
        self._places = [[self.honest.index(one[name]) for name in self.honest] for one in self._maps]
        self._permuted: list[dict[int, int]] = [{} for _ in self._maps]

    # The search.

    def run(self, depth: int = 99) -> Explored:
        """Explore to ``depth`` deliveries, or the first violation."""
        found = Explored(self.title)
        began, visited = time.monotonic(), dict[State, tuple[State | None, int, int, int]]()
        frontier: list[State] = []

        def reach(state: State, before: State | None, site: int) -> bool:
            least, how = self.canonical(state)
            if least in visited:
                return False
            visited[least] = before, site, state[site], how
            found.violation = self.violation(least)
            found.trace = self._trace(visited, least) if found.violation else []
            frontier.append(least)
            return bool(found.violation)

        is_over = any(reach(state, None, 0) for state in self.first_states())
        while frontier and not is_over and found.depth < depth:
            explored, frontier = frontier, []
            for state in explored:
                for site in range(len(state)):
                    for label, _ in self.successors(state, site):
                        found.transitions += 1
                        is_over = is_over or reach((*state[:site], label, *state[site + 1 :]), state, site)
                if is_over:
                    break
            found.depth += bool(frontier)
        self.sites.check_unchanged()
        found.is_complete = not frontier
        found.states, found.canonical = len(visited), visited.keys()
        found.machine_runs, found.seconds = self.sites.machine_runs, time.monotonic() - began
        return found

    def first_states(self) -> Iterator[State]:
        idle = tuple(self._id(name, Label((), self.sites.first[name])) for name in self.honest)
        if self.start == "setup":
            return iter([idle])
        choices = [[after for after, _ in self._announced(label)] for label in idle]
        if self.start == "everybody":
            return iter([tuple(found[-1] for found in choices)])  # the largest subset is the last
        return iter(product(*([label, *found] for label, found in zip(idle, choices, strict=True))))

    def canonical(self, state: State) -> tuple[State, int]:
        """Return the least of the states that differ by a permutation, and which permutation leads to it."""
        if len(self._maps) == 1:
            return state, 0
        return min((self._moved(index, state), index) for index in range(len(self._maps)))

    def _permute(self, index: int, label: int) -> int:
        mapping = self._maps[index]
        name, content = self.labels[label]
        found = self._id(mapping[name], Label((), self.sites.rename(name, content.life, mapping)))
        self._permuted[index][label] = found
        return found

    def _id(self, name: str, label: Label) -> int:
        key = name, label
        if key not in self._ids:
            self._ids[key] = len(self.labels)
            self.labels.append(key)
            self.known.append(Known.of((*label.past, *label.life.sent)))
        return self._ids[key]

    # What can be done to one site, given what the others sent.

    def successors(self, state: State, site: int) -> Iterator[tuple[int, Move]]:
        """Every label that a delivery to ``site`` can lead to; sites that are out, or as before, are left away."""
        label = state[site]
        life = self.labels[label][1].life
        others = [(self.honest[at], self.known[one]) for at, one in enumerate(state) if at != site]
        yield from self._cached(("alone", label), lambda: self._alone(label))
        if life.phase in (SitePhase.JOINING, SitePhase.KEYED):
            yield from self._outcomes(label, self._setups(state, site))
        if (session := life.session) is not None:
            uploads = frozenset(name for name, known in others if session in known.uploads)
            yield from self._cached(("lock", label, uploads), lambda: self._locks(label, uploads))
        if (lock := life.lock) is not None:
            signers = frozenset(name for name, known in others if lock in known.locks)
            yield from self._cached(("reveal", label, signers), lambda: self._reveals(label, signers))

    def _cached(self, key: Any, moves: Callable[[], Iterable[Move]]) -> tuple[tuple[int, Move], ...]:
        if key not in self._after:
            self._after[key] = self._outcomes(key[1], moves())
        return self._after[key]

    def _outcomes(self, label: int, moves: Iterable[Move]) -> tuple[tuple[int, Move], ...]:
        """Make each move on the real machine; return the different labels it leads to."""
        name, (past, life) = self.labels[label]
        found: dict[int, Move] = {}
        for move in moves:
            after = self.sites.after(name, life, move)
            if after is not None and after != life:
                gone = (*past, *life.sent) if move[0] == "restart" else past
                found.setdefault(self._id(name, Label(gone, after)), move)
        return tuple(found.items())

    def _announced(self, label: int) -> tuple[tuple[int, Move], ...]:
        return self._cached(("announce", label), lambda: [("announce", names) for names in subsets(self.sites.names)])

    def _alone(self, label: int) -> Iterator[Move]:
        """Moves that take nothing from other honest sites."""
        life = self.labels[label][1].life
        everybody = frozenset(self.sites.names)
        yield from (
            ("announce", names) for names in (subsets(everybody) if life.phase is SitePhase.IDLE else [everybody])
        )
        yield from (("outcome", names) for names in (frozenset[str](), everybody))
        if life.lock is not None:
            survivors = frozenset(name for name, _ in life.lock[1])
            others = survivors - {self.labels[label][0]}
            yield from (("outcome", names) for names in (survivors, others))
            is_asked = life.phase is SitePhase.REVEALED
            yield from (("shares", life.lock, names) for names in (subsets(everybody) if is_asked else [others]))
            yield "shares", self._other(life.lock), others
        if self.restarts:
            yield ("restart",)

    def _setups(self, state: State, site: int) -> Iterator[Move]:
        name, (_, life) = self.labels[state[site]]
        sent = {self.labels[one][0]: (*self.labels[one][1].past, *self.labels[one][1].life.sent) for one in state}
        if life.phase is SitePhase.JOINING:
            lives = [
                [None, *((other, fact[1]) for fact in sent[other] if fact[0] == "advert")]
                for other in self.honest
                if other != name
            ]
            own = {(name, life.incarnation), *((one, 0) for one in self.colluders)}
            for chosen in product(*lives):
                yield "keys", frozenset(own.union(one for one in chosen if one))
        elif all(("ciphertexts", life.setup) in sent[other] for other, _ in life.setup or () if other < name):
            yield "established", life.setup

    def _locks(self, label: int, uploads: frozenset[str]) -> Iterator[Move]:
        """Lock requests: ``uploads`` are the others whose true hash and shares the adversary has."""
        name, (_, life) = self.labels[label]
        is_first = life.lock is None
        for names in subsets(self.sites.names):
            truth = {one: TRUE if one in uploads or one == name else FAKE for one in names}
            shares = uploads & names
            for colluder in sorted(self.colluders & names)[:1]:
                yield "lock", _items(truth | {colluder: OTHER}), shares
            yield "lock", _items(truth), shares
            yield "lock", _items(truth), uploads
            if is_first:
                yield "lock", _items(truth), frozenset()
                yield from (("lock", _items(truth | {one: FAKE}), shares - {one}) for one in sorted(names))

    def _reveals(self, label: int, signers: frozenset[str]) -> Iterator[Move]:
        """Reveal requests: ``signers`` are the others that signed the same lock."""
        name, (_, life) = self.labels[label]
        lock = life.lock
        assert lock is not None
        available = signers | {name} | self.colluders
        for names in subsets(available) if life.phase is SitePhase.LOCKED else [available]:
            genuine = tuple((one, "genuine") for one in sorted(names))
            forged = tuple((one, "forged") for one, _ in sorted(lock[1]) if one not in names | self.colluders)
            yield "reveal", lock, genuine
            yield "reveal", lock, genuine + forged
        yield "reveal", lock, ((name, "genuine"),) * self.threshold
        yield "reveal", self._other(lock), tuple((one, "genuine") for one in self.colluders)

    def _other(self, lock: Digest) -> Digest:
        """Another lock of the session, that nobody signed: its hashes are made up."""
        return lock[0], frozenset((name, OTHER) for name, _ in lock[1])

    def violation(self, state: State) -> str:
        """Say which invariant does not hold, or nothing."""
        known = dict(zip(self.honest, (self.known[label] for label in state), strict=True))
        return self._adversary.violation(known)

    def _trace(self, visited: dict[State, tuple[State | None, int, int, int]], state: State) -> list[str]:
        """The way to a state, in the names of its end."""
        lines: list[str] = []
        names = {name: name for name in self.honest}
        while True:
            before, site, after, how = visited[state]
            back = {new: old for old, new in self._maps[how].items()}
            names = {old: names[new] for new, old in back.items()}
            if before is None:
                raw = [self.labels[label] for label in self._moved(self._maps.index(back), state)]
                told = [f"{names[name]} was announced {_told(label.life, names)}" for name, label in raw]
                return [f"  0. {'; '.join(told)}", *(f"  {i}. {line}" for i, line in enumerate(reversed(lines), 1))]
            move = next(move for label, move in self.successors(before, site) if label == after)
            lines.append(f"to {names[self.honest[site]]}: {_described(renamed(move, names))}")
            state = before

    def orbit_size(self, state: State) -> int:
        """How many states differ from this one by a permutation, itself included."""
        return len({self._moved(index, state) for index in range(len(self._maps))})

    def _moved(self, index: int, state: State) -> State:
        other = [0] * len(state)
        for at, label in enumerate(state):
            found = self._permuted[index].get(label)
            other[self._places[index][at]] = self._permute(index, label) if found is None else found
        return tuple(other)


def _items(survivors: dict[str, str]) -> Survivors:
    return frozenset(survivors.items())


def _told(life: Life, names: dict[str, str]) -> str:
    return "nothing" if life.session is None else f"with {spelt(renamed(life.session[1], names))}"


def _described(move: Move) -> str:
    match move:
        case ("announce", names):
            return f"announcement of a step with {spelt(names)}"
        case ("lock", survivors, dealers):
            return f"lock request for {spelt(survivors)}, with shares of {spelt(dealers)}"
        case ("reveal", (_, survivors), signatures):
            return f"reveal request for {spelt(survivors)}, signed by {spelt(signatures)}"
        case ("shares", (_, survivors), dealers):
            return f"request for the shares of {spelt(dealers)}, for {spelt(survivors)}"
        case (kind, *content):
            return f"{kind} {' '.join(map(spelt, content))}"
    raise AssertionError(move)


class Configuration(NamedTuple):
    """What is explored, and how deep; with restarts, without symmetry."""

    n: int
    c: int
    t: int
    depth: int = 99
    start: str = "uploads"
    restarts: bool = False
    min_cohort: int = 2

    def checker(self) -> Checker:
        changes = {"threshold": self.t, "min_cohort": self.min_cohort}
        return Checker(
            self.n, self.c, start=self.start, restarts=self.restarts, is_symmetric=not self.restarts, **changes
        )


#: Explored by ``make model-check``.
DEEP = (
    Configuration(3, 1, 3, start="setup", restarts=True),
    Configuration(4, 1, 3, start="setup", restarts=True),
    Configuration(4, 1, 4, start="setup", restarts=True),
    Configuration(4, 2, 4, start="setup", restarts=True),
    Configuration(4, 1, 3, min_cohort=4),
    Configuration(5, 1, 5),
    Configuration(5, 2, 4),
    Configuration(5, 2, 5),
    Configuration(5, 3, 5, start="setup", restarts=True),
    Configuration(5, 1, 4),
)

if __name__ == "__main__":
    for one in DEEP:
        explored = one.checker().run(one.depth)
        print(explored, flush=True)
        if explored.violation:
            sys.exit(1)
