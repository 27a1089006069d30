"""The clip norm that follows a quantile: the formulas of Andrew et al. 2021, the shares of the budget, convergence."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from privacy.accounting import epsilon
from privacy.clip_norm import ClipNorm
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from privacy.options import AdaptiveClipSpec, TrainingOptions, gradient_noise_multiplier
from tacit.errors import TrainingError


def adaptive(**changes: float) -> AdaptiveClipSpec:
    return AdaptiveClipSpec(
        **{"count_noise_stddev": 5.0, "min_l2_clip_norm": 0.01, "max_l2_clip_norm": 100.0} | changes
    )


# --- the budget's shares -------------------------------------------------------------------------------------------


def test_the_papers_formula_in_numbers() -> None:
    """sigma 1, sigma_b 1: (1 - 1/4)^-1/2. And section 3.1's rule, 100 users and sigma_b = 100 / 20: nearly free."""
    assert gradient_noise_multiplier(1.0, 1.0) == pytest.approx(math.sqrt(4 / 3))
    assert gradient_noise_multiplier(1.0, 5.0) == pytest.approx(1.0050378152592121)
    assert gradient_noise_multiplier(0.6, 0.5) == pytest.approx(0.75)


@given(st.floats(0.01, 100), st.floats(0.501, 1e6))
def test_gradient_and_count_cost_together_what_was_ordered(noise_multiplier: float, ratio: float) -> None:
    count = ratio * noise_multiplier
    gradient = gradient_noise_multiplier(noise_multiplier, count)
    assert gradient >= noise_multiplier
    together = 1 / math.sqrt(1 / gradient**2 + 1 / (2 * count) ** 2)
    assert together == pytest.approx(noise_multiplier, rel=1e-6)


def test_the_pair_as_one_gaussian_costs_what_the_event_says() -> None:
    """Two Gaussian mechanisms on one full sample, composed, beside the one the ledger is charged for."""

    def event(noise_multiplier: float) -> SubsampledGaussian:
        return SubsampledGaussian(
            mode=PrivacyMode.LOCAL,
            unit=PrivacyUnit.RECORD,
            adjacency=Adjacency.ADD_REMOVE,
            noise_multiplier=noise_multiplier,
            sample_rate=1.0,
            steps=1,
        )

    sigma, count = 1.5, 1.0
    pair = epsilon([event(gradient_noise_multiplier(sigma, count)), event(2 * count)], 1e-5)
    assert pair == pytest.approx(epsilon([event(sigma)], 1e-5), rel=5e-3)
    # the shares matter: the gradient with the whole noise multiplier beside the count would cost more
    assert epsilon([event(sigma), event(2 * count)], 1e-5) > 1.2 * pair


@pytest.mark.parametrize("count_noise", [0.5, 0.49, 0.1])
def test_a_count_that_costs_the_whole_step_is_refused(count_noise: float) -> None:
    with pytest.raises(ValueError, match="above half the noise multiplier"):
        gradient_noise_multiplier(1.0, count_noise)
    with pytest.raises(TrainingError, match="above half the noise multiplier"):
        ClipNorm(1.0, 1.0, adaptive(count_noise_stddev=count_noise))
    with pytest.raises(ValidationError, match="above half the noise multiplier"):
        TrainingOptions(
            local_steps=1,
            sample_rate=0.1,
            noise_multiplier=1.0,
            l2_clip_norm=1.0,
            learning_rate=0.1,
            adaptive_clipping=adaptive(count_noise_stddev=count_noise),
        )


# --- following the quantile ----------------------------------------------------------------------------------------


def test_one_update_by_hand() -> None:
    """C <- C exp(-eta (b - gamma)): 14 of 20 not clipped, less 10, is 4; b = 4 / 20 + 1/2 = 0.7."""
    clip = ClipNorm(2.0, 1.0, adaptive(quantile=0.5, learning_rate=0.2))
    clip.follow(4.0, 20.0)
    assert clip.value == pytest.approx(2.0 * math.exp(-0.2 * 0.2), rel=1e-6)
    assert clip.noise_stddev == clip.gradient_noise_multiplier * clip.value


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_it_finds_the_quantile(quantile: float) -> None:
    """Norms lognormal, the noise of a real count, the start ten times too high."""
    generator = np.random.default_rng(4)
    norms = np.exp(generator.normal(-2.0, 0.7, 400))
    clip = ClipNorm(10 * float(np.quantile(norms, quantile)), 1.0, adaptive(quantile=quantile))
    seen = []
    for _ in range(300):
        centred = float((norms <= clip.value).sum()) - len(norms) / 2
        clip.follow(centred + 5.0 * float(generator.standard_normal()), float(len(norms)))
        seen.append(clip.value)
    reached = [float((norms <= value).mean()) for value in seen[-100:]]
    assert np.mean(reached) == pytest.approx(quantile, abs=0.03)


def test_it_stays_within_its_bounds_whatever_the_noise() -> None:
    clip = ClipNorm(1.0, 1.0, adaptive(min_l2_clip_norm=0.5, max_l2_clip_norm=1.5))
    clip.follow(-1e12, 1.0)
    assert clip.value == 1.5
    clip.follow(1e12, 1.0)
    assert clip.value == 0.5


def test_a_fixed_clip_norm_follows_nothing() -> None:
    clip = ClipNorm(0.5, 1.5)
    assert (clip.value, clip.gradient_noise_multiplier, clip.noise_stddev) == (0.5, 1.5, 0.75)
    with pytest.raises(TrainingError, match="fixed"):
        clip.follow(1.0, 10.0)


# --- one vector for the secure sum ---------------------------------------------------------------------------------


@given(st.floats(0.05, 5.0), st.floats(0.51, 50.0), st.floats(-3.0, 3.0), st.floats(0.0, 1.0), st.booleans())
def test_one_record_changes_the_joined_vector_by_at_most_the_first_clip_norm(
    noise_multiplier: float, ratio: float, moved: float, part: float, unclipped: bool
) -> None:
    clip = ClipNorm(0.7, noise_multiplier, adaptive(count_noise_stddev=ratio * noise_multiplier))
    clip.follow(moved, 1.0)
    direction = np.array([0.6, 0.0, -0.8])
    change = clip.join(part * clip.value * direction, 0.5 if unclipped else -0.5)
    assert change.shape == (4,)
    assert np.linalg.norm(change) <= 0.7 * (1 + 1e-12)
    # and a record that is clipped uses all of it: nothing is wasted
    assert np.linalg.norm(clip.join(clip.value * direction, -0.5)) == pytest.approx(0.7)


def test_joined_noise_is_the_right_noise_on_both() -> None:
    clip = ClipNorm(0.7, 1.2, adaptive(count_noise_stddev=2.0))
    clip.follow(-0.4, 1.0)
    stddev = 1.2 * 0.7
    gradient, count = clip.split(np.array([stddev, 0.0, stddev]))
    assert gradient == pytest.approx([clip.noise_stddev, 0.0])
    assert count == pytest.approx(2.0)
    assert clip.gradient_stddev(stddev) == pytest.approx(clip.noise_stddev)


def test_what_was_joined_is_split_again() -> None:
    values = np.array([0.25, -3.0, 8.0])
    clip = ClipNorm(0.7, 1.2, adaptive())
    clip.follow(0.3, 1.0)
    gradient, count = clip.split(clip.join(values, -6.5))
    assert gradient == pytest.approx(values)
    assert count == pytest.approx(-6.5)
    fixed = ClipNorm(0.7, 1.2)
    assert fixed.join(values, -6.5) is values
    assert fixed.split(values) == (pytest.approx(values), 0.0)
