"""Joint noise: shares that add up to the whole, a sensitivity that holds after rounding, and one step for all."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.joint import MIN_SHARE_UNITS, NOISE_REACH, JointGrid, joint_contribution, joint_gradient
from privacy.order import Order, TrainingSpec
from privacy.randomness import SeededRandomSource
from privacy.secagg.encoding import encode
from tacit.errors import TrainingError

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


def grid(**changes: float) -> JointGrid:
    fields = {"scale": 2.0**12, "value_bound": 64.0, "ring_bits": 32, "summands": 4, "honest": 2, "length": LENGTH}
    return JointGrid(**(fields | changes))  # type: ignore[arg-type]


def source(seed: object) -> SeededRandomSource:
    return SeededRandomSource(7, f"joint/{seed}")


def contribution(site: str, clipped_sum: np.ndarray, where: JointGrid) -> np.ndarray:
    made = joint_contribution(clipped_sum, TRAINING, where, noise=source(site), rounding=source(site + "/rounding"))
    return made.view(np.int32).astype(np.int64)


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
        joint_contribution(np.zeros(3), TRAINING, grid(), noise=source("n"), rounding=source("r"))


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


def test_the_gradient_is_the_sum_over_the_agreed_batch_of_the_survivors(make_joint_order: object) -> None:
    order: Order = make_joint_order()  # type: ignore[operator]
    units = np.array([2000, -500, 0], dtype=np.int64)
    total = units.astype(np.uint32)
    found = joint_gradient(total, 3, order)
    assert np.allclose(found, units / order.secagg.scale / (order.training.expected_batch_size * 3))


@pytest.fixture
def make_joint_order() -> object:
    digest = "sha256:" + "0" * 64

    def make() -> Order:
        return Order.model_validate(
            {
                "run_id": "0123456789abcdef",
                "run_name": "joint",
                "epoch": 1,
                "round": 1,
                "rounds_planned": 1,
                "step": 1,
                "strategy": "joint-dp-sgd",
                "mode": "joint",
                "unit": "record",
                "adjacency": "add-remove",
                **dict.fromkeys(
                    ("agreement_digest", "base_model_digest", "adapter_layout_digest", "adapter_state_digest"), digest
                ),
                "adapter_length": 3,
                "lora": {"rank": 2, "alpha": 2.0, "targets": ["query"]},
                "labels": ["a", "b"],
                "training": TRAINING.model_dump(),
                "secagg": {
                    "steps": 3,
                    "cohort": ["a", "b", "c"],
                    "threshold": 3,
                    "min_cohort": 3,
                    "scale": 1000.0,
                    "value_bound": 64.0,
                },
                "deadline_s": 60.0,
            }
        )

    return make
