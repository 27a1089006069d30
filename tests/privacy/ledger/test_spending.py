"""Reserve, commit, forfeit: what counts, what fits, and what is refused before anything is written."""

from __future__ import annotations

import json
import math
from datetime import datetime

import pytest

from privacy.accounting import calibrate_noise_multiplier, composition, epsilon
from privacy.accounting import pld as pld_module
from privacy.ledger import Budget, Ledger, StepKey, statement
from privacy.ledger.entries import Reserve
from tacit.errors import BudgetExceeded, InputError, LedgerError, RefusalReason, StepAlreadySpent

DELTA = 1e-5


def test_spending_is_the_composition_of_everything_reserved(ledger, words):
    kept = words.reserve(ledger, 1)
    lost = words.reserve(ledger, 2, event=words.event(noise_multiplier=0.8))
    words.reserve(ledger, 3, event=words.event(sample_rate=0.02))  # stays open
    ledger.commit(kept, ctx="ab" * 32, bytes_sent=10)
    ledger.forfeit(lost, "the training failed")
    everything = [words.event(), words.event(noise_multiplier=0.8), words.event(sample_rate=0.02)]
    assert ledger.spent(words.DATASET, DELTA) == pytest.approx(epsilon(everything, DELTA), abs=1e-9)
    assert ledger.spent("another dataset", DELTA) == 0.0


def test_a_reservation_says_what_it_brings_the_totals_to(ledger, words):
    first = words.reserve(ledger, 1)
    assert first.epsilon_run == first.epsilon_lifetime == epsilon([words.event()], DELTA)
    foreign = words.reserve(ledger, 2, key=words.key(2, "f" * 16))
    assert foreign.epsilon_run == epsilon([words.event()], DELTA)
    assert foreign.epsilon_lifetime == epsilon([words.event(steps=20)], DELTA)
    assert ledger.spent(words.DATASET, DELTA, run_id=words.RUN) == first.epsilon_run
    assert ledger.would_spend(words.DATASET, words.event(), DELTA) == epsilon([words.event(steps=30)], DELTA)
    assert ledger.spent(words.DATASET, DELTA) == foreign.epsilon_lifetime  # asking spends nothing


def test_a_planned_run_fits_exactly_and_not_one_round_more(ledger, words):
    rounds, steps = 6, 10
    noise = calibrate_noise_multiplier(4.0, DELTA, 0.05, rounds * steps)
    budget = Budget(epsilon_per_run=4.0, epsilon_lifetime=100.0, delta=DELTA)
    event = words.event(noise_multiplier=noise, steps=steps)
    for step in range(1, rounds + 1):
        words.reserve(ledger, step, event=event, budget=budget)
    before = ledger.tree_head()
    with pytest.raises(BudgetExceeded, match=f"run {words.RUN} to epsilon 4.* the limit is 4 at delta 1e-05"):
        words.reserve(ledger, rounds + 1, event=event, budget=budget)
    assert ledger.tree_head() == before
    # Another run has its own allowance for the run, on top of the same lifetime.
    words.reserve(ledger, 1, key=words.key(1, "f" * 16), event=event, budget=budget)


@pytest.mark.parametrize("fate", ["committed", "forfeited", "open"])
def test_the_lifetime_counts_other_runs_whatever_became_of_them(ledger, words, fate):
    reservation = words.reserve(ledger, 1, key=words.key(1, "f" * 16))
    if fate == "committed":
        ledger.commit(reservation, ctx=b"", bytes_sent=0)
    elif fate == "forfeited":
        ledger.forfeit(reservation, "stopped")
    lifetime = ledger.would_spend(words.DATASET, words.event(), DELTA)
    tight = Budget(epsilon_per_run=50.0, epsilon_lifetime=lifetime - 1e-6, delta=DELTA)
    with pytest.raises(BudgetExceeded, match=f"lifetime of dataset '{words.DATASET}'"):
        words.reserve(ledger, 1, budget=tight)
    words.reserve(ledger, 1, budget=Budget(epsilon_per_run=50.0, epsilon_lifetime=lifetime, delta=DELTA))


def test_a_refused_reservation_can_be_made_smaller(ledger, words):
    tight = Budget(epsilon_per_run=1.0, epsilon_lifetime=1.0, delta=DELTA)
    with pytest.raises(BudgetExceeded):
        words.reserve(ledger, 1, budget=tight, event=words.event(noise_multiplier=0.5))
    words.reserve(ledger, 1, budget=tight, event=words.event(noise_multiplier=3.0))


def test_a_step_is_spent_once(ledger, words):
    reservation = words.reserve(ledger, 1)
    with pytest.raises(StepAlreadySpent, match=f"run {words.RUN} round 1 step 1"):
        words.reserve(ledger, 1)
    ledger.forfeit(reservation, "a reason")
    with pytest.raises(StepAlreadySpent):
        words.reserve(ledger, 1, event=words.event(noise_multiplier=9.0), dataset="another dataset")


