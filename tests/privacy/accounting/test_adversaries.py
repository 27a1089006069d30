"""One epsilon for each adversary, and none at all where none is claimed."""

from __future__ import annotations

import pytest

from privacy.accounting import COLLUDING_SITES, COORDINATOR, PUBLIC, SITE, adversary_bounds, epsilon
from privacy.events import Adjacency, JointSubsampledGaussian, PrivacyMode, PrivacyUnit, SubsampledGaussian
from tacit.errors import InputError, LedgerError

EVENT = SubsampledGaussian(
    mode=PrivacyMode.LOCAL,
    unit=PrivacyUnit.RECORD,
    adjacency=Adjacency.ADD_REMOVE,
    noise_multiplier=1.0,
    sample_rate=0.05,
    steps=40,
)


def test_local_mode_gives_every_adversary_the_sites_own_bound():
    bounds = adversary_bounds([EVENT], 1e-5, collusion_bound=2, noise_secret=True)
    assert list(bounds) == [COORDINATOR, COLLUDING_SITES, SITE, PUBLIC]
    assert {bound.epsilon for bound in bounds.values()} == {epsilon([EVENT], 1e-5)}
    assert {bound.delta for bound in bounds.values()} == {1e-5}
    assert "c = 2" in bounds[COLLUDING_SITES].assumptions
    assert all(bound.adversary == name for name, bound in bounds.items())


def test_a_test_seed_leaves_no_claim():
    bounds = adversary_bounds([EVENT], 1e-5, collusion_bound=1, noise_secret=False)
    assert all(bound.epsilon is None for bound in bounds.values())
    assert all("No privacy is claimed" in bound.assumptions for bound in bounds.values())


def test_joint_mode_rests_on_secure_aggregation_and_says_so():
    """The noise multiplier is that of the honest shares of a sum; the number is the central one, its ground is not."""
    joint = JointSubsampledGaussian(
        **EVENT.model_dump(exclude={"mechanism", "mode"}), mode=PrivacyMode.JOINT, threshold=5, collusion_bound=2
    )
    bounds = adversary_bounds([joint], 1e-5, collusion_bound=2, noise_secret=True)
    assert bounds[COLLUDING_SITES].epsilon == epsilon([EVENT], 1e-5)
    assert all("needs secure aggregation" in bounds[name].assumptions for name in (COORDINATOR, COLLUDING_SITES, SITE))
    assert "more than c = 2 sites collude" in bounds[COLLUDING_SITES].assumptions
    assert not any("neither secure aggregation" in bound.assumptions for bound in bounds.values())
    both = adversary_bounds([EVENT, joint], 1e-5, collusion_bound=2, noise_secret=True)[COLLUDING_SITES]
    assert both.epsilon == epsilon([EVENT, joint], 1e-5)
    assert "neither secure aggregation" in both.assumptions
    assert "needs secure aggregation" in both.assumptions


def test_a_joint_event_without_threshold_and_collusion_bound_is_refused():
    with pytest.raises(LedgerError, match="joint"):
        adversary_bounds(
            [EVENT.model_copy(update={"mode": PrivacyMode.JOINT})], 1e-5, collusion_bound=2, noise_secret=False
        )


def test_a_mode_without_analysis_gets_no_bounds():
    for noise_secret in (True, False):
        with pytest.raises(LedgerError, match="site"):
            adversary_bounds(
                [EVENT.model_copy(update={"mode": "site"})], 1e-5, collusion_bound=1, noise_secret=noise_secret
            )


def test_one_curious_partner_is_the_least():
    with pytest.raises(InputError, match="collusion"):
        adversary_bounds([EVENT], 1e-5, collusion_bound=0, noise_secret=True)


def test_unknown_adversaries_are_not_guessed():
    with pytest.raises(KeyError):
        adversary_bounds([EVENT], 1e-5, collusion_bound=1, noise_secret=True)["everybody"]
