"""Mode ``joint``: the shares an adversary does not know, the grid's price, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from privacy.accounting import (
    COLLUDING_SITES,
    COORDINATOR,
    PUBLIC,
    SITE,
    adversary_bounds,
    agreement_between,
    epsilon,
    epsilon_rdp,
)
from privacy.events import (
    Adjacency,
    DpEvent,
    IntegerGrid,
    JointSubsampledGaussian,
    PrivacyMode,
    PrivacyUnit,
    SubsampledGaussian,
)
from privacy.noise_shares import ShareGrid
from privacy.order import Order
from privacy.secagg.threshold import survivors_required
from tacit.errors import InputError, LedgerError
from tests.privacy.test_order import ORDER

DELTA = 1e-5
JOINT_ORDER = Order.model_validate(
    {
        **ORDER,
        "mode": "joint",
        "adapter_length": 100,
        "training": {**ORDER["training"], "local_steps": 10, "l2_clip_norm": 1.0},
        "secagg": {
            "cohort": ["alpha", "beta", "delta", "gamma", "zeta"],
            "threshold": 4,
            "min_cohort": 4,
            "steps": 10,
            "scale": 4096.0,
            "value_bound": 64.0,
        },
    }
)
FACTS = {
    "mode": "joint",
    "unit": "record",
    "adjacency": "add-remove",
    "noise_multiplier": 1.1,
    "sample_rate": 0.05,
    "steps": 60,
    "threshold": 7,
    "collusion_bound": 3,
    "grid": {"l2_clip_norm": 1.0, "scale": 2.0**20, "dimension": 10_000},
}


def joint(**changes: object) -> JointSubsampledGaussian:
    return JointSubsampledGaussian.model_validate({**FACTS, **changes})


def central(noise_multiplier: float, mode: str = "local") -> SubsampledGaussian:
    """One trusted party with this noise: what the sum is to be as good as."""
    return SubsampledGaussian(
        mode=PrivacyMode(mode), unit=PrivacyUnit.RECORD, adjacency=Adjacency.ADD_REMOVE,
        noise_multiplier=noise_multiplier, sample_rate=0.05, steps=60,
    )  # fmt: skip


@pytest.mark.parametrize(("adversary", "shares"), [(COORDINATOR, 7), (COLLUDING_SITES, 4), (SITE, 6), (PUBLIC, 7)])
def test_each_adversary_is_left_with_the_shares_it_does_not_know(adversary, shares):
    """h = 7 - 3 = 4 honest shares are the whole of sigma; t are sqrt(7/4) of it, all but a partner's own sqrt(6/4)."""
    bound = adversary_bounds([joint()], DELTA, collusion_bound=3, noise_secret=True)[adversary]
    expected = epsilon([central(1.1 * math.sqrt(shares / 4))], DELTA)
    assert bound.epsilon == pytest.approx(expected, rel=1e-9)
    assert "secure aggregation" in bound.assumptions or adversary == PUBLIC


@pytest.mark.parametrize(("adversary", "colluding"), [(COORDINATOR, 0), (COLLUDING_SITES, 3), (SITE, 1), (PUBLIC, 0)])
def test_surplus_that_is_taken_off_is_nobodys_to_count_on(adversary, colluding):
    """Ten sites, none lost: each share is left with 1 / 7 of the variance, so without colluders 10 / 7 of it are there,
    not the 7 / 4 that a sum over seven sites has."""
    bound = adversary_bounds([joint(cohort_size=10)], DELTA, collusion_bound=3, noise_secret=True)[adversary]
    expected = epsilon([central(1.1 * math.sqrt((10 - colluding) / 7))], DELTA)
    assert bound.epsilon == pytest.approx(expected, rel=1e-9)
    assert epsilon([joint(cohort_size=10)], DELTA) == epsilon([joint()], DELTA)


def test_what_is_charged_is_the_worst_of_them():
    bounds = adversary_bounds([joint()], DELTA, collusion_bound=3, noise_secret=True)
    assert epsilon([joint()], DELTA) == max(bound.epsilon for bound in bounds.values())
    assert bounds[COLLUDING_SITES].epsilon > bounds[SITE].epsilon > bounds[PUBLIC].epsilon
    assert "at least 4 honest sites" in bounds[COLLUDING_SITES].assumptions
    opinion = agreement_between([joint()], DELTA)
    assert opinion.agrees
    assert opinion.pld == epsilon([joint()], DELTA)


