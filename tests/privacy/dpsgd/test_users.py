"""Privacy unit user: sampling, the contribution bound, one clipped gradient a user, and real removal of users."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import privacy.dpsgd.mechanism
from privacy.dpsgd import (
    DpSgdPlan,
    HookedGradients,
    LoraGradients,
    UserRecords,
    clip_by_group,
    clip_users,
    clipped_gradient_sum,
    clipped_user_gradient_sum,
    noisy_gradient,
    sampled_sum,
)
from privacy.randomness import SeededRandomSource, standard_normal
from tacit.errors import TrainingError
from tests.privacy.dpsgd.language_models import (
    Case,
    Engine,
    Texts,
    causal_llama,
    one_at_a_time,
    sequence_classifier,
    token_classifier,
)

TASKS: dict[str, Callable[[], Case]] = {
    "token classification": token_classifier,
    "sequence classification": sequence_classifier,
    "causal LM": causal_llama,
}
LENGTHS = (3, 9, 6, 9, 1, 5, 2, 7, 4, 8, 5)
#: the user of each record: one with five records of unequal lengths, some with two, one with one, one without any
OWNERS = (0, 1, 0, 2, 0, 3, 1, 0, 2, 5, 0)
USERS = UserRecords(OWNERS)
PLAN = DpSgdPlan(
    sample_rate=1.0, noise_multiplier=1.0, l2_clip_norm=0.4, expected_batch_size=3.0, steps=1, max_records_per_user=9
)


def naive(case: Case, texts: Texts, contributions: Sequence[Sequence[int]], clip: float) -> np.ndarray:
    """One user at a time, one record at a time, Python's own sums in float64."""
    rows = one_at_a_time(case, texts)
    total = np.zeros(sum(parameter.numel() for parameter in case.parameters.values()))
    for records in contributions:
        if not len(records):
            continue
        mean = np.zeros_like(total)
        for record in records:
            mean += np.concatenate([row[record].detach().double().numpy().ravel() for row in rows]) / len(records)
        total += mean * min(1.0, clip / max(float(np.linalg.norm(mean)), 1e-30))
    return total


def grouped(owners: Sequence[int]) -> list[np.ndarray]:
    users = UserRecords(owners)
    return [users.records(user) for user in range(len(users))]


# --- whose record is whose


@given(st.lists(st.integers(0, 8), max_size=40))
def test_every_record_is_one_users(owners: list[int]) -> None:
    users = UserRecords(owners, 9)
    assert len(users) == 9
    found = [users.records(user).tolist() for user in range(9)]
    assert found == [[record for record, owner in enumerate(owners) if owner == user] for user in range(9)]


@pytest.mark.parametrize(("owners", "count"), [((0, -1), None), ((0, 3), 3), ((-2,), 5)])
def test_an_owner_out_of_range_is_refused(owners: tuple[int, ...], count: int | None) -> None:
    with pytest.raises(TrainingError, match="owners range from"):
        UserRecords(owners, count)


def test_owners_cannot_be_changed_behind_the_index() -> None:
    with pytest.raises(ValueError, match="read-only"):
        UserRecords([0, 1]).owners[0] = 1


# --- the contribution bound


@given(owners=st.lists(st.integers(0, 5), max_size=40), bound=st.integers(1, 6), seed=st.integers(0, 9))
def test_a_user_enters_with_its_own_records_and_no_more_than_the_bound(
    owners: list[int], bound: int, seed: int
) -> None:
    users = UserRecords(owners, 6)
    sample = np.array([0, 2, 3, 5])
    drawn = users.draw(SeededRandomSource(seed, "bound"), sample, bound)
    assert len(drawn) == len(sample)
    for user, records in zip(sample, drawn, strict=True):
        own = users.records(user).tolist()
        assert len(records) == len(set(records.tolist())) == min(bound, len(own))
        assert set(records.tolist()) <= set(own)


