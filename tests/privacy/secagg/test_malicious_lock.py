"""A coordinator that lies at the lock, the reveal, or when it asks for shares: it never gets what opens less than the
one locked sum."""

import pytest

from privacy.secagg import SiteMachine, SitePhase, last_steps
from privacy.secagg.keys import ADVERT_CONTEXT, LOCK_CONTEXT
from privacy.secagg.messages import (
    Announce,
    Lock,
    LockRequest,
    Reveal,
    RevealRequest,
    Shares,
    SharesRequest,
    decode,
    lock_digest,
)
from privacy.secagg.surplus import Contribution
from tacit.errors import (
    BadSignature,
    CohortTooSmall,
    ConflictingLock,
    DescriptorMismatch,
    IllegalEvent,
    MalformedMessage,
    RepeatedStep,
)


def answer(step, name, message):
    """What a site sends for a message."""
    effects = step.sites[name].receive(message if isinstance(message, bytes) else message.encode())
    return decode(effects[-1].frame)


def without_beta_of(request):
    return tuple(entry for entry in request.survivors if entry[0] != "beta")


# Lock.


def test_fewer_survivors_than_the_threshold_or_the_minimum(paused, replace, refuses):
    step, request = paused(LockRequest)
    few = replace(request, survivors=request.survivors[:2], parcels=request.parcels[:1])
    refuses(step, "alpha", few, CohortTooSmall, "only 2 survived")
    step, request = paused(LockRequest, min_cohort=4)
    few = replace(request, survivors=request.survivors[:3], parcels=request.parcels[:2])
    refuses(step, "alpha", few, CohortTooSmall, "needs 4")


def test_survivors_that_leave_this_site_out_or_name_another_upload(paused, replace, refuses):
    step, request = paused(LockRequest)
    refuses(step, "alpha", replace(request, survivors=request.survivors[1:]), ConflictingLock, "leave alpha out")
    step, request = paused(LockRequest)
    forged = (("alpha", bytes(32)), *request.survivors[1:])
    refuses(step, "alpha", replace(request, survivors=forged), ConflictingLock, "another upload")


def test_survivors_that_took_no_part(paused, replace, refuses):
    step, announce = paused(Announce)
    site = step.sites["alpha"]
    site.receive(replace(announce, participants=announce.participants[:3]).encode())
    site.upload(Contribution(step.vectors["alpha"].copy()))
    site.receive(step.down["alpha"][1])
    survivors = tuple((name, site._step.upload_hash) for name in step.names)
    request = LockRequest(announce.ctx, survivors, ())
    refuses(step, "alpha", request, DescriptorMismatch, "does not take part", peer="epsilon")


def test_shares_of_a_site_that_is_no_other_survivor(paused, replace, refuses):
    step, request = paused(LockRequest)
    survivors = tuple(entry for entry in request.survivors if entry[0] != "beta")
    refuses(step, "alpha", replace(request, survivors=survivors), MalformedMessage, "shares of beta")
    own = replace(request.parcels[0], dealer="alpha")
    step, request = paused(LockRequest)
    refuses(step, "alpha", replace(request, parcels=(own, *request.parcels)), MalformedMessage, "shares of alpha")


def test_two_survivor_sets(paused, replace, refuses):
    """Both sets were acceptable; the second is refused, and the first is not revealed any more either."""
    step, request = paused(LockRequest)
    step.sites["alpha"].receive(request.encode())
    other = replace(request, survivors=request.survivors[:3], parcels=request.parcels[:2])
    refuses(step, "alpha", other, ConflictingLock, "second survivor set")


def test_the_same_lock_again_changes_nothing(paused, ignores):
    step, request = paused(LockRequest)
    step.sites["alpha"].receive(request.encode())
    ignores(step, "alpha", request)
    assert step.sites["alpha"].phase is SitePhase.LOCKED


