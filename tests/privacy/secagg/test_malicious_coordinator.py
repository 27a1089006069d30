"""A coordinator that lies. Each attack fails at the site, with its own error, and the site forgets its secrets."""

import pytest

from privacy.secagg import SiteMachine, SitePhase
from privacy.secagg.keys import ADVERT_CONTEXT, LOCK_CONTEXT, EphemeralKey
from privacy.secagg.messages import (
    Announce,
    Chunk,
    Grant,
    KeyAdvert,
    Lock,
    LockRequest,
    Reveal,
    RevealRequest,
    decode,
    lock_digest,
)
from tacit.errors import (
    BadSignature,
    CohortTooSmall,
    ConflictingLock,
    DescriptorMismatch,
    IllegalEvent,
    MalformedMessage,
)


def refuses(step, name, frame, error, words=None, peer=None):
    """The site raises ``error``, fails, holds no secret, and takes nothing more."""
    site = step.sites[name]
    frame = frame if isinstance(frame, bytes) else frame.encode()
    with pytest.raises(error, match=words) as caught:
        site.receive(frame)
    assert type(caught.value) is error
    if peer is not None:
        assert caught.value.peer == peer
    assert site.phase is SitePhase.FAILED
    assert site._secrets is None
    assert site._key is None
    assert site._locked is None or not site._locked.rows
    with pytest.raises(IllegalEvent):
        site.receive(frame)


@pytest.fixture
def joining(make_step):
    """Four sites that sent their keys, and the announcement an honest coordinator would send."""

    def make(n=4, **changes):
        step = make_step(n, auto_upload=False, **changes).start()
        for name in step.names:
            step.deliver_up(name)
        return step, decode(step.down["alpha"][0])

    return make


@pytest.fixture
def uploaded(make_step):
    """Sites that uploaded, and the lock request an honest coordinator would send to alpha."""

    def make(n=4, **changes):
        step = make_step(n, **changes).start()
        step.run_to(SitePhase.UPLOADED)
        step.run(until=lambda: all(step.down[name] for name in step.names))
        return step, decode(step.down["alpha"][0])

    return make


@pytest.fixture
def locked(make_step):
    """Sites that locked, and the reveal request an honest coordinator would send to alpha."""

    def make(n=4, **changes):
        step = make_step(n, **changes).start()
        step.run(until=lambda: step.coordinator.phase == "reveal")
        return step, decode(step.down["alpha"][0])

    return make


def signed_advert(step, name, public_key=None, signer=None, **changes):
    """What ``signer`` (by default the site itself) signs as ``name``'s advert."""
    fields = {
        "ctx": step.descriptor.ctx(),
        "run_id": bytes.fromhex(step.descriptor.run_id),
        "epoch": step.descriptor.epoch,
        "name": name,
        "public_key": public_key or EphemeralKey(b"m" * 32).public_bytes,
        "signature": b"",
    } | changes
    unsigned = KeyAdvert(**fields).signed_part()
    return unsigned + step.identities[signer or name].sign(ADVERT_CONTEXT, unsigned)


def with_advert(announce, replace, name, frame):
    frames = [frame if decode(advert).name == name else advert for advert in announce.adverts]
    return replace(announce, adverts=tuple(frames))


# Setup.


def test_an_honest_announcement_is_taken(joining):
    step, announce = joining()
    step.sites["alpha"].receive(announce.encode())
    assert step.sites["alpha"].phase is SitePhase.READY


def test_a_substituted_key(joining, replace):
    step, announce = joining()
    beta = decode(announce.adverts[1])
    forged = replace(beta, public_key=EphemeralKey(b"m" * 32).public_bytes).encode()
    refuses(step, "alpha", with_advert(announce, replace, "beta", forged), BadSignature, "advert", peer="beta")


def test_a_key_signed_by_another_site(joining, replace):
    step, announce = joining()
    forged = signed_advert(step, "beta", signer="delta")
    refuses(step, "alpha", with_advert(announce, replace, "beta", forged), BadSignature, peer="beta")


def test_a_signature_made_in_another_context(joining, replace):
    step, announce = joining()
    unsigned = decode(signed_advert(step, "beta")).signed_part()
    forged = unsigned + step.identities["beta"].sign(LOCK_CONTEXT, unsigned)
    refuses(step, "alpha", with_advert(announce, replace, "beta", forged), BadSignature, peer="beta")


