"""Poisson sampling: the rate, independence, and physical batches that lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.dpsgd import physical_batches, poisson_sample
from privacy.randomness import SeededRandomSource

RECORDS, DRAWS = 400, 500


def draws(rate: float) -> np.ndarray:
    source = SeededRandomSource(5, "sampling")
    taken = np.zeros((DRAWS, RECORDS))
    for draw in taken:
        draw[poisson_sample(source, RECORDS, rate)] = 1
    return taken


def rate_is(taken: np.ndarray, rate: float) -> bool:
    """Does the share of records taken agree with ``rate`` within 4.5 standard errors?"""
    return bool(abs(taken.mean() - rate) < 4.5 * np.sqrt(rate * (1 - rate) / taken.size))


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_inclusion_rate(rate: float) -> None:
    taken = draws(rate)
    assert rate_is(taken, rate)
    # a tenth off is noticed
    assert not rate_is(taken, rate * 1.1)
    assert not rate_is(taken, rate / 1.1)


def test_records_are_drawn_independently() -> None:
    rate = 0.2
    taken = draws(rate)
    sizes = taken.sum(1)
    # Binomial batch sizes: a fixed size would have variance 0. The standard error of a variance is about
    # sqrt(2 / draws) of it.
    expected = RECORDS * rate * (1 - rate)
    assert abs(sizes.var() - expected) < 4 * expected * np.sqrt(2 / DRAWS)
    neighbours = np.mean((taken[:, :-1] - rate) * (taken[:, 1:] - rate))
    assert abs(neighbours) < 4 * rate * (1 - rate) / np.sqrt(taken[:, 1:].size)


def test_extremes() -> None:
    source = SeededRandomSource(5, "extremes")
    assert poisson_sample(source, 50, 1.0).tolist() == list(range(50))
    assert poisson_sample(source, 0, 0.5).tolist() == []
    assert poisson_sample(source, 50, 1e-12).size == 0


def test_two_sources_draw_differently() -> None:
    first = poisson_sample(SeededRandomSource(1, "a"), 1000, 0.5)
    assert first.tolist() != poisson_sample(SeededRandomSource(1, "b"), 1000, 0.5).tolist()
    assert first.tolist() == poisson_sample(SeededRandomSource(1, "a"), 1000, 0.5).tolist()


@given(
    lengths=st.lists(st.integers(1, 60), max_size=80),
    size=st.integers(1, 20),
    keep=st.integers(1, 4),
)
def test_physical_batches_hold_every_record_once_and_shortest_first(lengths: list[int], size: int, keep: int) -> None:
    costs = np.array(lengths, dtype=np.int64)
    indices = np.arange(0, len(lengths), keep, dtype=np.int64)
    batches = list(physical_batches(indices, costs, size))
    assert sorted(index for batch in batches for index in batch) == indices.tolist()
    assert all(1 <= len(batch) <= size for batch in batches)
    ordered = [costs[index] for batch in batches for index in batch]
    assert ordered == sorted(ordered)
