"""Mode ``site``: Gaussians over rounds against the closed form, one unit an account, one epsilon an adversary."""

from __future__ import annotations

import math

import pytest
from pydantic import TypeAdapter, ValidationError
from scipy import optimize, stats

from privacy.accounting import (
    COLLUDING_SITES,
    COORDINATOR,
    PUBLIC,
    SITE,
    adversary_bounds,
    agreement_between,
    epsilon,
    epsilon_prv,
    epsilon_rdp,
)
from privacy.events import (
    Adjacency,
    DpEvent,
    IntegerGrid,
    PrivacyMode,
    PrivacyUnit,
    SiteGaussian,
    SubsampledGaussian,
    check_guarantee,
)
from privacy.ledger import Ledger, statement
from privacy.ledger.entries import Reserve
from privacy.order import Order
from tacit.errors import InputError, LedgerCorrupt, LedgerError
from tests.privacy.ledger.conftest import Site, Words
from tests.privacy.test_order import ORDER

DELTA = 1e-5
FACTS = {
    "mode": "site",
    "unit": "site",
    "adjacency": "zero-out",
    "noise_multiplier": 4.0,
    "steps": 1,
    "threshold": 7,
    "collusion_bound": 3,
    "grid": {"l2_clip_norm": 1.0, "scale": 2.0**20, "dimension": 10_000},
}
_OPTIONS = ("clipping", "layer_weights", "adaptive_clipping")
SITE_ORDER = {**ORDER, "mode": "site", "unit": "site", "adjacency": "zero-out", "adapter_length": 100}
SITE_ORDER["training"] = {name: value for name, value in ORDER["training"].items() if name not in _OPTIONS}
RECORD = SubsampledGaussian(
    mode=PrivacyMode.LOCAL,
    unit=PrivacyUnit.RECORD,
    adjacency=Adjacency.ADD_REMOVE,
    noise_multiplier=4.0,
    sample_rate=1.0,
    steps=1,
)


def site(**changes: object) -> SiteGaussian:
    return SiteGaussian.model_validate({**FACTS, **changes})


def exact_epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
    """Balle and Wang 2018, theorem 8; T rounds of a Gaussian are one whose noise is smaller by sqrt(T)."""
    mu = math.sqrt(rounds) / noise_multiplier

    def excess(eps: float) -> float:
        tail = math.exp(eps + stats.norm.logcdf(-mu / 2 - eps / mu))
        return float(stats.norm.cdf(mu / 2 - eps / mu) - tail - delta)

    return float(optimize.brentq(excess, 0.0, 200.0, xtol=1e-10))


@pytest.mark.parametrize("noise_multiplier", [0.8, 2.0, 4.0, 30.0])
@pytest.mark.parametrize("rounds", [1, 7, 40])
def test_rounds_compose_as_one_gaussian(noise_multiplier: float, rounds: int) -> None:
    exact = exact_epsilon(noise_multiplier, rounds, DELTA)
    bound = epsilon([site(noise_multiplier=noise_multiplier, steps=rounds)], DELTA)
    assert exact <= bound <= exact * 1.01 + 2e-3
    one_by_one = epsilon([site(noise_multiplier=noise_multiplier)] * rounds, DELTA)
    assert one_by_one == bound
    assert epsilon_rdp([site(noise_multiplier=noise_multiplier, steps=rounds)], DELTA) >= exact


def test_a_published_value() -> None:
    """delta(1.0) of a Gaussian of sigma 1 is 0.126936737... (Balle and Wang's formula, worked out by hand)."""
    by_hand = stats.norm.cdf(-0.5) - math.e * stats.norm.cdf(-1.5)
    assert exact_epsilon(1.0, 1, by_hand) == pytest.approx(1.0, abs=1e-8)
    assert by_hand == pytest.approx(0.1269367, abs=1e-7)


