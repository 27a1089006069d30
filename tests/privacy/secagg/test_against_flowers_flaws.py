"""Why Tacit does not use Flower's SecAgg+: what its coordinator can do, done here, and ours refusing the same.

Flower carries Tacit's messages, and it ships a secure aggregation of its own, SecAgg+. These tests run the functions of
its release 1.41 (``flwr.client.mod.secure_aggregation.secaggplus_mod`` on the client,
``flwr.server.workflow.secure_aggregation`` on the server) as a curious or lying coordinator would call them. Each
weakness is shown first, in a test named ``test_flower_...``; what ours does in that place stands below it, in one named
``test_ours_...``.

SecAgg+ trusts the server to follow the protocol. That is a sensible goal; it is not ours: here the coordinator is the
first of three adversaries. If a later Flower mends one of these, its test fails and this page must be read again.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.message_type import MessageType
from flwr.client.mod.secure_aggregation import secaggplus_mod
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
)
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.compat.common import recorddict_compat
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    public_key_to_bytes,
)

from privacy.secagg import SendTo, SitePhase
from privacy.secagg.keystream import keystream
from privacy.secagg.messages import Encapsulated, KeyAdvert, decode
from simulations.benchmarks.flower_secagg import (
    CLIPPING_RANGE,
    MAX_WEIGHT,
    MODULUS_RANGE,
    QUANTIZATION_RANGE,
    FlowerRound,
    as_a_server_process,
)
from tacit.errors import BadSignature, CohortTooSmall, ConflictingLock, DescriptorMismatch, EncodingRange

LENGTH = 40
#: what one unit of Flower's fixed point is worth
UNIT = 2 * CLIPPING_RANGE / QUANTIZATION_RANGE
SHAPES = [(1,), (LENGTH,)]

SETUP = {
    Key.SAMPLE_NUMBER: 4,
    Key.SHARE_NUMBER: 4,
    Key.THRESHOLD: 3,
    Key.CLIPPING_RANGE: CLIPPING_RANGE,
    Key.TARGET_RANGE: QUANTIZATION_RANGE,
    Key.MOD_RANGE: MODULUS_RANGE,
    Key.MAX_WEIGHT: MAX_WEIGHT,
}


@pytest.fixture
def secret() -> np.ndarray:
    """One client's update, which nobody but that client may ever see."""
    return np.random.default_rng(7).uniform(-1, 1, LENGTH).astype(np.float32)


def unmasked(upload: list[bytes], plus: list[bytes], minus: list[bytes]) -> np.ndarray:
    """What a server reads from one upload when it knows the seeds that the client added and subtracted."""
    _, vector = (bytes_to_ndarray(array) for array in upload)
    for seed in plus:
        vector = vector - pseudo_rand_gen(seed, MODULUS_RANGE, SHAPES)[1]
    for seed in minus:
        vector = vector + pseudo_rand_gen(seed, MODULUS_RANGE, SHAPES)[1]
    return dequantize([vector & (MODULUS_RANGE - 1)], CLIPPING_RANGE, QUANTIZATION_RANGE)[0]


# (a) Who is at the other end of a key?


def test_flower_a_server_that_replaces_keys_reads_one_clients_update(secret) -> None:
    """Public keys are relayed by the server and signed by nobody.

    The server answers as all three peers. The client seals the shares of its own seed to the server, masks with keys
    the server made, and uploads: the server removes every mask.
    """
    client = SecAggPlusState(nid=1)
    own = _setup(client, ConfigRecord(SETUP))
    peers = {node: (generate_key_pairs(), generate_key_pairs()) for node in (2, 3, 4)}
    announced = {"1": [own[Key.PUBLIC_KEY_1], own[Key.PUBLIC_KEY_2]]} | {
        str(node): [public_key_to_bytes(public) for _, public in pairs] for node, pairs in peers.items()
    }

    sealed = _share_keys(client, ConfigRecord(announced))

    shares, forged = [], []
    for node, box in zip(sealed[Key.DESTINATION_LIST], sealed[Key.CIPHERTEXT_LIST], strict=True):
        (_, (sealing_key, _)) = peers[node]
        key = generate_shared_key(sealing_key, bytes_to_public_key(own[Key.PUBLIC_KEY_2]))
        shares.append(share_keys_plaintext_separate(decrypt(key, box))[2])
        forged.append(encrypt(key, share_keys_plaintext_concat(node, 1, b"no", b"share")))
    configs = ConfigRecord({Key.CIPHERTEXT_LIST: forged, Key.SOURCE_LIST: sealed[Key.DESTINATION_LIST]})
    upload = _collect_masked_vectors(client, configs, int(MAX_WEIGHT), ndarrays_to_parameters([secret]))

    public = bytes_to_public_key(own[Key.PUBLIC_KEY_1])
    pair_seeds = [generate_shared_key(masking_key, public) for (masking_key, _), _ in peers.values()]
    stolen = unmasked(upload[Key.MASKED_PARAMETERS], plus=[combine_shares(shares)], minus=pair_seeds)
    assert np.abs(stolen - secret).max() <= UNIT