def test_every_subset_of_a_users_records_is_equally_likely_and_drawn_anew() -> None:
    users, draws = UserRecords([0] * 5 + [1]), 6000
    source = SeededRandomSource(3, "subsets")
    counts = dict.fromkeys(combinations(range(5), 2), 0)
    before, again = None, 0
    for _ in range(draws):
        subset = tuple(users.draw(source, np.array([0]), 2)[0].tolist())
        counts[subset] += 1
        again += subset == before
        before = subset

    def fits(found: Sequence[int], shares: Sequence[float]) -> bool:
        """Pearson's chi-squared with 9 degrees of freedom: its mean is 9, its standard deviation sqrt(18)."""
        expected = [draws * share for share in shares]
        statistic = sum((f - e) ** 2 / e for f, e in zip(found, expected, strict=True))
        return statistic < 9 + 5 * np.sqrt(18)

    assert fits(list(counts.values()), [0.1] * 10)
    # one record a fifth likelier than the others would be noticed
    assert not fits(list(counts.values()), [0.12] * 4 + [0.52 / 6] * 6)
    assert abs(again / draws - 0.1) < 5 * np.sqrt(0.09 / draws), "the subset depends on the one before"


def test_what_one_user_enters_with_does_not_depend_on_another() -> None:
    """The two users' subsets are independent: the joint counts are those of the product."""
    users, draws = UserRecords([0] * 3 + [1] * 3), 4000
    source, counts = SeededRandomSource(4, "independent"), np.zeros((3, 3))
    for _ in range(draws):
        first, second = users.draw(source, np.array([0, 1]), 1)
        counts[first[0], second[0] - 3] += 1
    expected = draws / 9
    assert ((counts - expected) ** 2 / expected).sum() < 8 + 5 * 4


# --- one clipped gradient for each user


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("kind", [LoraGradients, HookedGradients])
@pytest.mark.parametrize("task", TASKS)
def test_clipped_sums_are_those_of_one_user_at_a_time(task: str, kind: Engine) -> None:
    """Whatever is in the model at once: 1 and 2 cut users apart, 4 the first, 32 none."""
    case, texts = TASKS[task](), Texts(LENGTHS)
    contributions = grouped(OWNERS)
    assert sorted(map(len, contributions)) == [0, 1, 1, 2, 2, 5]
    # binds for some users and not for others
    norms = [np.linalg.norm(naive(case, texts, [records], 1e30)) for records in contributions if len(records)]
    clip = float(np.median(norms))
    expected = naive(case, texts, contributions, clip)
    with case.engine(kind) as engine:
        for size in (1, 2, 4, 32):
            found = clipped_user_gradient_sum(engine, texts, contributions, l2_clip_norm=clip, physical_batch_size=size)
            assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected), size


@given(
    owners=st.lists(st.integers(0, 4), min_size=len(LENGTHS), max_size=len(LENGTHS)),
    size=st.integers(1, 12),
    clip=st.sampled_from([0.05, 1.0, 50.0]),
)
def test_any_grouping_in_any_batches(owners: list[int], size: int, clip: float) -> None:
    case, rows = _shared()
    with case.engine() as engine:
        found = clipped_user_gradient_sum(
            engine, Texts(LENGTHS), grouped(owners), l2_clip_norm=clip, physical_batch_size=size
        )
    expected = np.zeros_like(found)
    for user in set(owners):
        mean = rows[np.array(owners) == user].mean(0)
        expected += mean * min(1.0, clip / np.linalg.norm(mean))
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


_kept: list[tuple[Case, np.ndarray]] = []


def _shared() -> tuple[Case, np.ndarray]:
    """A model and every record's gradient, float64 [n, P]: made once for all examples of a property."""
    if not _kept:
        case = sequence_classifier()
        rows = one_at_a_time(case, Texts(LENGTHS))
        _kept.append((case, np.concatenate([row.detach().double().numpy().reshape(len(row), -1) for row in rows], 1)))
    return _kept[0]