@pytest.mark.parametrize("change", [{"epoch": 2}, {"run_id": bytes(8)}, {"ctx": bytes(32)}], ids=str)
def test_a_replayed_key_of_a_peer_from_another_run_epoch_or_step(joining, replace, change):
    step, announce = joining()
    old = signed_advert(step, "beta", **change)
    refuses(step, "alpha", with_advert(announce, replace, "beta", old), DescriptorMismatch, "beta's key", peer="beta")


def test_a_whole_replayed_setup(joining, make_step):
    """The announcement of an earlier attempt at this very step: everything in it was once honest."""
    step, _ = joining()
    earlier = make_step(4, seed=99, auto_upload=False).start()
    for name in earlier.names:
        earlier.deliver_up(name)
    refuses(step, "alpha", earlier.down["alpha"][0], BadSignature, "drew for this session", peer="alpha")


def test_this_sites_own_key_left_out_or_replaced(joining, replace):
    step, announce = joining()
    refuses(step, "alpha", replace(announce, adverts=announce.adverts[1:]), BadSignature, peer="alpha")
    forged = signed_advert(step, "beta")
    refuses(step, "beta", with_advert(announce, replace, "beta", forged), BadSignature, peer="beta")


def test_a_cohort_of_one(joining, replace):
    step, announce = joining()
    refuses(step, "alpha", replace(announce, adverts=announce.adverts[:1]), CohortTooSmall, "only 1 sites joined")


def test_fewer_joined_sites_than_the_threshold_or_the_minimum(joining, replace):
    step, announce = joining()
    refuses(step, "alpha", replace(announce, adverts=announce.adverts[:2]), CohortTooSmall, "needs 3")
    step, announce = joining(min_cohort=4)
    refuses(step, "alpha", replace(announce, adverts=announce.adverts[:3]), CohortTooSmall, "needs 4")


def test_a_cohort_of_sybils(joining, replace, make_step):
    """Names outside the cohort, even ones with identities the coordinator made itself."""
    step, announce = joining()
    outside = make_step(9).identities["zeta"]
    unsigned = decode(signed_advert(step, "zeta", signer="alpha")).signed_part()
    sybil = unsigned + outside.sign(ADVERT_CONTEXT, unsigned)
    adverts = (*announce.adverts[:2], sybil)
    refuses(step, "alpha", replace(announce, adverts=adverts), DescriptorMismatch, "not in the cohort", peer="zeta")


def test_one_site_relayed_twice_or_out_of_order(joining, replace):
    step, announce = joining()
    twice = (announce.adverts[0], announce.adverts[0], *announce.adverts[1:])
    refuses(step, "alpha", replace(announce, adverts=twice), MalformedMessage, "repeated")
    refuses(step, "beta", replace(announce, adverts=announce.adverts[::-1]), MalformedMessage, "not sorted")


def test_a_key_of_small_order_even_if_signed(joining, replace):
    step, announce = joining()
    frame = signed_advert(step, "beta", public_key=b"\1" + bytes(31))
    refuses(step, "alpha", with_advert(announce, replace, "beta", frame), MalformedMessage, "all-zero", peer="beta")


def test_something_else_where_an_advert_should_be(joining, replace):
    step, announce = joining()
    grant = Grant(announce.ctx).encode()
    refuses(step, "alpha", replace(announce, adverts=(*announce.adverts, grant)), MalformedMessage, "not a key advert")


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 1.0},
        {"length": 4},
        {"threshold": 4},
        {"cohort": ("alpha", "beta", "delta")},
        {"order_digest": "sha256:" + "00" * 32},
        {"step": 5},
    ],
    ids=["changed scale", "shortened vector", "threshold", "smaller cohort", "another model", "another step"],
)
def test_another_descriptor(joining, replace, change):
    step, announce = joining()
    other = replace(step.descriptor, **change)
    refuses(step, "alpha", replace(announce, descriptor=other.encode()), DescriptorMismatch, next(iter(change)))
    consistent = replace(announce, descriptor=other.encode(), ctx=other.ctx())
    refuses(step, "beta", consistent, DescriptorMismatch, next(iter(change)))