def test_a_split_view_at_the_lock(paused, replace, refuses):
    """Alpha and beta are asked to lock everyone, delta and epsilon everyone but beta: no set finds three signatures."""
    step, everyone = paused(LockRequest)
    everyone = replace(everyone, parcels=())
    without = replace(everyone, survivors=without_beta_of(everyone))
    shown = {"alpha": everyone, "beta": everyone, "delta": without, "epsilon": without}
    locks = {name: answer(step, name, message) for name, message in shown.items()}
    assert locks["alpha"].digest == locks["beta"].digest != locks["delta"].digest == locks["epsilon"].digest
    for name in step.names:
        same = [n for n in step.names if locks[n].digest == locks[name].digest]
        signatures = tuple((n, locks[n].signature) for n in same)
        request = RevealRequest(everyone.ctx, locks[name].digest, signatures)
        if name in ("alpha", "delta"):
            refuses(step, name, request, CohortTooSmall, "only 2 sites signed the lock; 3 must")
        else:
            other = "delta" if name == "beta" else "alpha"
            mixed = tuple(sorted((*signatures, (other, locks[other].signature))))
            refuses(step, name, replace(request, signatures=mixed), BadSignature, peer=other)


# Reveal.


def test_an_honest_reveal_request_is_taken(paused):
    step, request = paused(RevealRequest)
    assert isinstance(answer(step, "alpha", request), Reveal)
    assert len(request.signatures) == step.descriptor.threshold, "as many signatures as are needed, and no more"


def test_too_few_lock_signatures(paused, replace, refuses):
    step, request = paused(RevealRequest)
    few = replace(request, signatures=request.signatures[:2])
    refuses(step, "alpha", few, CohortTooSmall, "only 2 sites signed")
    refuses(step, "beta", replace(request, signatures=()), CohortTooSmall, "only 0 sites signed")


def test_forged_and_foreign_lock_signatures(paused, replace, refuses, make_step):
    step, request = paused(RevealRequest)
    beta = ("beta", step.identities["delta"].sign(LOCK_CONTEXT, request.digest))
    signatures = (request.signatures[0], beta, *request.signatures[2:])
    refuses(step, "alpha", replace(request, signatures=signatures), BadSignature, peer="beta")
    outsider = ("zeta", make_step(9).identities["zeta"].sign(LOCK_CONTEXT, request.digest))
    refuses(step, "beta", replace(request, signatures=(*request.signatures, outsider)), BadSignature, peer="zeta")
    other_context = ("beta", step.identities["beta"].sign(ADVERT_CONTEXT, request.digest))
    signatures = (request.signatures[0], other_context, *request.signatures[2:])
    refuses(step, "delta", replace(request, signatures=signatures), BadSignature, peer="beta")


def test_one_signature_counted_many_times(paused, replace, refuses):
    step, request = paused(RevealRequest)
    refuses(step, "alpha", replace(request, signatures=request.signatures[:1] * 3), MalformedMessage, "repeated")


def test_a_signature_of_a_dropped_site_does_not_count(without_beta, replace, refuses):
    step = without_beta(RevealRequest)
    request = decode(step.down["alpha"][0])
    beta = ("beta", step.identities["beta"].sign(LOCK_CONTEXT, request.digest))
    signatures = (request.signatures[0], beta, request.signatures[1])
    refuses(step, "alpha", replace(request, signatures=signatures), BadSignature, "no survivor", peer="beta")


@pytest.fixture
def without_beta(make_step):
    """A step of which beta was lost before its upload, about to send a kind of message."""

    def make(kind, n=4, **changes):
        step = make_step(n, **changes).start()
        step.run(until=lambda: step.coordinator.phase == "upload")
        step.lose("beta")
        return step.hold(kind)

    return make


def test_a_reveal_for_another_lock(paused, replace, refuses):
    step, request = paused(RevealRequest)
    refuses(step, "alpha", replace(request, digest=bytes(32)), ConflictingLock, "another lock")


def test_a_reveal_or_shares_before_the_lock(paused, ignores):
    _, request = paused(RevealRequest)
    step, _ = paused(LockRequest)
    ignores(step, "alpha", request)
    ignores(step, "alpha", SharesRequest(request.ctx, request.digest, ("beta",)))
    assert step.sites["alpha"].phase is SitePhase.UPLOADED


