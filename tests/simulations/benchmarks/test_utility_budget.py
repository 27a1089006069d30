"""One noise multiplier for all stages of a run, against the calibration of one stage and a second accountant."""

from __future__ import annotations

import pytest

from privacy.accounting import calibrate_noise_multiplier, epsilon, epsilon_prv
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from simulations.benchmarks.utility_budget import noise_multiplier_for
from tacit.errors import InputError

DELTA = 1e-5


def events(noise_multiplier: float, stages: list[tuple[float, int]]) -> list[SubsampledGaussian]:
    return [
        SubsampledGaussian(
            mode=PrivacyMode.LOCAL,
            unit=PrivacyUnit.RECORD,
            adjacency=Adjacency.ADD_REMOVE,
            noise_multiplier=noise_multiplier,
            sample_rate=sample_rate,
            steps=steps,
        )
        for sample_rate, steps in stages
    ]


def test_one_stage_is_calibrated_as_everywhere() -> None:
    assert noise_multiplier_for(3.0, DELTA, [(0.1, 40)]) == calibrate_noise_multiplier(3.0, DELTA, 0.1, 40)


def test_stages_of_one_rate_are_one_run() -> None:
    split = noise_multiplier_for(3.0, DELTA, [(0.1, 30), (0.1, 50)])
    assert split == pytest.approx(calibrate_noise_multiplier(3.0, DELTA, 0.1, 80), rel=1e-3)


@pytest.mark.parametrize("target", [8.0, 1.0])
def test_all_stages_together_spend_the_budget_and_no_more(target: float) -> None:
    stages = [(0.4, 60), (0.1, 20)]
    found = noise_multiplier_for(target, DELTA, stages)
    assert 0.999 * target <= epsilon(events(found, stages), DELTA) <= target
    assert epsilon_prv(events(found, stages), DELTA) == pytest.approx(target, rel=0.02)
    # a hair less noise is too little, and so is what the longer stage needs by itself
    assert epsilon(events(0.99 * found, stages), DELTA) > target
    assert found > calibrate_noise_multiplier(target, DELTA, *stages[0])


def test_what_cannot_be_met_is_refused() -> None:
    with pytest.raises(ValueError, match="got no stages"):
        noise_multiplier_for(3.0, DELTA, [])
    with pytest.raises(InputError, match=r"sample rate is 1\.5"):
        noise_multiplier_for(3.0, DELTA, [(0.4, 10), (1.5, 10)])
