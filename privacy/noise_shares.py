"""Noise in shares: how sites put their vectors on the integer grid of a secure sum that carries the whole noise.

Every site rounds its vector to the grid and adds a *share* of the noise; only the sum of all sites is ever opened. With
``h`` honest sites in every sum, shares of standard deviation ``sigma * sensitivity / sqrt(h)`` add up to at least
``sigma * sensitivity``, whatever the others send. Modes ``joint`` and ``site`` differ in what the vector is.

- **Sensitivity after rounding.** Leaving out one unit (a record's gradient, a site's update) changes what was clipped
  by at most C in L2 norm. Rounding with the same random draws moves a coordinate by at most one unit more than that, so
  on a grid of ``scale`` units the whole vector changes by at most ``C * scale + sqrt(d)`` units (triangle inequality;
  the draws do not depend on the data, so this holds for each outcome of them). Noise is sized for that. Clipping
  coordinates before only shrinks the change.
- **Layers.** A share is the sum of independent layers. What is left when some are taken off suffices for the sites
  that really survived: with u of them, shares of ``sigma * sensitivity / sqrt(u - c)`` (:meth:`ShareGrid.layers`). Each
  layer is drawn from a seed, and shown only when enough sites are locked (:mod:`privacy.secagg.surplus`).
- **Rounded Gaussian noise.** For an integer vector x, ``x + round(N)`` is ``round(x + N)``: post-processing of the
  Gaussian mechanism, whose accounting therefore holds as it is. A sum of rounded layers is, up to an aliasing error
  that layers of :data:`MIN_SHARE_UNITS` make smaller than any delta, what rounding a Gaussian plus independent uniform
  numbers gives, which is post-processing again (docs/privacy.md).
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.events import SMALLEST_SHARE_UNITS, PrivacyMode
from privacy.order import Order, TrainingSpec
from privacy.randomness import RandomSource, SeedStream, standard_normal
from privacy.secagg.encoding import encode
from privacy.secagg.ring import RingVector
from privacy.secagg.surplus import SEED_BYTES, Contribution, SurplusLayer
from privacy.secagg.threshold import survivors_required
from tacit.errors import TrainingError

#: Smallest standard deviation of a share, in grid units: the aliasing error is then below 2^-400.
MIN_SHARE_UNITS = SMALLEST_SHARE_UNITS
#: A share stays within this many standard deviations but for one coordinate in 2^107.
NOISE_REACH = 12.0
#: Most layers that may be taken off: each costs every site, and the coordinator for every site, a draw of the vector.
MAX_LAYERS = 3
#: Most threads that draw layers at the coordinator; each needs a vector of its own.
MAX_DRAWERS = 8
#: Coordinates drawn at once from a layer's seed; part of what a seed stands for.
_LAYER_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Layer:
    """A part of every site's share that nobody needs once ``survivors`` sites are in the sum."""

    survivors: int
    #: on each coordinate, in units of the vector
    stddev: float


