"""Optimisers and schedules, each beside a naive second implementation."""

import math

import numpy as np
import pytest

from privacy.optimisers import HeavyBall, LearningRates, NoiseCorrectedAdam, optimiser_of
from privacy.options import AdamSpec, TrainingOptions
from tacit.errors import TrainingError

START = np.linspace(-1, 1, 9).astype(np.float32)


def test_everybody_takes_the_same_steps() -> None:
    gradients = np.random.default_rng(1).normal(0, 1, (4, 9))
    sites = [HeavyBall(START, momentum=0.9) for _ in range(3)]
    weights, velocity = START.astype(float), np.zeros(9)
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient
        weights = weights - 0.1 * velocity
        for site in sites:
            site.step(gradient, learning_rate=0.1, noise_variance=1.0)
    for site in sites:
        assert np.array_equal(site.vector, weights.astype(np.float32))
        assert np.array_equal(site.moved, weights - START.astype(float))


# --- DP-AdamBC -----------------------------------------------------------------------------------------------------


def naive_adam(
    start: np.ndarray, gradients: np.ndarray, rates: list[float], variances: list[float], spec: AdamSpec
) -> np.ndarray:
    """Tang et al. 2024, algorithm 1, one coordinate after the other, moving averages written out as weighted sums."""
    result = []
    for column, weight in enumerate(start.astype(float)):
        for t in range(1, len(gradients) + 1):
            past = gradients[:t, column]
            fading1 = [(1 - spec.beta1) * spec.beta1 ** (t - i) for i in range(1, t + 1)]
            fading2 = [(1 - spec.beta2) * spec.beta2 ** (t - i) for i in range(1, t + 1)]
            first = math.fsum(w * g for w, g in zip(fading1, past, strict=True)) / math.fsum(fading1)
            second = math.fsum(w * g * g for w, g in zip(fading2, past, strict=True)) / math.fsum(fading2)
            noise = math.fsum(w * n for w, n in zip(fading2, variances[:t], strict=True)) / math.fsum(fading2)
            denominator = math.sqrt(max(second - noise, spec.variance_floor * noise))
            weight = weight - rates[t - 1] * (spec.weight_decay * weight + first / denominator)
        result.append(weight)
    return np.array(result)


@pytest.mark.parametrize(
    "spec",
    [
        AdamSpec(),
        AdamSpec(beta1=0.0, beta2=0.0, variance_floor=1e-3),
        AdamSpec(beta1=0.8, beta2=0.95, variance_floor=0.5, weight_decay=0.3),
    ],
)
def test_adam_equals_the_papers_algorithm(spec: AdamSpec) -> None:
    gradients = np.random.default_rng(2).normal(0.2, 0.5, (7, 9))
    rates = [0.1, 0.2, 0.05, 0.1, 0.3, 0.1, 0.1]
    variances = [0.2, 0.2, 0.1, 0.25, 0.2, 0.05, 0.3]
    adam = NoiseCorrectedAdam(START, spec)
    for gradient, rate, variance in zip(gradients, rates, variances, strict=True):
        adam.step(gradient, learning_rate=rate, noise_variance=variance)
    expected = naive_adam(START, gradients, rates, variances, spec)
    assert np.allclose(adam.moved, expected - START, rtol=1e-9, atol=1e-12)
    assert np.array_equal(adam.vector, (START.astype(float) + adam.moved).astype(np.float32))


def test_two_steps_of_adam_by_hand() -> None:
    """One weight, noise variance 1. Step 1: m = 2, v = 4, corrected 3. Step 2, g = 0: m = 2 (0.9) 0.1 / 0.19."""
    adam = NoiseCorrectedAdam(np.zeros(1, dtype=np.float32), AdamSpec(beta1=0.9, beta2=0.5, variance_floor=0.1))
    adam.step(np.array([2.0]), learning_rate=1.0, noise_variance=1.0)
    assert adam.moved[0] == pytest.approx(-2 / math.sqrt(3))
    adam.step(np.array([0.0]), learning_rate=1.0, noise_variance=1.0)
    # v = (0.5 * 0.5 * 4 + 0) / 0.75 = 4/3, corrected 1/3
    assert adam.moved[0] == pytest.approx(-2 / math.sqrt(3) - (0.18 / 0.19) / math.sqrt(1 / 3))


