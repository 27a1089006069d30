"""One step of adaptive clipping: noise on gradient and count, and what one record changes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from privacy.clip_norm import ClipNorm
from privacy.dpsgd import DpSgdPlan, clip_sample, noisy_gradient, poisson_sample
from privacy.options import AdaptiveClipSpec
from privacy.randomness import SeededRandomSource, standard_normal
from tacit.errors import TrainingError
from tests.privacy.dpsgd.test_mechanism import Model, Points, engine_of, stddev_is

PLAN = DpSgdPlan(
    sample_rate=0.5,
    noise_multiplier=1.0,
    l2_clip_norm=1.1,
    expected_batch_size=20.0,
    steps=1,
    physical_batch_size=7,
    adaptive_clipping=AdaptiveClipSpec(
        quantile=0.3, learning_rate=0.5, count_noise_stddev=1.0, min_l2_clip_norm=0.1, max_l2_clip_norm=5.0
    ),
)


def test_a_step_is_that_of_a_naive_implementation() -> None:
    """Andrew et al. 2021, algorithm 1, with the unclipped counted record by record."""
    points, clip = Points(40), PLAN.clip_norm()
    with engine_of(Model()) as engine:
        got = noisy_gradient(engine, points, PLAN, SeededRandomSource(2, "x"), clip=clip)
        source = SeededRandomSource(2, "x")
        drawn = poisson_sample(source, 40, PLAN.sample_rate)
        total, unclipped = np.zeros(got.size), 0
        for index in drawn:
            pieces = engine.per_example(points.batch(np.array([index])), 1)
            gradient = np.concatenate([piece.numpy().ravel() for piece in pieces]).astype(np.float64)
            norm = np.linalg.norm(gradient)
            total += gradient * min(1.0, 1.1 / norm)
            unclipped += norm <= 1.1
    assert 0 < unclipped < len(drawn) < 40
    sigma_delta = (1.0**-2 - (2 * 1.0) ** -2) ** -0.5
    total += sigma_delta * 1.1 * standard_normal(source, got.size)
    fraction = (unclipped - len(drawn) / 2 + 1.0 * standard_normal(source, 1)[0]) / 20.0 + 0.5
    np.testing.assert_allclose(got, total / 20.0, atol=1e-6)
    assert clip.value == pytest.approx(1.1 * math.exp(-0.5 * (fraction - 0.3)), rel=1e-6)


def noise_of(plan: DpSgdPlan, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise on each coordinate of the clipped sum over its clip norm; and on the count."""
    source = SeededRandomSource(9, "noise")
    gradients, counts = [], []
    adaptive = plan.adaptive_clipping
    assert adaptive is not None
    with engine_of(Model()) as engine:
        for _ in range(count):
            clip = plan.clip_norm()
            gradient = noisy_gradient(engine, Points(0), plan, source, clip=clip)
            gradients.append(gradient * plan.expected_batch_size / plan.l2_clip_norm)
            moved = -math.log(clip.value / plan.l2_clip_norm) / adaptive.learning_rate
            counts.append((moved + adaptive.quantile - 0.5) * plan.expected_batch_size)
    return np.stack(gradients), np.array(counts)


def test_gradient_and_count_have_the_noise_that_is_paid_for() -> None:
    sigma, count = 1.2, 0.8
    adaptive = spec_with(PLAN.adaptive_clipping, count_noise_stddev=count)
    plan = dataclasses.replace(PLAN, noise_multiplier=sigma, adaptive_clipping=adaptive)
    gradients, counts = noise_of(plan, 400)
    sigma_delta = (sigma**-2 - (2 * count) ** -2) ** -0.5
    assert stddev_is(gradients, sigma_delta)
    assert stddev_is(counts, count)
    for factor in (2 / 3, 3 / 2):
        assert not stddev_is(gradients, factor * sigma_delta)
        assert not stddev_is(counts, factor * count)
    # the order's own noise multiplier would be too little: part of the step's budget went to the count
    assert not stddev_is(gradients, sigma)


def spec_with(spec: AdaptiveClipSpec | None, **changes: float) -> AdaptiveClipSpec:
    assert spec is not None
    return spec.model_copy(update=changes)


def test_one_record_changes_gradient_and_count_together_by_no_more_than_the_noise_is_for() -> None:
    """In units of the noise, really removed: at most 1 / sigma in the norm of both, and reached."""
    points, clip = Points(12), ClipNorm(1.1, 1.0, PLAN.adaptive_clipping)
    with engine_of(Model()) as engine:
        everybody = clip_sample(engine, points, np.arange(12), PLAN, clip.value)
        changes = []
        for index in range(12):
            rest = clip_sample(engine, points.without(index), np.arange(11), PLAN, clip.value)
            gradient = np.linalg.norm(everybody.total - rest.total) / clip.noise_stddev
            count = (everybody.centred_count - rest.centred_count) / 1.0
            changes.append(math.hypot(gradient, count))
    assert max(changes) <= 1.0 + 1e-5
    assert max(changes) > 0.99


def test_a_plan_follows_its_own_clip_norm_and_no_other() -> None:
    fixed = dataclasses.replace(PLAN, adaptive_clipping=None)
    source = SeededRandomSource(1, "x")
    with engine_of(Model()) as engine:
        for plan, clip in ((PLAN, None), (PLAN, fixed.clip_norm()), (fixed, PLAN.clip_norm())):
            with pytest.raises(TrainingError, match="disagree"):
                noisy_gradient(engine, Points(4), plan, source, clip=clip)


def test_an_empty_sample_still_tells_nothing() -> None:
    """No record: the count is noise, like the gradient, and the clip norm moves with it."""
    rare, points = dataclasses.replace(PLAN, sample_rate=1e-9), Points(30)
    clip = rare.clip_norm()
    with engine_of(Model()) as engine:
        noisy_gradient(engine, points, rare, SeededRandomSource(4, "x"), clip=clip)
    assert points.asked == []
    assert clip.value != 1.1


def test_a_count_that_costs_the_whole_step_makes_no_plan() -> None:
    with pytest.raises(TrainingError, match="above half the noise multiplier"):
        dataclasses.replace(PLAN, noise_multiplier=2.0)


def test_the_event_is_that_of_the_order_s_noise_multiplier() -> None:
    assert PLAN.event() == dataclasses.replace(PLAN, adaptive_clipping=None).event()
    assert PLAN.event().noise_multiplier == 1.0
    assert PLAN.noise_stddev == pytest.approx(1.1 * math.sqrt(4 / 3))
