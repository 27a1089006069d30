"""FedAvg on secure sums: orders, means, burnt steps; nothing about one site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from models.layout import state_digest
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit
from privacy.order import LoraSpec, Order, Receipt, ReceiptStatus, SecAggSpec, TrainingSpec
from privacy.randomness import SeededRandomSource
from privacy.secagg.encoding import encode
from strategies import OrderBook, RunPlan, SecureFedAvg, SumResult
from strategies.secure_fedavg import arrays_from, bytes_in, has_taken_part, vector_from
from tacit.canonical import canonical_json
from tacit.errors import StepBurnt, TransportError

SITES = ("alpha", "beta", "gamma")
LENGTH = 6
START = np.arange(LENGTH, dtype=np.float32)


@pytest.fixture(autouse=True)
def _flower_task() -> Iterator[None]:
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    yield
    TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def plan() -> RunPlan:
    digest = "sha256:" + "0" * 64
    return RunPlan(
        run_id="00112233445566ff",
        run_name="test",
        rounds=3,
        strategy="fedavg",
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        agreement_digest=digest,
        base_model_digest=digest,
        adapter_layout_digest=digest,
        adapter_length=LENGTH,
        lora=LoraSpec(rank=2, alpha=2.0, targets=("query",)),
        labels=("a", "b"),
        training=TrainingSpec(
            local_steps=1,
            sample_rate=0.1,
            expected_batch_size=10.0,
            noise_multiplier=1.0,
            l2_clip_norm=1.0,
            learning_rate=1.0,
            max_tokens=8,
        ),
        secagg=SecAggSpec(cohort=SITES, threshold=3, min_cohort=3, scale=2.0**16, value_bound=4.0),
        collusion_bound=1,
        deadline_s=60.0,
    )


class Sums:
    """Adds the deltas it was given."""

    def __init__(self, deltas: Mapping[str, np.ndarray], nodes: Mapping[str, int] | None = None) -> None:
        self.deltas = deltas
        self.nodes = dict(zip(SITES, (11, 12, 13), strict=True)) if nodes is None else nodes
        self.opened: list[Order] = []

    def open_step(self, order: Order) -> None:
        self.opened.append(order)

    def await_step(self, order: Order) -> SumResult:
        if not self.deltas:
            raise StepBurnt("beta did not answer")
        secagg, source = order.secagg, SeededRandomSource(1, "rounding")
        total = np.zeros(LENGTH, dtype=np.uint32)
        for delta in self.deltas.values():
            total += encode(delta, secagg.scale, secagg.value_bound, source, summands=len(secagg.cohort))
        return SumResult(total, tuple(sorted(self.deltas)))

    def node_ids(self) -> Mapping[str, int]:
        return self.nodes


def configured(sums: Sums, **options: Any) -> tuple[SecureFedAvg, list[Message]]:
    strategy = SecureFedAvg(sums, OrderBook(plan()), **options)
    messages = list(strategy.configure_train(1, arrays_from(START), ConfigRecord(), None))  # type: ignore[arg-type]
    return strategy, messages


def test_the_new_adapter_is_the_old_one_plus_the_mean_delta() -> None:
    deltas = {site: np.full(LENGTH, value) for site, value in zip(SITES, (0.5, -1.0, 2.0), strict=True)}
    strategy, _ = configured(Sums(deltas))
    arrays, metrics = strategy.aggregate_train(1, [])
    assert arrays is not None
    assert metrics is not None
    assert np.allclose(vector_from(arrays), START + 0.5, atol=3 / 2**16)
    assert metrics["survivors"] == 3


def test_the_mean_is_over_survivors_only() -> None:
    strategy, _ = configured(Sums({"alpha": np.full(LENGTH, 1.0), "gamma": np.full(LENGTH, 2.0)}))
    arrays, _ = strategy.aggregate_train(1, [])
    assert arrays is not None
    assert np.allclose(vector_from(arrays), START + 1.5, atol=1e-4)
    assert strategy.outcome is not None
    assert strategy.outcome.dropped == ("beta",)


def test_the_server_learning_rate_scales_the_mean() -> None:
    strategy, _ = configured(Sums({site: np.full(LENGTH, 1.0) for site in SITES}), server_learning_rate=0.5)
    arrays, _ = strategy.aggregate_train(1, [])
    assert arrays is not None
    assert np.allclose(vector_from(arrays), START + 0.5, atol=1e-4)


def test_a_run_of_many_steps_a_round_numbers_them_all() -> None:
    many = replace(plan(), secagg=plan().secagg.model_copy(update={"steps": 5}))
    book = OrderBook(many)
    orders = [book.next(round_number, START) for round_number in (1, 2)]
    assert [(order.step, order.epoch) for order in orders] == [(1, 1), (6, 6)]
    assert book.last_step == 10


def test_every_site_gets_the_same_order_and_the_adapter_it_names() -> None:
    sums = Sums({})
    _, messages = configured(sums)
    assert [message.metadata.dst_node_id for message in messages] == [11, 12, 13]
    orders = {bytes_in(message, "order") for message in messages}
    assert len(orders) == 1
    order = Order.model_validate_json(orders.pop())
    assert sums.opened == [order]
    for message in messages:
        sent = vector_from(message.content.array_records["adapter"])
        assert order.adapter_state_digest == state_digest(sent) == state_digest(START)


def test_a_burnt_step_gives_no_adapter_and_says_why() -> None:
    strategy, _ = configured(Sums({}))
    assert strategy.aggregate_train(1, []) == (None, None)
    assert strategy.outcome is not None
    assert "beta" in strategy.outcome.burnt_reason


def test_too_few_connected_sites_open_no_step_and_are_named() -> None:
    sums = Sums({}, nodes={"alpha": 11, "gamma": 13})
    with pytest.raises(TransportError, match="missing: beta"):
        configured(sums)
    assert sums.opened == []


def test_step_numbers_never_repeat_even_when_a_round_does() -> None:
    book = OrderBook(plan(), last_step=7)
    assert [book.next(2, START).step for _ in range(3)] == [8, 9, 10]


def test_receipts_reach_the_caller() -> None:
    receipts: list[Receipt] = []
    strategy, messages = configured(Sums({}), on_receipt=receipts.append)
    receipt = Receipt(
        site="alpha", run_id="00112233445566ff", round=1, step=1, outcome=ReceiptStatus(status="completed")
    )
    content = RecordDict({"receipt": ConfigRecord({"json": canonical_json(receipt.model_dump(mode="json"))})})
    strategy.aggregate_train(1, [Message(content, reply_to=messages[0])])
    assert receipts == [receipt]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"receipt": ConfigRecord({})},
        {"receipt": ConfigRecord({"json": "text"})},
        {"receipt": ConfigRecord({"json": b"{"})},
        {"receipt": ConfigRecord({"json": b"{}"})},
        {"receipt": ConfigRecord({"json": b"\xff" + b"[" * 5000})},
    ],
)
def test_one_sites_unreadable_reply_does_not_end_the_run(content: dict[str, ConfigRecord]) -> None:
    receipts: list[Receipt] = []
    strategy, messages = configured(Sums({}), on_receipt=receipts.append)
    good = Receipt(site="beta", run_id="00112233445566ff", round=1, step=1, outcome=ReceiptStatus(status="completed"))
    whole = RecordDict({"receipt": ConfigRecord({"json": canonical_json(good.model_dump(mode="json"))})})
    replies = [Message(RecordDict(content), reply_to=messages[0]), Message(whole, reply_to=messages[1])]
    strategy.aggregate_train(1, replies)
    assert receipts == [good]


def test_sites_are_never_asked_to_evaluate() -> None:
    strategy, _ = configured(Sums({}))
    assert list(strategy.configure_evaluate(1, arrays_from(START), ConfigRecord(), None)) == []  # type: ignore[arg-type]
    assert strategy.aggregate_evaluate(1, []) is None


@pytest.mark.parametrize(("status", "expected"), [("completed", True), ("refused", False), ("failed", False)])
def test_a_receipt_says_whether_its_site_took_part(status: str, expected: bool) -> None:
    _, messages = configured(Sums({}))
    receipt = Receipt(
        site="alpha",
        run_id="00112233445566ff",
        round=1,
        step=1,
        outcome=ReceiptStatus.model_validate({"status": status}),
    )
    content = RecordDict({"receipt": ConfigRecord({"json": canonical_json(receipt.model_dump(mode="json"))})})
    assert has_taken_part(Message(content, reply_to=messages[0])) is expected


def test_a_reply_that_says_nothing_is_of_no_site_that_took_part() -> None:
    _, messages = configured(Sums({}))
    for content in (RecordDict(), RecordDict({"receipt": ConfigRecord({"json": b"{}"})})):
        assert not has_taken_part(Message(content, reply_to=messages[0]))
    assert not has_taken_part(Message(Error(code=0, reason="the client crashed"), reply_to=messages[0]))
