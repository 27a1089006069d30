"""Noise that a sum turns out not to need: what a site shows of it, and who takes it off.

Noise is sized for the fewest sites a sum may open over. When more survive, part of each site's noise protects nobody
any more. A site draws that part in layers, each from a seed of its own, and reveals with its other seeds those layers
that the survivors *it locked* make superfluous; the coordinator draws them again and takes them off the sum ("add, then
remove": Jiang, Wang and Chen 2024). A layer that is not shown stays in the sum: more noise, never less.

What a layer is (:mod:`privacy.noise_shares`) does not matter here, only how many survivors it takes to show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from privacy.secagg.ring import RingVector

SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class SurplusLayer:
    """A layer of a site's noise: who knows ``seed`` (32 bytes) can take it off.

    Shown when ``survivors`` sites or more are locked.
    """

    survivors: int
    seed: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """What a site adds to a sum.

    Attributes:
        vector: ring elements [d], given away: it is masked where it is, so that it is in memory once, and not in clear.
        surplus: layers of the noise in it that may be taken off, for ever more survivors.
    """

    vector: RingVector
    surplus: tuple[SurplusLayer, ...] = ()


class SurplusNoise(Protocol):
    """The coordinator's knowledge of the layers that every site drew: public numbers."""

    @property
    def survivors(self) -> tuple[int, ...]:
        """How many survivors it takes to show each layer, ascending."""
        ...

    def take_off(self, total: RingVector, shown: Sequence[tuple[int, bytes]]) -> None:
        """Subtract layers, each a number from zero with a site's seed for it, from ``total``, ring elements [d], in
        place."""
        ...