def test_the_second_opinion_knows_that_nothing_is_sampled() -> None:
    opinion = agreement_between([site(steps=20)], DELTA)
    assert opinion.agrees
    assert opinion.prv == pytest.approx(exact_epsilon(4.0, 20, DELTA), abs=0.05)


@pytest.mark.parametrize(("adversary", "shares"), [(COORDINATOR, 7), (COLLUDING_SITES, 4), (SITE, 6), (PUBLIC, 7)])
def test_each_adversary_is_left_with_the_shares_it_does_not_know(adversary: str, shares: int) -> None:
    bound = adversary_bounds([site(steps=10)], DELTA, collusion_bound=3, noise_secret=True)[adversary]
    assert bound.epsilon is not None
    exact = exact_epsilon(4.0 * math.sqrt(shares / 4), 10, DELTA)
    assert exact <= bound.epsilon <= exact * 1.01
    assert "In mode site a sum's noise is shared" in bound.assumptions
    assert "noised at the site before" not in bound.assumptions


def test_what_is_charged_is_the_worst_of_them() -> None:
    bounds = adversary_bounds([site()], DELTA, collusion_bound=3, noise_secret=True)
    assert epsilon([site()], DELTA) == bounds[COLLUDING_SITES].epsilon
    assert "at least 4 honest sites" in bounds[COLLUDING_SITES].assumptions
    with pytest.raises(LedgerError, match="fewer than the 4 colluding sites"):
        adversary_bounds([site()], DELTA, collusion_bound=4, noise_secret=True)
    none = adversary_bounds([site()], DELTA, collusion_bound=3, noise_secret=False)
    assert all(bound.epsilon is None for bound in none.values())


