"""A coordinator that lies in the key setup. Each attack fails at the site, with its own error."""

import pytest

from privacy.secagg import SiteMachine, SitePhase, setup
from privacy.secagg.keys import ADVERT_CONTEXT, ENCAPSULATION_CONTEXT, LOCK_CONTEXT, HybridKey
from privacy.secagg.messages import Chunk, Encapsulation, Established, Grant, KeyAdvert, Keys, decode
from tacit.errors import BadSignature, CohortTooSmall, DescriptorMismatch, MalformedMessage

FOREIGN = HybridKey(b"m" * 96)


def signed_advert(step, name, signer=None, context=ADVERT_CONTEXT, **changes):
    """What ``signer`` (by default the site itself) signs as ``name``'s advert."""
    fields = {
        "ctx": step.descriptor.epoch_ctx(),
        "name": name,
        "public_key": FOREIGN.public_bytes,
        "kem_public_key": FOREIGN.kem_public_bytes,
        "signature": b"",
    } | changes
    unsigned = KeyAdvert(**fields).signed_part()
    return unsigned + step.identities[signer or name].sign(context, unsigned)


def with_advert(keys, replace, name, frame):
    frames = [frame if decode(advert).name == name else advert for advert in keys.adverts]
    return replace(keys, adverts=tuple(frames))


def resigned(step, frame, replace, signer, context=ENCAPSULATION_CONTEXT, **changes):
    """An encapsulation with changes, signed by ``signer``."""
    unsigned = replace(decode(frame), **changes).signed_part()
    return unsigned + step.identities[signer].sign(context, unsigned)


@pytest.fixture(scope="module")
def an_earlier_setup(make_step):
    """Another attempt at the same epoch: everything in it was once honest."""

    def make(kind, **changes):
        return make_step(4, seed=99, auto_upload=False, **changes).start().hold(kind)

    return make


# Keys.


def test_an_honest_setup_is_taken(paused):
    step, keys = paused(Keys)
    step.sites["alpha"].receive(keys.encode())
    assert step.sites["alpha"].phase is SitePhase.KEYED
    step, established = paused(Established)
    step.sites["alpha"].receive(established.encode())
    assert step.sites["alpha"].phase is SitePhase.IDLE
    assert sorted(step.sites["alpha"]._chains) == ["beta", "delta", "epsilon"]


@pytest.mark.parametrize(
    "substitute",
    [{"public_key": FOREIGN.public_bytes}, {"kem_public_key": FOREIGN.kem_public_bytes}],
    ids=["X25519", "ML-KEM"],
)
def test_a_substituted_key(paused, replace, refuses, substitute):
    step, keys = paused(Keys)
    forged = replace(decode(keys.adverts[1]), **substitute).encode()
    refuses(step, "alpha", with_advert(keys, replace, "beta", forged), BadSignature, "advert", peer="beta")


def test_a_key_signed_by_another_site(paused, replace, refuses):
    step, keys = paused(Keys)
    forged = signed_advert(step, "beta", signer="delta")
    refuses(step, "alpha", with_advert(keys, replace, "beta", forged), BadSignature, peer="beta")


def test_a_key_signed_in_another_context(paused, replace, refuses):
    step, keys = paused(Keys)
    for name, context in (("alpha", LOCK_CONTEXT), ("delta", ENCAPSULATION_CONTEXT)):
        forged = signed_advert(step, "beta", context=context)
        refuses(step, name, with_advert(keys, replace, "beta", forged), BadSignature, peer="beta")


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 2},
        {"run_id": "0" * 16},
        {"first_step": 3, "step": 3},
        {"steps": 2},
        {"order_digest": "sha256:" + "00" * 32},
    ],
    ids=str,
)
def test_a_replayed_key_of_a_peer_from_another_run_epoch_or_order(paused, replace, refuses, change):
    step, keys = paused(Keys)
    old = signed_advert(step, "beta", ctx=replace(step.descriptor, **change).epoch_ctx())
    refuses(step, "alpha", with_advert(keys, replace, "beta", old), DescriptorMismatch, "beta's key", peer="beta")


def test_a_whole_replayed_setup(paused, refuses, an_earlier_setup):
    step, _ = paused(Keys)
    earlier = an_earlier_setup(Keys)
    refuses(step, "alpha", earlier.down["alpha"][0], BadSignature, "drew for this session", peer="alpha")


def test_this_sites_own_key_left_out_or_replaced(paused, replace, refuses):
    step, keys = paused(Keys)
    refuses(step, "alpha", replace(keys, adverts=keys.adverts[1:]), BadSignature, peer="alpha")
    forged = signed_advert(step, "beta")
    refuses(step, "beta", with_advert(keys, replace, "beta", forged), BadSignature, peer="beta")


