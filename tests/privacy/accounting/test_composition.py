"""What is kept is what would be computed afresh, bit for bit, and one more event costs a path, not the whole."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import pytest

from privacy.accounting import composition, epsilon
from privacy.accounting import pld as pld_module
from privacy.accounting.composition import DistributionStore, composed, one_step, repeated
from privacy.accounting.spends import Spend
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian

WIDTH = 1e-3
DELTA = 1e-5


def event(noise_multiplier: float, sample_rate: float, steps: int) -> SubsampledGaussian:
    return SubsampledGaussian(
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
    )


def forget() -> None:
    """Empty every cache a bound may come from."""
    composition.STORE.clear()
    pld_module._epsilon.cache_clear()


def afresh(events: list[SubsampledGaussian]) -> float:
    forget()
    return epsilon(events, DELTA)


KINDS = [(1.0 + index / 20, 0.02 + index / 2000) for index in range(20)]


def test_a_growing_lifetime_gives_the_numbers_of_a_fresh_composition():
    """A hundred reservations of runs that come back, in no order: each bound is the one without any cache."""
    draw = random.Random(20270)
    history: list[SubsampledGaussian] = []
    kept: list[float] = []
    forget()
    for _ in range(60):
        history.append(event(*draw.choice(KINDS), steps=draw.randint(1, 12)))
        kept.append(epsilon(history, DELTA))
    assert kept == sorted(kept)
    for number in (1, 2, 3, 17, 18, 40, 60):
        assert kept[number - 1] == afresh(history[:number])


def test_against_one_composition_after_the_other():
    spends = tuple(Spend(noise, rate, 3 + index) for index, (noise, rate) in enumerate(KINDS))
    naive = reduce(lambda left, right: left.compose(right), (repeated(spend, WIDTH) for spend in spends))
    tree = composed(spends, WIDTH)
    for value in (0.5, 1.0, 2.0, 4.0):
        assert tree.get_delta_for_epsilon(value) == pytest.approx(naive.get_delta_for_epsilon(value), rel=1e-9)
    # Pessimistic: what the composition truncates it charges.
    assert tree.get_epsilon_for_delta(DELTA) >= naive.get_epsilon_for_delta(DELTA) - 1e-9


@pytest.mark.parametrize(("noise_multiplier", "sample_rate"), [(0.5, 0.3), (1.0, 0.05), (100.0, 0.5), (1000.0, 0.01)])
def test_steps_taken_bit_by_bit_are_steps_taken_at_once(noise_multiplier, sample_rate):
    one = one_step(noise_multiplier, sample_rate, WIDTH)
    for steps in (1, 2, 3, 6, 63, 64, 65, 100, 127, 128, 200):
        parts = repeated(Spend(noise_multiplier, sample_rate, steps), WIDTH)
        whole = one if steps == 1 else one.self_compose(steps)
        # Each way cuts tails and charges for it: at most 1e-15 a composition here, always 1e-15 there. Beside that,
        # sums of many doubles differ in their last digits.
        for value in (0.0, 0.01, 0.3, 2.0, 8.0, 60.0):
            found, expected = (each.get_delta_for_epsilon(value) for each in (parts, whole))
            assert expected - 5e-15 - 1e-13 * expected <= found <= expected + 2e-13 + 1e-13 * expected


def test_the_order_of_events_does_not_show_in_a_set():
    spends = [Spend(noise, rate, 5) for noise, rate in KINDS]
    forward = composed(tuple(spends), WIDTH).get_epsilon_for_delta(DELTA)
    forget()
    random.Random(5).shuffle(spends)
    assert composed(tuple(spends), WIDTH).get_epsilon_for_delta(DELTA) == forward


@pytest.fixture
def compositions(monkeypatch) -> list[int]:
    """Counts compositions of two distributions."""
    seen = [0]
    original = composition.pld.PrivacyLossDistribution.compose

    def counted(self, *arguments, **options):
        seen[0] += 1
        return original(self, *arguments, **options)

    monkeypatch.setattr(composition.pld.PrivacyLossDistribution, "compose", counted)
    return seen


def test_on_top_of_a_hundred_kinds_one_more_recomposes_a_path(compositions):
    settled = [event(2.0 + index / 50, 0.02, 10) for index in range(100)]
    epsilon(settled, DELTA)
    compositions[0] = 0
    epsilon([*settled, event(1.9, 0.02, 1)], DELTA)
    assert compositions[0] <= 15  # a path of the trie, then the newest kind; all of them would be a hundred
    compositions[0] = 0
    epsilon([*settled, event(1.9, 0.02, 2)], DELTA)
    assert compositions[0] == 2  # the same kind again: its second step, then the others
    compositions[0] = 0
    epsilon([*settled, event(1.9, 0.02, 2), settled[50]], DELTA)
    assert compositions[0] <= 30  # an old kind comes back: one path without it, one with the kind before


@pytest.mark.parametrize(
    "other", [Spend(1.0, 0.05, 11), Spend(1.0, 0.0500001, 10), Spend(1.0000001, 0.05, 10), Spend(1.0, 0.05, 1)]
)
def test_nothing_that_differs_is_taken_for_the_same(other):
    here, there = Spend(1.0, 0.05, 10), Spend(2.0, 0.1, 3)
    forget()
    value = composed((here, there), WIDTH).get_epsilon_for_delta(DELTA)
    assert composed((other, there), WIDTH).get_epsilon_for_delta(DELTA) != value
    forget()
    expected = composed((other, there), WIDTH).get_epsilon_for_delta(DELTA)
    composed((here, there), WIDTH)
    assert composed((other, there), WIDTH).get_epsilon_for_delta(DELTA) == expected


def test_widths_are_kept_apart():
    coarse, fine = (composed((Spend(1.0, 0.05, 3), Spend(1.5, 0.05, 2)), width) for width in (1e-3, 1e-4))
    assert fine.get_epsilon_for_delta(DELTA) <= coarse.get_epsilon_for_delta(DELTA)
    assert fine.get_delta_for_epsilon(1.0) != coarse.get_delta_for_epsilon(1.0)


def test_two_spends_of_one_kind_are_a_mistake():
    with pytest.raises(AssertionError, match="merge"):
        composed((Spend(1.0, 0.05, 1), Spend(1.0, 0.05, 2)), WIDTH)


def test_the_store_has_a_limit():
    store = DistributionStore(limit_bytes=200_000)
    for index in range(40):
        store.get(index, lambda index=index: one_step(1.0 + index / 10, 0.05, WIDTH))
        assert store.size_bytes <= 200_000
    made = []
    store.get(39, lambda: made.append("again") or one_step(1.0, 0.05, WIDTH))
    assert made == []  # the newest is kept
    store.get(0, lambda: made.append("again") or one_step(1.0, 0.05, WIDTH))
    assert made == ["again"]  # the oldest went


def test_one_distribution_beyond_the_limit_is_used_and_not_kept():
    store = DistributionStore(limit_bytes=10)
    assert store.get("large", lambda: one_step(1.0, 0.05, WIDTH)) is not None
    assert store.size_bytes == 0


def test_threads_share_the_store():
    """The sites of a simulation reserve at the same time."""
    histories = [[event(noise, rate, 2 + site) for noise, rate in KINDS[:8]] for site in range(4)]
    expected = [afresh(history) for history in histories]
    forget()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda history: epsilon(history, DELTA), histories)) == expected
