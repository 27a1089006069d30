"""A coordinator that lies about a step: what it announces, who takes part, and what came of it."""

import pytest

from privacy.secagg import SitePhase
from privacy.secagg.messages import (
    Announce,
    Chunk,
    Established,
    Grant,
    Keys,
    LockRequest,
    Outcome,
    RevealRequest,
    SharesRequest,
    TotalChunk,
    decode,
)
from privacy.secagg.surplus import Contribution
from tacit.errors import (
    BadSignature,
    CohortTooSmall,
    ConflictingLock,
    DescriptorMismatch,
    IllegalEvent,
    MalformedMessage,
)

# Announcements.


def test_an_honest_announcement_is_taken(paused):
    step, announce = paused(Announce)
    step.sites["alpha"].receive(announce.encode())
    assert step.sites["alpha"].phase is SitePhase.READY


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 1.0},
        {"length": 4},
        {"value_bound": 1.0},
        {"threshold": 4},
        {"cohort": ("alpha", "beta", "delta")},
        {"order_digest": "sha256:" + "00" * 32},
        {"step": 5},
        {"history": "sha256:" + "00" * 32},
        {"epoch": 2},
    ],
    ids=[
        *("changed scale", "shortened vector", "bound", "threshold", "smaller cohort", "another model"),
        *("another step", "another history", "another epoch"),
    ],
)
def test_another_descriptor(paused, replace, refuses, change):
    step, announce = paused(Announce, steps=2)
    other = replace(step.descriptor, **change)
    refuses(step, "alpha", replace(announce, descriptor=other.encode()), DescriptorMismatch, next(iter(change)))
    consistent = replace(announce, descriptor=other.encode(), ctx=other.ctx())
    refuses(step, "beta", consistent, DescriptorMismatch, next(iter(change)))
    refuses(step, "delta", replace(announce, ctx=other.ctx()), DescriptorMismatch, "another step or epoch")


@pytest.mark.parametrize("descriptor", [b"", b"{}", b"junk"])
def test_a_step_in_which_a_site_detects_a_lie_reveals_nothing_of_it(paused, replace, refuses, descriptor):
    step, announce = paused(Announce, auto_upload=False)
    refuses(step, "alpha", replace(announce, descriptor=descriptor), DescriptorMismatch)
    with pytest.raises(IllegalEvent, match="a site that is failed was given the event 'upload'"):
        step.sites["alpha"].upload(Contribution(step.vectors["alpha"].copy()))


@pytest.mark.parametrize("stranger", ["zeta", "epsilon"])
def test_participants_this_site_shares_no_key_with(make_step, replace, refuses, stranger):
    """Epsilon is in the cohort, but did not finish the setup; zeta is nobody."""
    step = make_step(4).start().hold(Keys)
    step.lose("epsilon")
    step.hold(Announce)
    announce = decode(step.down["alpha"][0])
    assert announce.participants == ("alpha", "beta", "delta")
    more = replace(announce, participants=(*announce.participants, stranger))
    refuses(step, "alpha", more, DescriptorMismatch, "alpha shares keys with beta, delta", peer=stranger)


def test_participants_without_this_site(paused, replace, refuses):
    step, announce = paused(Announce)
    refuses(step, "alpha", replace(announce, participants=announce.participants[1:]), DescriptorMismatch, "shares keys")


def test_too_few_participants(paused, replace, refuses):
    step, announce = paused(Announce)
    few = replace(announce, participants=announce.participants[:2])
    refuses(step, "alpha", few, CohortTooSmall, r"only 2 sites take part \(alpha, beta\); this step needs 3")
    step, announce = paused(Announce, min_cohort=4)
    refuses(step, "alpha", replace(announce, participants=announce.participants[:3]), CohortTooSmall, "needs 4")
    alone = replace(announce, participants=("beta",))
    refuses(step, "beta", alone, CohortTooSmall, "only 1 sites take part")


def take(step, name, *messages):
    """Give a site messages and let it upload; return the machine."""
    machine = step.sites[name]
    for message in messages:
        machine.receive(message.encode())
    machine.upload(Contribution(step.vectors[name].copy()))
    return machine