def test_users_of_one_record_are_records() -> None:
    case, texts = _shared()[0], Texts(LENGTHS)
    with case.engine() as engine:
        by_record = clipped_gradient_sum(engine, texts, np.arange(len(texts)), l2_clip_norm=0.4, physical_batch_size=4)
        by_user = clipped_user_gradient_sum(
            engine, texts, grouped(range(len(texts))), l2_clip_norm=0.4, physical_batch_size=4
        )
    np.testing.assert_array_equal(by_user, by_record)


def test_a_user_counts_once_however_many_records_it_has() -> None:
    """The same record five times is the same gradient, clipped to the same norm."""
    case, texts = _shared()[0], Texts(LENGTHS)
    with case.engine() as engine:
        once, often = (
            clipped_user_gradient_sum(engine, texts, [np.array([3] * times)], l2_clip_norm=0.4, physical_batch_size=2)
            for times in (1, 5)
        )
    assert np.linalg.norm(often - once) < 1e-5 * np.linalg.norm(once)
    assert 0.39 < np.linalg.norm(often) <= 0.4


# --- neighbours


def contributions_without(user: int | None) -> list[np.ndarray]:
    return [records for other, records in enumerate(grouped(OWNERS)) if other != user]


def largest_change(total: Callable[[list[np.ndarray]], np.ndarray], clip: float) -> float:
    """In units of the clip norm, over all users; every record of the user is really removed."""
    everybody = total(contributions_without(None))
    return max(
        float(np.linalg.norm(everybody - total(contributions_without(user)))) / clip for user in range(len(USERS))
    )


@pytest.mark.parametrize("task", TASKS)
def test_removing_all_records_of_a_user_changes_the_sum_by_at_most_the_clip_norm(task: str) -> None:
    case, clip = TASKS[task](), 0.1
    texts = Texts(LENGTHS)
    with case.engine() as engine:
        for size in (2, 4, 32):

            def by_user(contributions: list[np.ndarray], size: int = size) -> np.ndarray:
                return clipped_user_gradient_sum(
                    engine, texts, contributions, l2_clip_norm=clip, physical_batch_size=size
                )

            change = largest_change(by_user, clip)
            assert change <= 1.0 + 1e-5
            # the clip norm binds, so a looser clip would be seen
            assert change > 0.99

        def by_record(contributions: list[np.ndarray]) -> np.ndarray:
            return clipped_gradient_sum(
                engine, texts, np.concatenate(contributions), l2_clip_norm=clip, physical_batch_size=4
            )

        def split_users(contributions: list[np.ndarray]) -> np.ndarray:
            """A user whose records lie in two physical batches is clipped once in each."""
            parts = [part for records in contributions for part in np.array_split(records, 2)]
            return by_user(parts)

        # clipping each record, or a user for each batch it is in, is what the bound must catch
        assert largest_change(by_record, clip) > 1.3
        assert largest_change(split_users, clip) > 1.3


def test_the_whole_step_moves_by_at_most_the_clip_norm_over_the_public_number() -> None:
    """Sampling everybody with the noise known: noisy gradients with and without a user differ by its contribution."""
    case = _shared()[0]

    def step(user: int | None) -> np.ndarray:
        kept = [record for record, owner in enumerate(OWNERS) if owner != user]
        rest = Texts(LENGTHS)
        rest.kept = kept
        owners = [OWNERS[record] for record in kept]
        with case.engine() as engine:
            return noisy_gradient(engine, rest, PLAN, SeededRandomSource(1, "step"), UserRecords(owners, len(USERS)))

    everybody = step(None)
    for user in range(len(USERS)):
        moved = np.linalg.norm(everybody - step(user))
        assert moved <= PLAN.l2_clip_norm / PLAN.expected_batch_size * (1 + 1e-5)
        assert (moved > 0) == (user in OWNERS)


