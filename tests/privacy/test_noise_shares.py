"""Noise in shares: they add up to the whole, and the sensitivity that they are sized for holds after rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy import noise_shares
from privacy.events import PrivacyMode
from privacy.noise_shares import (
    MAX_LAYERS,
    MIN_SHARE_UNITS,
    NOISE_REACH,
    Layer,
    SharedNoiseSurplus,
    ShareGrid,
    noised_contribution,
)
from privacy.order import Order, TrainingSpec
from privacy.randomness import SeededRandomSource, SeedStream, standard_normal
from privacy.secagg.encoding import encode
from tacit.errors import TrainingError
from tests.privacy.accounting.test_joint import JOINT_ORDER

TRAINING = TrainingSpec(
    local_steps=3,
    sample_rate=0.1,
    expected_batch_size=50.0,
    noise_multiplier=1.5,
    l2_clip_norm=2.0,
    learning_rate=0.1,
    momentum=0.5,
    max_tokens=8,
)
LENGTH = 20_000


def grid(**changes: float) -> ShareGrid:
    fields = {"scale": 2.0**12, "value_bound": 64.0, "ring_bits": 32, "summands": 4, "honest": 2, "length": LENGTH}
    return ShareGrid(**(fields | changes))  # type: ignore[arg-type]


def source(seed: object) -> SeededRandomSource:
    return SeededRandomSource(7, f"joint/{seed}")


def contribution(site: str, clipped_sum: np.ndarray, where: ShareGrid) -> np.ndarray:
    made = noised_contribution(clipped_sum, TRAINING, where, noise=source(site), rounding=source(site + "/rounding"))
    return made.vector.view(np.int32).astype(np.int64)


def accepts(noise_units: np.ndarray, stddev_units: float) -> bool:
    """Whether the noise's variance is that of ``stddev_units``, within 5 standard errors of a chi-square."""
    count = noise_units.size
    ratio = float((noise_units.astype(float) ** 2).sum()) / stddev_units**2
    return abs(ratio - count) < 5 * math.sqrt(2 * count)


def test_shares_of_the_guaranteed_honest_sites_add_up_to_the_whole_noise() -> None:
    """And the test would see two thirds or three halves of it."""
    where = grid()
    sensitivity_units = TRAINING.l2_clip_norm * where.scale + math.sqrt(LENGTH)
    whole = TRAINING.noise_multiplier * sensitivity_units
    zeros = np.zeros(LENGTH)
    total = sum(contribution(f"site {index}", zeros, where) for index in range(where.honest))
    assert accepts(total, whole)
    assert not accepts(total, whole * 2 / 3)
    assert not accepts(total, whole * 3 / 2)
    assert stats.kstest(total / whole, "norm").pvalue > 1e-4


@pytest.mark.parametrize("honest", [1, 2, 5, 9])
def test_the_share_follows_from_the_sites_that_are_honest_for_certain(honest: int) -> None:
    where = grid(honest=honest)
    expected = 1.5 * (2.0 + math.sqrt(LENGTH) / 4096) / math.sqrt(honest)
    assert where.share_stddev(TRAINING) == pytest.approx(expected, rel=1e-12)


# --- layers


@pytest.mark.parametrize(
    ("summands", "honest", "absent", "expected"),
    [
        (4, 2, 0, ()),
        (4, 2, 1, (4,)),
        (10, 4, 3, (8, 9, 10)),
        (10, 2, 4, (8, 9, 10)),
        (32, 12, 10, (27, 30, 32)),
        (128, 44, 42, (107, 118, 128)),
    ],
)
def test_there_are_few_layers_and_the_last_is_for_nobody_lost(
    summands: int, honest: int, absent: int, expected: tuple[int, ...]
) -> None:
    where = grid(summands=summands, honest=honest, absent=absent, scale=2.0**16)
    assert tuple(layer.survivors for layer in where.layers(TRAINING)) == expected
    assert len(expected) <= MAX_LAYERS