def test_two_models_to_two_sites_make_masks_that_do_not_cancel(joining, make_step):
    """Even were the comparison gone: ctx enters every seed, so the sites share no mask."""
    step, announce = joining()
    other = make_step(4, order_digest="sha256:" + "00" * 32, auto_upload=False).start()
    for name in other.names:
        other.deliver_up(name)
    step.sites["alpha"].receive(announce.encode())
    other.sites["beta"].receive(other.down["beta"][0])
    assert step.sites["alpha"]._secrets.pair_seeds["beta"] != other.sites["beta"]._secrets.pair_seeds["alpha"]


def test_a_message_with_another_steps_ctx(joining, replace, uploaded, locked):
    step, _ = joining()
    refuses(step, "alpha", Grant(bytes(32)), DescriptorMismatch, "another step")
    step, request = uploaded()
    refuses(step, "alpha", replace(request, ctx=bytes(32)), DescriptorMismatch, "another step")
    step, request = locked()
    refuses(step, "alpha", replace(request, ctx=bytes(32)), DescriptorMismatch, "another step")


def test_different_setups_shown_to_different_sites_never_reach_a_quorum(joining, replace):
    """Alpha and beta are shown four sites, delta and epsilon three; the locks they sign are not the same lock."""
    step, announce = joining()
    few = replace(announce, adverts=(announce.adverts[0], *announce.adverts[2:]))
    for name, message in {"alpha": announce, "beta": announce, "delta": few, "epsilon": few}.items():
        step.sites[name].receive(message.encode())
        step.sites[name].receive(Grant(announce.ctx).encode())
        step.sites[name].upload(step.vectors[name])
    survivors = tuple((name, step.sites[name]._upload_hash) for name in ("alpha", "delta", "epsilon"))
    request = LockRequest(announce.ctx, survivors, ()).encode()
    locks = {name: decode(step.sites[name].receive(request)[0].frame) for name in ("alpha", "delta", "epsilon")}
    assert len({lock.digest for lock in locks.values()}) == 2
    signatures = tuple((name, lock.signature) for name, lock in locks.items())
    reveal = RevealRequest(announce.ctx, locks["alpha"].digest, signatures)
    refuses(step, "alpha", reveal, BadSignature, peer="delta")


# Thresholds and roster, before anything is sent.


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"threshold": 2}, CohortTooSmall),
        ({"threshold": 3, "collusion_bound": 2}, CohortTooSmall),
        ({"threshold": 5}, CohortTooSmall),
    ],
)
def test_a_site_does_not_begin_under_an_unsafe_threshold(make_step, make_descriptor, changes, error):
    step, descriptor = make_step(4), make_descriptor(4, **changes)
    with pytest.raises(error):
        SiteMachine("alpha", step.identities["alpha"], step.roster, descriptor)


def test_a_site_does_not_begin_with_strangers_or_outside_the_cohort(make_step, make_descriptor):
    step = make_step(4)
    roster = {name: one for name, one in step.roster.items() if name != "delta"}
    with pytest.raises(BadSignature, match="delta"):
        SiteMachine("alpha", step.identities["alpha"], roster, step.descriptor)
    with pytest.raises(DescriptorMismatch, match="not in the cohort"):
        SiteMachine("zeta", step.identities["alpha"], step.roster, step.descriptor)


# Lock.


def test_fewer_survivors_than_the_threshold_or_the_minimum(uploaded, replace):
    step, request = uploaded()
    few = replace(request, survivors=request.survivors[:2], parcels=request.parcels[:1])
    refuses(step, "alpha", few, CohortTooSmall, "only 2 survived")
    step, request = uploaded(min_cohort=4)
    few = replace(request, survivors=request.survivors[:3], parcels=request.parcels[:2])
    refuses(step, "alpha", few, CohortTooSmall, "needs 4")


def test_survivors_that_leave_this_site_out_or_name_another_upload(uploaded, replace):
    step, request = uploaded()
    refuses(step, "alpha", replace(request, survivors=request.survivors[1:]), ConflictingLock, "leave alpha out")
    step, request = uploaded()
    forged = (("alpha", bytes(32)), *request.survivors[1:])
    refuses(step, "alpha", replace(request, survivors=forged), ConflictingLock, "another upload")