def test_different_participants_for_different_sites_never_reach_a_quorum(paused, replace, refuses):
    """Alpha and beta are told four take part, delta and epsilon three; the locks they sign are not the same lock."""
    step, announce = paused(Announce, auto_upload=False)
    few = replace(announce, participants=("alpha", "delta", "epsilon"))
    grant = Grant(announce.ctx)
    for name, message in {"alpha": announce, "beta": announce, "delta": few, "epsilon": few}.items():
        take(step, name, message, grant)
    seeds = {name: step.sites[name]._step._secrets.pair_seeds for name in step.names}
    assert seeds["alpha"]["beta"] == seeds["beta"]["alpha"]
    assert seeds["delta"]["epsilon"] == seeds["epsilon"]["delta"]
    assert seeds["alpha"]["delta"] != seeds["delta"]["alpha"], "who takes part enters every mask"
    survivors = tuple((name, step.sites[name]._step.upload_hash) for name in ("alpha", "delta", "epsilon"))
    request = LockRequest(announce.ctx, survivors, ()).encode()
    locks = {name: decode(step.sites[name].receive(request)[-1].frame) for name in ("alpha", "delta", "epsilon")}
    assert len({lock.digest for lock in locks.values()}) == 2
    signatures = tuple((name, lock.signature) for name, lock in locks.items())
    reveal = RevealRequest(announce.ctx, locks["alpha"].digest, signatures)
    refuses(step, "alpha", reveal, BadSignature, peer="delta")


def test_a_step_is_announced_once_and_in_its_time(make_step, ignores):
    step = make_step(4, steps=3).start().hold(Announce)
    announce = decode(step.down["alpha"][0])
    step.sites["alpha"].receive(step.down["alpha"].popleft())
    ignores(step, "alpha", announce)
    step.upload("alpha")
    ignores(step, "alpha", announce)


def test_a_step_announced_before_it_is_expected(make_step, ignores, refuses, replace):
    """The coordinator hurries: the site's owner has not yet said what the next step is. Nothing changes."""
    step = make_step(4, steps=3).start().run()
    step.assert_exact(survivors=step.names)
    following = step.descriptor.following(step.descriptor.history)
    hurried = Announce(following.ctx(), following.encode(), step.names)
    again = Announce(step.descriptor.ctx(), step.descriptor.encode(), step.names)
    for message in (hurried, again):
        ignores(step, "alpha", message)
    # nor may an old step be had again once the next one is expected
    step.begin_next()
    refuses(step, "alpha", again, DescriptorMismatch, "step: announced 4, ordered 5")
    refuses(step, "beta", hurried, DescriptorMismatch, "history: announced")


STEP_MESSAGES = {
    "grant": lambda: Grant(bytes(32)),
    "lock request": lambda: LockRequest(bytes(32), (), ()),
    "reveal request": lambda: RevealRequest(bytes(32), bytes(32), ()),
    "shares request": lambda: SharesRequest(bytes(32), bytes(32), ()),
    "outcome": lambda: Outcome(bytes(32), (), "why"),
    "total chunk": lambda: TotalChunk(bytes(32), 0, b""),
}


@pytest.mark.parametrize("message", STEP_MESSAGES)
@pytest.mark.parametrize("before", [Keys, Announce, LockRequest, RevealRequest, Outcome])
def test_a_message_with_another_steps_ctx(paused, refuses, before, message):
    step, _ = paused(before)
    refuses(step, "alpha", STEP_MESSAGES[message](), DescriptorMismatch, "another step or epoch")


@pytest.mark.parametrize("before", [Announce, LockRequest, RevealRequest, Outcome])
def test_a_message_of_the_setup_with_a_steps_ctx_and_the_other_way_round(paused, replace, refuses, before):
    step, _ = paused(before)
    refuses(step, "alpha", Established(step.descriptor.ctx(), step.names, ()), DescriptorMismatch)
    refuses(step, "beta", Grant(step.descriptor.epoch_ctx()), DescriptorMismatch)


@pytest.mark.parametrize("before", [Announce, Grant, LockRequest, RevealRequest, Outcome, TotalChunk])
@pytest.mark.parametrize("garbage", [b"", b"\2", b"\0" * 200, b"\xff" * 2_000_000])
def test_garbage_in_every_phase(paused, refuses, before, garbage):
    step, _ = paused(before, steps=2)
    refuses(step, "alpha", garbage, MalformedMessage)


def test_a_sites_own_kind_of_message(paused, refuses):
    step, _ = paused(LockRequest)
    refuses(step, "alpha", Chunk(step.descriptor.ctx(), 0, b""), MalformedMessage, "only sites send")


