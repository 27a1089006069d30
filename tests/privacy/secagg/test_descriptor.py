import dataclasses
import hashlib

import numpy as np
import pytest

from privacy.order import LoraSpec, Order, SecAggSpec, TrainingSpec, WeightSpec
from privacy.secagg.descriptor import StepDescriptor, descriptor_for, next_history
from tacit.errors import DescriptorMismatch, EncodingRange, MalformedMessage

CHANGES = {
    "run_id": "0" * 16,
    "epoch": 9,
    "round": 9,
    "first_step": 3,
    "steps": 9,
    "step": 6,
    "history": "sha256:" + "ef" * 32,
    "cohort": ("alpha", "beta", "gamma"),
    "threshold": 4,
    "min_cohort": 3,
    "collusion_bound": 2,
    "ring_bits": 64,
    "scale": 32768.0,
    "value_bound": 8.0,
    "length": 6,
    "order_digest": "sha256:" + "cd" * 32,
}
OF_THE_STEP = {"step", "history"}


def test_golden_bytes(make_descriptor):
    expected = (
        b'{"cohort":["alpha","beta","delta"],"collusion_bound":1,"epoch":3,"first_step":4,"history":"sha256:'
        + b"cd" * 32
        + b'","length":5,"min_cohort":2,"order_digest":"sha256:'
        + b"ab" * 32
        + b'","ring_bits":32,"round":3,"run_id":"00112233445566ff","scale":65536,"step":5,"steps":3,"threshold":3,'
        b'"value_bound":16}'
    )
    descriptor = make_descriptor(3, steps=3, step=5)
    assert descriptor.encode() == expected
    assert descriptor.ctx() == hashlib.sha256(b"tacit/secagg/descriptor/v2\0" + expected).digest()
    of_the_epoch = expected.replace(b'"step":5,', b"").replace(b'"history":"sha256:' + b"cd" * 32 + b'",', b"")
    assert descriptor.encode_epoch() == of_the_epoch
    assert descriptor.epoch_ctx() == hashlib.sha256(b"tacit/secagg/epoch/v2\0" + of_the_epoch).digest()


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_enters_ctx_and_is_compared(make_descriptor, field):
    mine = make_descriptor(4, steps=3)
    other = dataclasses.replace(mine, **{field: CHANGES[field]})
    assert other.ctx() != mine.ctx()
    with pytest.raises(DescriptorMismatch, match=f"{field}: announced"):
        mine.check_announced(other.encode())


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_but_those_of_the_step_enters_the_epoch(make_descriptor, field):
    mine = make_descriptor(4, steps=3)
    other = dataclasses.replace(mine, **{field: CHANGES[field]})
    if field in OF_THE_STEP:
        assert other.epoch_ctx() == mine.epoch_ctx()
        mine.check_announced_epoch(other.encode_epoch())
        return
    assert other.epoch_ctx() != mine.epoch_ctx()
    with pytest.raises(DescriptorMismatch, match=f"{field}: announced") as caught:
        mine.check_announced_epoch(other.encode_epoch())
    assert "history" not in caught.value.message, "fields of the step are no difference between epochs"


def test_a_step_is_no_epoch_and_an_epoch_no_step(make_descriptor):
    mine = make_descriptor(4)
    assert mine.ctx() != mine.epoch_ctx()
    with pytest.raises(DescriptorMismatch):
        mine.check_announced(mine.encode_epoch())
    with pytest.raises(DescriptorMismatch):
        mine.check_announced_epoch(mine.encode())


def test_every_field_is_covered_above():
    assert {field.name for field in dataclasses.fields(StepDescriptor)} == set(CHANGES)


@pytest.mark.parametrize("announced", [b"", b"[]", b"{", b"\xff", b'{"cohort":1,"cohort":1}', b'{"scale":NaN}'])
def test_an_announcement_that_is_no_descriptor_is_a_mismatch(make_descriptor, announced):
    with pytest.raises(DescriptorMismatch):
        make_descriptor(3).check_announced(announced)
    with pytest.raises(DescriptorMismatch):
        make_descriptor(3).check_announced_epoch(announced)


def test_the_same_descriptor_in_other_bytes_is_a_mismatch(make_descriptor):
    mine = make_descriptor(3)
    with pytest.raises(DescriptorMismatch, match="not canonical"):
        mine.check_announced(b" " + mine.encode())
    mine.check_announced(mine.encode())
    with pytest.raises(DescriptorMismatch, match="not canonical"):
        mine.check_announced_epoch(mine.encode_epoch() + b" ")
    mine.check_announced_epoch(mine.encode_epoch())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"run_id": "xyz"}, MalformedMessage),
        ({"run_id": "00112233445566ff\n"}, MalformedMessage),
        ({"cohort": ("beta", "alpha", "gamma")}, MalformedMessage),
        ({"cohort": ("alpha", "alpha", "beta")}, MalformedMessage),
        ({"cohort": ("Alpha", "beta", "gamma")}, MalformedMessage),
        ({"order_digest": "sha256:"}, MalformedMessage),
        ({"history": "sha256:xyz"}, MalformedMessage),
        ({"history": "sha256:" + "cd" * 32 + "\n"}, MalformedMessage),
        ({"step": -1}, MalformedMessage),
        ({"step": 3}, MalformedMessage),
        ({"step": 5}, MalformedMessage),
        ({"steps": 0}, MalformedMessage),
        ({"steps": 2, "step": 6}, MalformedMessage),
        ({"steps": 2**32}, MalformedMessage),
        ({"first_step": 5}, MalformedMessage),
        ({"first_step": -1}, MalformedMessage),
        ({"epoch": 2**32}, MalformedMessage),
        ({"ring_bits": 8}, EncodingRange),
        ({"ring_bits": 31}, EncodingRange),
        ({"ring_bits": 128}, EncodingRange),
        ({"length": 0}, EncodingRange),
        ({"scale": 0.0}, EncodingRange),
        ({"scale": float("nan")}, EncodingRange),
        ({"value_bound": float("inf")}, EncodingRange),
    ],
)
def test_a_field_out_of_form_is_refused(make_descriptor, change, error):
    with pytest.raises(error):
        make_descriptor(3, **change)