def test_both_modes_compose():
    both = [central(1.0), joint()]
    bounds = adversary_bounds(both, DELTA, collusion_bound=3, noise_secret=True)
    assert bounds[PUBLIC].epsilon > epsilon([central(1.0)], DELTA)
    assert bounds[COLLUDING_SITES].epsilon == epsilon(both, DELTA)
    for needed in ("noised at the site", "at least 4 honest sites"):
        assert needed in bounds[COLLUDING_SITES].assumptions


def test_a_test_seed_leaves_no_claim():
    bounds = adversary_bounds([joint()], DELTA, collusion_bound=3, noise_secret=False)
    assert all(bound.epsilon is None for bound in bounds.values())


def test_more_colluding_sites_than_the_shares_were_made_for_get_no_bound():
    with pytest.raises(LedgerError, match="fewer than the 4 colluding sites"):
        adversary_bounds([joint()], DELTA, collusion_bound=4, noise_secret=True)
    assert adversary_bounds([joint()], DELTA, collusion_bound=2, noise_secret=True)


@pytest.mark.parametrize("min_cohort", [2, len(JOINT_ORDER.secagg.cohort)])
def test_what_is_composed_is_what_the_sites_add(min_cohort):
    """The engine's share, times the root of how many are unknown, over the sensitivity: the event's figures."""
    secagg = JOINT_ORDER.secagg.model_copy(update={"min_cohort": min_cohort})
    order = JOINT_ORDER.model_copy(update={"secagg": secagg})
    assert order.event(collusion_bound=2).smallest_sum == survivors_required(secagg.threshold, min_cohort)
    engine = ShareGrid.of(order, collusion_bound=2)
    event = order.event(collusion_bound=2)
    assert event.grid is not None
    share_units = engine.share_stddev(order.training) * order.secagg.scale
    whole = event.grid.l2_sensitivity * order.training.noise_multiplier
    assert share_units * math.sqrt(event.honest_survivors) == pytest.approx(whole, rel=1e-12)
    cohort = len(secagg.cohort)
    for colluding in range(4):
        # over every number of survivors there may be, what the engine leaves of the shares nobody tells
        held = min(
            engine.kept_stddev(order.training, survivors) * math.sqrt(survivors - colluding)
            for survivors in range(event.smallest_sum, cohort + 1)
        )
        found = event.noise_multiplier_against(colluding)
        assert found == pytest.approx(held * secagg.scale / event.grid.l2_sensitivity, rel=1e-12)
    assert event.noise_multiplier_against(2) == pytest.approx(order.training.noise_multiplier, rel=1e-12)
    alone = engine.kept_stddev(order.training, cohort) * secagg.scale / event.grid.l2_sensitivity
    assert event.noise_multiplier_alone == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("dimension", [1, 30, 1000])
@pytest.mark.parametrize("scale", [0.1, 4.0, 1000.0])
def test_one_record_moves_a_rounded_sum_by_no_more_than_the_grid_says(dimension, scale):
    """Both sums rounded with the same u, as the proof does; the worst of many gradients stays below, and near."""
    grid = IntegerGrid(l2_clip_norm=2.0, scale=scale, dimension=dimension)
    random = np.random.default_rng(dimension)
    worst = 0.0
    for _ in range(200):
        gradient = random.normal(size=dimension)
        gradient *= 2.0 / np.linalg.norm(gradient)
        others, u = 10 * random.normal(size=dimension), random.random(dimension)
        moved = np.floor(scale * (others + gradient) + u) - np.floor(scale * others + u)
        worst = max(worst, float(np.linalg.norm(moved)))
    assert worst <= grid.l2_sensitivity
    assert grid.l2_sensitivity == scale * 2.0 + math.sqrt(dimension)
    # The unrounded norm is not enough on a coarse grid: the price is real.
    if scale == 0.1:
        assert worst > scale * 2.0