def test_a_record_that_overflows_silences_its_own_user_and_no_other() -> None:
    case = _shared()[0]
    texts = Texts(LENGTHS)

    class Overflowing:
        """The gradients of ``engine``, infinite for record 2, which is user 0's."""

        def __init__(self, engine: LoraGradients) -> None:
            self.parameters, self._engine = engine.parameters, engine
            self.asked: list[int] = []

        def per_example(self, batch: object, size: int) -> list[torch.Tensor]:
            gradients = self._engine.per_example(batch, size)
            own = [index for index, row in enumerate(batch.tokens) if row[: LENGTHS[2]].equal(texts.rows[2])]
            for index in own:
                gradients[0][index] = float("inf")
            return gradients

    with case.engine() as engine:
        found = clipped_user_gradient_sum(
            Overflowing(engine), texts, grouped(OWNERS), l2_clip_norm=0.4, physical_batch_size=32
        )
        rest = clipped_user_gradient_sum(
            engine, texts, contributions_without(0), l2_clip_norm=0.4, physical_batch_size=32
        )
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, rest, rtol=1e-4, atol=1e-7)


# --- physical batches


class Counting:
    """An engine that notes how many records it was asked for."""

    def __init__(self, width: int = 3) -> None:
        self.parameters = {"w": nn.Parameter(torch.zeros(width))}
        self.asked: list[int] = []

    def per_example(self, batch: torch.Tensor, size: int) -> list[torch.Tensor]:
        self.asked.append(size)
        return [batch[:, None] * torch.ones(3)]


class Numbers:
    """Record i costs ``lengths[i]`` and has the gradient (i, i, i)."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = np.array(lengths, dtype=np.int64)
        self.batches: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: np.ndarray) -> torch.Tensor:
        self.batches.append(self.lengths[indices].tolist())
        return torch.from_numpy(indices).float()


def test_memory_is_bounded_by_the_physical_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many records in the model, and so many users being added up, whatever the sample and the bound."""
    added_up: list[int] = []

    def watched(gradients: Sequence[torch.Tensor], clip: float, groups: Any) -> Any:
        added_up.append(len(gradients[0]))
        return clip_by_group(gradients, clip, groups)

    monkeypatch.setattr(privacy.dpsgd.mechanism, "clip_by_group", watched)
    generator = np.random.default_rng(0)
    owners = np.concatenate([np.zeros(100, dtype=np.int64), generator.integers(1, 60, size=300)])
    engine, numbers = Counting(), Numbers(generator.integers(1, 500, size=400).tolist())
    contributions = grouped(owners)
    clipped_user_gradient_sum(engine, numbers, contributions, l2_clip_norm=1.0, physical_batch_size=8)
    assert max(engine.asked) == max(added_up) == 8
    assert sum(engine.asked) == 400
    assert sum(added_up) == sum(len(records) > 0 for records in contributions)


def test_padding_is_that_of_records_where_users_have_one_each() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 500, size=64).tolist()
    by_user, by_record = Numbers(lengths), Numbers(lengths)
    clipped_user_gradient_sum(Counting(), by_user, grouped(range(64)), l2_clip_norm=1.0, physical_batch_size=8)
    clipped_gradient_sum(Counting(), by_record, np.arange(64), l2_clip_norm=1.0, physical_batch_size=8)
    assert by_user.batches == by_record.batches


# --- sampling users


