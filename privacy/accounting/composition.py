"""Composed privacy loss distributions, kept: one more reservation recomposes what it changes, and nothing else.

Composition does not depend on the order of events, so a set of spends has one place in a binary trie over hashes of
(noise multiplier, sample rate), whatever order they came in. A spend that is added or grows changes the nodes on its
own path, about log2(n) of n; every other node is taken from the store.

What is kept is a pure function of its key, and the key is the exact multiset of events below a node. Nothing can go
stale: another event, or one step more of the same, is another key. A number from the store is bit for bit the number
computed afresh.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

import dp_accounting
from dp_accounting.pld import privacy_loss_distribution as pld

from privacy.accounting.spends import Spend

#: What the store may hold. A distribution takes 16 bytes a bucket: kilobytes to megabytes.
LARGEST_STORE_BYTES = 256 << 20

#: Steps that are composed at once. Every composition of two cuts 1e-15 from the tails and charges it: over fewer than
#: this many steps that stays far below any delta.
_BLOCK = 64

_BYTES_PER_BUCKET = 8
# What Python itself takes for a key and an entry, so that small distributions count too.
_ENTRY_BYTES = 1024
_HASH_BITS = 256


class DistributionStore:
    """Distributions by key, the least recently used ones dropped when they take more than ``limit_bytes``.

    Thread-safe: the sites of a simulation share it.
    """

    def __init__(self, limit_bytes: int = LARGEST_STORE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, tuple[pld.PrivacyLossDistribution, int]] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: Hashable, make: Callable[[], pld.PrivacyLossDistribution]) -> pld.PrivacyLossDistribution:
        """Return what is kept under ``key``, or make and keep it. ``make`` must be a pure function of ``key``."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        # Made without the lock: two threads may make the same, and that is all.
        made = make()
        size_bytes = _size_bytes(made)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = (made, size_bytes)
                self.size_bytes += size_bytes
            while self.size_bytes > self._limit_bytes:
                _, (_, dropped) = self._kept.popitem(last=False)
                self.size_bytes -= dropped
        return made

    def clear(self) -> None:
        """Drop everything; what is asked for next is made afresh."""
        with self._lock:
            self._kept.clear()
            self.size_bytes = 0


#: The process's store.
STORE = DistributionStore()


def composed(spends: tuple[Spend, ...], width: float) -> pld.PrivacyLossDistribution:
    """Return the distribution of one or more spends of different (noise, rate), rounded up to buckets of ``width``."""
    return _subtree(tuple(sorted(spends, key=_place)), width, bit=0)


def repeated(spend: Spend, width: float) -> pld.PrivacyLossDistribution:
    """Return the distribution of all steps of one spend.

    Whole blocks of :data:`_BLOCK` steps by self-composition, which takes its time to find out where to cut the tails;
    the rest bit by bit from what fewer steps have left in the store. A run that goes on step by step, as every run
    does, mostly pays for the latter.
    """
    one = one_step(spend.noise_multiplier, spend.sample_rate, width)

    def some(steps: int) -> pld.PrivacyLossDistribution:
        if steps == 1:
            return one
        part = Spend(spend.noise_multiplier, spend.sample_rate, steps)
        return STORE.get(("repeated", part, width), lambda: made(steps))

    def made(steps: int) -> pld.PrivacyLossDistribution:
        rest = steps % _BLOCK
        if rest == 0:
            return one.self_compose(steps)
        if rest < steps:
            return some(steps - rest).compose(some(rest))
        last = steps & -steps
        return some(steps // 2).compose(some(steps // 2)) if last == steps else some(steps - last).compose(some(last))

    return some(spend.steps)


def one_step(noise_multiplier: float, sample_rate: float, width: float) -> pld.PrivacyLossDistribution:
    """Return the distribution of one step, both directions of add/remove."""
    return STORE.get(
        ("step", noise_multiplier, sample_rate, width),
        lambda: pld.from_gaussian_mechanism(
            noise_multiplier,
            pessimistic_estimate=True,
            value_discretization_interval=width,
            sampling_prob=sample_rate,
            use_connect_dots=True,
            neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        ),
    )


def _subtree(spends: tuple[Spend, ...], width: float, bit: int) -> pld.PrivacyLossDistribution:
    """Compose ``spends``, sorted by place and equal in the bits of their places before ``bit``."""
    if len(spends) == 1:
        return repeated(spends[0], width)

    def halves() -> pld.PrivacyLossDistribution:
        for at in range(bit, _HASH_BITS):
            left = sum(not _place(spend) >> (_HASH_BITS - 1 - at) & 1 for spend in spends)
            if 0 < left < len(spends):
                return _subtree(spends[:left], width, at + 1).compose(_subtree(spends[left:], width, at + 1))
        raise AssertionError("two spends of one (noise multiplier, sample rate): merge them first")

    return STORE.get(("set", spends, width), halves)


def _place(spend: Spend) -> int:
    """Where a spend sits in the trie; its number of steps does not move it."""
    pair = struct.pack(">dd", spend.noise_multiplier, spend.sample_rate)
    return int.from_bytes(hashlib.sha256(pair).digest(), "big")


def _size_bytes(distribution: pld.PrivacyLossDistribution) -> int:
    # dp_accounting shows no size; its minor version is pinned.
    pmfs = (distribution._pmf_remove, distribution._pmf_add)
    return _ENTRY_BYTES + _BYTES_PER_BUCKET * sum(int(pmf.size) for pmf in pmfs)
