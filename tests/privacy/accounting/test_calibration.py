"""From epsilon to noise: within a tenth of a percent of the target, and never above it."""

from __future__ import annotations

import math

import pytest

from privacy.accounting import calibrate_noise_multiplier, epsilon
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from tacit.errors import InputError


def spent(noise_multiplier: float, delta: float, sample_rate: float, steps: int) -> float:
    event = SubsampledGaussian(
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
    )
    return epsilon([event], delta)


@pytest.mark.parametrize(
    ("target", "delta", "sample_rate", "steps"),
    [
        (8.0, 1e-5, 0.05, 120),
        (3.0, 1e-5, 0.1, 50),
        (1.0, 1e-5, 0.01, 1000),
        (0.1, 1e-6, 0.01, 500),
        (8.0, 1e-5, 1.0, 1),
        (50.0, 1e-5, 0.5, 10),
        # Rényi accounting, loose at little noise, takes these for more than 100.
        (50.0, 1e-3, 0.05, 120),
        (50.0, 1e-6, 0.01, 1000),
    ],
)
def test_meets_the_target_and_never_exceeds_it(target, delta, sample_rate, steps):
    noise_multiplier = calibrate_noise_multiplier(target, delta, sample_rate, steps)
    assert 0.999 * target <= spent(noise_multiplier, delta, sample_rate, steps) <= target


@pytest.mark.parametrize("target", [0.01, 0.3, 2.0, 8.0, 30.0])
@pytest.mark.parametrize("delta", [1e-4, 1e-9])
@pytest.mark.parametrize(("sample_rate", "steps"), [(0.002, 300), (0.05, 120), (0.4, 6), (1.0, 1), (1.0, 40)])
def test_the_grid(target, delta, sample_rate, steps):
    """Within a tenth of a percent below the target, and the least noise that is: a little less overspends."""
    noise_multiplier = calibrate_noise_multiplier(target, delta, sample_rate, steps)
    assert 0.999 * target <= spent(noise_multiplier, delta, sample_rate, steps) <= target
    assert spent(noise_multiplier * 0.998, delta, sample_rate, steps) > 0.999 * target


def test_less_noise_than_renyi_accounting_needs():
    # pytorch/opacus, opacus/tests/accountants_test.py, test_get_noise_multiplier_rdp_steps: 1.3562 by RDP, epsilon 8,
    # delta 1e-5, q 0.04, 2000 steps. The tighter accountant needs less, though not by much.
    assert 1.25 < calibrate_noise_multiplier(8.0, 1e-5, 0.04, 2000) < 1.3562


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((0.0, 1e-5, 0.1, 10), "epsilon"),
        ((math.nan, 1e-5, 0.1, 10), "epsilon"),
        ((100.0, 1e-5, 0.1, 10), "epsilon"),
        ((1.0, 0.0, 0.1, 10), "delta"),
        ((1.0, 1e-12, 0.1, 10), "delta"),
        ((1.0, 1e-5, 0.0, 10), "sample rate"),
        ((1.0, 1e-5, 1.1, 10), "sample rate"),
        ((1.0, 1e-5, 0.1, 0), "steps"),
        ((0.01, 1e-9, 1.0, 1_000_000), "no noise multiplier"),
        ((8.0, 1e-3, 1e-3, 1), "whole chance of ever being sampled"),
        ((8.0, 1e-3, 1e-4, 10), "whole chance of ever being sampled"),
    ],
)
def test_impossible_requests_are_refused(arguments, what):
    with pytest.raises(InputError, match=what):
        calibrate_noise_multiplier(*arguments)


def test_a_bound_that_jumps_over_the_window_is_met_from_below(monkeypatch):
    monkeypatch.setattr(
        "privacy.accounting.calibration.epsilon_of", lambda spends, _: 9.6 if spends[0].noise_multiplier > 2 else 20.0
    )
    assert calibrate_noise_multiplier(10.0, 1e-5, 0.1, 10) == pytest.approx(2.0, rel=1e-9)
    assert calibrate_noise_multiplier(10.0, 1e-5, 0.1, 10) > 2.0


def test_a_noise_that_means_something_else_is_not_handed_out(monkeypatch):
    """Where the bound jumps from nearly nothing to far above the target, no noise multiplier is a calibration."""
    monkeypatch.setattr(
        "privacy.accounting.calibration.epsilon_of", lambda spends, _: 0.0 if spends[0].noise_multiplier > 0.1 else 90.0
    )
    with pytest.raises(InputError, match="no noise multiplier spends about epsilon 10"):
        calibrate_noise_multiplier(10.0, 1e-5, 0.1, 10)