def test_users_are_sampled_at_the_rate_each_by_itself() -> None:
    """Not records: a user of a hundred records is drawn as often as a user of one, and with all of them or none."""
    rate, draws = 0.3, 2000
    owners = [0] * 100 + list(range(1, 10))
    users, source = UserRecords(owners), SeededRandomSource(8, "users")
    plan = dataclasses.replace(PLAN, sample_rate=rate, l2_clip_norm=1e9, max_records_per_user=200)
    taken = np.zeros((draws, len(users)))
    for draw in taken:
        numbers = Numbers([1] * len(owners))
        seen: list[int] = []
        own = numbers.batch

        def batch(indices: np.ndarray, own: Callable = own, seen: list[int] = seen) -> torch.Tensor:
            seen.extend(indices.tolist())
            return own(indices)

        numbers.batch = batch  # type: ignore[method-assign]
        sampled_sum(Counting(), numbers, plan, source, users, plan.l2_clip_norm)
        records = np.bincount(users.owners[seen], minlength=len(users))
        assert set(records[:1]) <= {0, 100}
        draw[records > 0] = 1
    shares = taken.mean(0)
    assert (np.abs(shares - rate) < 4.5 * np.sqrt(rate * (1 - rate) / draws)).all()
    # the large user as a tenth more likely, or as likely as one of its records, would be noticed
    assert abs(shares[0] - 1.2 * rate) > 4.5 * np.sqrt(rate * (1 - rate) / draws)
    sizes = taken.sum(1)
    expected = len(users) * rate * (1 - rate)
    assert abs(sizes.var() - expected) < 4 * expected * np.sqrt(2 / draws)


def test_an_empty_sample_of_users_is_noise_and_never_reaches_the_model() -> None:
    plan = dataclasses.replace(PLAN, sample_rate=1e-12)
    engine, owners = Counting(), [0, 0, 1]
    gradient = noisy_gradient(engine, Numbers([1, 1, 1]), plan, SeededRandomSource(2, "empty"), UserRecords(owners))
    assert engine.asked == []
    source = SeededRandomSource(2, "empty")
    source.bytes(8 * 2)  # one draw for each user
    np.testing.assert_allclose(gradient, 0.4 * standard_normal(source, 3) / 3.0)


def test_a_user_without_records_adds_nothing_and_is_drawn_like_any_other() -> None:
    """As after a limit that left it none: its presence changes no sum, and its absence breaks nothing."""
    numbers = Numbers([1, 1])
    for count in (2, 3):
        users = UserRecords([0, 1], count)
        everybody = dataclasses.replace(PLAN, sample_rate=1.0)
        found = sampled_sum(Counting(), numbers, everybody, SeededRandomSource(0, "x"), users, 9.0)
        np.testing.assert_allclose(found.total, [1.0, 1.0, 1.0])
        # zero is not clipped
        assert found.centred_count == count / 2
    alone = sampled_sum(Counting(), Numbers([]), PLAN, SeededRandomSource(0, "x"), UserRecords([], 1), 9.0)
    assert not alone.total.any()


def test_a_user_is_counted_once_however_many_records_it_has() -> None:
    """What adaptive clipping counts: users whose mean stays below the norm, so one user more or less is one half."""
    numbers = Numbers([1] * 6)
    users = grouped([0, 0, 1, 1, 2, 3])  # with means of 0.5, 2.5, 4 and 5 in three coordinates
    clip = np.sqrt(3) * 3
    found = clip_users(Counting(), numbers, users, PLAN, clip)
    assert found.centred_count == 2 - 4 / 2
    for gone in range(4):
        rest = clip_users(Counting(), numbers, [each for at, each in enumerate(users) if at != gone], PLAN, clip)
        assert abs(found.centred_count - rest.centred_count) == 0.5


def test_unit_and_users_go_together() -> None:
    numbers = Numbers([1, 1])
    source = SeededRandomSource(0, "unit")
    by_record = dataclasses.replace(PLAN, max_records_per_user=None)
    with pytest.raises(TrainingError, match="unit is a user, and of the records it is not known whose they are"):
        noisy_gradient(Counting(), numbers, PLAN, source)
    with pytest.raises(TrainingError, match="unit is a record, and of the records it is known whose they are"):
        noisy_gradient(Counting(), numbers, by_record, source, UserRecords([0, 0]))
    with pytest.raises(TrainingError, match="users of 3 records were given, expected 2"):
        noisy_gradient(Counting(), numbers, PLAN, source, UserRecords([0, 0, 1]))
    with pytest.raises(TrainingError, match="max_records_per_user is 0, expected at least 1"):
        dataclasses.replace(PLAN, max_records_per_user=0)