# Outcomes.


def of(step, *survivors):
    return Outcome(step.descriptor.ctx(), survivors, "")


@pytest.fixture
def outdone(make_step):
    """Four sites of five whose outcome is on its way; epsilon was too late and is in no sum."""

    def make(**changes):
        step = make_step(5, steps=2, **changes).start().lie("epsilon", Chunk, lambda chunk: None)
        step.hold(Outcome)
        step.deadline()
        return step.hold(Outcome)

    return make


def test_an_honest_outcome_is_taken_by_those_in_the_sum_and_by_those_that_are_not(outdone):
    step = outdone()
    assert step.sites["epsilon"].phase is SitePhase.UPLOADED
    assert step.sites["alpha"].phase is SitePhase.REVEALED
    assert decode(step.down["epsilon"][0]) == decode(step.down["alpha"][0]) == of(step, *step.names[:3], "gamma")
    step.run()
    assert {name: ended.survivors for name, ended in step.ended.items()} == dict.fromkeys(
        step.names, ("alpha", "beta", "delta", "gamma")
    )


def test_other_survivors_than_locked(outdone, refuses):
    step = outdone()
    refuses(step, "alpha", of(step, *step.names), ConflictingLock, "alpha locked alpha, beta, delta, gamma")
    step = outdone(threshold=4)
    others = of(step, "alpha", "beta", "delta", "epsilon")
    refuses(step, "alpha", others, ConflictingLock, "alpha locked alpha, beta, delta, gamma")


def test_a_site_among_the_survivors_without_its_lock(outdone, refuses):
    step = outdone()
    with_it = of(step, *step.names)
    refuses(step, "epsilon", with_it, ConflictingLock, "a sum with epsilon, which locked none")


def test_fewer_survivors_than_may_be_summed(outdone, refuses):
    step = outdone()
    refuses(step, "epsilon", of(step, "alpha", "beta", "delta"), CohortTooSmall, "over 3 sites; 4 must be")
    refuses(step, "alpha", of(step, "alpha"), CohortTooSmall, "over 1 sites; 4 must be")


def test_survivors_that_took_no_part(outdone, refuses):
    step = outdone()
    strangers = of(step, "alpha", "beta", "delta", "zeta")
    refuses(step, "epsilon", strangers, DescriptorMismatch, "took no part")
    refuses(step, "alpha", strangers, DescriptorMismatch, "took no part")


@pytest.mark.parametrize("before", [Grant, LockRequest, RevealRequest, Outcome])
def test_after_an_outcome_in_any_phase_nothing_of_the_step_is_left(paused, ignores, before):
    step, _ = paused(before, steps=2)
    machine = step.sites["alpha"]
    session = machine._step
    machine.receive(Outcome(step.descriptor.ctx(), (), "the coordinator gave up").encode())
    assert machine.phase is SitePhase.IDLE
    assert machine._step is None
    assert session._secrets is None
    assert not session._locked or not session._locked.rows
    assert not machine._chunks
    ctx = step.descriptor.ctx()
    for message in (Grant(ctx), LockRequest(ctx, (), ()), RevealRequest(ctx, bytes(32), ()), Outcome(ctx, (), "again")):
        ignores(step, "alpha", message)


def test_an_outcome_without_a_step_is_ignored(paused, ignores):
    for kind in (Keys, Established, Announce):
        step, _ = paused(kind)
        ignores(step, "alpha", Outcome(step.descriptor.ctx(), (), "nothing"))
        ignores(step, "alpha", Outcome(step.descriptor.ctx(), step.names, ""))


# The sum that the next step builds on.


@pytest.fixture
def receiving(paused, small_chunks):
    """Sites whose step of nine coordinates has ended, its sum on its way in pieces of 16 bytes: 16, 16 and 4."""

    def make():
        small_chunks(16)
        step, _ = paused(TotalChunk, steps=2, length=9)
        assert len(step.down["alpha"]) == 3
        return step

    return make


@pytest.mark.parametrize(
    ("index", "size"),
    [(1, 16), (2, 16), (0, 4), (0, 0), (0, 20), (0, 36)],
    ids=["later", "last", "short", "empty", "long", "all at once"],
)
def test_a_first_piece_of_the_sum_out_of_order_or_of_another_size(receiving, refuses, index, size):
    step = receiving()
    refuses(step, "alpha", TotalChunk(step.descriptor.ctx(), index, bytes(size)), MalformedMessage, "of the sum")