def test_a_cohort_of_one(paused, replace, refuses):
    step, keys = paused(Keys)
    few = replace(keys, adverts=keys.adverts[:1])
    refuses(step, "alpha", few, CohortTooSmall, "only 1 sites sent their keys")


def test_fewer_keys_than_the_threshold_or_the_minimum(paused, replace, refuses):
    step, keys = paused(Keys)
    refuses(step, "alpha", replace(keys, adverts=keys.adverts[:2]), CohortTooSmall, "needs 3")
    step, keys = paused(Keys, min_cohort=4)
    refuses(step, "alpha", replace(keys, adverts=keys.adverts[:3]), CohortTooSmall, "needs 4")


def test_a_cohort_of_sybils(paused, replace, refuses, make_step):
    """Names outside the cohort, even ones with identities the coordinator made itself, or real names without theirs."""
    step, keys = paused(Keys)
    step.identities["zeta"] = make_step(9).identities["zeta"]
    adverts = (*keys.adverts[:2], signed_advert(step, "zeta"))
    refuses(step, "alpha", replace(keys, adverts=adverts), DescriptorMismatch, "not in the cohort", peer="zeta")
    step.sites["beta"]._roster = step.roster | {"zeta": step.identities["zeta"].public}
    refuses(step, "beta", replace(keys, adverts=adverts), DescriptorMismatch, "not in the cohort", peer="zeta")
    adverts = (*keys.adverts[:1], *(signed_advert(step, name, signer="zeta") for name in ("beta", "delta", "epsilon")))
    step, keys = paused(Keys)
    refuses(step, "alpha", replace(keys, adverts=adverts), BadSignature, peer="beta")


def test_one_key_relayed_twice_or_out_of_order(paused, replace, refuses):
    step, keys = paused(Keys)
    twice = (keys.adverts[0], keys.adverts[0], *keys.adverts[1:])
    refuses(step, "alpha", replace(keys, adverts=twice), MalformedMessage, "repeated")
    refuses(step, "beta", replace(keys, adverts=keys.adverts[::-1]), MalformedMessage, "not sorted")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"public_key": b"\1" + bytes(31)}, "all-zero"),
        ({"kem_public_key": b"\xff" * 1184}, "ML-KEM-768 encapsulation key is not usable"),
    ],
    ids=["small order", "no KEM key"],
)
def test_an_unusable_key_even_if_signed(paused, replace, refuses, change, words):
    step, keys = paused(Keys)
    frame = signed_advert(step, "beta", **change)
    refuses(step, "alpha", with_advert(keys, replace, "beta", frame), MalformedMessage, words, peer="beta")


def test_something_else_where_an_advert_should_be(paused, replace, refuses):
    step, keys = paused(Keys)
    grant = Grant(keys.ctx).encode()
    refuses(step, "alpha", replace(keys, adverts=(*keys.adverts, grant)), MalformedMessage, "not a key advert")
    refuses(step, "beta", replace(keys, adverts=(*keys.adverts[:3], b"junk")), MalformedMessage)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 1.0},
        {"length": 4},
        {"threshold": 4},
        {"cohort": ("alpha", "beta", "delta")},
        {"order_digest": "sha256:" + "00" * 32},
        {"steps": 2},
        {"ring_bits": 64},
    ],
    ids=["changed scale", "shortened vector", "threshold", "smaller cohort", "another model", "more steps", "ring"],
)
def test_another_epoch(paused, replace, refuses, change):
    step, keys = paused(Keys)
    other = replace(step.descriptor, **change)
    refuses(step, "alpha", replace(keys, epoch=other.encode_epoch()), DescriptorMismatch, next(iter(change)))
    consistent = replace(keys, epoch=other.encode_epoch(), ctx=other.epoch_ctx())
    refuses(step, "beta", consistent, DescriptorMismatch, next(iter(change)))
    refuses(step, "delta", replace(keys, ctx=other.epoch_ctx()), DescriptorMismatch, "another step or epoch")


@pytest.mark.parametrize("changes", [{}, {"order_digest": "sha256:" + "00" * 32}, {"history": "sha256:" + "00" * 32}])
def test_two_models_to_two_sites_make_masks_that_do_not_cancel(make_step, monkeypatch, changes):
    """Even were every comparison and signature gone: the epoch enters the chain and the step's ctx each key. So with
    the very same secrets, sites that were shown two orders, or two sums, share no mask; with the same ones they do."""
    made = {}
    real = setup.encapsulate
    monkeypatch.setattr(setup, "encapsulate", lambda key: made.setdefault(key, real(key)))
    one = make_step(4, auto_upload=False).start().run()
    other = make_step(4, auto_upload=False, **changes).start().run()
    mine = one.sites["alpha"]._step._secrets.pair_seeds["beta"]
    peers = other.sites["beta"]._step._secrets.pair_seeds["alpha"]
    assert (mine == peers) == (not changes)


