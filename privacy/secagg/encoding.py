"""Fixed point in the ring of integers mod 2^bits: from an update to what is masked, and from the sum back.

A coordinate ``x`` becomes ``x * scale`` rounded at random to one of its two neighbours so that the mean is
right (stochastic rounding; Gupta et al. 2015, section 3.1; to 2^-32 of a unit, the size of a draw), in two's
complement. Before anything is encoded
it is proved that the sum of all sites' values stays below 2^(bits-1) in magnitude, so the ring never wraps:
otherwise :class:`~tacit.errors.EncodingRange`.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from privacy.randomness import RandomSource
from privacy.secagg.ring import Ring, RingVector
from tacit.errors import EncodingRange

#: A few blocks of 8-byte numbers stay in a core's cache together.
_BLOCK = 1 << 14
_Floats = npt.NDArray[np.float64]
#: Rounding works in float64, whose integers are exact to 2^53: a grid beyond that would not be the one proved.
_EXACT = 2**53


def largest_magnitude(scale: float, value_bound: float) -> int:
    """Return ``ceil(value_bound * scale)``, exactly: how far from zero one encoded coordinate can be."""
    return math.ceil(Fraction(scale) * Fraction(value_bound))


def check_range(scale: float, value_bound: float, summands: int, bits: int = 32) -> None:
    """Prove that a sum of ``summands`` encoded vectors cannot wrap: ``summands * ceil(bound * scale) <
    2^(bits-1)``.

    Raises:
        EncodingRange: it could wrap, or the parameters are not finite and above zero.
    """
    if not (math.isfinite(scale) and math.isfinite(value_bound) and scale > 0 and value_bound > 0):
        raise EncodingRange(
            f"scale {scale} and value bound {value_bound} were given; both must be finite and above zero"
        )
    if summands < 1:
        raise EncodingRange(f"a sum of {summands} vectors was asked for; expected at least one")
    half = Ring(bits).half
    one = largest_magnitude(scale, value_bound)
    reach = summands * one
    if reach >= half:
        raise EncodingRange(
            f"{summands} sites with values up to {value_bound} at scale {scale} can reach {reach}; "
            f"a {bits}-bit ring holds sums below {half}",
            hint=f"use a scale below {half / (summands * value_bound):.6g}, or a smaller value bound",
        )
    if one >= _EXACT:
        raise EncodingRange(
            f"values up to {value_bound} at scale {scale} reach {one}; values are rounded in float64, exact to 2^53",
            hint=f"use a scale below {_EXACT / value_bound:.6g}",
        )


def encode(
    values: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    scale: float,
    value_bound: float,
    source: RandomSource,
    *,
    summands: int,
    bits: int = 32,
) -> RingVector:
    """Clip to ``[-value_bound, value_bound]``, scale, and round at random without bias.

    Args:
        values: float32 or float64, shape [d].
        scale: ring units for one unit of ``values``.
        value_bound: the clip, in units of ``values``.
        source: randomness of the rounding.
        summands: how many such vectors will be added: the size of the cohort.
        bits: of the ring.

    Returns:
        ring elements (uint16, uint32 or uint64), shape [d], two's complement.

    Raises:
        EncodingRange: the sum could wrap, or ``values`` is not a finite vector of that type.
    """
    check_range(scale, value_bound, summands, bits)
    ring = Ring(bits)
    if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
        raise EncodingRange(f"got {values.dtype}{list(values.shape)}; expected float32[d] or float64[d]")
    encoded: RingVector = np.empty(values.shape[0], dtype=ring.dtype)
    # powers of two change no digit: the product is the one with ``scale``, with its binary point moved
    places, round_block = (0, _round_wide) if bits == 64 else (32, _round_narrow)
    # The float product of bound and scale may round past the exact one, but not past the whole number above it, which
    # the proof is about: that is a float too.
    factor, limit = math.ldexp(scale, places), math.ldexp(value_bound * scale, places)
    exact, random = np.empty(_BLOCK), np.empty(_BLOCK, dtype="<u4")
    for start in range(0, values.shape[0], _BLOCK):
        block = values[start : start + _BLOCK]
        scaled, words = exact[: block.shape[0]], random[: block.shape[0]]
        # extremes are NaN or infinite if any value is
        low, high = float(block.min()), float(block.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise EncodingRange(
                "the update holds NaN or infinity, which has no fixed-point form",
                hint="lower the learning rate; a diverged round cannot be aggregated",
            )
        with np.errstate(over="ignore"):  # what grows beyond every number is clipped like what is too large
            np.multiply(block, factor, out=scaled, dtype=np.float64)
        if max(-low, high) * factor > limit:
            np.clip(scaled, -limit, limit, out=scaled)
        source.fill(words)
        round_block(scaled, words, encoded[start : start + block.shape[0]])
    return encoded


def _round_narrow(fixed: _Floats, words: npt.NDArray[np.uint32], out: RingVector) -> None:
    """Round values below 2^31 in magnitude, given with 32 binary places: a random 32-bit fraction is added and the
    places are cut off. The upper half of each 64-bit sum is its floor, so nothing has to be shifted."""
    sums = fixed.astype(np.int64)
    np.add(sums, words, out=sums, dtype=np.int64)
    floors = sums.view("<i4")[1::2]
    out.view(f"<i{out.itemsize}")[:] = floors


def _round_wide(exact: _Floats, words: npt.NDArray[np.uint32], out: RingVector) -> None:
    """Round values below 2^53 in magnitude: compare the fraction with a random one of 32 bits."""
    floors = np.floor(exact)
    is_up = words * 2.0**-32 < exact - floors
    out.view("<i8")[:] = (floors + is_up).astype(np.int64)


def decode(
    total: RingVector, scale: float, count: int, *, value_bound: float | None = None, bits: int = 32
) -> npt.NDArray[np.float64]:
    """Return the sum of ``count`` encoded vectors as float64, shape [d], in units of the update (not their
    mean).

    Args:
        total: ring elements, shape [d].
        scale: as encoded.
        count: how many vectors were added.
        value_bound: when given, the sum must also lie where ``count`` vectors within it can reach.
        bits: of the ring.

    Raises:
        EncodingRange: not a vector of the ring, no summands, or a sum that ``count`` encoded vectors cannot have.
    """
    ring = Ring(bits)
    ring.check(total)
    if count < 1:
        raise EncodingRange(f"a sum of {count} vectors cannot be decoded; expected at least one")
    if value_bound is not None:
        check_sum(total, scale, value_bound, count, bits)
    values: npt.NDArray[np.float64] = np.true_divide(ring.signed(total), scale, dtype=np.float64)
    return values


def check_sum(total: RingVector, scale: float, value_bound: float, count: int, bits: int = 32) -> None:
    """Check that ``total`` is a sum that ``count`` encoded vectors can have.

    Masks that did not cancel leave uniform ring elements, of which nearly all lie outside.

    Raises:
        EncodingRange: some coordinate is out of reach.
    """
    check_range(scale, value_bound, count, bits)
    reach = count * largest_magnitude(scale, value_bound)
    signed = Ring(bits).signed(total)
    if signed.size and (int(signed.max()) > reach or int(signed.min()) < -reach):
        raise EncodingRange(
            f"the sum lies outside what {count} sites with values to {value_bound} reach at scale {scale}: "
            "the masks did not cancel, or a site sent values beyond the bound"
        )
