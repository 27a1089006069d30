"""What is left of a bound when more sites collude than was agreed."""

from __future__ import annotations

import itertools
import math

import pytest

from privacy.accounting import COLLUDING_SITES, COORDINATOR, adversary_bounds, epsilon, epsilon_against
from privacy.accounting.collusion import opens_one_sum
from privacy.events import Adjacency, JointSubsampledGaussian, PrivacyMode, PrivacyUnit, SubsampledGaussian
from tacit.errors import InputError, LedgerError

LOCAL = SubsampledGaussian(
    mode=PrivacyMode.LOCAL,
    unit=PrivacyUnit.RECORD,
    adjacency=Adjacency.ADD_REMOVE,
    noise_multiplier=1.2,
    sample_rate=0.1,
    steps=12,
)


def joint(threshold: int, collusion_bound: int, min_cohort: int = 0, cohort_size: int = 0) -> JointSubsampledGaussian:
    return JointSubsampledGaussian(
        **LOCAL.model_dump(exclude={"mechanism", "mode"}),
        mode=PrivacyMode.JOINT,
        threshold=threshold,
        collusion_bound=collusion_bound,
        min_cohort=min_cohort,
        cohort_size=cohort_size,
    )


def least_noise(event: JointSubsampledGaussian, sites: int, colluding: int) -> float:
    """Variance over that of the whole, by trying: every sum that may be opened, every share in it that is unknown.

    Two sets of t sites with nobody honest in both open whatever they like: one share, with the least left of it.
    """
    members = range(sites)
    bad = set(members[:colluding])
    c, taken_off = event.collusion_bound, event.cohort_size > 0
    quorums = [set(each) for each in itertools.combinations(members, event.threshold)]
    smallest = max(event.threshold, event.min_cohort)
    if any(first & second <= bad for first in quorums for second in quorums):
        return 1 / ((sites if taken_off else smallest) - c)
    found = []
    for size in range(smallest, sites + 1):
        # an honest site in each quorum opens no smaller sum than it was promised, and shows what that size allows
        share = 1 / ((size if taken_off else smallest) - c)
        honest = min(len(set(each) - bad) for each in itertools.combinations(members, size))
        # a sum of one honest site's vector is that vector, and the noise in it is its own
        found.append(max(honest, 1) * share)
    return min(found)


@pytest.mark.parametrize(("sites", "threshold"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (7, 7)])
@pytest.mark.parametrize("taken_off", [False, True])
def test_the_noise_that_remains_is_that_found_by_trying_every_sum(sites: int, threshold: int, taken_off: bool) -> None:
    for colluding, min_cohort, c in itertools.product(range(sites), range(sites + 1), range(1, threshold - 1)):
        event = joint(threshold, c, min_cohort, sites if taken_off else 0)
        found = (
            event.noise_multiplier_against(colluding)
            if opens_one_sum(threshold, sites, colluding)
            else event.noise_multiplier_alone
        )
        expected = event.noise_multiplier * math.sqrt(least_noise(event, sites, colluding))
        assert found == pytest.approx(expected, rel=1e-12), (colluding, min_cohort, c)
        assert epsilon_against([event], 1e-5, cohort_size=sites, colluding_sites=colluding) == epsilon(
            [LOCAL.model_copy(update={"noise_multiplier": found})], 1e-5
        )


def test_ten_sites() -> None:
    assert [opens_one_sum(7, 10, colluding) for colluding in range(10)] == [True] * 4 + [False] * 6
    left = [joint(7, 3).noise_multiplier_against(colluding) ** 2 / 1.2**2 for colluding in range(8)]
    assert left == pytest.approx([7 / 4, 6 / 4, 5 / 4, 1, 3 / 4, 2 / 4, 1 / 4, 0])
    left = [joint(7, 3, cohort_size=10).noise_multiplier_against(colluding) ** 2 / 1.2**2 for colluding in range(8)]
    assert left == pytest.approx([10 / 7, 9 / 7, 8 / 7, 1, 3 / 4, 2 / 4, 1 / 4, 0])


def test_up_to_the_agreed_number_it_is_what_is_claimed() -> None:
    event = joint(threshold=7, collusion_bound=3)
    bounds = adversary_bounds([event], 1e-5, collusion_bound=3, noise_secret=True)
    for colluding, name in ((0, COORDINATOR), (3, COLLUDING_SITES)):
        found = epsilon_against([event], 1e-5, cohort_size=10, colluding_sites=colluding)
        assert found == bounds[name].epsilon


def test_a_larger_least_cohort_leaves_more_honest_shares() -> None:
    event = joint(threshold=7, collusion_bound=3, min_cohort=10)
    assert (event.smallest_sum, event.honest_survivors) == (10, 7)
    # whatever the shares' size, those of the honest sites make up the whole noise; without colluders there is more
    assert epsilon([event], 1e-5) == epsilon([LOCAL], 1e-5)
    bounds = adversary_bounds([event], 1e-5, collusion_bound=3, noise_secret=True)
    assert bounds[COORDINATOR].epsilon == epsilon(
        [LOCAL.model_copy(update={"noise_multiplier": 1.2 * math.sqrt(10 / 7)})], 1e-5
    )
    assert "10, less c" in bounds[COLLUDING_SITES].assumptions


def test_against_all_others_one_share_is_left() -> None:
    found = epsilon_against([joint(7, 3)], 1e-5, cohort_size=10, colluding_sites=9)
    alone = LOCAL.model_copy(update={"noise_multiplier": 1.2 / math.sqrt(7 - 3)})
    assert found == epsilon([alone], 1e-5)
    assert found > 2 * epsilon([LOCAL], 1e-5)


def test_more_colluding_sites_never_learn_less() -> None:
    found = [epsilon_against([joint(7, 3)], 1e-5, cohort_size=10, colluding_sites=k) for k in range(10)]
    assert found == sorted(found)
    assert found[0] < found[3] < found[4]


def test_own_noise_does_not_care_who_colludes() -> None:
    found = {epsilon_against([LOCAL], 1e-5, cohort_size=10, colluding_sites=colluding) for colluding in range(10)}
    assert found == {epsilon([LOCAL], 1e-5)}


@pytest.mark.parametrize("colluding", [-1, 10, 11])
def test_the_protected_site_itself_does_not_collude(colluding: int) -> None:
    with pytest.raises(InputError, match="expected 0 to 9"):
        epsilon_against([LOCAL], 1e-5, cohort_size=10, colluding_sites=colluding)


def test_what_no_accountant_knows_is_refused() -> None:
    with pytest.raises(LedgerError, match="no accountant"):
        epsilon_against(["spent"], 1e-5, cohort_size=3, colluding_sites=1)  # type: ignore[list-item]
    with pytest.raises(InputError, match="delta"):
        epsilon_against([LOCAL], 1.0, cohort_size=3, colluding_sites=1)
