"""PRV and RDP: independent code about the same events."""

from __future__ import annotations

import math

import dp_accounting
import pytest
import torch
from dp_accounting import rdp

from privacy.accounting import agreement_between, epsilon, epsilon_prv, epsilon_rdp
from privacy.accounting import rdp as rdp_module
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from tacit.errors import LedgerError

torch.set_num_threads(1)


def event(noise_multiplier: float, sample_rate: float, steps: int) -> SubsampledGaussian:
    return SubsampledGaussian(
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
    )


def test_prv_reproduces_microsofts_published_value():
    # pytorch/opacus, opacus/tests/prv_accountant.py ("msr_values", from microsoft/prv_accountant), delta = 1e-6.
    assert epsilon_prv([event(1.5, 0.05, 1000)], 1e-6) == pytest.approx(6.20996924657726, abs=1e-5)


def test_rdp_is_close_to_opacus_published_value():
    # pytorch/opacus, opacus/tests/accountants_test.py, test_rdp_accountant: sigma 1.5, q 0.04, 90 epochs, 1e-5. Theirs
    # minimises over fractional orders too, so ours may be slightly above and never below.
    value = epsilon_rdp([event(1.5, 0.04, 2250)], 1e-5)
    assert 7.32911117143 - 1e-6 <= value < 7.33


def test_rdp_of_the_gaussian_is_its_closed_form():
    # Mironov 2017, proposition 7 and proposition 3: min over orders of a / (2 sigma^2) + log(1/delta) / (a - 1) bounds
    # the tighter conversion used here from above.
    sigma, delta = 3.0, 1e-5
    simple = min(a / (2 * sigma**2) + math.log(1 / delta) / (a - 1) for a in range(2, 1025))
    value = epsilon_rdp([event(sigma, 1.0, 1)], delta)
    assert 0.8 * simple < value < simple


@pytest.mark.parametrize("noise_multiplier", [0.2, 0.5, 1.0, 1.5, 4.0, 20.0, 100.0])
@pytest.mark.parametrize("sample_rate", [1e-6, 1e-3, 0.02, 0.3, 0.9, 0.9999, 1.0])
def test_rdp_of_one_step_is_dp_accountings(noise_multiplier, sample_rate):
    """Ours computes all orders at once; theirs one after the other, and takes ten times as long."""
    theirs = rdp.RdpAccountant(rdp_module.ORDERS, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    theirs.compose(dp_accounting.PoissonSampledDpEvent(sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier)), 3)
    ours = 3 * rdp_module._one_step(noise_multiplier, sample_rate)
    assert ours == pytest.approx(theirs.rdp, rel=1e-9, abs=1e-14)


def test_rdp_never_falls_below_zero():
    assert (rdp_module._one_step(1e5, 1e-9) >= 0).all()


@pytest.mark.parametrize(
    "events",
    [
        [event(1.0, 0.05, 100)],
        [event(0.7, 0.1, 30)],
        [event(1.2, 0.02, 300), event(0.9, 0.05, 40), event(2.0, 1.0, 3)],
        [event(5.0, 1.0, 100)],
        [event(2.0, 0.001, 5000)],
    ],
)
def test_the_accountants_agree(events):
    opinion = agreement_between(events, 1e-5)
    assert opinion.agrees
    assert opinion.pld == epsilon(events, 1e-5)
    assert opinion.prv == epsilon_prv(events, 1e-5)
    assert opinion.rdp >= opinion.pld


def test_disagreement_is_seen(monkeypatch):
    """A forgotten tenth of the steps in either accountant must not pass as agreement."""
    full, short = [event(1.0, 0.05, 100)], [event(1.0, 0.05, 90)]
    monkeypatch.setattr("privacy.accounting.comparison.epsilon_prv", lambda _, delta: epsilon_prv(short, delta))
    assert not agreement_between(full, 1e-5).agrees
    monkeypatch.setattr("privacy.accounting.comparison.epsilon_prv", epsilon_prv)
    monkeypatch.setattr("privacy.accounting.comparison.epsilon", lambda _, delta: epsilon(short, delta))
    assert not agreement_between(full, 1e-5).agrees


def test_prv_says_so_when_it_has_no_opinion():
    with pytest.raises(LedgerError, match="no opinion"):
        epsilon_prv([event(1.0, 0.05, 100)], 1e-17)


def test_no_events_cost_nothing():
    assert epsilon_prv([], 1e-5) == 0.0
    assert epsilon_rdp([], 1e-5) == 0.0


def test_prv_refuses_unknown_events():
    with pytest.raises(LedgerError, match="no accountant understands"):
        epsilon_prv([event(1.0, 0.1, 1).model_copy(update={"mode": "joint"})], 1e-5)
