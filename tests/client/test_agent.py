"""The site agent: what it refuses before data is touched, what it spends, and what leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import SiteAgent
from models.layout import state_digest
from privacy.ledger import TreeHead
from privacy.options import LayerWeight
from privacy.order import Order, Receipt
from privacy.randomness import OsRandomSource, SeededRandomSource
from server.preflight import plan_of
from server.run_spec import load_run_spec
from simulations.local_consortium import ConsortiumPlan, make_consortium
from simulations.simulate import SimulatedConsortium, prepare
from strategies.orders import OrderBook
from tacit.canonical import canonical_json
from tacit.errors import TransportError


class NoCoordinator:
    """A transport that records that it was asked, and what the site told it."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.told: list[str] = []
        self.bytes_sent = 0

    def open(self, run_id: str, step: int) -> Any:
        self.opened.append(step)
        return self

    def tell(self, phase: str) -> None:
        self.told.append(phase)

    def send(self, frame: bytes) -> None:
        self.bytes_sent += len(frame)

    def receive(self, timeout_s: float) -> Any:
        raise TransportError("the coordinator is silent")

    def close(self) -> None:
        pass


class Bench:
    """One agent of a simulated consortium, and good orders for it."""

    def __init__(self, consortium: SimulatedConsortium) -> None:
        self.agent: SiteAgent = consortium.agents["alpha"]
        self.transport = NoCoordinator()
        self.agent._transport = self.transport
        self.agreement = consortium.coordinator.agreement()
        self.spec = consortium._spec
        self._book: OrderBook | None = None

    def order(self) -> tuple[Order, np.ndarray]:
        placeholder = plan_of(
            "00112233445566ff",
            self.spec,
            self.agreement,
            base_model_digest=self.agreement.agreement.base_model.digest,
            adapter_layout_digest="sha256:" + "0" * 64,
            adapter_length=1,
        )
        model, _ = self.agent._workbench.fit(OrderBook(placeholder).next(1, np.zeros(1, dtype=np.float32)))
        plan = plan_of(
            "00112233445566ff",
            self.spec,
            self.agreement,
            base_model_digest=self.agreement.agreement.base_model.digest,
            adapter_layout_digest=model.layout.digest(),
            adapter_length=model.layout.length,
        )
        vector = model.initial_vector()
        return OrderBook(plan).next(1, vector), vector

    def execute(self, order: Order, vector: np.ndarray) -> Receipt:
        data = canonical_json(order.model_dump(mode="json"))
        return Receipt.model_validate_json(self.agent.execute(data, vector.astype("<f4").tobytes()))

    def kinds(self) -> list[str]:
        return [entry.body.kind for entry in self.agent._ledger.entries()]


@pytest.fixture
def bench(tmp_path: Path, small_plan: Callable[..., ConsortiumPlan]) -> Iterator[Bench]:
    made = make_consortium(tmp_path / "made", small_plan())
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        yield Bench(consortium)


def test_a_good_order_whose_coordinator_falls_silent_before_training_costs_nothing(bench: Bench) -> None:
    order, vector = bench.order()
    receipt = bench.execute(order, vector)
    assert (receipt.outcome.status, receipt.outcome.reason) == ("failed", "TransportError")
    assert bench.transport.told == ["gate"]
    assert "reserve" not in bench.kinds()
    assert receipt.epsilon_spent == 0


def test_an_order_that_is_not_one_is_refused_and_recorded(bench: Bench) -> None:
    receipt = Receipt.model_validate_json(bench.agent.execute(b'{"tacit_order": 2}', b""))
    assert (receipt.outcome.status, receipt.outcome.reason) == ("refused", "order-malformed")
    assert bench.transport.opened == []
    assert bench.kinds()[-2:] == ["refusal", "egress"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"agreement_digest": "sha256:" + "0" * 64}, "agreement-mismatch"),
        ({"base_model_digest": "sha256:" + "0" * 64}, "model-mismatch"),
        ({"adapter_layout_digest": "sha256:" + "0" * 64}, "model-mismatch"),
        ({"adapter_state_digest": "sha256:" + "0" * 64}, "state-mismatch"),
        ({"test_noise_seed": 7}, "noise-seed"),
    ],
)
def test_an_order_that_differs_from_what_the_site_holds_is_refused_before_data_is_touched(
    bench: Bench, change: dict[str, Any], reason: str
) -> None:
    order, vector = bench.order()
    receipt = bench.execute(order.model_copy(update=change), vector)
    assert (receipt.outcome.status, receipt.outcome.reason) == ("refused", reason)
    assert bench.transport.told == ["gate", "refused"]
    assert "reserve" not in bench.kinds()


def test_layer_weights_that_fit_no_layer_are_refused_before_anything_is_spent(bench: Bench) -> None:
    order, vector = bench.order()
    options = {"clipping": "per-layer", "layer_weights": (LayerWeight(layer="clasifier", weight=2.0),)}
    receipt = bench.execute(order.model_copy(update={"training": order.training.model_copy(update=options)}), vector)
    assert (receipt.outcome.status, receipt.outcome.reason) == ("refused", "order-malformed")
    assert "clasifier" in receipt.outcome.message
    assert "reserve" not in bench.kinds()


@pytest.mark.parametrize("damage", ["short", "nan", "other"])
def test_an_adapter_that_is_not_the_one_named_is_refused(bench: Bench, damage: str) -> None:
    order, vector = bench.order()
    if damage == "short":
        vector = vector[:-1]
    elif damage == "nan":
        vector = vector.copy()
        vector[0] = np.nan
        order = order.model_copy(update={"adapter_state_digest": state_digest(vector)})
    else:
        vector = vector + 1
    receipt = bench.execute(order, vector)
    assert (receipt.outcome.status, receipt.outcome.reason) == ("refused", "state-mismatch")


def test_a_second_order_at_the_same_time_is_refused(bench: Bench) -> None:
    order, vector = bench.order()
    bench.agent._working.acquire()
    assert bench.execute(order, vector).outcome.reason == "busy"
    bench.agent._working.release()
    assert bench.execute(order, vector).outcome.reason != "busy"


def test_every_receipt_is_in_the_ledger_and_carries_a_signed_head(bench: Bench) -> None:
    order, vector = bench.order()
    receipt = bench.execute(order, vector)
    head = bench.agent._ledger.tree_head()
    told = TreeHead(
        size=receipt.tree_size,
        root=receipt.tree_root,
        timestamp=receipt.tree_timestamp,
        signature=receipt.tree_signature,
    )
    assert told == head
    told.verify(bench.agent._identity.public)
    assert bench.kinds()[-1] == "egress"


def test_the_noise_is_secret_unless_the_gate_has_let_a_seed_through(bench: Bench) -> None:
    order, _ = bench.order()
    assert isinstance(bench.agent._source(order, "noise"), OsRandomSource)
    seeded = order.model_copy(update={"test_noise_seed": 3})
    assert isinstance(bench.agent._source(seeded, "noise"), SeededRandomSource)


def test_the_words_of_an_unexpected_error_stay_at_the_site(bench: Bench) -> None:
    order, vector = bench.order()

    def broken(*_: Any) -> Any:
        raise ValueError("patient 42 has a rare disease")

    bench.transport.open = broken  # type: ignore[method-assign]
    data = canonical_json(order.model_dump(mode="json"))
    told = bench.agent.execute(data, vector.tobytes())
    assert b"patient" not in told
    assert json.loads(told)["outcome"]["reason"] == "ValueError"