# The steps of one epoch.


def test_an_epochs_steps_follow_each_other_to_the_last(make_descriptor):
    first = make_descriptor(3, steps=3)
    assert first.last_step == 6
    second = first.following("sha256:" + "11" * 32)
    assert (second.step, second.history) == (5, "sha256:" + "11" * 32)
    assert dataclasses.replace(second, step=4, history=first.history) == first, "nothing else changes"
    assert second.epoch_ctx() == first.epoch_ctx()
    assert second.ctx() != first.ctx()
    third = second.following("sha256:" + "22" * 32)
    with pytest.raises(MalformedMessage, match="step 7 is not one of the epoch's 3 steps from 4 on"):
        third.following("sha256:" + "33" * 32)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_a_descriptor_knows_the_size_of_its_vectors(make_descriptor, bits):
    descriptor = make_descriptor(3, ring_bits=bits, length=7)
    assert descriptor.ring.bits == bits
    assert descriptor.vector_bytes == 7 * bits // 8


def test_histories_differ_by_all_they_tell():
    before = "sha256:" + "ab" * 32
    total = np.array([1, 2, 3], dtype="<u4")
    histories = [
        next_history(before, ("alpha", "beta"), total),
        next_history("sha256:" + "cd" * 32, ("alpha", "beta"), total),
        next_history(before, ("alpha", "gamma"), total),
        next_history(before, ("alpha",), total),
        next_history(before, ("alpha", "beta"), total + np.uint32(1)),
        next_history(before, ("alpha", "beta"), total[:2]),
        next_history(before, (), None),
        next_history("sha256:" + "cd" * 32, (), None),
        before,
    ]
    assert len(set(histories)) == len(histories)
    assert histories[0] == next_history(before, ("alpha", "beta"), total.copy())


def test_history_golden():
    """By hand: SHA-256 over a label and length-prefixed parts."""
    before = "sha256:" + "ab" * 32
    total = np.array([1, 2**32 - 1], dtype="<u4")
    parts = [before.encode(), b"alpha,beta", hashlib.sha256(total.tobytes()).digest()]
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    expected = hashlib.sha256(b"tacit/secagg/history/v2\0" + framed).hexdigest()
    assert next_history(before, ("alpha", "beta"), total) == f"sha256:{expected}"
    framed = len(before).to_bytes(4, "big") + before.encode()
    expected = hashlib.sha256(b"tacit/secagg/burnt/v2\0" + framed).hexdigest()
    assert next_history(before, (), None) == f"sha256:{expected}"


def test_descriptor_for_takes_everything_from_the_order():
    order = Order(
        run_id="0123456789abcdef",
        run_name="demo",
        epoch=2,
        round=2,
        rounds_planned=8,
        step=5,
        strategy="fedavg",
        mode="local",
        unit="record",
        adjacency="add-remove",
        agreement_digest="sha256:" + "1" * 64,
        base_model_digest="sha256:" + "2" * 64,
        adapter_layout_digest="sha256:" + "3" * 64,
        adapter_state_digest="sha256:" + "4" * 64,
        adapter_length=80_000,
        lora=LoraSpec(rank=8, alpha=16.0, targets=("query",)),
        labels=("a", "b"),
        training=TrainingSpec(
            local_steps=3,
            sample_rate=0.1,
            expected_batch_size=10.0,
            noise_multiplier=1.0,
            l2_clip_norm=1.0,
            learning_rate=0.1,
            max_tokens=64,
        ),
        secagg=SecAggSpec(
            steps=6,
            cohort=("alpha", "beta", "gamma"),
            threshold=3,
            min_cohort=3,
            ring_bits=64,
            scale=65536.0,
            value_bound=4.0,
        ),
        deadline_s=60.0,
    )
    descriptor = descriptor_for(order, collusion_bound=1)
    assert descriptor == StepDescriptor(
        run_id="0123456789abcdef",
        epoch=2,
        round=2,
        first_step=5,
        steps=6,
        step=5,
        history=order.digest(),
        cohort=("alpha", "beta", "gamma"),
        threshold=3,
        min_cohort=3,
        collusion_bound=1,
        ring_bits=64,
        scale=65536.0,
        value_bound=4.0,
        length=80_000,
        order_digest=order.digest(),
    )
    weighted = order.secagg.model_copy(update={"weights": WeightSpec(cap=100, bin=10)})
    assert descriptor_for(order.model_copy(update={"secagg": weighted}), 1).length == 80_001
    another_model = order.model_copy(update={"base_model_digest": "sha256:" + "9" * 64})
    assert descriptor_for(another_model, 1).ctx() != descriptor.ctx()