def test_the_grid_is_a_note():
    """Shares are sized for the sensitivity after rounding, so the cost is the same wherever it is known."""
    assert epsilon([joint(grid=None)], DELTA) == epsilon([joint()], DELTA) == epsilon([central(1.1)], DELTA)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": 4}, "at least 2"),
        ({"collusion_bound": 6}, "at least 2"),
        ({"collusion_bound": 0}, "greater than 0"),
        ({"grid": {"l2_clip_norm": 1.0, "scale": 4.0, "dimension": 10}}, "lost in rounding"),
        ({"threshold": None}, "threshold"),
        ({"grid": {"l2_clip_norm": 1.0, "scale": 2.0**20}}, "dimension"),
        ({"mode": "central"}, "mode"),
        ({"participation_rate": 0.5}, "Extra inputs"),
    ],
)
def test_what_would_not_hold_is_no_event(changes, said):
    with pytest.raises(ValidationError, match=said):
        joint(**changes)


def test_a_mode_belongs_to_its_kind_of_event():
    """A ``joint`` order taken for a local event would be charged as if the site's own share were all the noise."""
    for wrong in (central(1.1, mode="joint"), joint().model_copy(update={"mode": PrivacyMode.LOCAL})):
        for accountant in (epsilon, epsilon_rdp):
            with pytest.raises(LedgerError, match="no accountant understands"):
                accountant([wrong], DELTA)


def test_written_down_and_read_back():
    adapter: TypeAdapter[DpEvent] = TypeAdapter(DpEvent)
    for event in (joint(), central(1.1)):
        assert adapter.validate_json(event.model_dump_json()) == event


def test_the_ledger_takes_it(ledger, words):
    reservation = words.reserve(ledger, 1, event=joint())
    assert reservation.epsilon_lifetime == epsilon([joint()], 1e-5)
    words.reserve(ledger, 2)
    assert ledger.spent(words.DATASET, 1e-5) == epsilon([joint(), words.event()], 1e-5)
    assert ledger.entries()[1].body.event == joint()


def test_an_event_from_before_there_was_a_least_cohort_keeps_its_bytes():
    """In a ledger its hash is in the tree; and its shares were made for the threshold alone."""
    old = joint()
    data = old.model_dump(mode="json")
    assert not {"min_cohort", "cohort_size"} & set(data)
    assert JointSubsampledGaussian.model_validate(data) == old
    assert old.smallest_sum == old.threshold
    newer = JointSubsampledGaussian.model_validate({**data, "min_cohort": old.threshold + 1})
    assert newer.model_dump(mode="json")["min_cohort"] == old.threshold + 1
    assert newer.honest_survivors == old.honest_survivors + 1
    # a large cohort does not make up for a threshold that colluders can reach
    with pytest.raises(ValidationError, match="must be at least 2"):
        JointSubsampledGaussian.model_validate({**data, "threshold": 4, "collusion_bound": 3, "min_cohort": 10})


def test_an_order_says_what_it_spends():
    event = JOINT_ORDER.event(collusion_bound=2)
    assert isinstance(event, JointSubsampledGaussian)
    assert (event.threshold, event.collusion_bound, event.steps) == (JOINT_ORDER.secagg.threshold, 2, 10)
    assert event.grid == IntegerGrid(l2_clip_norm=1.0, scale=JOINT_ORDER.secagg.scale, dimension=101)
    assert event.min_cohort == JOINT_ORDER.secagg.min_cohort
    assert event.cohort_size == len(JOINT_ORDER.secagg.cohort)
    assert event.model_dump(mode="json")["cohort_size"] == 5
    with pytest.raises(InputError, match="collusion bound"):
        JOINT_ORDER.event()
    with pytest.raises(InputError, match="at least 2"):
        JOINT_ORDER.event(collusion_bound=JOINT_ORDER.secagg.threshold - 1)


@pytest.fixture
def words():
    from tests.privacy.ledger.conftest import Words

    return Words


@pytest.fixture
def ledger(words, tmp_path):
    from privacy.ledger import Ledger
    from tests.privacy.ledger.conftest import Site

    path, site = tmp_path / "ledger.sqlite", Site("alpha")
    with Ledger.open(path, site) as opened:
        opened.accept_agreement(words.AGREEMENT, {})
        yield opened
        opened.verify(site)
    with Ledger.open(path, site) as again:
        assert any(isinstance(entry.body.event, JointSubsampledGaussian) for entry in again.entries()[1:])