def second_moments(noise_stddev: float, told_stddev: float) -> tuple[float, float, float]:
    """(mean of the estimate, its standard error, the true second moment) over many coordinates."""
    generator = np.random.default_rng(3)
    signal, coordinates = 0.5, 20_000
    adam = NoiseCorrectedAdam(np.zeros(coordinates, dtype=np.float32), AdamSpec(beta2=0.9))
    for _ in range(20):
        gradient = signal + noise_stddev * generator.standard_normal(coordinates)
        adam.step(gradient, learning_rate=0.1, noise_variance=told_stddev**2)
    estimates = adam.second_moment
    return float(estimates.mean()), float(estimates.std() / math.sqrt(coordinates)), signal**2


def test_the_second_moment_is_that_of_the_gradient_without_its_noise() -> None:
    noise = 2.0
    mean, error, truth = second_moments(noise, noise)
    assert abs(mean - truth) < 4 * error
    # the power of the test: told two thirds or three halves of the noise, the estimate is off by far more
    for wrong in (noise * 2 / 3, noise * 3 / 2):
        mean, error, truth = second_moments(noise, wrong)
        assert abs(mean - truth) > 20 * error
    # and uncorrected it is off by the noise's variance
    mean, error, truth = second_moments(noise, 1e-9)
    assert abs(mean - truth - noise**2) < 4 * error


def test_the_floor_bounds_a_coordinate_that_shows_nothing_but_noise() -> None:
    adam = NoiseCorrectedAdam(np.zeros(1, dtype=np.float32), AdamSpec(variance_floor=0.25))
    adam.step(np.array([0.5]), learning_rate=1.0, noise_variance=1.0)  # v - noise = -0.75
    assert adam.moved[0] == pytest.approx(-0.5 / 0.5)


def test_adam_without_noise_is_refused() -> None:
    with pytest.raises(TrainingError, match="variance is 0"):
        NoiseCorrectedAdam(START, AdamSpec()).step(np.zeros(9), learning_rate=0.1, noise_variance=0.0)


def test_the_order_says_which_optimiser() -> None:
    plain = TrainingOptions(
        local_steps=1, sample_rate=0.1, noise_multiplier=1.0, l2_clip_norm=1.0, learning_rate=0.1, momentum=0.5
    )
    adam = plain.model_copy(update={"momentum": 0.0, "adam": AdamSpec(beta1=0.5)})
    gradient = np.full(9, 0.25)
    for training, moved in ((plain, -0.1 * 1.5 * 0.25 - 0.1 * 0.25), (adam, None)):
        optimiser = optimiser_of(training, START)
        for _ in range(2):
            optimiser.step(gradient, learning_rate=0.1, noise_variance=1.0)
        if moved is not None:
            assert np.allclose(optimiser.moved, moved)
        else:
            assert isinstance(optimiser, NoiseCorrectedAdam)
            assert np.allclose(optimiser.moved, -2 * 0.1 * 0.25 / math.sqrt(0.1))


# --- schedules -----------------------------------------------------------------------------------------------------


def test_a_constant_rate_is_the_order_s_own_number() -> None:
    rates = LearningRates(0.1, "constant", 0, 5)
    assert [rates.at(step) for step in range(5)] == [0.1] * 5


def test_warmup_reaches_the_full_rate_and_no_step_is_wasted_on_rate_zero() -> None:
    for schedule in ("constant", "linear", "cosine"):
        rates = LearningRates(2.0, schedule, 4, 10)  # type: ignore[arg-type]
        assert [rates.at(step) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
        assert all(rates.at(step) > 0 for step in range(10))


def test_linear_and_cosine_rates_by_hand() -> None:
    linear = LearningRates(1.0, "linear", 2, 6)
    assert [linear.at(step) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    cosine = LearningRates(1.0, "cosine", 0, 4)
    expected = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert [cosine.at(step) for step in range(4)] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_the_run_does_not_have_has_no_rate(step: int) -> None:
    with pytest.raises(TrainingError, match="the run's 5"):
        LearningRates(1.0, "linear", 0, 5).at(step)
