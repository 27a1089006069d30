"""What is left of a bound when more sites collude than was agreed."""

from __future__ import annotations

import itertools
import math

import pytest

from privacy.accounting import COLLUDING_SITES, COORDINATOR, adversary_bounds, epsilon, epsilon_against
from privacy.accounting.collusion import unknown_shares
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


def joint(threshold: int, collusion_bound: int, min_cohort: int = 0) -> JointSubsampledGaussian:
    return JointSubsampledGaussian(
        **LOCAL.model_dump(exclude={"mechanism", "mode"}),
        mode=PrivacyMode.JOINT,
        threshold=threshold,
        collusion_bound=collusion_bound,
        min_cohort=min_cohort,
    )


def fewest_shares(threshold: int, min_cohort: int, sites: int, colluding: int) -> int:
    """By trying: two sets of t sites with nobody honest in both open whatever they like; else t less the colluders."""
    members = range(sites)
    bad = set(members[:colluding])
    quorums = [set(each) for each in itertools.combinations(members, threshold)]
    if any(first & second <= bad for first in quorums for second in quorums):
        return 1
    # an honest site in each quorum opens no smaller sum than it was promised
    sums = [set(each) for each in itertools.combinations(members, max(threshold, min_cohort))]
    honest = min(len(each - bad) for each in sums)
    # a sum of one honest site's vector is that vector, and the noise in it is its own
    return max(honest, 1)


@pytest.mark.parametrize(("sites", "threshold"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (7, 7)])
def test_the_shares_that_remain_are_those_found_by_trying_every_quorum(sites: int, threshold: int) -> None:
    for colluding, min_cohort in itertools.product(range(sites), range(sites + 1)):
        found = unknown_shares(threshold, max(threshold, min_cohort), sites, colluding)
        assert found == fewest_shares(threshold, min_cohort, sites, colluding), (colluding, min_cohort)


def test_ten_sites() -> None:
    assert [unknown_shares(7, 7, 10, colluding) for colluding in range(10)] == [7, 6, 5, 4, 1, 1, 1, 1, 1, 1]


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
        [LOCAL.model_copy(update={"noise_multiplier": event.noise_multiplier_of(10)})], 1e-5
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
