"""The model checker finds nothing in the site machine, and finds every way in which it was broken on purpose."""

import dataclasses

import pytest

from privacy.secagg import Keep, SiteMachine, SitePhase, site, site_step
from privacy.secagg.phases import SITE_TRANSITIONS, SiteEvent
from privacy.secagg.site_step import SiteStep
from tests.privacy.secagg.model_check import Checker, Configuration
from tests.privacy.secagg.model_knowledge import opened_sums

#: As deep as there is time for here; ``make model-check`` explores all there is.
SHORT = (
    Configuration(3, 1, 3, start="setup", restarts=True),
    Configuration(4, 1, 3, depth=3),
    Configuration(4, 1, 3, start="everybody", depth=7),
    Configuration(4, 1, 3, start="everybody", min_cohort=4),
    Configuration(4, 1, 4, start="setup"),
    Configuration(4, 2, 4, start="setup", restarts=True),
    Configuration(5, 1, 4, start="everybody", depth=3),
    Configuration(5, 2, 4, start="everybody", depth=4),
    Configuration(5, 3, 5, start="setup"),
)


@pytest.mark.parametrize("one", SHORT, ids=lambda one: one.checker().title)
def test_whatever_a_coordinator_does_it_learns_one_sum_of_enough_sites(one):
    found = one.checker().run(one.depth)
    print(found)
    assert not found.violation, str(found)
    assert found.is_complete or found.depth == one.depth


def test_symmetry_and_announcing_first_leave_out_no_state():
    """Counted without either: the same states of n = 4, one for each permutation."""
    checker = Checker(4, 1, threshold=4)
    states = checker.run().canonical
    everything = Checker(4, 1, threshold=4, start="setup", is_symmetric=False).run()
    assert everything.is_complete
    assert sum(checker.orbit_size(state) for state in states) == everything.states


def test_what_sums_follow_from_what_secrets():
    session = (frozenset(), frozenset(("alpha", "beta", "delta", "evil")))
    everybody = {name: frozenset((session,)) for name in ("alpha", "beta", "delta")}

    def sums(own, pairs, uploads=everybody):
        has = {("b", name, session) for name in own.split()}
        has |= {("k", frozenset(pair.split("-")), session) for pair in pairs.split()}
        return {names for _, names in opened_sums(uploads, has, frozenset(("evil",)))}

    assert sums("alpha beta delta", "") == {frozenset(everybody)}
    assert sums("alpha beta", "") == set(), "the masks with delta are left"
    assert sums("alpha beta", "alpha-delta beta-delta") == {frozenset(("alpha", "beta"))}
    assert sums("alpha beta", "alpha-delta") == set()
    assert sums("alpha", "alpha-beta alpha-delta") == {frozenset(("alpha",))}
    assert sums("", "alpha-beta alpha-delta beta-delta") == set()
    assert sums("alpha beta delta", "alpha-beta alpha-delta") == {frozenset(("alpha",)), frozenset(("beta", "delta"))}
    assert sums("alpha beta delta", "alpha-beta") == {frozenset(everybody)}, "still joined by the masks with delta"
    other = (frozenset(), frozenset(("alpha", "beta", "evil")))
    shown_two = everybody | {"beta": frozenset((other,))}
    assert sums("alpha beta", "alpha-delta", shown_two) == set(), "masks of two sessions do not cancel"


# Broken sites: each has one rule taken out.


def signs_a_second_lock(monkeypatch):
    def after(phase, event):
        if event is SiteEvent.LOCK_REQUEST and phase is SitePhase.LOCKED:
            return SitePhase.LOCKED
        return SITE_TRANSITIONS[phase, event] if (phase, event) in SITE_TRANSITIONS else found(phase, event)

    found = site.site_phase_after
    monkeypatch.setattr(site, "site_phase_after", after)
    monkeypatch.setattr(SiteStep, "refuse_second_lock", lambda self, message: None)


def counts_no_quorum(monkeypatch):
    within(monkeypatch, "reveal", lambda step: {"_descriptor": dataclasses.replace(step._descriptor, threshold=0)})


def verifies_no_lock_signature(monkeypatch):
    monkeypatch.setattr(site_step, "verify", lambda *_: None)


