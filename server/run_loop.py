"""The life of one run inside Flower's ServerApp: wait for sites, rounds, evaluation, checkpoints, release.

Flower's own ``Strategy.start`` neither resumes, nor retries a burnt round, nor ends when a site never answers;
this loop does, and calls the same strategy methods.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from models.base import base_model_digest, resolve_model_folder
from models.building import build_classifier
from models.classifier import AdapterModel
from models.layout import Vector
from privacy.agreement import VerifiedAgreement
from privacy.dpsgd import DpSgdPlan
from privacy.events import PrivacyMode
from privacy.noise_shares import ShareGrid
from privacy.order import Order, Receipt, ReceiptStatus
from privacy.secagg.threshold import survivors_required
from server.checkpoint import Checkpoint, latest_checkpoint, write_checkpoint
from server.coordinator import CoordinatorLink
from server.evaluation import PublicTestSet
from server.preflight import plan_of
from server.refusals import can_resume, final_refusal, refusals_told
from server.release import release_adapter, write_report
from server.run_spec import JOINT_STRATEGY, RunSpec
from server.witnesses import head_of
from strategies import JointDpSgd, OrderBook, SecureFedAvg
from strategies.secure_fedavg import arrays_from, has_taken_part, vector_from
from tacit.errors import LedgerCorrupt, ModelError, StepBurnt, TacitError, TransportError

_log = logging.getLogger(__name__)

#: by the name in run.toml and in the agreement
STRATEGIES = {"fedavg": SecureFedAvg, JOINT_STRATEGY: JointDpSgd}

#: seconds between looks at Flower's mailbox
_POLL_S = 0.3
#: seconds to wait for the receipts once the sum is known: they only travel by Flower's slower path
_RECEIPT_DEADLINE_S = 20.0


@dataclass
class _Progress:
    """Where the run is: the next round to do, and how many were burnt since the start."""

    arrays: ArrayRecord
    done: int
    burnt: int = 0


class RunLoop:
    """Drives one run to its end.

    Args:
        run_id: tacit's id of the run.
        spec: what was submitted.
        link: the process that holds the port.
        grid: Flower's message grid.
    """

    def __init__(self, run_id: str, spec: RunSpec, link: CoordinatorLink, grid: Grid) -> None:
        self._run_id = run_id
        self._spec = spec
        self._link = link
        self._grid = grid
        self._started = time.monotonic()
        #: of the round in progress, by site
        self._refused: dict[str, ReceiptStatus] = {}
        self._roster = link.agreement().agreement.roster()

    def execute(self) -> None:
        """Run to completion; whatever happens, the last event says how it ended.

        Raises:
            TacitError: the reason the run failed.
        """
        try:
            rounds = self._execute()
        except TacitError as error:
            self._finish("failed", 0, error.message, hint=error.hint, can_resume=can_resume(error))
            raise
        except Exception as error:
            self._finish("failed", 0, f"{type(error).__name__}: {error}")
            raise
        self._finish("completed", rounds, "")
        write_report(self._link.run_folder(self._run_id))

    def _execute(self) -> int:
        agreement = self._link.agreement()
        folder = self._link.run_folder(self._run_id)
        labels = tuple(agreement.agreement.task.labels)
        test_set = PublicTestSet(self._spec.evaluation, labels) if self._spec.evaluation else None
        model = self._build_model(labels)
        book = self._order_book(agreement, model)
        strategy = STRATEGIES[self._spec.run.strategy](
            self._link,
            book,
            server_learning_rate=self._spec.server.learning_rate,
            on_receipt=self._on_receipt,
        )
        strategy.summary()
        checkpoints = folder / "checkpoints"
        checkpoint = latest_checkpoint(checkpoints)
        if checkpoint is None:
            checkpoint = Checkpoint(0, 0, self._first_vector(model))
            write_checkpoint(checkpoints, checkpoint)
        book.last_step = max(checkpoint.last_step, self._last_step_used())
        progress = _Progress(arrays_from(checkpoint.vector), checkpoint.round)
        self._evaluate(model, test_set, progress)
        while progress.done < self._spec.run.rounds:
            self._await_sites(book)
            book.seen_heads = self._link.seen_heads()
            if self._round(strategy, progress):
                vector = vector_from(progress.arrays)
                path = write_checkpoint(checkpoints, Checkpoint(progress.done, book.last_step, vector))
                self._emit("checkpoint", round=progress.done, path=str(path.relative_to(folder)))
                self._evaluate(model, test_set, progress)
        model.set_vector(vector_from(progress.arrays))
        release_adapter(folder, model)
        return progress.done

    def _build_model(self, labels: tuple[str, ...]) -> AdapterModel:
        folder = resolve_model_folder(self._spec.model.base)
        return build_classifier(folder, self._spec.lora, labels, self._spec.model.max_tokens)

    def _first_vector(self, model: AdapterModel) -> Vector:
        """The adapter the first round starts from: public, whichever it is."""
        by_names = self._spec.model.head_start == "label-names"
        return model.label_name_vector() if by_names else model.initial_vector()

    def _order_book(self, agreement: VerifiedAgreement, model: AdapterModel) -> OrderBook:
        found = base_model_digest(resolve_model_folder(self._spec.model.base))
        if found != agreement.agreement.base_model.digest:
            raise ModelError(
                f"base model {self._spec.model.base} has digest {found}, "
                f"the agreement names {agreement.agreement.base_model.digest}",
                hint="use the agreed model's files",
            )
        plan = plan_of(
            self._run_id,
            self._spec,
            agreement,
            base_model_digest=found,
            adapter_layout_digest=model.layout.digest(),
            adapter_length=model.layout.length,
        )
        # layer weights that fit no layer would be refused by every site
        DpSgdPlan.from_spec(plan.training).groups(model.layout.names)
        if plan.mode is not PrivacyMode.LOCAL:
            # so would a grid that has no room for the noise of an adapter of this length
            first = OrderBook(plan).next(1, model.get_vector())
            ShareGrid.of(first, plan.collusion_bound).sum_bound(plan.training)
        return OrderBook(plan)

    def _last_step_used(self) -> int:
        """A resumed run never reuses a step number, not even one whose round left no checkpoint."""
        started = [event for event in self._link.events(self._run_id) if event["event"] == "round-started"]
        return max((event["step"] + event.get("steps", 1) - 1 for event in started), default=0)

    def _round(self, strategy: SecureFedAvg, progress: _Progress) -> bool:
        """Try one round; return whether it gave a sum.

        Raises:
            Refusal: it gave none, and no other try can: too many sites refused what would be ordered again.
            StepBurnt: it gave none, and as many were burnt as may be.
        """
        started = time.monotonic()
        number = progress.done + 1
        self._refused = {}
        messages = list(strategy.configure_train(number, progress.arrays, ConfigRecord(), self._grid))
        order = strategy.order
        replies = self._exchange(messages, order)
        arrays, _ = strategy.aggregate_train(number, replies)
        outcome = strategy.outcome
        assert outcome is not None
        facts = {"round": number, "step": order.step}
        if arrays is None:
            progress.burnt += 1
            told = refusals_told(self._refused)
            reason = "; ".join(part for part in (told, outcome.burnt_reason) if part)
            self._emit("round-burnt", **facts, reason=reason)
            secagg = order.secagg
            needed = survivors_required(secagg.threshold, secagg.min_cohort)
            final = final_refusal(self._refused, cohort=len(secagg.cohort), needed=needed)
            if final is not None:
                raise final
            if progress.burnt > self._spec.run.max_burnt_rounds:
                raise StepBurnt(
                    f"{progress.burnt} rounds ended without a sum, {self._spec.run.max_burnt_rounds} are allowed; "
                    f"the last: {reason}",
                    hint="mend the site that is named, then resume the run",
                )
            return False
        progress.arrays, progress.done = arrays, number
        self._emit(
            "round-finished",
            **facts,
            survivors=list(outcome.survivors),
            dropped=list(outcome.dropped),
            seconds=round(time.monotonic() - started, 3),
            update_l2_norm=outcome.update_l2_norm,
        )
        return True

    def _exchange(self, messages: list[Message], order: Order) -> list[Message]:
        """Send the messages; return the replies there are once all have answered or the step is long over.

        The step does not wait for a site whose answer is no receipt of a completed step, whatever kept the site from
        saying so there.
        """
        sites = {node: site for site, node in self._link.node_ids().items()}
        asked = {
            message_id: sites.get(message.metadata.dst_node_id)
            for message_id, message in zip(self._grid.push_messages(messages), messages, strict=True)
            if message_id  # a message to a node that has just signed off has none
        }
        waiting = set(asked)
        replies: list[Message] = []
        spec = self._spec.run
        give_up = time.monotonic() + spec.deadline_s + spec.join_deadline_s + _RECEIPT_DEADLINE_S
        ended = False
        while waiting and time.monotonic() < give_up:
            fresh = list(self._grid.pull_messages(waiting))
            replies.extend(fresh)
            for message in fresh:
                asked_by = message.metadata.reply_to_message_id
                waiting.discard(asked_by)
                site = asked.get(asked_by)
                if site is not None and not has_taken_part(message):
                    self._link.site_left(order, site)
            if not ended and self._link.step_ended(order):
                ended = True
                give_up = min(give_up, time.monotonic() + _RECEIPT_DEADLINE_S)
            if waiting:
                time.sleep(_POLL_S)
        if waiting:
            _log.warning("%d of %d receipts did not arrive", len(waiting), len(messages))
        return replies

    def _await_sites(self, book: OrderBook) -> None:
        """Wait until the whole cohort is connected, or the deadline passed and enough of it is."""
        secagg = book.plan.secagg
        needed = survivors_required(secagg.threshold, secagg.min_cohort)
        deadline = time.monotonic() + self._spec.run.sites_deadline_s
        told: list[str] | None = None
        while True:
            nodes = self._link.node_ids()
            missing = [site for site in secagg.cohort if site not in nodes]
            if not missing:
                return
            present = [site for site in secagg.cohort if site in nodes]
            if told != missing:
                self._emit("sites-waiting", present=present, missing=missing)
                told = missing
            if time.monotonic() > deadline:
                if len(present) >= needed:
                    return
                raise TransportError(
                    f"waited {self._spec.run.sites_deadline_s:g} s for {', '.join(missing)}; "
                    f"{len(present)} sites are connected, {needed} are needed",
                    hint="start the missing site agents (`tacit site serve`), then resume the run",
                )
            time.sleep(_POLL_S)

    def _evaluate(self, model: AdapterModel, test_set: PublicTestSet | None, progress: _Progress) -> None:
        if test_set is None:
            return
        model.set_vector(vector_from(progress.arrays))
        found = test_set.evaluate(model)
        self._emit("evaluated", round=progress.done, accuracy=found.accuracy, examples=found.examples)

    def _on_receipt(self, receipt: Receipt) -> None:
        """Record a receipt whose ledger head the site has really signed, and which continues the last one seen.

        Anything unsigned is dropped, loudly. A head that continues nothing is the site's word against its own earlier
        word: the run's events say so, and the receipt counts for nothing. What the site spent is then in doubt, and a
        report charges what may have been spent.
        """
        try:
            head_of(receipt).verify(self._roster[receipt.site])
        except (TacitError, KeyError) as error:
            _log.error("the receipt of %r for step %d is not signed by it: %s", receipt.site, receipt.step, error)
            return
        if receipt.outcome.status != "completed":
            _log.error("%s %s: %s (%s)", receipt.site, *_words(receipt))
        try:
            # A site that could not read the order was not told what to prove; its next receipt will have to.
            if receipt.round > 0 or receipt.outcome.status != "refused":
                self._link.witness(receipt)
        except LedgerCorrupt as error:
            _log.error("the ledger of %s is refused: %s", receipt.site, error.message)
            self._emit(
                "ledger-refused",
                round=receipt.round,
                step=receipt.step,
                site=receipt.site,
                reason=error.message,
                hint=error.hint,
            )
            return
        if receipt.outcome.status == "refused":
            self._refused[receipt.site] = receipt.outcome
        self._emit(
            "site-receipt",
            round=receipt.round,
            step=receipt.step,
            site=receipt.site,
            receipt=receipt.model_dump(mode="json"),
        )

    def _emit(self, kind: str, **fields: object) -> None:
        self._link.emit(self._run_id, {"event": kind, **fields})

    def _finish(
        self, status: str, rounds_done: int, reason: str, *, hint: str | None = None, can_resume: bool = True
    ) -> None:
        seconds = round(time.monotonic() - self._started, 3)
        told: dict[str, object] = {"status": status, "reason": reason}
        if status != "completed":
            told |= {"hint": hint, "can_resume": can_resume}
        self._emit("run-finished", **told, seconds=seconds, rounds_done=rounds_done)


def _words(receipt: Receipt) -> tuple[str, str, str]:
    outcome = receipt.outcome
    return outcome.status, outcome.message, outcome.reason