def test_ours_a_key_that_its_owner_did_not_sign_ends_the_step_at_the_site(make_step) -> None:
    """Every key is signed by the identity that the agreement pins. One changed bit names whose key it was."""
    step = make_step(4, auto_upload=False).start()
    honest = step.up["beta"][0]
    step.run(until=lambda: bool(step.down["alpha"]))
    announced = step.down["alpha"].popleft()
    assert honest in announced
    signed, signature = honest[:-64], honest[-64:]
    replaced = signed[:-1] + bytes([signed[-1] ^ 1]) + signature

    step.give_site("alpha", announced.replace(honest, replaced))

    assert isinstance(step.site_errors["alpha"], BadSignature)
    assert step.site_errors["alpha"].peer == "beta"


# (b) Who sets the rules?


def test_flower_a_server_can_set_a_modulus_under_which_every_mask_is_zero(secret) -> None:
    """The client takes clip, quantisation and modulus as the server sends them.

    With modulus 2 the generator draws from ``[0, 1)``: nothing but zeros. With one quantisation step and a clip next to
    zero, the bit that is left is the sign. The upload is the sign of every coordinate, unmasked.
    """
    assert not pseudo_rand_gen(b"any seed of 32 bytes, it is the same", 2, [(1000,)])[0].any()

    flower = FlowerRound(4, 3, **{Key.MOD_RANGE: 2, Key.TARGET_RANGE: 1, Key.CLIPPING_RANGE: 1e-12})
    _, bits = (bytes_to_ndarray(array) for array in flower.upload(1, secret))

    np.testing.assert_array_equal(bits == 1, secret > 0)


def test_flower_a_client_alone_in_its_cohort_is_opened(secret) -> None:
    """The server chooses cohort and threshold too; one client and a threshold of one are as good as any."""
    flower = FlowerRound(1, 1)
    flower.take_upload(flower.upload(1, secret))
    assert np.abs(flower.unmask([1]).mean - secret).max() <= UNIT


@pytest.mark.parametrize(
    ("sites", "changes", "refusal"),
    [
        (1, {}, CohortTooSmall),
        (2, {}, CohortTooSmall),
        (4, {"threshold": 1}, CohortTooSmall),
        (4, {"threshold": 2}, CohortTooSmall),
        (4, {"ring_bits": 1}, EncodingRange),
        (4, {"scale": 2.0**31}, EncodingRange),
    ],
)
def test_ours_no_site_begins_a_step_that_protects_nobody(make_step, sites, changes, refusal) -> None:
    """Cohort, threshold, ring and scale are checked at the site before it draws a key."""
    with pytest.raises(refusal):
        make_step(sites, **changes)


@pytest.mark.parametrize(
    "changes", [{"value_bound": 1e-9}, {"scale": 1.0}, {"min_cohort": 3}, {"order_digest": "sha256:" + "cd" * 32}]
)
def test_ours_a_site_takes_the_step_of_its_own_order_and_no_other(make_step, changes) -> None:
    """The coordinator announces other parameters than the order that the site's gate accepted."""
    step = make_step(4, auto_upload=False).start()
    other = make_step(4, auto_upload=False, **changes).start()
    other.run(until=lambda: bool(other.down["alpha"]))

    step.give_site("alpha", other.down["alpha"].popleft())

    assert isinstance(step.site_errors["alpha"], DescriptorMismatch)


def test_ours_two_of_four_are_too_few_whatever_the_coordinator_says(make_step) -> None:
    step = make_step(4, auto_upload=False).start().run()
    step.lose("delta")
    step.lose("epsilon")
    step.assert_burnt("delta", "epsilon")


# (c) Both secrets of one client.


