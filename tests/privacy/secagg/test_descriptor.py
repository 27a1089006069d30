import dataclasses
import hashlib

import pytest

from privacy.order import LoraSpec, Order, SecAggSpec, TrainingSpec
from privacy.secagg.descriptor import StepDescriptor, descriptor_for
from tacit.errors import DescriptorMismatch, EncodingRange, MalformedMessage

CHANGES = {
    "run_id": "0" * 16,
    "epoch": 9,
    "round": 9,
    "step": 9,
    "cohort": ("alpha", "beta", "gamma"),
    "threshold": 4,
    "min_cohort": 3,
    "collusion_bound": 2,
    "scale": 32768.0,
    "value_bound": 8.0,
    "length": 6,
    "order_digest": "sha256:" + "cd" * 32,
}


def test_golden_bytes(make_descriptor):
    expected = (
        b'{"cohort":["alpha","beta","delta"],"collusion_bound":1,"epoch":3,"length":5,"min_cohort":2,'
        b'"order_digest":"sha256:' + b"ab" * 32 + b'","ring_bits":32,"round":3,"run_id":"00112233445566ff",'
        b'"scale":65536,"step":4,"threshold":3,"value_bound":16}'
    )
    descriptor = make_descriptor(3)
    assert descriptor.encode() == expected
    assert descriptor.ctx() == hashlib.sha256(b"tacit/secagg/descriptor/v1\0" + expected).digest()


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_enters_ctx_and_is_compared(make_descriptor, field):
    mine = make_descriptor(4)
    other = dataclasses.replace(mine, **{field: CHANGES[field]})
    assert other.ctx() != mine.ctx()
    with pytest.raises(DescriptorMismatch, match=f"{field}: announced"):
        mine.check_announced(other.encode())


def test_every_field_is_covered_above():
    assert {field.name for field in dataclasses.fields(StepDescriptor)} - {"ring_bits"} == set(CHANGES)


@pytest.mark.parametrize("announced", [b"", b"[]", b"{", b"\xff", b'{"cohort":1,"cohort":1}', b'{"scale":NaN}'])
def test_an_announcement_that_is_no_descriptor_is_a_mismatch(make_descriptor, announced):
    with pytest.raises(DescriptorMismatch):
        make_descriptor(3).check_announced(announced)


def test_the_same_descriptor_in_other_bytes_is_a_mismatch(make_descriptor):
    mine = make_descriptor(3)
    with pytest.raises(DescriptorMismatch, match="not canonical"):
        mine.check_announced(b" " + mine.encode())
    mine.check_announced(mine.encode())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"run_id": "xyz"}, MalformedMessage),
        ({"run_id": "00112233445566ff\n"}, MalformedMessage),
        ({"cohort": ("beta", "alpha", "gamma")}, MalformedMessage),
        ({"cohort": ("alpha", "alpha", "beta")}, MalformedMessage),
        ({"cohort": ("Alpha", "beta", "gamma")}, MalformedMessage),
        ({"order_digest": "sha256:"}, MalformedMessage),
        ({"step": -1}, MalformedMessage),
        ({"epoch": 2**32}, MalformedMessage),
        ({"ring_bits": 16}, EncodingRange),
        ({"length": 0}, EncodingRange),
        ({"scale": 0.0}, EncodingRange),
        ({"scale": float("nan")}, EncodingRange),
        ({"value_bound": float("inf")}, EncodingRange),
    ],
)
def test_a_field_out_of_form_is_refused(make_descriptor, change, error):
    with pytest.raises(error):
        make_descriptor(3, **change)


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
        secagg=SecAggSpec(cohort=("alpha", "beta", "gamma"), threshold=3, min_cohort=3, scale=65536.0, value_bound=4.0),
        deadline_s=60.0,
    )
    descriptor = descriptor_for(order, collusion_bound=1)
    assert descriptor == StepDescriptor(
        run_id="0123456789abcdef",
        epoch=2,
        round=2,
        step=5,
        cohort=("alpha", "beta", "gamma"),
        threshold=3,
        min_cohort=3,
        collusion_bound=1,
        ring_bits=32,
        scale=65536.0,
        value_bound=4.0,
        length=80_000,
        order_digest=order.digest(),
    )
    another_model = order.model_copy(update={"base_model_digest": "sha256:" + "9" * 64})
    assert descriptor_for(another_model, 1).ctx() != descriptor.ctx()
