"""The site agent: what happens between an order's arrival and its receipt. The only code that touches the data.

The order of things is the guarantee: gate, then reservation in the ledger, then noise, then the masked upload.
Nothing data-dependent leaves outside the masked vector, and everything that leaves is written down.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from certs.identity import Identity
from client.aggregation import AggregationTransport, Session, take_part
from client.gate import Gate
from client.joint_training import JointTraining
from client.ledger_check import check_ledger, consistency
from client.site_training import site_update
from client.step_journal import FileStepJournal
from client.training import check_layers, train_round
from client.workbench import Workbench
from models.layout import state_digest
from privacy.agreement import VerifiedAgreement
from privacy.events import DpEvent, PrivacyMode
from privacy.ledger import Budget, Ledger, Reservation, StepKey
from privacy.order import Order, Receipt, ReceiptStatus
from privacy.policy import SitePolicy, effective_limits
from privacy.randomness import OsRandomSource, RandomSource, SeededRandomSource
from privacy.secagg.descriptor import StepDescriptor, descriptor_for
from privacy.secagg.effects import Ended
from privacy.secagg.encoding import encode
from privacy.secagg.ring import RingVector
from privacy.secagg.site import SiteMachine
from privacy.secagg.surplus import Contribution
from privacy.secagg.weights import weigh
from tacit.canonical import canonical_json
from tacit.errors import (
    BudgetExceeded,
    LedgerError,
    ProcessError,
    Refusal,
    RefusalReason,
    SecAggError,
    StepAlreadySpent,
    TransportError,
)
from tacit.figures import epsilon_text

_log = logging.getLogger(__name__)

#: errors whose message may travel: they are built from public parameters and peers' names alone
_SPEAKABLE = (Refusal, SecAggError, TransportError, LedgerError)
#: how much longer than the order's deadline this site waits for the others
_PATIENCE_S = 120.0
#: how long a stop waits for the order in progress: a local step, then the entry in the ledger
_CLOSE_S = 10.0


class SiteAgent:
    """Carries out orders on one dataset, one at a time.

    Args:
        identity: the site's signing identity; its name is the site's name.
        agreement: verified by the caller against the consortium CA.
        policy: the site's own limits.
        ledger: the site's ledger, open for writing.
        journal: the site's step journal.
        workbench: the site's model and records; owned by this agent.
        dataset: the dataset's name in the ledger.
        transport: opens aggregation sessions.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        agreement: VerifiedAgreement,
        policy: SitePolicy,
        ledger: Ledger,
        journal: FileStepJournal,
        workbench: Workbench,
        dataset: str,
        transport: AggregationTransport,
    ) -> None:
        self.site = identity.name.name
        self._identity = identity
        self._agreement = agreement
        self._gate = Gate(agreement, policy, self.site, data_unit=workbench.data_unit)
        self._policy = policy
        self._ledger = ledger
        self._journal = journal
        self._workbench = workbench
        self._dataset = dataset
        self._transport = transport
        self._working = threading.Lock()
        self._stopping = threading.Event()
        self._roster = agreement.agreement.roster()
        self._collusion_bound = agreement.agreement.secure_aggregation.collusion_bound

    def execute(self, order_json: bytes, vector_bytes: bytes) -> bytes:
        """Carry out an order and return the receipt as canonical JSON; a refusal or failure is a receipt too.

        Args:
            order_json: the order, JSON.
            vector_bytes: the global adapter, little-endian float32, ``adapter_length`` of them.

        Raises:
            LedgerError: the receipt could not be written down, so it is not sent.
        """
        try:
            order = _parse(order_json)
        except Refusal as refusal:
            return self._receipt(None, self._refused(None, refusal))
        outcome, ctx, sent = self._carry_out(order, vector_bytes)
        return self._receipt(order, outcome, ctx=ctx, bytes_sent=sent)

    def stop(self) -> None:
        """Let the order in progress end before its next local step; what it reserved stays spent."""
        self._stopping.set()

    def close(self) -> None:
        """Stop, then close the ledger; an order that will not end in time is forfeited at the next start."""
        self.stop()
        ended = self._working.acquire(timeout=_CLOSE_S)
        self._ledger.close()
        self._journal.close()
        if ended:
            self._working.release()

    def _carry_out(self, order: Order, vector_bytes: bytes) -> tuple[ReceiptStatus, bytes, int]:
        ctx = b""
        session: Session | None = None
        try:
            with _claim(self._working):
                if self._stopping.is_set():
                    raise Refusal(RefusalReason.BUSY, "this site's agent is stopping")
                try:
                    vector = self._check(order, vector_bytes)
                except Exception as error:
                    self._turn_down(order, "refused" if isinstance(error, Refusal) else "failed")
                    raise
                session = self._transport.open(order.run_id, order.step)
                session.tell("gate")
                descriptor = descriptor_for(order, self._collusion_bound)
                ctx = descriptor.ctx()
                self._step(order, vector, descriptor, session)
            return ReceiptStatus(status="completed"), ctx, session.bytes_sent
        except Refusal as refusal:
            if session is not None:
                session.tell("refused")
            return self._refused(order, refusal), ctx, session.bytes_sent if session else 0
        except Exception as error:
            _log.exception("step %d of run %s failed", order.step, order.run_id)
            message = error.message if isinstance(error, _SPEAKABLE) else "see the site's own log"
            status = ReceiptStatus(status="failed", reason=type(error).__name__, message=message)
            return status, ctx, session.bytes_sent if session else 0
        finally:
            if session is not None:
                session.close()

    def _turn_down(self, order: Order, phase: str) -> None:
        """Tell the coordinator not to wait. Others may have ended the step already; this reason stands anyway."""
        try:
            session = self._transport.open(order.run_id, order.step)
        except TransportError:
            return
        session.tell("gate")
        session.tell(phase)
        session.close()

    def _check(self, order: Order, vector_bytes: bytes) -> npt.NDArray[np.float32]:
        """Everything that can be refused before data is touched; returns the global adapter's vector."""
        self._gate.check(order, now=datetime.now(UTC))
        check_ledger(order, self._ledger, self._identity.public)
        held = self._workbench.base_model_digest
        if order.base_model_digest != held:
            raise Refusal(
                RefusalReason.MODEL_MISMATCH,
                f"the order is for base model {order.base_model_digest}, this site holds {held}",
            )
        self._check_budget(order)
        model = self._workbench.fit(order)[0]
        layout = model.layout
        if (order.adapter_layout_digest, order.adapter_length) != (layout.digest(), layout.length):
            raise Refusal(
                RefusalReason.MODEL_MISMATCH,
                f"the order's adapter has {order.adapter_length} values in layout {order.adapter_layout_digest}, "
                f"this site's has {layout.length} in {layout.digest()}",
            )
        check_layers(model, order)
        if len(vector_bytes) != 4 * layout.length:
            raise Refusal(
                RefusalReason.STATE_MISMATCH,
                f"received {len(vector_bytes)} bytes of adapter, expected {4 * layout.length}",
            )
        vector = np.frombuffer(vector_bytes, dtype="<f4").astype(np.float32)
        if state_digest(vector) != order.adapter_state_digest or not np.isfinite(vector).all():
            raise Refusal(RefusalReason.STATE_MISMATCH, "the adapter received is not the one the order's digest names")
        return vector

    def _check_budget(self, order: Order) -> None:
        """Refuse at its first order a run that the ledger could not afford to finish."""
        event = self._event(order)
        rest = event.model_copy(update={"steps": event.steps * (order.rounds_planned - order.round + 1)})
        budget = self._budget()
        for what, limit, spent in (
            ("the run", budget.epsilon_per_run, self._would_spend(rest, order.run_id)),
            ("the lifetime of this dataset", budget.epsilon_lifetime, self._would_spend(rest, None)),
        ):
            if spent > limit:
                raise Refusal(
                    RefusalReason.BUDGET,
                    f"with this run's rounds {order.round} to {order.rounds_planned}, {what} would cost epsilon "
                    f"{epsilon_text(spent)}; this site allows {limit:g} at delta {budget.delta:g}",
                    hint="plan fewer rounds, or agree on another budget",
                )

    def _would_spend(self, event: DpEvent, run_id: str | None) -> float:
        try:
            return self._ledger.would_spend(self._dataset, event, self._budget().delta, run_id=run_id)
        except LedgerError as error:
            # most likely an account that counts another unit
            raise Refusal(RefusalReason.LEDGER, error.message, hint=error.hint) from error

    def _step(
        self,
        order: Order,
        vector: npt.NDArray[np.float32],
        descriptor: StepDescriptor,
        session: Session,
    ) -> None:
        reservation: Reservation | None = None
        survivors: tuple[str, ...] = ()
        joint: JointTraining | None = None

        def make_update(step: int) -> Contribution:
            nonlocal reservation, joint
            # one reservation for all that the order will draw: before the first noise, for the last
            if reservation is None:
                reservation = self._reserve(order)
            session.tell("training")
            if order.mode is PrivacyMode.JOINT:
                if joint is None:
                    joint = stack.enter_context(self._joint(order, vector))
                self._on_local_step(step - order.step, order.secagg.steps)
                return joint.contribution()
            model, records = self._workbench.fit(order)
            noise = self._source(order, "noise")
            if order.mode is PrivacyMode.SITE:
                random = {"noise": noise, "rounding": self._source(order, "rounding")}
                return site_update(model, records, vector, order, self._collusion_bound, self._on_local_step, **random)
            delta = train_round(model, records, vector, order, noise, self._on_local_step)
            return Contribution(self._encoded(order, delta))

        def on_ended(ended: Ended) -> None:
            nonlocal survivors
            survivors = ended.survivors
            if joint is not None:
                joint.apply(ended)

        last_step = self._journal.last_step(order.run_id)
        machine = SiteMachine(self.site, self._identity, self._roster, descriptor, last_step=last_step)
        try:
            with ExitStack() as stack:
                take_part(
                    session,
                    machine,
                    make_update,
                    journal=self._journal,
                    timeout_s=order.deadline_s + _PATIENCE_S,
                    on_ended=on_ended,
                )
        except BaseException as error:
            if reservation is not None:
                self._ledger.forfeit(reservation, type(error).__name__)
            raise
        assert reservation is not None
        self._ledger.commit(reservation, ctx=descriptor.ctx().hex(), bytes_sent=session.bytes_sent)
        _log.info("step done", extra={"run": order.run_id, "round": order.round, "survivors": survivors})

    def _joint(self, order: Order, vector: npt.NDArray[np.float32]) -> JointTraining:
        model, records = self._workbench.fit(order)
        return JointTraining(
            model,
            records,
            vector,
            order,
            self._collusion_bound,
            noise=self._source(order, "noise"),
            rounding=self._source(order, "rounding"),
        )

    def _encoded(self, order: Order, delta: npt.NDArray[np.float32]) -> RingVector:
        """Weigh the update, if the order says so, and put it on the integer grid."""
        secagg = order.secagg
        values: npt.NDArray[np.float32] | npt.NDArray[np.float64] = delta
        if secagg.weights is not None:
            assert self._policy.weight is not None  # the gate saw to it
            values = weigh(delta, self._policy.weight, secagg.weights, secagg.value_bound)
        return encode(
            values,
            secagg.scale,
            secagg.value_bound,
            self._source(order, "rounding"),
            summands=len(secagg.cohort),
            bits=secagg.ring_bits,
        )

    def _on_local_step(self, done: int, of: int) -> None:
        _log.info("local step", extra={"done": done, "of": of})
        if self._stopping.is_set():
            raise ProcessError(f"the site agent was stopped after {done} of {of} local steps")

    def _reserve(self, order: Order) -> Reservation:
        try:
            return self._ledger.reserve(
                StepKey(order.run_id, order.round, order.step),
                self._dataset,
                order.agreement_digest,
                self._event(order),
                self._budget(),
                noise_secret=order.test_noise_seed is None,
            )
        except StepAlreadySpent as error:
            raise Refusal(RefusalReason.REPEATED_STEP, error.message) from error
        except BudgetExceeded as error:
            raise Refusal(RefusalReason.BUDGET, error.message) from error
        except LedgerError as error:
            raise Refusal(RefusalReason.LEDGER, error.message, hint=error.hint) from error

    def _event(self, order: Order) -> DpEvent:
        return order.event(self._collusion_bound)

    def _budget(self) -> Budget:
        limits = effective_limits(self._agreement.agreement, self._policy)
        return Budget(limits.epsilon_per_run, limits.epsilon_lifetime, limits.delta)

    def _source(self, order: Order, purpose: str) -> RandomSource:
        """Operating-system randomness; a seeded stream only where the gate has let a test seed through."""
        if order.test_noise_seed is None:
            return OsRandomSource()
        return SeededRandomSource(order.test_noise_seed, f"{self.site}/{order.round}/{order.step}/{purpose}")

    def record_refusal(self, refusal: Refusal) -> None:
        """Write down a refusal that had no order: code that a coordinator tried to ship."""
        self._refused(None, refusal)

    def _refused(self, order: Order | None, refusal: Refusal) -> ReceiptStatus:
        _log.warning("refused: %s (%s)", refusal.message, refusal.reason)
        try:
            self._ledger.record_refusal(order.digest() if order else "", refusal.reason, refusal.message)
        except LedgerError as error:
            _log.error("the refusal could not be recorded: %s", error.message)
        return ReceiptStatus(status="refused", reason=str(refusal.reason), message=refusal.message)

    def _receipt(self, order: Order | None, outcome: ReceiptStatus, *, ctx: bytes = b"", bytes_sent: int = 0) -> bytes:
        delta = self._agreement.agreement.privacy.delta
        run_id = order.run_id if order else ""
        receipt = Receipt(
            site=self.site,
            run_id=run_id,
            round=order.round if order else 0,
            step=order.step if order else 0,
            outcome=outcome,
            ctx=ctx.hex(),
            epsilon_spent=self._ledger.spent(self._dataset, delta),
            epsilon_run=self._ledger.spent(self._dataset, delta, run_id=run_id),
            delta=delta,
            bytes_sent=bytes_sent,
        )
        # the tree head covers the entry about this receipt, so the entry counts the receipt without head and proof
        unsigned = canonical_json(receipt.model_dump(mode="json"))
        key = StepKey(order.run_id, order.round, order.step) if order else None
        self._ledger.record_egress("receipt", len(unsigned), key=key)
        head = self._ledger.tree_head()
        signed = receipt.model_copy(
            update={
                "tree_size": head.size,
                "tree_root": head.root,
                "tree_timestamp": head.timestamp,
                "tree_signature": head.signature,
                "tree_consistency": consistency(order, self.site, self._ledger),
            }
        )
        return canonical_json(signed.model_dump(mode="json"))


class _claim:  # noqa: N801 - reads as a verb at its one place of use
    """Hold ``lock`` or refuse: a second order while one is carried out is a coordinator's mistake."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise Refusal(RefusalReason.BUSY, "this site is carrying out another order")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _parse(order_json: bytes) -> Order:
    try:
        return Order.model_validate_json(order_json)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refusal(RefusalReason.ORDER_MALFORMED, f"the order is not valid: {where}: {first['msg']}") from error