def test_flower_one_request_gets_both_secrets_of_a_client(secret) -> None:
    """An upload hides behind two secrets: its own seed, revealed if it lives, and its key, revealed if it does not.

    ``_unmask`` gives the seed's share for every node listed as active and the key's share for every node listed as
    dead, and does not mind one that is both.
    """
    flower = FlowerRound(4, 3)
    upload = flower.upload(1, secret)
    for node in (2, 3, 4):
        flower.upload(node, np.zeros(LENGTH, np.float32))
    everybody = [1, 2, 3, 4]

    asked = ConfigRecord({Key.ACTIVE_NODE_ID_LIST: everybody, Key.DEAD_NODE_ID_LIST: [1]})
    answers = [flower.reveal(node, asked) for node in (2, 3, 4)]

    owners = answers[0][Key.NODE_ID_LIST]
    assert owners == [*everybody, 1]
    seed = combine_shares([answer[Key.SHARE_LIST][0] for answer in answers])
    key = bytes_to_private_key(combine_shares([answer[Key.SHARE_LIST][-1] for answer in answers]))
    pair_seeds = [generate_shared_key(key, bytes_to_public_key(flower.public_keys[node][0])) for node in (2, 3, 4)]
    assert np.abs(unmasked(upload, plus=[seed], minus=pair_seeds) - secret).max() <= UNIT


def test_ours_a_site_that_was_told_who_lives_hears_no_other_story(make_step) -> None:
    """A coordinator keeps two books: all four live, and epsilon is dead. Each would open one half of epsilon's masks.

    A site signs one survivor set in a step, and reveals only behind a quorum on that one.
    """
    step = make_step(4, auto_upload=False).start().run()
    second_book = copy.deepcopy(step.coordinator)
    second_book.lost("epsilon")
    known = len(step.received)
    for name in step.names:
        step.upload(name)
    step.run_to(SitePhase.LOCKED)
    told = [
        effect
        for name, frame in step.received[known:]
        if name != "epsilon" and second_book.phase == "upload"
        for effect in second_book.receive(name, frame)
    ]
    [second_lock] = [effect.frame for effect in told if isinstance(effect, SendTo) and effect.site == "alpha"]

    step.give_site("alpha", second_lock)

    assert isinstance(step.site_errors["alpha"], ConflictingLock)


# (d) How many masks are there?


def test_flower_folds_a_256_bit_seed_to_32_bits_of_a_mersenne_twister() -> None:
    """``pseudo_rand_gen`` XORs the seed's words into one and seeds ``numpy.random.RandomState`` with it.

    Seeds of the same words in another order give the same mask, and the generator was never meant to keep a secret.
    """
    words = [bytes([number] * 4) for number in range(1, 9)]
    one, other = b"".join(words), b"".join(reversed(words))
    assert one != other
    np.testing.assert_array_equal(
        pseudo_rand_gen(one, MODULUS_RANGE, [(1000,)])[0], pseudo_rand_gen(other, MODULUS_RANGE, [(1000,)])[0]
    )


def test_flower_has_at_most_2_to_the_28_masks_for_a_pair() -> None:
    """A pair's seed is base64 text, so the top bit of every byte is zero, and so it is in the folded word.

    That many can be tried out: peers that collude with the server leave one mask unknown, and the first entry of an
    upload, the client's weight, tells when it is found.
    """
    for _ in range(20):
        (mine, _), (_, theirs) = generate_key_pairs(), generate_key_pairs()
        seed = generate_shared_key(mine, theirs)
        folded = int(np.bitwise_xor.reduce(np.frombuffer(seed, dtype="<u4")))
        assert folded & 0x80808080 == 0
        drawn = np.random.RandomState(folded).randint(0, MODULUS_RANGE - 1, 8, dtype=np.int64)
        np.testing.assert_array_equal(pseudo_rand_gen(seed, MODULUS_RANGE, [(8,)])[0], drawn)


def test_ours_every_bit_of_a_seed_decides_the_mask() -> None:
    """The seed is an AES-256 key, whole: 257 seeds that differ in one bit give 257 masks, and order counts."""
    words = [bytes([number] * 4) for number in range(1, 9)]
    seed = b"".join(words)
    number = int.from_bytes(seed, "big")
    seeds = [seed, b"".join(reversed(words)), *((number ^ (1 << bit)).to_bytes(32, "big") for bit in range(256))]
    assert len({keystream(one, 16).tobytes() for one in seeds}) == 258


# (e) What travels beside the masked vector?