@settings(max_examples=200, derandomize=True)
@given(st.integers(2, 60), st.integers(0, 40), st.integers(1, 20))
def test_what_is_left_is_enough_for_the_honest_survivors_whoever_is_lost(honest: int, absent: int, c: int) -> None:
    """Whole numbers of shares, by hand: u survivors, at most c of whom collude, and the noise they have to make up."""
    fewest = honest + c
    where = grid(summands=fewest + absent, honest=honest, absent=absent, scale=2.0**20)
    whole = TRAINING.noise_multiplier * (TRAINING.l2_clip_norm + math.sqrt(LENGTH) / where.scale)
    layers = where.layers(TRAINING)
    assert len(layers) == min(absent, MAX_LAYERS)
    total = where.share_stddev(TRAINING) ** 2
    for survivors in range(fewest, fewest + absent + 1):
        left = total - sum(layer.stddev**2 for layer in layers if layer.survivors <= survivors)
        assert where.kept_stddev(TRAINING, survivors) ** 2 == pytest.approx(left, rel=1e-9)
        assert left * (survivors - c) >= whole**2 * (1 - 1e-9)
    # with nobody lost, and with as many as may be, there is nothing to spare
    assert left * (survivors - c) == pytest.approx(whole**2, rel=1e-9)
    assert total * honest == pytest.approx(whole**2, rel=1e-9)


def test_a_grid_too_coarse_for_layers_has_none() -> None:
    """Rounded noise adds up to a Gaussian only if each piece is wide enough; a whole share still is."""
    fine = grid(summands=10, honest=4, absent=3, scale=64.0)
    units = [layer.stddev * 64.0 for layer in fine.layers(TRAINING)]
    assert min(units) >= MIN_SHARE_UNITS
    coarse = grid(summands=10, honest=4, absent=3, scale=4.0, length=100)
    assert coarse.share_stddev(TRAINING) * 4.0 >= MIN_SHARE_UNITS
    assert coarse.layers(TRAINING) == ()
    assert coarse.kept_stddev(TRAINING, 10) == coarse.share_stddev(TRAINING)
    made = noised_contribution(np.zeros(100), TRAINING, coarse, noise=source("n"), rounding=source("r"))
    assert made.surplus == ()


def order_of(mode: PrivacyMode) -> Order:
    return JOINT_ORDER.model_copy(
        update={"mode": mode, "adapter_length": 69_999, "secagg": JOINT_ORDER.secagg.model_copy(update={"steps": 1})}
    )


def test_the_coordinator_takes_off_what_the_site_added_to_the_bit() -> None:
    """Base and layers drawn again by hand from the same streams; more coordinates than are drawn at once."""
    order = order_of(PrivacyMode.JOINT)
    where = ShareGrid.of(order, collusion_bound=2)
    training = order.training
    made = noised_contribution(np.zeros(70_000), training, where, noise=source("n"), rounding=source("r"))
    surplus = SharedNoiseSurplus.of(order, collusion_bound=2)
    assert surplus is not None
    assert [layer.survivors for layer in made.surplus] == list(surplus.survivors) == [5]
    left = made.vector.copy()
    surplus.take_off(left, [(0, made.surplus[0].seed)])
    stream = source("n")
    rest = where.kept_stddev(training, 5) * where.scale * standard_normal(stream, 70_000)
    np.testing.assert_array_equal(left.view(np.int32), np.rint(rest).astype(np.int32))
    assert made.surplus[0].seed == stream.bytes(32)
    layer = made.vector - left
    assert accepts(layer.view(np.int32).astype(np.int64), surplus.layers[0].stddev)
    assert abs(np.corrcoef(layer.view(np.int32), left.view(np.int32))[0, 1]) < 0.03
    np.testing.assert_array_equal(made.vector, left + layer)


def test_a_layer_is_its_seeds_stream_a_block_at_a_time() -> None:
    surplus = SharedNoiseSurplus((Layer(5, 100.0),))
    found = np.zeros(70_000, dtype=np.uint32)
    surplus.take_off(found, [(0, bytes(range(32)))])
    stream = SeedStream(bytes(range(32)))
    drawn = np.concatenate([np.rint(100.0 * standard_normal(stream, count)) for count in (65_536, 4_464)])
    np.testing.assert_array_equal(found.view(np.int32), -drawn.astype(np.int32))
    other = np.zeros(70_000, dtype=np.uint32)
    surplus.take_off(other, [(0, bytes(32))])
    assert (found != other).mean() > 0.9


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
def test_layers_drawn_on_several_cores_are_the_same_layers(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_shares, "_cores", lambda: cores)
    surplus = SharedNoiseSurplus((Layer(5, 100.0), Layer(6, 40.0)))
    shown = [(layer, bytes([site, layer]) * 16) for site in range(5) for layer in range(2)]
    expected = np.arange(1000, dtype=np.uint32)
    for layer, seed in shown:
        drawn = np.rint(surplus.layers[layer].stddev * standard_normal(SeedStream(seed), 1000))
        expected -= drawn.astype(np.int64).astype(np.uint32)
    found = np.arange(1000, dtype=np.uint32)
    surplus.take_off(found, shown)
    np.testing.assert_array_equal(found, expected)
    surplus.take_off(found, [])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("mode", "shared"), [("joint", True), ("site", True), ("local", False)])
