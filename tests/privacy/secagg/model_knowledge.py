"""What the adversary of the model checker can work out of all it has seen, and what it must not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from tests.privacy.secagg.model_sites import TRUE, Digest, Fact, Sess


@dataclass(frozen=True)
class Known:
    """What honest sites sent: uploads, locks, seeds (b and k), and shares (dealer, whose k or None for b, session)."""

    uploads: frozenset[Sess]
    locks: frozenset[Digest]
    seeds: frozenset[Any]
    shares: frozenset[Any]

    @classmethod
    def of(cls, facts: Iterable[Fact]) -> Known:
        found: dict[str, list[Any]] = {}
        for fact in facts:
            found.setdefault(fact[0], []).append(fact[1])
        seeds, shares = (frozenset[Any]().union(*found.get(kind, ())) for kind in ("seeds", "shares"))
        return cls(frozenset(found.get("upload", ())), frozenset(found.get("lock", ())), seeds, shares)


@dataclass(frozen=True)
class Adversary:
    """The coordinator and ``colluders``, against a ``threshold`` and a number of survivors ``required``."""

    colluders: frozenset[str]
    threshold: int
    required: int

    def violation(self, known: Mapping[str, Known]) -> str:
        """Say which invariant does not hold (:mod:`~tests.privacy.secagg.model_check`), or nothing."""
        for name, one in known.items():
            if len(one.locks) > 1:
                return f"(d) {name} signed two locks"
        quorums = self.quorums(known)
        if len(quorums) > 1:
            return "(b) two locks have a quorum: " + ", and ".join(spelt(lock[1]) for lock in quorums)
        if not any(one.seeds or one.shares for one in known.values()):
            return ""
        has = self.secrets(known)
        for kind, pair, session in has:
            if kind == "k" and not pair & self.colluders and all(("b", name, session) in has for name in pair):
                return f"(a) b of {' and '.join(sorted(pair))} and their k are known"
        sums = opened_sums({name: one.uploads for name, one in known.items()}, has, self.colluders)
        if len(sums) > 1:
            return "(b) two sums can be opened: " + ", and ".join(spelt(names) for _, names in sums)
        for session, names in sums:
            if len(names) < max(2, self.threshold - len(self.colluders)):
                return f"(c) a sum of only {spelt(names)} can be opened"
            survivors = [frozenset(one for one, _ in lock[1]) for lock in quorums if lock[0] == session]
            if not any(one - self.colluders == names and len(one) >= self.required for one in survivors):
                return f"(c) a sum of {spelt(names)} can be opened without a large enough lock of a quorum"
        return ""

    def quorums(self, known: Mapping[str, Known]) -> list[Digest]:
        """Locks that enough survivors signed, the adversary's own sites always."""
        signers: dict[Digest, int] = {}
        for lock in chain.from_iterable(one.locks for one in known.values()):
            signers[lock] = signers.get(lock, sum(name in self.colluders for name, _ in lock[1])) + 1
        return [lock for lock, count in signers.items() if count >= self.threshold]

    def secrets(self, known: Mapping[str, Known]) -> set[Any]:
        """Every b and k of honest sites that was revealed, or of which there are enough shares."""
        has: set[Any] = set().union(*(one.seeds for one in known.values()))
        holders: dict[Any, set[str]] = {}
        for name, one in known.items():
            for share in one.shares:
                holders.setdefault(share, set()).add(name)
        for (dealer, owner, session), names in holders.items():
            if len(names | (self.colluders & session[1])) >= self.threshold:
                has.add(("b", dealer, session) if owner is None else ("k", frozenset((dealer, owner)), session))
        return has


def opened_sums(
    uploads: dict[str, frozenset[Sess]], has: set[Any], colluders: frozenset[str]
) -> list[tuple[Sess, frozenset[str]]]:
    """Return the smallest sums of honest vectors that whoever ``has`` these secrets can compute.

    An upload is x + b +- k of each pair. Without b it is noise. With b, each k that is not known must cancel against
    the upload of the other site of the pair: so uploads come together, or not at all.
    """
    open_ones = {(name, one) for name, all_of_it in uploads.items() for one in all_of_it if ("b", name, one) in has}
    sums, left = [], set(open_ones)
    while left:
        todo, component, is_hidden = [left.pop()], set[str](), False
        while todo:
            name, session = todo.pop()
            component.add(name)
            for peer in session[1] - colluders - {name}:
                if ("k", frozenset((name, peer)), session) in has:
                    continue
                is_hidden = is_hidden or (peer, session) not in open_ones
                if (peer, session) in left:
                    left.remove((peer, session))
                    todo.append((peer, session))
        if not is_hidden:
            sums.append((session, frozenset(component)))
    return sums


def spelt(names: Iterable[Any]) -> str:
    """Names, with what they come with if that is not what an honest coordinator would have."""
    pairs = sorted((one, TRUE) if isinstance(one, str) else (one[0], str(one[1])) for one in names)
    return ", ".join(name if kind in (TRUE, "genuine") else f"{name} ({kind})" for name, kind in pairs) or "nobody"