@pytest.mark.parametrize("events", [[RECORD, site()], [site(), RECORD], [site(), site(), RECORD]])
def test_charges_to_a_record_and_to_a_site_are_never_added_up(events: list[DpEvent]) -> None:
    for accountant in (epsilon, epsilon_rdp, epsilon_prv, agreement_between):
        with pytest.raises(LedgerError, match="cannot be added to charges to one"):
            accountant(events, DELTA)
    with pytest.raises(LedgerError, match="cannot be added to charges to one"):
        adversary_bounds(events, DELTA, collusion_bound=3, noise_secret=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": PrivacyMode.JOINT},
        {"mode": PrivacyMode.LOCAL},
        {"unit": PrivacyUnit.RECORD},
        {"adjacency": Adjacency.ADD_REMOVE},
        {"unit": PrivacyUnit.RECORD, "adjacency": Adjacency.ADD_REMOVE},
    ],
)
def test_no_accountant_takes_another_mode_unit_or_adjacency(changes: dict[str, object]) -> None:
    wrong = site().model_copy(update=changes)
    for accountant in (epsilon, epsilon_rdp):
        with pytest.raises(LedgerError, match="no accountant understands"):
            accountant([wrong], DELTA)
    for update in ({"unit": PrivacyUnit.SITE}, {"adjacency": Adjacency.ZERO_OUT}, {"mode": PrivacyMode.SITE}):
        with pytest.raises(LedgerError, match="no accountant understands"):
            epsilon([RECORD.model_copy(update=update)], DELTA)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": 4}, "at least 2"),
        ({"collusion_bound": 0}, "greater than 0"),
        ({"grid": {"l2_clip_norm": 1.0, "scale": 2.0, "dimension": 1}}, "lost in rounding"),
        ({"steps": 0}, "greater than 0"),
        ({"sample_rate": 0.5}, "Extra inputs"),
        ({"participation_rate": 0.5}, "Extra inputs"),
        ({"noise_multiplier": 0.0}, "greater than 0"),
    ],
)
def test_what_would_not_hold_is_no_event(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        site(**changes)


@pytest.mark.parametrize("mode", list(PrivacyMode))
@pytest.mark.parametrize("unit", list(PrivacyUnit))
@pytest.mark.parametrize("adjacency", list(Adjacency))
def test_a_mode_goes_with_its_unit_alone(mode: PrivacyMode, unit: PrivacyUnit, adjacency: Adjacency) -> None:
    is_whole_site = (unit is PrivacyUnit.SITE, adjacency is Adjacency.ZERO_OUT)
    if is_whole_site == ((mode is PrivacyMode.SITE,) * 2):
        check_guarantee(mode, unit, adjacency)
    else:
        with pytest.raises(InputError, match="it goes with"):
            check_guarantee(mode, unit, adjacency)


def test_an_order_says_what_it_spends() -> None:
    order = Order.model_validate(SITE_ORDER)
    event = order.event(collusion_bound=1)
    assert isinstance(event, SiteGaussian)
    # one sum a round, however many steps the site takes for it
    assert (order.training.local_steps > 1, event.steps) == (True, 1)
    assert event.noise_multiplier == order.training.noise_multiplier
    assert event.grid == IntegerGrid(
        l2_clip_norm=order.training.l2_clip_norm, scale=order.secagg.scale, dimension=order.vector_length
    )
    with pytest.raises(InputError, match="collusion bound"):
        order.event()
    with pytest.raises(InputError, match="at least 2"):
        order.event(collusion_bound=order.secagg.threshold - 1)
    for wrong in ({"unit": "record", "adjacency": "add-remove"}, {"mode": "local"}, {"adjacency": "add-remove"}):
        with pytest.raises(InputError, match="it goes with"):
            Order.model_validate({**SITE_ORDER, **wrong}).event(collusion_bound=1)


def test_written_down_and_read_back() -> None:
    adapter: TypeAdapter[DpEvent] = TypeAdapter(DpEvent)
    assert adapter.validate_json(site().model_dump_json()) == site()


def opened(tmp_path: object) -> Ledger:
    ledger = Ledger.open(tmp_path / "ledger.sqlite", Site("alpha"))  # type: ignore[operator]
    ledger.accept_agreement(Words.AGREEMENT, {})
    return ledger


def test_the_ledger_composes_rounds_and_says_what_it_counts(tmp_path: object) -> None:
    with opened(tmp_path) as ledger:
        for step in (1, 2, 3):
            Words.reserve(ledger, step, event=site())
        assert ledger.spent(Words.DATASET, DELTA) == epsilon([site(steps=3)], DELTA)
        assert statement(ledger).datasets[0].unit == "site"
        Words.reserve(ledger, 4, dataset="other")
        assert [dataset.unit for dataset in statement(ledger).datasets] == ["site", "record"]


@pytest.mark.parametrize("events", [(Words.event(), site()), (site(), Words.event())])
def test_an_account_keeps_the_unit_it_began_with(tmp_path: object, events: tuple[DpEvent, DpEvent]) -> None:
    """Also across runs and agreements, and also for whoever writes past the accountants."""
    with opened(tmp_path) as ledger:
        Words.reserve(ledger, 1, event=events[0])
        head = ledger.tree_head()
        with pytest.raises(LedgerError, match="cannot be added to charges to one"):
            Words.reserve(ledger, 2, key=Words.key(2, "f" * 16), event=events[1])
        body = next(entry.body for entry in ledger.entries() if isinstance(entry.body, Reserve))
        forced = body.model_copy(update={"event": events[1], "run_id": "f" * 16})
        with pytest.raises(LedgerError, match="cannot be added to charges to one"):
            ledger._append(forced)
        assert ledger.tree_head() == head


def test_a_log_that_mixes_units_does_not_verify(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as ledger:
        Words.reserve(ledger, 1, event=site())
        body = next(entry.body for entry in ledger.entries() if isinstance(entry.body, Reserve))
        with monkeypatch.context() as patched:
            patched.setattr("privacy.ledger.state.check_same_unit", lambda first, other: None)
            ledger._append(body.model_copy(update={"event": Words.event(), "run_id": "f" * 16}))
        with pytest.raises(LedgerCorrupt, match="contradicts the ones before it"):
            ledger.verify(None)
