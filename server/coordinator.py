"""The coordinator without its transports: runs, steps, sites. The gateway serves it; a simulation calls it.

Everything the ServerApp needs from its host goes through :class:`CoordinatorLink`, which this class and the
Unix-socket client of :mod:`server.link` both implement.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from privacy.agreement import VerifiedAgreement
from privacy.order import Order, Receipt, SeenHead
from server.preflight import submission_facts
from server.run_spec import RunSpec
from server.run_store import RunStore
from server.steps import OpenEpoch, StepRegistry
from server.witnesses import SiteWitnesses
from strategies.secure_sum import SumResult
from tacit.errors import ConfigError


class CoordinatorLink(Protocol):
    """What a ServerApp asks of the process that holds the port. Extends ``strategies.SecureSums``."""

    def open_step(self, order: Order) -> None: ...

    def await_step(self, order: Order, step: int | None = None) -> SumResult: ...

    def node_ids(self) -> Mapping[str, int]: ...

    def submission(self, run_id: str) -> dict[str, Any]: ...

    def step_ended(self, order: Order) -> bool: ...

    def site_left(self, order: Order, site: str) -> None: ...

    def emit(self, run_id: str, event: dict[str, Any]) -> None: ...

    def events(self, run_id: str) -> list[dict[str, Any]]: ...

    def run_folder(self, run_id: str) -> Path: ...

    def agreement(self) -> VerifiedAgreement: ...

    def seen_heads(self) -> tuple[SeenHead, ...]: ...

    def witness(self, receipt: Receipt) -> None: ...


class Coordinator:
    """Runs, steps and who is connected. Thread-safe.

    Args:
        agreement: verified against the consortium CA by the caller.
        agreement_yaml: the signed file, kept with each run.
        runs_folder: one sub-folder a run.
        state_folder: keeps what was last seen of the sites' ledgers; lies in the coordinator's folder.
        node_ids: asks the fleet which sites are connected.
    """

    def __init__(
        self,
        agreement: VerifiedAgreement,
        agreement_yaml: bytes,
        runs_folder: Path,
        state_folder: Path,
        node_ids: Callable[[], Mapping[str, int]],
    ) -> None:
        self._agreement = agreement
        self._agreement_yaml = agreement_yaml
        self._node_ids = node_ids
        self._specs: dict[str, RunSpec] = {}
        self._submitting = threading.Lock()
        self._home = state_folder.parent
        self.store = RunStore(runs_folder)
        self._witnesses = SiteWitnesses(state_folder / "witnessed-heads.json", agreement.agreement.roster())
        self.steps = StepRegistry(agreement.agreement.roster(), agreement.agreement.secure_aggregation.collusion_bound)

    def agreement(self) -> VerifiedAgreement:
        """Return the agreement this coordinator serves."""
        return self._agreement

    def submit(self, spec: RunSpec, *, base_model_digest: str) -> str:
        """Check a run against the agreement, create its folder, and return its id.

        Raises:
            ConfigError: a run is in progress already.
            Refusal: every site's gate would refuse it; nothing was created.
        """
        with self._submitting:
            self.require_idle()
            run_id = secrets.token_hex(8)
            facts = submission_facts(run_id, spec, self._agreement, base_model_digest=base_model_digest)
            self.store.create(run_id, facts, self._agreement_yaml)
            return run_id

    def require_idle(self) -> None:
        """Raise ConfigError unless every run has finished: sites carry out one order at a time."""
        running = [run_id for run_id in self.store.run_ids() if not self.store.finished(run_id)]
        if running:
            raise ConfigError(
                f"run {running[-1]} is still in progress",
                hint=f"`tacit run watch {running[-1]} --home {self._home}` follows it, "
                f"`tacit run stop {running[-1]} --home {self._home}` ends it",
            )

    def close_interrupted(self) -> list[str]:
        """Mark runs that were in progress when an earlier gateway process ended; return their ids."""
        interrupted = [run_id for run_id in self.store.run_ids() if not self.store.finished(run_id)]
        for run_id in interrupted:
            self.emit(run_id, {"event": "run-finished", "status": "failed", "reason": "the gateway was restarted"})
        return interrupted

    def submission(self, run_id: str) -> dict[str, Any]:
        """Return what was submitted: the facts of ``run.json``."""
        return self.store.facts(run_id)

    def open_step(self, order: Order) -> None:
        """Open the order's secure step for its cohort."""
        spec = RunSpec.model_validate(self.store.facts(order.run_id)["spec"])

        def on_event(kind: str, fields: dict[str, object]) -> None:
            self.emit(order.run_id, {"event": kind, "round": order.round, "step": order.step, **fields})

        self.steps.open(order, join_deadline_s=spec.run.join_deadline_s, on_event=on_event)
        facts = {"round": order.round, "step": order.step, "steps": order.secagg.steps}
        self.emit(order.run_id, {"event": "round-started", **facts, "adapter_length": order.adapter_length})

    def await_step(self, order: Order, step: int | None = None) -> SumResult:
        """Block until a step of the order has ended; raises StepBurnt when it ended without a sum."""
        return self.step(order.run_id, order.step).wait(step=step)

    def step_ended(self, order: Order) -> bool:
        """Return whether the order's step has ended, with a sum or without."""
        return self.step(order.run_id, order.step).done()

    def site_left(self, order: Order, site: str) -> None:
        """Do not wait for a site that said outside the step's own stream that it takes no part."""
        self.step(order.run_id, order.step).left(site)

    def step(self, run_id: str, step: int) -> OpenEpoch:
        """Return the open epoch that a step belongs to."""
        return self.steps.step(run_id, step)

    def node_ids(self) -> Mapping[str, int]:
        """Return Flower's node ids of the sites that are connected."""
        return self._node_ids()

    def emit(self, run_id: str, event: dict[str, Any]) -> None:
        """Record a run event and wake the watchers."""
        self.store.emit(run_id, event)

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's events so far."""
        return self.store.events(run_id)

    def watch(self, run_id: str, after: int, *, follow: bool) -> Iterator[dict[str, Any]]:
        """Yield a run's events."""
        return self.store.watch(run_id, after, follow=follow)

    def seen_heads(self) -> tuple[SeenHead, ...]:
        """Return the last tree head seen of every site's ledger."""
        return self._witnesses.seen()

    def witness(self, receipt: Receipt) -> None:
        """Accept a receipt's tree head as a continuation of the last one; raises LedgerCorrupt if it is none."""
        self._witnesses.observe(receipt)

    def run_folder(self, run_id: str) -> Path:
        """Return the run's folder."""
        return self.store.folder_of(run_id)