@dataclass(frozen=True)
class ShareGrid:
    """How the contributions to a sum are put on the integer grid.

    Args:
        scale: units of the grid in one unit of the vector.
        value_bound: contributions, noise included, stay within this, in units of the vector.
        ring_bits: of the secure sum.
        summands: sites that may be in a sum.
        honest: sites in every sum that add their share: the fewest a sum opens over, less the collusion bound.
        length: coordinates.
        absent: how many of the sites may be missing from a sum.
    """

    scale: float
    value_bound: float
    ring_bits: int
    summands: int
    honest: int
    length: int
    absent: int = 0

    @classmethod
    def of(cls, order: Order, collusion_bound: int) -> ShareGrid:
        """The grid of an order's sums; ``collusion_bound`` comes from the agreement."""
        secagg = order.secagg
        fewest = survivors_required(secagg.threshold, secagg.min_cohort)
        return cls(
            scale=secagg.scale,
            value_bound=secagg.value_bound,
            ring_bits=secagg.ring_bits,
            summands=len(secagg.cohort),
            honest=fewest - collusion_bound,
            length=order.vector_length,
            absent=len(secagg.cohort) - fewest,
        )

    def share_stddev(self, training: TrainingSpec) -> float:
        """Standard deviation of one site's whole share on each coordinate, in units of the vector."""
        return self._sum_stddev(training) / math.sqrt(self.honest)

    def kept_stddev(self, training: TrainingSpec, survivors: int) -> float:
        """What is left of a share when every layer that is surplus over ``survivors`` sites was taken off."""
        taken = [layer.survivors for layer in self.layers(training) if layer.survivors <= survivors]
        more = taken[-1] - (self.summands - self.absent) if taken else 0
        return self._sum_stddev(training) / math.sqrt(self.honest + more)

    def layers(self, training: TrainingSpec) -> tuple[Layer, ...]:
        """What of a share can be taken off, for ever more survivors.

        With u survivors, u - c are honest, and shares of variance V / (u - c) make up the whole noise V. A layer is the
        difference between two such variances. There are at most ``MAX_LAYERS``, the last for nobody lost; between their
        numbers of survivors a sum keeps the noise of the lower. No layer is finer than the grid allows: if one had to
        be, there are none.
        """
        steps = self._honest_at_layers()
        variance = self._sum_stddev(training) ** 2
        found = []
        for fewer, more in itertools.pairwise((self.honest, *steps)):
            stddev = math.sqrt(variance * ((more - fewer) / (more * fewer)))
            found.append(Layer(self.summands - self.absent - self.honest + more, stddev))
        rest = math.sqrt(variance / steps[-1]) if steps else math.inf
        if min([rest, *(layer.stddev for layer in found)]) * self.scale < MIN_SHARE_UNITS:
            return ()
        return tuple(found)

    def _sum_stddev(self, training: TrainingSpec) -> float:
        """Of the noise that honest sites' shares make up in every sum."""
        sensitivity = training.l2_clip_norm + math.sqrt(self.length) / self.scale
        return training.noise_multiplier * sensitivity

    def _honest_at_layers(self) -> tuple[int, ...]:
        """How many honest sites there are, at least, when a layer may be shown; ascending."""
        last = self.honest + self.absent
        # half of those who may be absent, a quarter, none
        absent = sorted({self.absent // 2, self.absent // 4, 0}) if self.absent > MAX_LAYERS else range(self.absent)
        return tuple(last - each for each in sorted(absent, reverse=True))

    def sum_bound(self, training: TrainingSpec) -> float:
        """What each coordinate of a vector is clipped to before the noise.

        Raises:
            TrainingError: the grid is too coarse for the noise, or has no room beside it.
        """
        share = self.share_stddev(training)
        if share * self.scale < MIN_SHARE_UNITS:
            raise TrainingError(
                f"a noise share of {share:g} is {share * self.scale:.3g} units of the grid; expected at least "
                f"{MIN_SHARE_UNITS:g}",
                hint="use a ring of more bits, or a smaller value bound",
            )
        bound = self.value_bound - NOISE_REACH * share
        if bound <= 0:
            raise TrainingError(
                f"value bound {self.value_bound:g} leaves no room beside noise shares of {share:g}; expected more than "
                f"{NOISE_REACH * share:g}",
                hint="raise value_bound in [encoding]",
            )
        return bound


def noised_contribution(
    vector: npt.NDArray[np.float64],
    training: TrainingSpec,
    grid: ShareGrid,
    *,
    noise: RandomSource,
    rounding: RandomSource,
) -> Contribution:
    """Return a site's contribution to a sum: its vector, rounded, and a noise share in layers, ring elements [d].

    Args:
        vector: float64 [d]; leaving out one unit changes it by at most ``training.l2_clip_norm`` in L2 norm.
        training: clip norm and noise multiplier, both of the whole sum.
        grid: of the secure sum.
        noise: where the share comes from.
        rounding: randomness of the rounding; must not depend on the data.

    Raises:
        TrainingError: see :meth:`ShareGrid.sum_bound`, or another length.
        EncodingRange: the sum could wrap, or the vector is not finite.
    """
    if vector.shape != (grid.length,):
        raise TrainingError(f"a vector of shape {vector.shape} was given, expected ({grid.length},)")
    bound = grid.sum_bound(training)
    encoded = encode(
        np.clip(vector, -bound, bound),
        grid.scale,
        grid.value_bound,
        rounding,
        summands=grid.summands,
        bits=grid.ring_bits,
    )
    rest_units = grid.kept_stddev(training, grid.summands) * grid.scale
    drawn = np.rint(rest_units * standard_normal(noise, grid.length)).astype(np.int64)
    encoded += drawn.astype(encoded.dtype)
    surplus = []
    for layer in grid.layers(training):
        shown = SurplusLayer(layer.survivors, noise.bytes(SEED_BYTES))
        for block, part in _layer_blocks(shown.seed, layer.stddev * grid.scale, encoded):
            block += part
        surplus.append(shown)
    return Contribution(encoded, tuple(surplus))


@dataclass(frozen=True)
class SharedNoiseSurplus:
    """What a coordinator has to know to take surplus noise off an order's sums: see :class:`SurplusNoise`."""

    #: standard deviations in grid units
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, order: Order, collusion_bound: int) -> SharedNoiseSurplus | None:
        """Of an order; None in modes whose noise is not shared."""
        if order.mode is PrivacyMode.LOCAL:
            return None
        grid = ShareGrid.of(order, collusion_bound)
        found = grid.layers(order.training)
        return cls(tuple(Layer(each.survivors, each.stddev * grid.scale) for each in found))

    @property
    def survivors(self) -> tuple[int, ...]:
        """How many survivors it takes to show each layer, ascending."""
        return tuple(layer.survivors for layer in self.layers)

    def take_off(self, total: RingVector, shown: Sequence[tuple[int, bytes]]) -> None:
        """Subtract layers, each a number from zero with a site's seed for it, from ``total``, ring elements [d], in
        place. Drawn on several cores: in the ring the order of additions changes nothing."""
        drawers = min(len(shown), _cores(), MAX_DRAWERS)
        if drawers < 2:
            self._subtract(shown, total)
            return
        with ThreadPoolExecutor(drawers, thread_name_prefix="surplus") as pool:
            parts = [np.zeros_like(total) for _ in range(drawers)]
            list(pool.map(self._subtract, [shown[first::drawers] for first in range(drawers)], parts))
        for part in parts:
            total += part

    def _subtract(self, shown: Sequence[tuple[int, bytes]], vector: RingVector) -> None:
        for layer, seed in shown:
            for block, part in _layer_blocks(seed, self.layers[layer].stddev, vector):
                block -= part


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _layer_blocks(seed: bytes, units: float, vector: RingVector) -> Iterator[tuple[RingVector, RingVector]]:
    """Pieces of ``vector`` and of the layer that belongs to them, for it is drawn a block at a time."""
    source = SeedStream(seed)
    for start in range(0, len(vector), _LAYER_BLOCK):
        block = vector[start : start + _LAYER_BLOCK]
        drawn = np.rint(units * standard_normal(source, len(block))).astype(np.int64)
        yield block, drawn.astype(vector.dtype)
