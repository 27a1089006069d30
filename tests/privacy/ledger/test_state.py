"""The fold by itself: an entry that contradicts the ones before it raises, and the state is as it was."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import epsilon_rdp
from privacy.events import SubsampledGaussian
from privacy.ledger.entries import AgreementAccepted, Commit, Egress, Entry, Forfeit, Reserve, Withdrawal
from privacy.ledger.state import LedgerState, StepKey
from tacit.errors import LedgerError, StepAlreadySpent

AGREEMENT = "sha256:" + "a" * 64
ACCEPTED = AgreementAccepted(agreement_digest=AGREEMENT, summary={})


def reserve(step, dataset="messages", run_id="0123456789abcdef", steps=10, noise_multiplier=1.0):
    event = {"mode": "local", "unit": "record", "adjacency": "add-remove", "sample_rate": 0.05}
    return Reserve(
        run_id=run_id,
        round=step,
        step=step,
        dataset=dataset,
        agreement_digest=AGREEMENT,
        event=SubsampledGaussian(**event, noise_multiplier=noise_multiplier, steps=steps),
        noise_secret=True,
        delta=1e-5,
        epsilon_per_run=8.0,
        epsilon_lifetime=8.0,
        epsilon_run_after=1.0,
        epsilon_lifetime_after=1.0,
    )


def apply(state, *bodies):
    for body in bodies:
        state.apply(Entry(index=state.size, time="2026-01-01T00:00:00Z", nonce="0" * 32, body=body))


def picture(state):
    """Everything a state says."""
    return (
        state.size,
        list(state.agreements()),
        dict(state.open_reservations),
        dict(state.step_keys),
        {name: (account.tally.events(), list(account.runs)) for name, account in state.datasets.items()},
    )


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (reserve(1), StepAlreadySpent),
        (reserve(1, dataset="another", noise_multiplier=9.0), StepAlreadySpent),
        (reserve(5).model_copy(update={"agreement_digest": "sha256:" + "b" * 64}), LedgerError),
        (Commit(reservation=0, ctx="", bytes_sent=0), LedgerError),
        (Commit(reservation=1, ctx="", bytes_sent=0), LedgerError),
        (Forfeit(reservation=1, reason="again"), LedgerError),
        (Forfeit(reservation=99, reason="of nothing"), LedgerError),
        (Withdrawal(agreement_digest="sha256:" + "b" * 64, reason="unknown"), LedgerError),
    ],
)
def test_contradictions_raise_and_change_nothing(body, error):
    state = LedgerState()
    apply(state, ACCEPTED, reserve(1), Commit(reservation=1, ctx="", bytes_sent=0), reserve(2))
    before = picture(state)
    with pytest.raises(error):
        apply(state, body)
    assert picture(state) == before


def test_entries_come_in_order():
    state = LedgerState()
    for index in (1, 7):
        with pytest.raises(LedgerError, match="cannot follow"):
            state.apply(Entry(index=index, time="2026-01-01T00:00:00Z", nonce="0" * 32, body=ACCEPTED))


def test_nothing_is_reserved_before_acceptance_or_after_withdrawal():
    state = LedgerState()
    with pytest.raises(LedgerError, match="not in force"):
        apply(state, reserve(1))
    apply(state, ACCEPTED, Withdrawal(agreement_digest=AGREEMENT, reason="enough"))
    with pytest.raises(LedgerError, match="not in force"):
        apply(state, reserve(1))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["messages", "letters"]),
            st.sampled_from(["0" * 16, "1" * 16]),
            st.sampled_from([1.0, 2.0]),
            st.integers(1, 20),
            st.sampled_from(["commit", "forfeit", "open"]),
        ),
        max_size=12,
    )
)
def test_a_dataset_is_charged_for_all_of_its_reservations_and_only_those(moves):
    """Against the naive account: filter the list, whatever became of each reservation."""
    state = LedgerState()
    apply(state, ACCEPTED)
    for step, (dataset, run_id, noise, steps, fate) in enumerate(moves):
        index = state.size
        apply(state, reserve(step, dataset, run_id, steps, noise), Egress(what="x", size_bytes=1, recipient="hub"))
        if fate == "commit":
            apply(state, Commit(reservation=index, ctx="", bytes_sent=1))
        elif fate == "forfeit":
            apply(state, Forfeit(reservation=index, reason="failed"))
    for dataset in ("messages", "letters"):
        for run_id in (None, "0" * 16, "1" * 16):
            naive = [
                reserve(0, steps=steps, noise_multiplier=noise).event
                for at, run, noise, steps, _ in moves
                if at == dataset and run_id in (None, run)
            ]
            folded = state.events(dataset, run_id)
            assert sum(event.steps for event in folded) == sum(event.steps for event in naive)
            assert epsilon_rdp(folded, 1e-5) == pytest.approx(epsilon_rdp(naive, 1e-5))
    assert len(state.open_reservations) == sum(fate == "open" for *_, fate in moves)
    assert set(state.step_keys) == {StepKey(move[1], step, step) for step, move in enumerate(moves)}
