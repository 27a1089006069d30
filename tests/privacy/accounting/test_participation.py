"""Sites that do not join every round: what that is worth, and the shortcut that claims too much."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from privacy.accounting import epsilon
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from privacy.order import TrainingSpec
from tests.privacy.accounting.naive import step

DELTA = 1e-5
ROUND = {"noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 10}


def event(**changes: object) -> SubsampledGaussian:
    fields = {
        "mode": PrivacyMode.LOCAL,
        "unit": PrivacyUnit.RECORD,
        "adjacency": Adjacency.ADD_REMOVE,
        **ROUND,
        **changes,
    }
    return SubsampledGaussian.model_validate(fields)


@pytest.mark.parametrize(("participation", "rounds"), [(0.5, 2), (0.3, 4)])
def test_multiplying_the_sample_rate_by_the_participation_rate_claims_too_little(participation, rounds):
    """A site drawn in secret for a whole round of K steps: its K steps come together or not at all.

    Even where the draw stays secret and a round without the record looks like a round without the site, the pair is
    ((1 - p) Q + p P, Q) with P and Q the *composed* K steps. Steps sampled independently at rate p q lose less.
    """
    steps = ROUND["steps"]
    composed_round = step(ROUND["noise_multiplier"], ROUND["sample_rate"], removed=True).times(steps)
    secret = composed_round.sampled(participation).times(rounds).epsilon(DELTA)
    shortcut = epsilon(
        [event(sample_rate=participation * ROUND["sample_rate"], steps=steps * rounds)],
        DELTA,
    )
    every_round = epsilon([event(steps=steps * rounds)], DELTA)
    assert shortcut < 0.93 * secret
    assert secret < every_round


def test_a_public_schedule_costs_the_rounds_joined(ledger_of_rounds):
    """Known draws amplify nothing, and rounds a site did not join cost it nothing: its ledger says which."""
    joined = ledger_of_rounds((1, 4, 5))
    assert joined == epsilon([event(steps=30)], DELTA)
    assert joined < epsilon([event(steps=50)], DELTA)
    # What a secret draw of three fifths would claim for the five rounds is no bound for a site that joined all five.
    assert ledger_of_rounds((1, 2, 3, 4, 5)) == epsilon([event(steps=50)], DELTA)


@pytest.fixture
def ledger_of_rounds():
    """Spend the given rounds of one run in a fresh ledger; return the lifetime's epsilon."""
    from privacy.ledger import Budget, Ledger, StepKey
    from tests.privacy.ledger.conftest import Site

    agreement = "sha256:" + "a" * 64

    def spend(rounds: tuple[int, ...]) -> float:
        with Ledger.in_memory(Site("alpha")) as ledger:
            ledger.accept_agreement(agreement, {})
            for number in rounds:
                ledger.reserve(
                    StepKey("0" * 16, number, number), "main", agreement, event(), Budget(50.0, 50.0, DELTA),
                    noise_secret=True,
                )  # fmt: skip
            return ledger.spent("main", DELTA)

    return spend


@pytest.mark.parametrize("name", ["participation_rate", "participation", "fraction_fit", "fraction_train"])
def test_a_participation_rate_is_no_part_of_an_event_or_an_order(name):
    """Whoever is asked is named in the order, so no draw is secret; a rate is refused wherever it could be written."""
    with pytest.raises(ValidationError, match="Extra inputs"):
        event(**{name: 0.5})
    training = {
        "local_steps": 10, "sample_rate": 0.1, "expected_batch_size": 8.0, "noise_multiplier": 1.0,
        "l2_clip_norm": 1.0, "learning_rate": 0.1, "max_tokens": 64,
    }  # fmt: skip
    TrainingSpec.model_validate(training)
    with pytest.raises(ValidationError, match="Extra inputs"):
        TrainingSpec.model_validate({**training, name: 0.5})
