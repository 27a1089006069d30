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
from tacit.errors import InputError, LedgerError

DELTA = 1e-5
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


GRID_PRICE = 1 + math.sqrt(10_000) / 2.0**20


@pytest.mark.parametrize(("adversary", "shares"), [(COORDINATOR, 7), (COLLUDING_SITES, 4), (SITE, 6), (PUBLIC, 7)])
def test_each_adversary_is_left_with_the_shares_it_does_not_know(adversary, shares):
    """h = 7 - 3 = 4 honest shares are the whole of sigma; t are sqrt(7/4) of it, all but a partner's own sqrt(6/4)."""
    bound = adversary_bounds([joint()], DELTA, collusion_bound=3, noise_secret=True)[adversary]
    expected = epsilon([central(1.1 * math.sqrt(shares / 4) / GRID_PRICE)], DELTA)
    assert bound.epsilon == pytest.approx(expected, rel=1e-9)
    assert "secure aggregation" in bound.assumptions or adversary == PUBLIC


def test_what_is_charged_is_the_worst_of_them():
    bounds = adversary_bounds([joint()], DELTA, collusion_bound=3, noise_secret=True)
    assert epsilon([joint()], DELTA) == max(bound.epsilon for bound in bounds.values())
    assert bounds[COLLUDING_SITES].epsilon > bounds[SITE].epsilon > bounds[PUBLIC].epsilon
    assert "4 honest survivors" in bounds[COLLUDING_SITES].assumptions
    opinion = agreement_between([joint()], DELTA)
    assert opinion.agrees
    assert opinion.pld == epsilon([joint()], DELTA)


def test_both_modes_compose():
    both = [central(1.0), joint()]
    bounds = adversary_bounds(both, DELTA, collusion_bound=3, noise_secret=True)
    assert bounds[PUBLIC].epsilon > epsilon([central(1.0)], DELTA)
    assert bounds[COLLUDING_SITES].epsilon == epsilon(both, DELTA)
    for needed in ("noised at the site", "4 honest survivors"):
        assert needed in bounds[COLLUDING_SITES].assumptions


def test_a_test_seed_leaves_no_claim():
    bounds = adversary_bounds([joint()], DELTA, collusion_bound=3, noise_secret=False)
    assert all(bound.epsilon is None for bound in bounds.values())


def test_more_colluding_sites_than_the_shares_were_made_for_get_no_bound():
    with pytest.raises(LedgerError, match="fewer than the 4 colluding sites"):
        adversary_bounds([joint()], DELTA, collusion_bound=4, noise_secret=True)
    assert adversary_bounds([joint()], DELTA, collusion_bound=2, noise_secret=True)


def test_the_noise_shares_add_up():
    """Simulated: of 7 survivors' integer noises, any 4 have the deviation that is claimed; 2/3 or 3/2 would show."""
    event = joint(grid={"l2_clip_norm": 1.0, "scale": 64.0, "dimension": 4})
    draws = 40_000
    noise = np.rint(np.random.default_rng(7).normal(0, event.share, (7, draws)))
    for unknown in (4, 6, 7):
        deviation = noise[:unknown].sum(axis=0).std() / event.grid.l2_sensitivity
        claimed = event.noise_multiplier_of(unknown)
        assert abs(deviation / claimed - 1) < 6 / math.sqrt(2 * draws)
        assert not any(abs(deviation / (claimed * wrong) - 1) < 0.2 for wrong in (2 / 3, 3 / 2))
    assert event.noise_multiplier_of(4) * event.grid.l2_sensitivity == pytest.approx(1.1 * 64.0)


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


def test_a_finer_grid_costs_less_and_a_coarse_one_more():
    def cost(scale: float) -> float:
        return epsilon([joint(grid={"l2_clip_norm": 1.0, "scale": scale, "dimension": 10_000})], DELTA)

    assert cost(2.0**10) > cost(2.0**14) > cost(2.0**24)
    assert cost(2.0**24) == pytest.approx(epsilon([central(1.1)], DELTA), rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": 4}, "at least 2"),
        ({"collusion_bound": 6}, "at least 2"),
        ({"collusion_bound": 0}, "greater than 0"),
        ({"grid": {"l2_clip_norm": 1.0, "scale": 4.0, "dimension": 10}}, "lost in rounding"),
        ({"grid": {"l2_clip_norm": 1.0, "scale": 2.0**20}}, "dimension"),
        ({"grid": None}, "grid"),
        ({"mode": "site"}, "mode"),
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


def test_an_order_says_what_it_spends():
    from privacy.order import Order
    from tests.privacy.test_order import ORDER

    order = Order.model_validate(ORDER).model_copy(update={"mode": PrivacyMode.JOINT})
    event = order.event(collusion_bound=1)
    assert isinstance(event, JointSubsampledGaussian)
    assert (event.threshold, event.collusion_bound) == (order.secagg.threshold, 1)
    assert event.grid == IntegerGrid(
        l2_clip_norm=order.training.l2_clip_norm, scale=order.secagg.scale, dimension=order.vector_length
    )
    with pytest.raises(InputError, match="collusion bound"):
        order.event()
    with pytest.raises(InputError, match="at least 2"):
        order.event(collusion_bound=order.secagg.threshold)


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
