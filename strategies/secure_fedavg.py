"""FedAvg (McMahan et al. 2017) on secure sums: the mean of the survivors' deltas, and nothing about one site."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from pydantic import ValidationError

from privacy.order import Order, Receipt
from privacy.secagg.encoding import decode
from privacy.secagg.threshold import survivors_required
from privacy.secagg.weights import weighted_mean
from strategies.orders import OrderBook
from strategies.secure_sum import SecureSums, SumResult
from tacit.canonical import canonical_json
from tacit.errors import StepBurnt, TransportError

_log = logging.getLogger(__name__)

#: how much longer than the order's own deadline a Flower message stays valid, seconds
_TTL_SLACK_S = 300.0
_NO_RECEIPT = (ValidationError, KeyError, TypeError)


@dataclass(frozen=True)
class RoundOutcome:
    """How the last round ended: with survivors, or burnt with a reason."""

    order: Order
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    receipts: tuple[Receipt, ...]
    update_l2_norm: float
    burnt_reason: str = ""


class SecureFedAvg(Strategy):
    """Federated averaging with equal weights over a secure sum.

    ``configure_train`` opens the secure step and addresses one message to each site of the cohort;
    ``aggregate_train`` waits for the sum. A burnt step returns ``(None, None)``, Flower's way of saying that the
    aggregation failed; :attr:`outcome` then says why.

    Args:
        sums: opens and awaits secure steps.
        orders: makes the orders, with a step counter.
        server_learning_rate: factor on the mean delta; 1.0 is plain averaging.
        on_receipt: called with each receipt as it is read.
    """

    def __init__(
        self,
        sums: SecureSums,
        orders: OrderBook,
        *,
        server_learning_rate: float = 1.0,
        on_receipt: Callable[[Receipt], None] | None = None,
    ) -> None:
        self._sums = sums
        self._orders = orders
        self._server_learning_rate = server_learning_rate
        self._on_receipt = on_receipt
        self._order: Order | None = None
        self._vector: npt.NDArray[np.float32] | None = None
        self.outcome: RoundOutcome | None = None

    @property
    def order(self) -> Order:
        """The order of the round that is configured."""
        if self._order is None:
            raise RuntimeError("no round has been configured")
        return self._order

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Open the round's secure step and return one message for each connected site of the cohort.

        Raises:
            TransportError: fewer sites are connected than the threshold needs.
        """
        del config, grid  # everything a site needs is in the order
        vector = vector_from(arrays)
        order = self._orders.next(server_round, vector)
        nodes = self._sums.node_ids()
        present = [site for site in order.secagg.cohort if site in nodes]
        needed = survivors_required(order.secagg.threshold, order.secagg.min_cohort)
        if len(present) < needed:
            missing = sorted(set(order.secagg.cohort) - set(present))
            raise TransportError(
                f"{len(present)} of {len(order.secagg.cohort)} sites are connected, "
                f"{needed} are needed; missing: {', '.join(missing)}",
                hint="start the missing site agents, then resume the run",
            )
        self._order, self._vector = order, vector
        self._sums.open_step(order)
        content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
            "order": ConfigRecord({"json": canonical_json(order.model_dump(mode="json"))}),
            "adapter": arrays,
        }
        return [
            Message(
                RecordDict(content),
                dst_node_id=nodes[site],
                message_type="train",
                ttl=order.deadline_s + _TTL_SLACK_S,
                group_id=str(server_round),
            )
            for site in present
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Wait for the secure sum and return the new adapter, or ``(None, None)`` when the step was burnt."""
        order, vector = self._order, self._vector
        if order is None or vector is None or order.round != server_round:
            raise RuntimeError(f"round {server_round} was aggregated without having been configured")
        receipts = tuple(self._read(replies))
        try:
            after, survivors = self.combine(order, vector)
        except StepBurnt as burnt:
            self.outcome = RoundOutcome(order, (), order.secagg.cohort, receipts, 0.0, burnt.message)
            return None, None
        dropped = tuple(site for site in order.secagg.cohort if site not in survivors)
        norm = float(np.linalg.norm(after.astype(np.float64) - vector))
        self.outcome = RoundOutcome(order, survivors, dropped, receipts, norm)
        return arrays_from(after), MetricRecord({"survivors": len(survivors), "update-l2-norm": norm})

    def combine(self, order: Order, vector: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """Wait for the round's sums and return the new adapter, float32 ``(adapter_length,)``, and who is in it.

        Raises:
            StepBurnt: there is no sum.
        """
        result = self._sums.await_step(order)
        update = self._server_learning_rate * mean_update(order, result)
        return (vector + update).astype(np.float32), result.survivors

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sites are never asked to evaluate: a metric on private data would leave outside the masked vector."""
        del server_round, arrays, config, grid
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked, so nothing is aggregated."""
        del server_round, replies
        return None

    def summary(self) -> None:
        """Log what this strategy will do."""
        plan = self._orders.plan
        _log.info(
            "secure FedAvg: %d rounds, cohort %s, threshold %d",
            plan.rounds,
            ", ".join(plan.secagg.cohort),
            plan.secagg.threshold,
        )

    def _read(self, replies: Iterable[Message]) -> Iterable[Receipt]:
        for reply in replies:
            if reply.has_error():
                _log.error("a site's Flower client failed: %s", reply.error.reason)
                continue
            try:
                receipt = _receipt_in(reply)
            except _NO_RECEIPT as error:
                # One site's reply must not end the run of all: the secure sum alone decides who took part.
                _log.error("a site sent a receipt that is none: %s", type(error).__name__)
                continue
            if self._on_receipt is not None:
                self._on_receipt(receipt)
            yield receipt


def has_taken_part(reply: Message) -> bool:
    """Return whether a site's reply says that it took its steps to the end; one that says nothing does not."""
    if reply.has_error():
        return False
    try:
        return _receipt_in(reply).outcome.status == "completed"
    except _NO_RECEIPT:
        return False


def _receipt_in(reply: Message) -> Receipt:
    return Receipt.model_validate_json(bytes_in(reply, "receipt"))


def mean_update(order: Order, result: SumResult) -> npt.NDArray[np.float64]:
    """Return the mean of the survivors' updates, float64 ``(adapter_length,)``: weighted if the order says so.

    Raises:
        EncodingRange: the sum is not one that this order's updates can have.
    """
    secagg, count = order.secagg, len(result.survivors)
    total = decode(result.total, secagg.scale, count, value_bound=secagg.value_bound, bits=secagg.ring_bits)
    return total / count if secagg.weights is None else weighted_mean(total, secagg.value_bound)


def arrays_from(vector: npt.NDArray[np.float32]) -> ArrayRecord:
    """Wrap an adapter vector, float32 of shape ``(adapter_length,)``, as Flower arrays."""
    return ArrayRecord({"vector": Array(np.ascontiguousarray(vector, dtype=np.float32))})


def vector_from(arrays: ArrayRecord) -> npt.NDArray[np.float32]:
    """Return the adapter vector, float32 of shape ``(adapter_length,)``, from Flower arrays."""
    return np.ascontiguousarray(arrays["vector"].numpy(), dtype=np.float32)


def bytes_in(message: Message, record: str) -> bytes:
    """Return the ``json`` bytes of a config record of ``message``."""
    value = message.content.config_records[record]["json"]
    if not isinstance(value, bytes):
        raise TypeError(f"record {record!r} holds {type(value).__name__}, expected bytes")
    return value
