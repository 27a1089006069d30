"""All accountants against a naive one that shares no code with them, and the mistakes such a check must catch."""

from __future__ import annotations

import pytest

import privacy.accounting
from privacy.accounting import epsilon, epsilon_prv, epsilon_rdp
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from tests.privacy.accounting.naive import gaussian_dp_epsilon, naive_epsilon

DELTA = 1e-5

SMALL_CASES = [
    ((1.0, 0.1, 1),),
    ((1.0, 0.1, 5),),
    ((0.8, 0.3, 3),),
    ((2.0, 0.5, 6),),
    ((1.5, 1.0, 4),),
    ((1.0, 0.2, 2), (0.7, 0.05, 3), (3.0, 1.0, 1)),
]


def events(steps: tuple[tuple[float, float, int], ...]) -> list[SubsampledGaussian]:
    return [
        SubsampledGaussian(
            mode=PrivacyMode.LOCAL,
            unit=PrivacyUnit.RECORD,
            adjacency=Adjacency.ADD_REMOVE,
            noise_multiplier=noise,
            sample_rate=rate,
            steps=count,
        )
        for noise, rate, count in steps
    ]


@pytest.mark.parametrize("steps", SMALL_CASES)
def test_pld_is_the_naive_value(steps):
    value = epsilon(events(steps), DELTA)
    # Buckets of 1e-3, rounded upwards there and to the nearest here.
    assert max(naive_epsilon(steps, DELTA)) == pytest.approx(value, abs=4e-3)


@pytest.mark.parametrize("steps", SMALL_CASES)
def test_prv_and_rdp_stand_on_their_sides_of_the_naive_value(steps):
    value = max(naive_epsilon(steps, DELTA))
    assert value - 2e-3 <= epsilon_prv(events(steps), DELTA) <= value + 0.025
    assert epsilon_rdp(events(steps), DELTA) >= value


def with_mistake(case, noise=1.0, rate=1.0, steps=0):
    """The case with its first part changed: factors of noise and rate, a difference of steps."""
    sigma, q, count = case[0]
    return ((sigma * noise, q * rate, count + steps), *case[1:])


@pytest.mark.parametrize(
    "mistake",
    [{"steps": 1}, {"steps": -1}, {"rate": 1.05}, {"rate": 0.95}, {"noise": 1.03}, {"noise": 0.97}],
    ids=["a step too many", "a step forgotten", "q too high", "q too low", "sigma too high", "sigma too low"],
)
@pytest.mark.parametrize("case", [1, 2, 3])
def test_the_check_catches(mistake, case):
    """Each mistake moves the bound out of the tolerance above, in the direction it must."""
    right, wrong = SMALL_CASES[case], with_mistake(SMALL_CASES[case], **mistake)
    difference = epsilon(events(wrong), DELTA) - max(naive_epsilon(right, DELTA))
    more = mistake.get("steps", 0) > 0 or mistake.get("rate", 1) > 1 or mistake.get("noise", 1) < 1
    assert (difference > 8e-3) if more else (difference < -8e-3)


@pytest.mark.parametrize("steps", [case for case in SMALL_CASES if case[0][1] < 1.0])
def test_the_check_catches_a_swapped_adjacency(steps):
    """The record-added direction alone is far below the truth: an accountant that took it would fail above."""
    removed, added = naive_epsilon(steps, DELTA)
    assert added < removed - 0.05
    assert epsilon(events(steps), DELTA) >= removed - 2e-3


def test_the_central_limit_is_never_a_bound():
    """Gaussian DP's central limit undercuts the truth here, so it is no accountant of this package."""
    steps = ((0.8, 0.02, 12),)
    assert gaussian_dp_epsilon(*steps[0], DELTA) < 0.8 * max(naive_epsilon(steps, DELTA))
    assert not [name for name in dir(privacy.accounting) if "gdp" in name.lower()]