def test_flower_sends_example_counts_and_metrics_in_clear() -> None:
    """The mod masks the arrays and leaves the rest of the training result as it is."""

    def train(message: Message, _: Context) -> Message:
        result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([np.zeros(3)]), 417, {"loss": 0.25})
        return Message(recorddict_compat.fitres_to_recorddict(result, False), reply_to=message)

    context = Context(1, 1, {}, RecordDict(), {})

    def exchange(stage: str, configs: dict) -> Message:
        content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({Key.STAGE: stage, **configs})})
        return secaggplus_mod(Message(content, dst_node_id=1, message_type=MessageType.TRAIN), context, train)

    with as_a_server_process():
        alone = SETUP | {Key.SAMPLE_NUMBER: 1, Key.SHARE_NUMBER: 1, Key.THRESHOLD: 1}
        keys = exchange(Stage.SETUP, alone).content.config_records[RECORD_KEY_CONFIGS]
        exchange(Stage.SHARE_KEYS, {"1": [keys[Key.PUBLIC_KEY_1], keys[Key.PUBLIC_KEY_2]]})
        sent = exchange(Stage.COLLECT_MASKED_VECTORS, {Key.CIPHERTEXT_LIST: [], Key.SOURCE_LIST: []})

    visible = recorddict_compat.recorddict_to_fitres(sent.content, keep_input=True)
    assert visible.num_examples == 417
    assert visible.metrics == {"loss": 0.25}


def test_ours_what_a_site_sends_has_one_size_and_does_not_hold_its_vector(make_step) -> None:
    """Weights and measurements, if any, are coordinates of the masked vector. There is no field beside it."""
    sizes = []
    for value in (0, 417):
        step = make_step(4, length=100)
        step.vectors["alpha"] = np.full(100, value, np.uint32)
        step.start().run()
        step.assert_exact(survivors=step.names)
        sent = [frame for name, frame in step.received if name == "alpha"]
        assert not any(step.vectors["alpha"].tobytes()[:32] in frame for frame in sent)
        sizes.append([len(frame) for frame in sent])
    assert sizes[0] == sizes[1]


# (f) Somebody leaves early.


def test_flower_a_client_that_leaves_before_it_shared_its_keys_costs_the_round(secret) -> None:
    """Node 5 was sampled and never answered. Four of five are left and three are enough.

    ``unmask_stage`` counts node 5 among the dead and asks for shares of its key. Nobody has any: ``_unmask`` raises
    ``KeyError`` in every client, no share comes back, and the workflow gives up.
    """
    flower = FlowerRound(4, 3)
    for node in (1, 2, 3, 4):
        flower.take_upload(flower.upload(node, secret))

    after = flower.unmask([1, 2, 3, 4], never_shared=[5])

    assert not after.finished
    assert after.mean is None
    assert {node: type(error) for node, error in after.refused.items()} == dict.fromkeys((1, 2, 3, 4), KeyError)
    state = SimpleNamespace(
        sampled_node_ids={1, 2, 3, 4, 5},
        active_node_ids={1, 2, 3, 4},
        threshold=3,
        nid_to_neighbours={node: {1, 2, 3, 4, 5} for node in range(1, 6)},
    )
    assert flower.workflow._check_threshold(state), "the workflow's own check saw nothing wrong"


@pytest.mark.parametrize("leaves", ["before its keys", "after its keys", "after the setup"])
def test_ours_a_site_that_leaves_costs_its_own_contribution(make_step, leaves) -> None:
    step = make_step(4, auto_upload=False).start()
    if leaves == "after its keys":
        step.deliver_up("beta")
    elif leaves == "after the setup":
        step.run()
    step.lose("beta")
    step.run()
    for name in ("alpha", "delta", "epsilon"):
        step.upload(name)
    step.run().assert_exact(survivors=("alpha", "delta", "epsilon"))


# (g) How much is sent?


def test_flower_uploads_eight_bytes_a_coordinate(secret) -> None:
    """Values below 2^32 travel as int64: half of every upload is zeros."""
    _, masked = (bytes_to_ndarray(array) for array in FlowerRound(4, 3).upload(1, secret))
    assert masked.dtype == np.int64
    assert not (masked >> 32).any()


def test_ours_sends_four_bytes_a_coordinate(make_step) -> None:
    """In every step; the keys and ciphertexts of the one setup serve all the steps of an epoch."""
    step = make_step(4, length=100_000, steps=2).start().run()
    step.assert_exact(survivors=step.names)
    sent = [frame for name, frame in step.received if name == "alpha"]
    of_the_setup = [frame for frame in sent if isinstance(decode(frame), KeyAdvert | Encapsulated)]
    assert sum(map(len, of_the_setup)) <= 1400 * 4, "one key and a ciphertext for each of three sites"
    assert sum(map(len, sent)) - sum(map(len, of_the_setup)) <= 4.04 * 100_000
    step.begin_next().run().assert_exact(survivors=step.names)
    assert sum(len(frame) for name, frame in step.received if name == "alpha") <= 4.04 * 100_000