# Ciphertexts.


def test_different_keys_shown_to_different_sites_never_make_a_setup(paused, replace, refuses):
    """Alpha and beta are shown four sites, delta and epsilon three; their ciphertexts do not fit each other."""
    step, keys = paused(Keys)
    few = replace(keys, adverts=(keys.adverts[0], *keys.adverts[2:]))
    made = {}
    for name, message in {"alpha": keys, "beta": keys, "delta": few, "epsilon": few}.items():
        effects = step.sites[name].receive(message.encode())
        made[name] = {decode(frame).recipient: frame for frame in decode(effects[0].frame).frames}
    joined = ("alpha", "delta", "epsilon")
    frames = (made["alpha"]["delta"],)
    refuses(step, "delta", Established(keys.ctx, joined, frames), DescriptorMismatch, "other keys", peer="alpha")
    frames = (made["alpha"]["epsilon"], made["delta"]["epsilon"])
    refuses(step, "epsilon", Established(keys.ctx, joined, frames), DescriptorMismatch, "other keys", peer="alpha")


def with_frame(established, replace, at, frame):
    frames = established.encapsulations
    return replace(established, encapsulations=(*frames[:at], frame, *frames[at + 1 :]))


@pytest.fixture
def for_epsilon(paused):
    """Epsilon is last by name: it is sent a ciphertext of each of the others."""
    step, _ = paused(Established)
    return step, decode(step.down["epsilon"][0])


def test_a_substituted_ciphertext(for_epsilon, replace, refuses):
    step, established = for_epsilon
    forged = replace(decode(established.encapsulations[1]), ciphertext=bytes(1088)).encode()
    refuses(step, "epsilon", with_frame(established, replace, 1, forged), BadSignature, "encapsulation", peer="beta")


@pytest.mark.parametrize("forgery", ["signed by another", "in another context", "in another's name", "of another's"])
def test_a_ciphertext_that_its_sender_did_not_sign(for_epsilon, replace, refuses, forgery):
    step, established = for_epsilon
    alpha, beta, _ = established.encapsulations
    frame = {
        "signed by another": lambda: resigned(step, beta, replace, "alpha"),
        "in another context": lambda: resigned(step, beta, replace, "beta", ADVERT_CONTEXT),
        "in another's name": lambda: resigned(step, beta, replace, "alpha", sender="alpha"),
        "of another's": lambda: alpha,
    }[forgery]()
    refuses(step, "epsilon", with_frame(established, replace, 1, frame), BadSignature, peer="beta")


def test_a_ciphertext_replayed_from_another_setup_of_this_epoch(for_epsilon, replace, refuses, an_earlier_setup):
    step, established = for_epsilon
    old = decode(an_earlier_setup(Established).down["epsilon"][0]).encapsulations
    one = with_frame(established, replace, 0, old[0])
    refuses(step, "epsilon", one, DescriptorMismatch, "under other keys", peer="alpha")


def test_all_ciphertexts_replayed_from_another_setup_of_this_epoch(for_epsilon, refuses, an_earlier_setup):
    step, _ = for_epsilon
    frame = an_earlier_setup(Established).down["epsilon"][0]
    refuses(step, "epsilon", frame, DescriptorMismatch, "under other keys", peer="alpha")


def test_a_ciphertext_replayed_from_another_epoch(for_epsilon, replace, refuses, an_earlier_setup):
    step, established = for_epsilon
    old = decode(an_earlier_setup(Established, epoch=2).down["epsilon"][0])
    one = with_frame(established, replace, 2, old.encapsulations[2])
    refuses(step, "epsilon", one, DescriptorMismatch, "another epoch", peer="delta")


def test_a_ciphertext_swapped_between_recipients(for_epsilon, replace, refuses):
    step, established = for_epsilon
    for_delta = decode(step.down["delta"][0]).encapsulations[0]
    swapped = with_frame(established, replace, 0, for_delta)
    refuses(step, "epsilon", swapped, DescriptorMismatch, "for another site", peer="alpha")


def test_a_ciphertext_without_the_setup_it_was_made_under(for_epsilon, replace, refuses):
    """Signed by its sender, for this site, in this epoch, but under other adverts."""
    step, established = for_epsilon
    frame = resigned(step, established.encapsulations[0], replace, "alpha", setup=bytes(32))
    other = with_frame(established, replace, 0, frame)
    refuses(step, "epsilon", other, DescriptorMismatch, "under other keys", peer="alpha")