@pytest.mark.parametrize(("index", "size"), [(1, 4), (2, 16), (3, 4), (2, 0), (2, 5), (0, 4)])
def test_a_last_piece_of_the_sum_out_of_order_or_of_another_size(receiving, refuses, index, size):
    step = receiving()
    for _ in range(2):
        step.deliver_down("alpha")
    words = "expected piece 2 of 4"
    refuses(step, "alpha", TotalChunk(step.descriptor.ctx(), index, bytes(size)), MalformedMessage, words)


def test_more_of_the_sum_than_there_is_is_ignored(receiving, ignores):
    step = receiving().run()
    assert step.sites["alpha"].phase is SitePhase.IDLE
    ignores(step, "alpha", TotalChunk(step.descriptor.ctx(), 3, bytes(4)))
    ignores(step, "alpha", TotalChunk(step.descriptor.ctx(), 0, bytes(16)))


def test_nothing_but_the_sum_is_taken_while_it_comes(receiving, ignores):
    step = receiving()
    ctx = step.descriptor.ctx()
    for message in (Grant(ctx), Outcome(ctx, (), "no"), Announce(ctx, step.descriptor.encode(), step.names)):
        ignores(step, "alpha", message)


def test_the_sum_of_a_burnt_step_or_of_the_last_one_is_ignored(make_step, ignores):
    step = make_step(3, steps=1).start().run()
    step.assert_exact(survivors=step.names)
    ignores(step, "alpha", TotalChunk(step.descriptor.ctx(), 0, bytes(20)))
    step = make_step(3, steps=2).start()
    step.run(until=lambda: step.coordinator.phase == "lock")
    step.coordinator_effects(step.coordinator.abort("enough"))
    step.run()
    assert step.ended["alpha"].reason
    ignores(step, "alpha", TotalChunk(step.descriptor.ctx(), 0, bytes(20)))


# Two sums told.


def test_sites_that_are_told_different_sums_cannot_take_the_next_step_together(make_step, refuses):
    """Alpha is told another sum. What the coordinator announces next is either not alpha's step or not the others'; and
    announced to each as its own, their masks do not cancel."""
    step = make_step(4, steps=2, auto_upload=False).start().run()
    for name in step.names:
        step.upload(name)
    step.hold(TotalChunk)
    total = bytearray(decode(step.down["alpha"][0]).payload)
    total[0] ^= 1
    step.down["alpha"][0] = TotalChunk(step.descriptor.ctx(), 0, bytes(total)).encode()
    step.run()
    step.assert_exact(survivors=step.names)
    step.begin_next()
    honest = decode(step.down["alpha"][0])
    alpha = step.sites["alpha"].descriptor
    assert alpha.history != step.sites["beta"].descriptor.history
    own = Announce(alpha.ctx(), alpha.encode(), step.names)
    refuses(step, "delta", own, DescriptorMismatch, "history: announced")
    step.sites["alpha"].receive(own.encode())
    step.sites["beta"].receive(honest.encode())
    seeds = {name: step.sites[name]._step._secrets.pair_seeds for name in ("alpha", "beta")}
    assert seeds["alpha"]["beta"] != seeds["beta"]["alpha"]
    assert step.sites["beta"]._step.session.hash != step.sites["alpha"]._step.session.hash


def test_the_honest_announcement_after_a_lie_about_the_sum(make_step, refuses):
    step = make_step(4, steps=2).start().hold(TotalChunk)
    step.down["alpha"][0] = TotalChunk(step.descriptor.ctx(), 0, bytes(20)).encode()
    step.run()
    step.begin_next()
    refuses(step, "alpha", step.down["alpha"][0], DescriptorMismatch, "history: announced")


def test_a_site_told_that_a_good_step_was_burnt_is_out_of_the_next(make_step, refuses):
    step = make_step(4, steps=2).start().hold(Outcome)
    step.down["alpha"].clear()
    step.down["alpha"].append(Outcome(step.descriptor.ctx(), (), "burnt, says the coordinator").encode())
    step.run()
    step.begin_next()
    refuses(step, "alpha", step.down["alpha"][0], DescriptorMismatch, "history: announced")