def test_only_shared_noise_has_a_surplus(mode: str, shared: bool) -> None:
    assert (SharedNoiseSurplus.of(order_of(PrivacyMode(mode)), collusion_bound=2) is not None) is shared


# --- the grid


@settings(max_examples=80, derandomize=True)
@given(st.integers(0, 2**32), st.floats(0.01, 2.0), st.integers(1, 400))
def test_rounding_raises_the_sensitivity_by_no_more_than_is_noised_for(seed: int, norm: float, length: int) -> None:
    """Two sums that differ by a clipped gradient, rounded with the same draws; the draws do not depend on the data."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 3, length)
    direction = rng.normal(0, 1, length)
    other = base + direction / np.linalg.norm(direction) * norm
    scale = 16.0
    rounded = [
        encode(vector, scale, 100.0, source(seed), summands=3).view(np.int32).astype(np.int64)
        for vector in (base, other)
    ]
    assert np.linalg.norm(rounded[0] - rounded[1]) <= norm * scale + math.sqrt(length)


def test_the_clipped_sum_survives_the_grid() -> None:
    where = grid(scale=2.0**16)
    clipped_sum = np.linspace(-3, 3, LENGTH)
    noise_alone = contribution("a", np.zeros(LENGTH), where)
    assert np.abs(contribution("a", clipped_sum, where) - noise_alone - clipped_sum * where.scale).max() <= 1.0


def test_a_coordinate_beyond_the_bound_is_clipped_before_the_noise() -> None:
    where = grid()
    bound = where.sum_bound(TRAINING)
    assert bound == pytest.approx(64.0 - NOISE_REACH * where.share_stddev(TRAINING))
    far = contribution("a", np.full(LENGTH, 1e6), where) - contribution("a", np.zeros(LENGTH), where)
    assert np.abs(far - bound * where.scale).max() <= 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": 1.0, "length": 1}, f"at least {MIN_SHARE_UNITS:g}"),
        ({"value_bound": 20.0}, "leaves no room"),
    ],
)
def test_a_grid_that_does_not_fit_the_noise_is_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        grid(**changes).sum_bound(TRAINING)


def test_another_length_is_refused() -> None:
    with pytest.raises(TrainingError, match="expected"):
        noised_contribution(np.zeros(3), TRAINING, grid(), noise=source("n"), rounding=source("r"))


def test_aliasing_of_the_smallest_shares_is_beyond_any_delta() -> None:
    """A sum of rounded shares against a rounded sum of the shares and uniform numbers, by brute force in mpmath.

    The pmf of one rounded share is the Gaussian's density convolved with a unit interval, at the integers; the sum's
    pmf is compared with the density of the sum of Gaussian and uniform numbers, at the integers, for h = 2.
    """
    import mpmath

    with mpmath.workdps(60):
        share = mpmath.mpf(2)  # far below the smallest allowed, where the error is still to be seen

        def pmf(k: int) -> mpmath.mpf:
            return mpmath.ncdf((k + mpmath.mpf("0.5")) / share) - mpmath.ncdf((k - mpmath.mpf("0.5")) / share)

        def density(x: int) -> mpmath.mpf:
            """Of two Gaussians and two uniform numbers: the Gaussian of variance 2 share^2 under a triangle."""
            wide = share * mpmath.sqrt(2)
            return mpmath.quad(lambda t: (1 - abs(t)) * mpmath.npdf(x - t, 0, wide), [-1, -0.5, 0, 0.5, 1])

        reach = range(-60, 61)
        gaps = []
        for k in range(8):
            convolved = mpmath.fsum(pmf(j) * pmf(k - j) for j in reach)
            gaps.append(abs(convolved - density(k)))
        # exp(-pi^2 share^2), the product of two neighbouring aliases at their meeting point, bounds it up to a constant
        assert max(gaps) < mpmath.exp(-(mpmath.pi**2) * share**2) * 10
        assert max(gaps) > 0
        smallest = mpmath.exp(-(mpmath.pi**2) * mpmath.mpf(MIN_SHARE_UNITS) ** 2) * 10
        assert smallest < mpmath.mpf(10) ** -270