def test_survivors_that_never_joined(joining, replace):
    step, announce = joining()
    three = replace(announce, adverts=announce.adverts[:3])
    site = step.sites["alpha"]
    site.receive(three.encode())
    site.receive(Grant(announce.ctx).encode())
    site.upload(step.vectors["alpha"])
    survivors = tuple((name, site._upload_hash) for name in step.names)
    refuses(step, "alpha", LockRequest(announce.ctx, survivors, ()), DescriptorMismatch, "did not join", peer="epsilon")


def test_shares_of_a_site_that_is_no_other_survivor(uploaded, replace):
    step, request = uploaded()
    survivors = tuple(entry for entry in request.survivors if entry[0] != "beta")
    refuses(step, "alpha", replace(request, survivors=survivors), MalformedMessage, "shares of beta")
    own = replace(request.parcels[0], dealer="alpha")
    step, request = uploaded()
    refuses(step, "alpha", replace(request, parcels=(own, *request.parcels)), MalformedMessage, "shares of alpha")


def test_two_survivor_sets(uploaded, replace):
    """Both sets were acceptable; the second is refused, and the first is not revealed any more either."""
    step, request = uploaded()
    step.sites["alpha"].receive(request.encode())
    other = replace(request, survivors=request.survivors[:3], parcels=request.parcels[:2])
    refuses(step, "alpha", other, ConflictingLock, "second survivor set")


def test_the_same_lock_again_changes_nothing(uploaded):
    step, request = uploaded()
    site = step.sites["alpha"]
    site.receive(request.encode())
    with pytest.raises(IllegalEvent):
        site.receive(request.encode())
    assert site.phase is SitePhase.LOCKED


# Reveal.


def test_an_honest_reveal_request_is_taken(locked):
    step, request = locked()
    reveal = decode(step.sites["alpha"].receive(request.encode())[0].frame)
    assert isinstance(reveal, Reveal)


def test_too_few_lock_signatures(locked, replace):
    step, request = locked()
    few = replace(request, signatures=request.signatures[:2])
    refuses(step, "alpha", few, CohortTooSmall, "only 2 sites signed")
    refuses(step, "beta", replace(request, signatures=()), CohortTooSmall, "only 0 sites signed")


def test_forged_and_foreign_lock_signatures(locked, replace, make_step):
    step, request = locked()
    beta = ("beta", step.identities["delta"].sign(LOCK_CONTEXT, request.digest))
    signatures = (request.signatures[0], beta, *request.signatures[2:])
    refuses(step, "alpha", replace(request, signatures=signatures), BadSignature, peer="beta")
    outsider = ("zeta", make_step(9).identities["zeta"].sign(LOCK_CONTEXT, request.digest))
    refuses(step, "beta", replace(request, signatures=(*request.signatures, outsider)), BadSignature, peer="zeta")
    other_context = ("beta", step.identities["beta"].sign(ADVERT_CONTEXT, request.digest))
    signatures = (request.signatures[0], other_context, *request.signatures[2:])
    refuses(step, "delta", replace(request, signatures=signatures), BadSignature, peer="beta")


def test_one_signature_counted_many_times(locked, replace):
    step, request = locked()
    refuses(step, "alpha", replace(request, signatures=request.signatures[:1] * 3), MalformedMessage, "repeated")


def test_a_signature_of_a_dropped_site_does_not_count(make_step, replace):
    step = make_step(4).start()
    step.run(until=lambda: step.coordinator.phase == "upload")
    step.lose("beta")
    step.run(until=lambda: step.coordinator.phase == "reveal")
    request = decode(step.down["alpha"][0])
    beta = ("beta", step.identities["beta"].sign(LOCK_CONTEXT, request.digest))
    signatures = (request.signatures[0], beta, request.signatures[1])
    refuses(step, "alpha", replace(request, signatures=signatures), BadSignature, "no survivor", peer="beta")


def test_a_reveal_for_another_lock(locked, replace):
    step, request = locked()
    refuses(step, "alpha", replace(request, digest=bytes(32)), ConflictingLock, "another lock")


def test_a_reveal_before_the_lock(uploaded, locked):
    _, request = locked()
    step, _ = uploaded()
    with pytest.raises(IllegalEvent):
        step.sites["alpha"].receive(request.encode())
    assert step.sites["alpha"].phase is SitePhase.UPLOADED