def test_a_repeated_step_is_called_that_even_when_the_budget_is_gone_too(ledger, words):
    words.reserve(ledger, 1)
    spent = Budget(epsilon_per_run=0.1, epsilon_lifetime=0.1, delta=DELTA)
    with pytest.raises(StepAlreadySpent):
        words.reserve(ledger, 1, budget=spent)


def test_the_database_guards_steps_too(ledger, words):
    """Should the memory of what was spent ever fail, the table's key does not."""
    words.reserve(ledger, 1)
    before = ledger.tree_head()
    ledger.state._keys.clear()
    with pytest.raises(StepAlreadySpent):
        words.reserve(ledger, 1)
    assert ledger.tree_head() == before
    assert ledger.verify(None) == before


def test_nothing_is_reserved_without_an_agreement_in_force(ledger, words):
    with pytest.raises(LedgerError, match="not in force"):
        words.reserve(ledger, 1, agreement_digest="sha256:" + "b" * 64)
    ledger.withdraw(words.AGREEMENT, "the steward left")
    with pytest.raises(LedgerError, match="not in force"):
        words.reserve(ledger, 1)
    with pytest.raises(LedgerError, match="not in force"):
        ledger.withdraw(words.AGREEMENT, "again")
    with pytest.raises(LedgerError, match="withdrew"):  # what a restarted site would do
        ledger.accept_agreement(words.AGREEMENT, {"title": "a trial"})
    ledger.accept_agreement(words.AGREEMENT, {"title": "a trial"}, after_withdrawal=True)
    words.reserve(ledger, 1)


def test_accepting_twice_says_it_once(ledger, words):
    size = ledger.tree_head().size
    ledger.accept_agreement(words.AGREEMENT, {"title": "a trial"})
    assert ledger.tree_head().size == size
    ledger.accept_agreement(words.AGREEMENT, {"title": "another title"})
    assert ledger.tree_head().size == size + 1


def test_a_reservation_ends_once(ledger, words):
    reservation = words.reserve(ledger, 1)
    ledger.commit(reservation, ctx=b"\1" * 32, bytes_sent=3)
    for end in (
        lambda: ledger.commit(reservation, ctx=b"", bytes_sent=0),
        lambda: ledger.forfeit(reservation, "late"),
    ):
        with pytest.raises(LedgerError, match="not an open reservation"):
            end()


def test_a_test_seed_is_marked_for_good(ledger, words):
    words.reserve(ledger, 1)
    assert ledger.claims_privacy(words.DATASET)
    words.reserve(ledger, 2, noise_secret=False)
    words.reserve(ledger, 3)
    assert not ledger.claims_privacy(words.DATASET)
    assert ledger.claims_privacy("another dataset")
    bodies = [entry.body for entry in ledger.entries() if isinstance(entry.body, Reserve)]
    assert [body.noise_secret for body in bodies] == [True, False, True]
    assert not statement(ledger).datasets[0].noise_secret


def test_whether_noise_is_secret_must_be_said(ledger, words):
    with pytest.raises(TypeError, match="noise_secret"):
        ledger.reserve(words.key(1), words.DATASET, words.AGREEMENT, words.event(), words.WIDE)


def test_unknown_events_are_refused_before_anything_is_written(ledger, words):
    before = ledger.tree_head()
    with pytest.raises(LedgerError, match="no accountant understands"):
        words.reserve(ledger, 1, event=words.event().model_copy(update={"mode": "joint"}))
    with pytest.raises(LedgerError, match="no accountant understands"):
        words.reserve(ledger, 1, event=object())
    assert ledger.tree_head() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon_per_run": 0.0},
        {"epsilon_per_run": math.nan},
        {"epsilon_lifetime": math.inf},
        {"epsilon_lifetime": -1.0},
        {"delta": 0.0},
        {"delta": 1.0},
    ],
)
def test_a_budget_without_a_limit_is_none(wrong):
    with pytest.raises(InputError):
        Budget(**({"epsilon_per_run": 1.0, "epsilon_lifetime": 1.0, "delta": 1e-5} | wrong))


def test_malformed_entries_are_refused(ledger, words):
    reservation = words.reserve(ledger, 1)
    size = ledger.tree_head().size
    for write in (
        lambda: words.reserve(ledger, 2, dataset=""),
        lambda: words.reserve(ledger, 2, key=StepKey(words.RUN, -1, 2)),
        lambda: words.reserve(ledger, 2, noise_secret="yes"),
        lambda: ledger.commit(reservation, ctx="not hex", bytes_sent=0),
        lambda: ledger.commit(reservation, ctx=b"", bytes_sent=-1),
        lambda: ledger.record_egress("update", 2**60),
        lambda: ledger.accept_agreement("md5:0", {}),
        lambda: ledger.accept_agreement(words.AGREEMENT, {"limit": math.inf}),
    ):
        with pytest.raises(InputError):
            write()
    assert ledger.tree_head().size == size