def test_a_second_reveal_says_nothing(paused, ignores, refuses):
    """After the reveal there is nothing left to reveal, whatever set is asked for."""
    step, request = paused(RevealRequest)
    site = step.sites["alpha"]
    site.receive(request.encode())
    assert site._step._secrets is None
    ignores(step, "alpha", request)
    survivors = site._step._locked.survivors[:3]
    refuses(step, "alpha", LockRequest(request.ctx, survivors, ()), ConflictingLock, "second survivor set")


def test_both_secrets_of_one_site_cannot_be_asked_for(paused, refuses, replace):
    """Overlapping survivor sets with a colluding site: beta as a survivor for one quorum, as dropped for another.

    n = 4, t = 3, c = 1: epsilon colludes and signs anything. Alpha and beta lock everyone; delta is asked to lock
    everyone but beta. Neither set finds three signatures with the honest sites locking once: there is no second sum.
    """
    step, everyone = paused(LockRequest)
    without = without_beta_of(everyone)
    locks = {name: answer(step, name, step.down[name].popleft()) for name in ("alpha", "beta")}
    lock = answer(step, "delta", LockRequest(everyone.ctx, without, ()))
    assert isinstance(lock, Lock)
    session = step.sites["alpha"]._step.session.hash
    collude = step.identities["epsilon"].sign
    second = lock_digest(everyone.ctx, session, without)
    assert lock.digest == second
    # The first set has alpha, beta and the colluder: a quorum. It opens b of beta, as it may.
    first = locks["alpha"].digest
    quorum = (
        ("alpha", locks["alpha"].signature),
        ("beta", locks["beta"].signature),
        ("epsilon", collude(LOCK_CONTEXT, first)),
    )
    assert answer(step, "alpha", RevealRequest(everyone.ctx, first, quorum)).pair_seeds == ()
    # The second, which would open k of beta at delta, has delta and the colluder; alpha's signature is for the first.
    two = (("delta", lock.signature), ("epsilon", collude(LOCK_CONTEXT, second)))
    three = (("alpha", locks["alpha"].signature), *two)
    request = RevealRequest(everyone.ctx, second, three)
    refuses(step, "delta", request, BadSignature, peer="alpha")
    # KEM ciphertexts are fresh in every setup, so another try signs another digest.
    step, everyone = paused(LockRequest)
    lock = answer(step, "delta", replace(everyone, survivors=without_beta_of(everyone), parcels=()))
    two = (("delta", lock.signature), ("epsilon", collude(LOCK_CONTEXT, lock.digest)))
    request = RevealRequest(everyone.ctx, lock.digest, two)
    refuses(step, "delta", request, CohortTooSmall, "only 2 sites signed")


def test_a_reveal_opens_b_and_k_with_dropped_and_nothing_else(without_beta):
    step = without_beta(RevealRequest)
    secrets = step.sites["alpha"]._step._secrets
    reveal = answer(step, "alpha", step.down["alpha"].popleft())
    assert reveal.self_seed == secrets.self_seed
    assert reveal.pair_seeds == (("beta", secrets.pair_seeds["beta"]),)
    for seed in (secrets.pair_seeds["delta"], secrets.pair_seeds["epsilon"]):
        assert seed not in reveal.encode()


# Shares.


@pytest.fixture
def vanishing(make_step):
    """n = 7, t = 5: beta lost before its upload, alpha after its lock; the others are about to be asked for shares."""

    def make():
        step = make_step(7).start()
        step.run(until=lambda: step.coordinator.phase == "upload")
        step.lose("beta")
        step.hold(RevealRequest)
        step.lose("alpha")
        step.hold(SharesRequest)
        return step, decode(step.down["delta"][0])

    return make


def test_shares_open_b_of_survivors_and_k_with_dropped_and_nothing_else(vanishing):
    step, request = vanishing()
    assert request.dealers == ("alpha",)
    shares = answer(step, "delta", request)
    assert isinstance(shares, Shares)
    assert [row.dealer for row in shares.rows] == ["alpha"]
    # b, then k with beta, delta, epsilon, gamma, iota, kappa
    assert [len(entry) for entry in shares.rows[0].entries] == [33, 33, 32, 32, 32, 32, 32]