def test_ciphertexts_missing_too_many_or_out_of_order(for_epsilon, replace, refuses):
    step, established = for_epsilon
    frames = established.encapsulations
    refuses(step, "delta", established, MalformedMessage, "3 ciphertexts were relayed; expected one from each of 2")
    few = replace(established, encapsulations=frames[:2])
    refuses(step, "epsilon", few, MalformedMessage, "2 ciphertexts were relayed; expected one from each of 3")
    refuses(step, "alpha", established, MalformedMessage, "expected one from each of 0")
    for_beta = decode(step.down["beta"][0])
    refuses(step, "beta", with_frame(for_beta, replace, 0, b"junk"), MalformedMessage, peer="alpha")


def test_ciphertexts_in_another_order(for_epsilon, replace, refuses):
    step, established = for_epsilon
    turned = replace(established, encapsulations=established.encapsulations[::-1])
    refuses(step, "epsilon", turned, BadSignature, "in the name of", peer="alpha")


def test_something_else_where_a_ciphertext_should_be(for_epsilon, replace, refuses):
    step, established = for_epsilon
    grant = with_frame(established, replace, 1, Grant(established.ctx).encode())
    refuses(step, "epsilon", grant, MalformedMessage, "not an encapsulation", peer="beta")


# Who joined.


def test_fewer_joined_than_the_threshold_or_the_minimum(paused, replace, refuses):
    step, established = paused(Established)
    few = replace(established, joined=("alpha", "beta"))
    refuses(step, "alpha", few, CohortTooSmall, r"only 2 sites joined \(alpha, beta\)")
    step, established = paused(Established, min_cohort=4)
    few = replace(established, joined=("alpha", "beta", "delta"))
    refuses(step, "alpha", few, CohortTooSmall, "needs 4")


@pytest.mark.parametrize("stranger", ["zeta", "iota"])
def test_joined_sites_that_never_showed_a_key(paused, replace, refuses, stranger):
    step, established = paused(Established)
    more = replace(established, joined=tuple(sorted((*established.joined, stranger))))
    refuses(step, "alpha", more, DescriptorMismatch, "was shown the keys of", peer=stranger)


def test_a_setup_closed_without_this_site(paused, replace, refuses):
    step, established = paused(Established)
    without = replace(established, joined=("beta", "delta", "epsilon"))
    refuses(step, "alpha", without, DescriptorMismatch, "alpha was shown the keys of")


# Order of events, and nonsense.


def test_keys_twice_and_messages_before_their_time_change_nothing(paused, ignores):
    step, keys = paused(Keys)
    later, established = paused(Established)
    for message in (established, Grant(step.descriptor.ctx())):
        ignores(step, "alpha", message)
    ignores(later, "alpha", keys)
    later.sites["alpha"].receive(established.encode())
    for message in (keys, established):
        ignores(later, "alpha", message)


@pytest.mark.parametrize("kind", [None, Keys, Established])
@pytest.mark.parametrize("garbage", [b"", b"\2", b"\0" * 200, b"\xff" * 2_000_000])
def test_garbage(make_step, refuses, kind, garbage):
    step = make_step(4).start()
    if kind is not None:
        step.hold(kind)
    refuses(step, "alpha", garbage, MalformedMessage)


def test_a_sites_own_kind_of_message(paused, refuses):
    step, keys = paused(Keys)
    refuses(step, "alpha", keys.adverts[1], MalformedMessage, "only sites send")
    refuses(step, "beta", Chunk(keys.ctx, 0, b""), MalformedMessage, "only sites send")
    one = Encapsulation(keys.ctx, bytes(32), "beta", "delta", bytes(1088), bytes(64))
    refuses(step, "delta", one, MalformedMessage, "only sites send")


# Thresholds and roster, before anything is sent.


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"threshold": 2}, CohortTooSmall),
        ({"threshold": 3, "collusion_bound": 2}, CohortTooSmall),
        ({"threshold": 5}, CohortTooSmall),
        ({"cohort": ("alpha",), "threshold": 1}, CohortTooSmall),
        ({"cohort": ("alpha", "beta"), "threshold": 2}, CohortTooSmall),
    ],
)
def test_a_site_does_not_begin_under_an_unsafe_threshold(make_step, make_descriptor, changes, error):
    step, descriptor = make_step(4), make_descriptor(4, **changes)
    with pytest.raises(error):
        SiteMachine("alpha", step.identities["alpha"], step.roster, descriptor)


def test_a_site_does_not_begin_with_strangers_or_outside_the_cohort(make_step):
    step = make_step(4)
    roster = {name: one for name, one in step.roster.items() if name != "delta"}
    with pytest.raises(BadSignature, match="delta") as caught:
        SiteMachine("alpha", step.identities["alpha"], roster, step.descriptor)
    assert caught.value.peer == "delta"
    with pytest.raises(DescriptorMismatch, match="not in the cohort"):
        SiteMachine("zeta", step.identities["alpha"], step.roster, step.descriptor)
