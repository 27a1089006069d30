"""Mode ``site``: one clipped vector a site, held against a naive sum in whole numbers, and noise that is all there."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.events import IntegerGrid
from privacy.noise_shares import ShareGrid
from privacy.order import TrainingSpec
from privacy.randomness import SeededRandomSource, standard_normal
from privacy.site_delta import clipped_delta, site_contribution
from tests.privacy.constant_source import ConstantSource

CLIP = 0.7
TRAINING = TrainingSpec(
    local_steps=3,
    sample_rate=0.1,
    expected_batch_size=50.0,
    noise_multiplier=1.2,
    l2_clip_norm=CLIP,
    learning_rate=0.1,
    momentum=0.5,
    max_tokens=8,
)
#: five sites, threshold four, one may collude
HONEST, SITES = 3, 5


def grid(length: int, scale: float = 2.0**16, value_bound: float = 64.0, ring_bits: int = 32) -> ShareGrid:
    return ShareGrid(scale, value_bound, ring_bits, summands=SITES, honest=HONEST, length=length)


def source(label: object) -> SeededRandomSource:
    return SeededRandomSource(11, f"site/{label}")


def contribution(delta: np.ndarray, where: ShareGrid, label: object, rounding: object = None) -> np.ndarray:
    drawn = source(f"{label}/rounding") if rounding is None else rounding
    return site_contribution(delta, TRAINING, where, noise=source(label), rounding=drawn).vector  # type: ignore[arg-type]


def naive_contribution(delta: np.ndarray, where: ShareGrid, label: object) -> list[int]:
    """One coordinate at a time, in fractions and whole numbers; only the random streams are the same."""
    exact = [Fraction(float(value)) for value in delta]
    squares = sum(value * value for value in exact)
    if squares > Fraction(CLIP) ** 2:
        factor = Fraction(CLIP) / Fraction(math.isqrt(int(squares * 10**40)) + 1, 10**20)
        exact = [value * factor for value in exact]
    words = np.frombuffer(source(f"{label}/rounding").bytes(4 * len(exact)), dtype="<u4")
    rounded = []
    for value, word in zip(exact, words, strict=True):
        units, u = value * Fraction(where.scale), Fraction(int(word), 2**32)
        is_up = u < units - math.floor(units) if where.ring_bits == 64 else 1 - u <= units - math.floor(units)
        rounded.append(math.floor(units) + is_up)
    sensitivity = CLIP * where.scale + math.sqrt(len(exact))
    share = 1.2 * sensitivity / math.sqrt(HONEST)
    drawn = standard_normal(source(label), len(exact))
    return [units + round(share * float(z)) for units, z in zip(rounded, drawn, strict=True)]


@pytest.mark.parametrize("ring_bits", [16, 32, 64])
def test_the_sum_is_that_of_whole_numbers_added_one_by_one(ring_bits: int) -> None:
    length = 400
    where = grid(length, scale=2.0**7 if ring_bits == 16 else 2.0**16, value_bound=40.0, ring_bits=ring_bits)
    random = np.random.default_rng(5)
    deltas = [random.normal(0, size, length) for size in (1e-4, 0.02, 0.1, 3.0, 0.0)]
    total = sum(contribution(delta, where, site) for site, delta in enumerate(deltas))
    expected = np.zeros(length, dtype=object)
    for site, delta in enumerate(deltas):
        expected += np.array(naive_contribution(delta, where, site), dtype=object)
    found = total.view(f"<i{ring_bits // 8}").astype(object)
    # a product that falls within 2^-32 of a whole number may be rounded to the other side: five summands
    apart = np.abs(found - expected)
    assert apart.max() <= 1
    assert (apart != 0).mean() < 0.01


@pytest.mark.parametrize("length", [20_000])
def test_the_honest_shares_of_a_sum_are_the_whole_noise(length: int) -> None:
    """Chi-square bounds that a share made for one site more or fewer would not pass."""
    where = grid(length)
    whole = 1.2 * (CLIP * where.scale + math.sqrt(length))
    low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], length)

    def accepts(shares: int) -> bool:
        total = sum(contribution(np.zeros(length), where, site) for site in range(shares))
        noise = total.view("<i4").astype(float)
        return bool(low < float((noise**2).sum()) / whole**2 < high)

    assert accepts(HONEST)
    assert not accepts(HONEST - 1)
    assert not accepts(HONEST + 1)


def adversarial(kind: str, length: int, scale: float, random: np.random.Generator) -> np.ndarray:
    """Deltas that rounding moves as far as it can."""
    if kind == "random":
        return random.normal(0, 10.0 ** random.uniform(-6, 2), length)
    if kind == "one coordinate":
        delta = np.zeros(length)
        delta[0] = CLIP
        return delta
    if kind == "just above whole units":
        return (random.integers(-2, 3, length) + 1e-9) / scale
    if kind == "just below whole units":
        return (random.integers(-2, 3, length) - 1e-9) / scale
    # all of one size, which clipping leaves at the bound: triangle inequality with equality but for rounding
    return np.full(length, random.choice([CLIP / math.sqrt(length), 1e3]))


# the rounding's worst draws beside usual ones: all zeros or all ones, so that no fraction is rounded up, or every one
@pytest.mark.parametrize("draws", [None, 0x00, 0xFF])
@pytest.mark.parametrize("ring_bits", [32, 64])
@pytest.mark.parametrize(
    "kind", ["random", "one coordinate", "just above whole units", "just below whole units", "all the same"]
)
def test_zeroing_one_site_moves_the_sum_by_no_more_than_is_noised_for(
    kind: str, ring_bits: int, draws: int | None
) -> None:
    """Brute force: everything else in the sum, the site's own share of the noise included, is the same."""
    random = np.random.default_rng(3)
    worst = 0.0
    for trial in range(40):
        length = int(random.integers(1, 300))
        # coarse grids too, on which rounding counts for more than the clip norm
        scale = float(2.0 ** random.integers(5, 18))
        where = grid(length, scale, ring_bits=ring_bits)
        bound = IntegerGrid(l2_clip_norm=CLIP, scale=scale, dimension=length).l2_sensitivity
        delta = adversarial(kind, length, scale, random)
        others = sum(contribution(random.normal(0, 1, length), where, f"other {trial} {at}") for at in range(2))
        with_it, without = (
            contribution(vector, where, trial, None if draws is None else ConstantSource(draws)) + others
            for vector in (delta, np.zeros(length))
        )
        moved = np.ascontiguousarray(with_it - without).view(f"<i{ring_bits // 8}").astype(float)
        worst = max(worst, float(np.linalg.norm(moved)) / bound)
    assert worst <= 1.0
    if (ring_bits, draws, kind) == (32, 0xFF, "all the same"):
        # the bound is not a loose one: worst draws on the worst vector come near it
        assert worst > 0.8


@settings(max_examples=150, derandomize=True)
@given(st.integers(0, 2**32), st.integers(1, 200), st.floats(-30, 30))
def test_a_clipped_update_is_within_the_norm_in_exact_arithmetic(seed: int, length: int, exponent: float) -> None:
    delta = np.random.default_rng(seed).normal(0, 10.0**exponent, length)
    clipped = clipped_delta(delta, CLIP)
    assert sum(Fraction(float(value)) ** 2 for value in clipped) <= Fraction(CLIP) ** 2
    if np.linalg.norm(delta) > CLIP:
        assert np.allclose(clipped / CLIP, delta / np.linalg.norm(delta), rtol=1e-12, atol=0)
    elif np.linalg.norm(delta) < CLIP * (1 - 1e-12):
        assert np.array_equal(clipped, delta)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_diverged_counts_as_zero_and_is_no_error(bad: float) -> None:
    """An error would tell the coordinator something about the data that nobody has charged."""
    delta = np.ones(9)
    delta[4] = bad
    assert np.array_equal(clipped_delta(delta, CLIP), np.zeros(9))
    where = grid(9)
    assert np.array_equal(contribution(delta, where, "a"), contribution(np.zeros(9), where, "a"))