def test_who_is_said_to_have_vanished_does_not_matter(vanishing, replace):
    """Shares of sites that live and revealed open what they revealed, and nothing more."""
    step, request = vanishing()
    everyone = ("alpha", "epsilon", "gamma", "iota", "kappa")
    shares = answer(step, "delta", replace(request, dealers=everyone))
    assert tuple(row.dealer for row in shares.rows) == everyone
    for row in shares.rows:
        owners = [None, *(name for name in step.names if name != row.dealer)]
        opened = [owner for owner, entry in zip(owners, row.entries, strict=True) if len(entry) == 33]
        assert opened == [None, "beta"]


@pytest.mark.parametrize("wrong", [("beta",), ("delta",), ("alpha", "beta"), ("zeta",)], ids=str)
def test_shares_of_a_dropped_site_of_this_one_or_of_a_stranger(vanishing, replace, refuses, wrong):
    """Shares of a dropped site's b, with k of all the others', would open its vector."""
    step, request = vanishing()
    refuses(step, "delta", replace(request, dealers=wrong), DescriptorMismatch, "no other survivor")


def test_shares_for_another_lock(vanishing, replace, refuses):
    step, request = vanishing()
    refuses(step, "delta", replace(request, digest=bytes(32)), ConflictingLock, "shares for another lock")


def test_shares_are_had_once_and_only_after_the_reveal(vanishing, paused, ignores):
    step, request = vanishing()
    answer(step, "delta", request)
    assert not step.sites["delta"]._step._locked.rows
    ignores(step, "delta", request)
    step, _ = paused(RevealRequest)
    digest = step.sites["alpha"]._step.lock_digest
    ignores(step, "alpha", SharesRequest(step.descriptor.ctx(), digest, ("beta",)))


# A site that was restarted.


@pytest.mark.parametrize("kind", [LockRequest, RevealRequest])
def test_nothing_is_locked_or_revealed_twice_by_way_of_a_restart(make_step, kind):
    """The site was stopped after it sent what was asked, and is asked again: for the same step it does not even begin;
    for a later one it has other keys, and the old request is for another step."""
    step = make_step(4, steps=3).start().hold(kind)
    request = step.down["alpha"][0]
    step.sites["alpha"].receive(request)
    last = last_steps(step.kept["alpha"])[step.descriptor.run_id]
    assert last == step.descriptor.step
    arguments = "alpha", step.identities["alpha"], step.roster
    with pytest.raises(RepeatedStep, match="step 4 of run"):
        SiteMachine(*arguments, step.descriptor, last_step=last)
    later = SiteMachine(*arguments, step.descriptor.following(step.descriptor.history), last_step=last)
    later.start()
    with pytest.raises(DescriptorMismatch, match="another step or epoch"):
        later.receive(request)


@pytest.mark.parametrize("kind", [LockRequest, RevealRequest])
def test_a_restarted_machine_that_forgot_its_records_still_holds_no_secret_of_the_step(make_step, kind):
    """Even without its records: keys, seeds and masks of the first attempt are gone with it."""
    step = make_step(4).start().hold(kind)
    request = step.down["alpha"][0]
    step.sites["alpha"].receive(request)
    again = SiteMachine("alpha", step.identities["alpha"], step.roster, step.descriptor)
    again.start()
    with pytest.raises(IllegalEvent):
        again.receive(request)
    assert not again._chains


def test_a_step_cannot_be_expected_again(make_step, make_descriptor):
    step = make_step(4, steps=3).start().run().begin_next().run()
    step.assert_exact(survivors=step.names)
    site, taken = step.sites["alpha"], step.descriptor
    for again in (taken, make_descriptor(4, steps=3)):
        with pytest.raises(RepeatedStep, match="has taken part in step 5"):
            site.expect(again)
    assert site.descriptor == taken
    site.expect(taken.following(taken.history))


def test_a_step_of_another_epoch_is_not_expected(make_step, replace):
    step = make_step(4, steps=3).start().run()
    following = step.descriptor.following(step.descriptor.history)
    for change in ({"epoch": 4}, {"steps": 4}, {"scale": 1.0}, {"order_digest": "sha256:" + "00" * 32}):
        with pytest.raises(DescriptorMismatch, match="another epoch"):
            step.sites["alpha"].expect(replace(following, **change))
    step.sites["alpha"].expect(following)