def test_the_rest_of_the_account(ledger, words):
    order = "sha256:" + "c" * 64
    ledger.record_refusal(order, RefusalReason.BUDGET, "epsilon 9 asked, 8 allowed")
    ledger.record_refusal("", RefusalReason.ORDER_MALFORMED, "not JSON")
    ledger.record_egress("masked update", 4096, key=words.key(1))
    ledger.record_release(words.RUN, "partners", "sha256:" + "d" * 64)
    ledger.record_audit("the DPO", "all epsilons recomputed")
    kinds = [entry.body.kind for entry in ledger.entries()]
    assert kinds == ["agreement-accepted", "refusal", "refusal", "egress", "release", "audit"]
    assert statement(ledger).entries == {"agreement-accepted": 1, "refusal": 2, "egress": 1, "release": 1, "audit": 1}


def test_a_clock_without_time_zone_is_refused(site, words):
    ledger = Ledger.in_memory(site)
    ledger._clock = lambda: datetime(2026, 1, 1)
    with pytest.raises(InputError, match="time zone"):
        ledger.accept_agreement(words.AGREEMENT, {})


def test_nonces_keep_equal_entries_apart(ledger, words):
    """Two identical statements must not have equal hashes, or a hash would confirm a guess."""
    first = ledger.record_egress("receipt", 10)
    second = ledger.record_egress("receipt", 10)
    assert first.nonce != second.nonce
    assert len(bytes.fromhex(first.nonce)) == 16
    assert json.loads(first.encode())["nonce"] == first.nonce


def test_the_statement_adds_up(ledger, words):
    ledger.commit(words.reserve(ledger, 1), ctx=b"", bytes_sent=1)
    ledger.forfeit(words.reserve(ledger, 2), "failed")
    words.reserve(ledger, 3)
    words.reserve(ledger, 4, key=words.key(4, "f" * 16))
    page = statement(ledger)
    (dataset,) = page.datasets
    assert dataset.epsilon == epsilon([words.event(steps=40)], DELTA)
    assert dataset.epsilon_left == pytest.approx(50.0 - dataset.epsilon)
    assert dataset.delta == DELTA
    ours, theirs = dataset.runs
    assert (ours.reserved, ours.committed, ours.forfeited, ours.open) == (3, 1, 1, 1)
    assert (theirs.reserved, theirs.open) == (1, 1)
    assert ours.epsilon == epsilon([words.event(steps=30)], DELTA)
    assert [item.step for item in page.open_reservations] == [3, 4]
    assert page.agreements[0].in_force
    assert page.tree_head == ledger.tree_head()


def test_the_ledgers_numbers_are_those_of_a_composition_without_caches(ledger, words):
    """Runs of many kinds on two datasets; what the ledger composed step by step is what an auditor gets at once."""
    wide = Budget(epsilon_per_run=90.0, epsilon_lifetime=90.0, delta=1e-5)
    kinds = [
        words.event(noise_multiplier=1.5 + index % 7 / 3, sample_rate=0.02 + index % 3 / 50) for index in range(24)
    ]
    written = []
    for step, event in enumerate(kinds, start=1):
        reservation = words.reserve(
            ledger,
            step,
            event=event,
            budget=wide,
            dataset=f"set-{step % 2}",
            key=StepKey(f"{step % 5:016x}", step, step),
        )
        written.append((reservation.epsilon_run, reservation.epsilon_lifetime))
    for number in (1, 2, 9, 23, 24):
        composition.STORE.clear()
        pld_module._epsilon.cache_clear()
        same_set = [kinds[step - 1] for step in range(1, number + 1) if step % 2 == number % 2]
        same_run = [kinds[step - 1] for step in range(1, number + 1) if (step - number) % 10 == 0]
        assert written[number - 1] == (epsilon(same_run, 1e-5), epsilon(same_set, 1e-5))
    assert ledger.spent("set-0", 1e-5) == written[-1][1]


def test_a_refused_reservation_leaves_the_next_one_as_it_was(ledger, words):
    words.reserve(ledger, 1)
    before = ledger.would_spend(words.DATASET, words.event(), 1e-5)
    with pytest.raises(BudgetExceeded):
        words.reserve(ledger, 2, event=words.event(noise_multiplier=0.6, steps=5000))
    assert ledger.would_spend(words.DATASET, words.event(), 1e-5) == before
    assert words.reserve(ledger, 3).epsilon_lifetime == before