def test_a_second_reveal_says_nothing(locked, replace):
    """After the reveal there is nothing left to reveal, whatever set is asked for."""
    step, request = locked()
    site = step.sites["alpha"]
    site.receive(request.encode())
    assert site._secrets is None
    with pytest.raises(IllegalEvent):
        site.receive(request.encode())
    survivors = site._locked.survivors[:3]
    refuses(step, "alpha", LockRequest(request.ctx, survivors, ()), ConflictingLock, "second survivor set")


def test_both_secrets_of_one_site_cannot_be_asked_for(uploaded, replace):
    """Overlapping survivor sets with a colluding site: beta as a survivor for one quorum, as dropped for another.

    n = 4, t = 3, c = 1: epsilon colludes and signs anything. Alpha and beta lock everyone; delta is asked to lock
    everyone but beta. Neither set finds three signatures with the honest sites locking once.
    """
    step, _ = uploaded()
    everyone = decode(step.down["alpha"][0])
    without_beta = tuple(entry for entry in everyone.survivors if entry[0] != "beta")
    locks = {}
    for name in ("alpha", "beta"):
        frame = step.sites[name].receive(step.down[name].popleft())[0].frame
        locks[name] = decode(frame)
    lock = decode(step.sites["delta"].receive(LockRequest(everyone.ctx, without_beta, ()).encode())[0].frame)
    assert isinstance(lock, Lock)
    session = step.sites["alpha"]._session.hash
    collude = step.identities["epsilon"].sign
    second = lock_digest(everyone.ctx, session, without_beta)
    assert lock.digest == second
    # The first set has alpha, beta and the colluder: a quorum. It opens b of beta, as it may.
    first = locks["alpha"].digest
    quorum = (
        ("alpha", locks["alpha"].signature),
        ("beta", locks["beta"].signature),
        ("epsilon", collude(LOCK_CONTEXT, first)),
    )
    reveal = decode(step.sites["alpha"].receive(RevealRequest(everyone.ctx, first, quorum).encode())[0].frame)
    assert reveal.pair_seeds == ()
    # The second, which would open k of beta at delta, has delta and the colluder; alpha's signature is for the first.
    two = (("delta", lock.signature), ("epsilon", collude(LOCK_CONTEXT, second)))
    three = (("alpha", locks["alpha"].signature), *two)
    request = RevealRequest(everyone.ctx, second, three)
    refuses(step, "delta", request, BadSignature, peer="alpha")
    step, _ = uploaded()
    step.sites["delta"].receive(LockRequest(everyone.ctx, without_beta, ()).encode())
    refuses(step, "delta", replace(request, signatures=two), CohortTooSmall, "only 2 sites signed")


def test_a_reveal_opens_b_of_survivors_and_k_with_dropped_and_nothing_else(make_step):
    step = make_step(4).start()
    step.run(until=lambda: step.coordinator.phase == "upload")
    step.lose("beta")
    step.run(until=lambda: step.coordinator.phase == "reveal")
    secrets = step.sites["alpha"]._secrets
    reveal = decode(step.sites["alpha"].receive(step.down["alpha"].popleft())[0].frame)
    assert reveal.self_seed == secrets.self_seed
    assert reveal.pair_seeds == (("beta", secrets.pair_seeds["beta"]),)
    assert [row.dealer for row in reveal.rows] == ["delta", "epsilon"]
    for row in reveal.rows:  # b, then k with alpha, beta and the other one
        assert [len(entry) for entry in row.entries] == [33, 32, 33, 32]
    for seed in (secrets.pair_seeds["delta"], secrets.pair_seeds["epsilon"]):
        assert seed not in reveal.encode()


# Nonsense.


@pytest.mark.parametrize("garbage", [b"", b"\1", b"\0" * 200, b"\xff" * 2_000_000])
def test_garbage(make_step, garbage):
    refuses(make_step(4).start(), "alpha", garbage, MalformedMessage)


def test_a_sites_own_kind_of_message(joining):
    step, announce = joining()
    refuses(step, "alpha", announce.adverts[1], MalformedMessage, "only sites send")
    refuses(step, "beta", Chunk(announce.ctx, 0, b""), MalformedMessage, "only sites send")


def test_a_step_in_which_a_site_detects_a_lie_reveals_nothing_of_it(joining):
    step, announce = joining()
    bad = Announce(announce.ctx, b"{}", announce.adverts)
    refuses(step, "alpha", bad, DescriptorMismatch)
    with pytest.raises(IllegalEvent):
        step.sites["alpha"].upload(step.vectors["alpha"])
