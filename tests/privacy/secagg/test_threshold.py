import pytest

from privacy.secagg.threshold import (
    MAX_COHORT,
    check_threshold,
    default_collusion_bound,
    default_threshold,
    survivors_required,
)
from tacit.errors import CohortTooSmall, SecAggError


def test_defaults_of_the_design():
    assert [default_threshold(n) for n in (3, 4, 5, 6, 7, 10, 32)] == [3, 3, 4, 5, 5, 7, 22]
    assert [default_collusion_bound(n) for n in (2, 3, 4, 7, 10, 32)] == [1, 1, 1, 2, 3, 10]


@pytest.mark.parametrize("n", range(3, MAX_COHORT + 1))
def test_defaults_are_accepted_for_every_cohort_of_three_or_more(n):
    check_threshold(n, default_threshold(n), default_collusion_bound(n))


@pytest.mark.parametrize(
    ("n", "t", "c", "words"),
    [
        (3, 4, 1, "cannot be reached"),
        (2, 2, 1, "t - c >= 2"),
        (5, 3, 1, "2t - n > c"),
        (4, 3, 2, "t - c >= 2"),
        (7, 5, 3, "2t - n > c"),
        (4, 3, 0, "at least 1"),
    ],
)
def test_unsafe_thresholds_are_refused(n, t, c, words):
    with pytest.raises(CohortTooSmall, match=words.replace("(", r"\(")):
        check_threshold(n, t, c)


def test_a_cohort_beyond_the_frames_is_refused():
    with pytest.raises(SecAggError, match="at most 128"):
        check_threshold(MAX_COHORT + 1, 100, 1)


def test_accepted_thresholds_are_exactly_those_where_quorums_share_an_honest_site():
    """By counting: two quorums of t out of n overlap in at least 2t - n sites, of which c may be dishonest."""
    for n in range(1, 12):
        for t in range(1, n + 2):
            for c in range(1, n + 1):
                safe = t <= n and (2 * t - n) - c >= 1 and t - c >= 2
                try:
                    check_threshold(n, t, c)
                    accepted = True
                except CohortTooSmall:
                    accepted = False
                assert accepted == safe, (n, t, c)


def test_survivors_required_is_the_larger_of_threshold_and_minimum():
    assert survivors_required(3, 2) == 3
    assert survivors_required(3, 4) == 4