def reveals_k_with_survivors(monkeypatch):
    within(monkeypatch, "reveal", lambda step: {"_dropped": lambda: step.session.peers_of(step.name)})


def opens_whole_rows(monkeypatch):
    within(monkeypatch, "share", lambda step: {"_dropped": lambda: step.session.participants})


def opens_shares_of_the_dropped(monkeypatch):
    """Keeps rows of sites that are no survivors, and opens them on request."""
    lock = SiteStep.lock

    def careless_lock(self, message):
        kept = tuple(parcel for parcel in message.parcels if parcel.dealer in dict(message.survivors))
        frame = lock(self, dataclasses.replace(message, parcels=kept))
        rows = dict(self._locked.rows)
        for parcel in message.parcels:
            key = self._secrets.keys[parcel.dealer]
            rows[parcel.dealer] = site_step.open_parcel(
                self.session, parcel.dealer, self.name, parcel.row_digest, parcel.box, key
            )
        self._locked = dataclasses.replace(self._locked, rows=rows)
        return frame

    def careless_share(self, message):
        locked = self._locked
        rows = tuple(
            site_step.redact(self.session, dealer, locked.rows[dealer], self._dropped())
            for dealer in message.dealers
            if dealer in locked.rows
        )
        return site_step.Shares(self.session.ctx, locked.digest, rows).encode()

    monkeypatch.setattr(SiteStep, "lock", careless_lock)
    monkeypatch.setattr(SiteStep, "share", careless_share)


def accepts_too_few_survivors(monkeypatch):
    within(monkeypatch, "lock", lambda step: {"_required": 1})


def takes_an_unsafe_threshold(monkeypatch):
    monkeypatch.setattr(site, "check_threshold", lambda *_: None)


def forgets_its_last_step(monkeypatch):
    monkeypatch.setattr(site, "check_new_step", lambda *_: None)


def keeps_nothing(monkeypatch):
    for name in ("receive", "upload"):
        monkeypatch.setattr(SiteMachine, name, without_keep(getattr(SiteMachine, name)))


def without_keep(method):
    return lambda self, what: [effect for effect in method(self, what) if not isinstance(effect, Keep)]


def within(monkeypatch, method, changes):
    """While ``method`` runs, some of the step's attributes are others."""
    honest = getattr(SiteStep, method)

    def broken(self, message):
        before = dict(vars(self))
        vars(self).update(changes(self))
        try:
            return honest(self, message)
        finally:
            for name in changes(self):
                if name in before:
                    setattr(self, name, before[name])
                else:
                    delattr(self, name)

    monkeypatch.setattr(SiteStep, method, broken)


SHORT_DEPTH = 6
FOUR = {"n": 4, "c": 1, "start": "everybody"}
RESTARTING = {"n": 3, "c": 1, "restarts": True, "is_symmetric": False}
MUTANTS = [
    (signs_a_second_lock, FOUR, "(d)"),
    (counts_no_quorum, FOUR, "(a)"),
    (verifies_no_lock_signature, FOUR, "(a)"),
    (reveals_k_with_survivors, FOUR, "(c)"),
    (opens_whole_rows, FOUR, "(a)"),
    (opens_shares_of_the_dropped, FOUR, "(a)"),
    (accepts_too_few_survivors, FOUR | {"min_cohort": 4}, "(c)"),
    (takes_an_unsafe_threshold, {"n": 5, "c": 2, "threshold": 3, "start": "everybody"}, "(b)"),
    (forgets_its_last_step, RESTARTING, "(d)"),
    (keeps_nothing, RESTARTING, "(d)"),
]


@pytest.mark.parametrize(
    ("break_it", "configuration", "invariant"), MUTANTS, ids=lambda one: getattr(one, "__name__", "")
)
def test_a_site_that_is_broken_is_found_out(monkeypatch, break_it, configuration, invariant):
    break_it(monkeypatch)
    found = Checker(**configuration).run(SHORT_DEPTH)
    print(break_it.__name__, found, sep="\n")
    assert found.violation.startswith(invariant)
    assert len(found.trace) == found.depth + 1 <= SHORT_DEPTH + 1
