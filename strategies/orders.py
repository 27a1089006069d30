"""How a coordinator makes orders: everything fixed for a run, plus a step counter that never goes back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from models.layout import state_digest
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit
from privacy.order import LoraSpec, Order, SecAggSpec, SeenHead, TrainingSpec


@dataclass(frozen=True)
class RunPlan:
    """What every order of one run has in common."""

    run_id: str
    run_name: str
    rounds: int
    strategy: str
    mode: PrivacyMode
    unit: PrivacyUnit
    adjacency: Adjacency
    agreement_digest: str
    base_model_digest: str
    adapter_layout_digest: str
    adapter_length: int
    lora: LoraSpec
    labels: tuple[str, ...]
    training: TrainingSpec
    secagg: SecAggSpec
    #: the agreement's c, which no order repeats
    collusion_bound: int
    deadline_s: float
    test_noise_seed: int | None = None


@dataclass
class OrderBook:
    """Makes one order after another. ``last_step`` is persisted by the checkpoint: a step number is used once."""

    plan: RunPlan
    last_step: int = field(default=0)
    #: what the coordinator has seen of the sites' ledgers when the next order is made
    seen_heads: tuple[SeenHead, ...] = ()

    def next(self, round_number: int, vector: npt.NDArray[np.float32]) -> Order:
        """Return the next order, to be carried out from ``vector`` (float32, shape ``(adapter_length,)``)."""
        plan = self.plan
        first_step = self.last_step + 1
        self.last_step += plan.secagg.steps
        return Order(
            run_id=plan.run_id,
            run_name=plan.run_name,
            # an order is an epoch: one key setup, and the secure steps on it
            epoch=first_step,
            round=round_number,
            rounds_planned=plan.rounds,
            step=first_step,
            strategy=plan.strategy,
            mode=plan.mode,
            unit=plan.unit,
            adjacency=plan.adjacency,
            agreement_digest=plan.agreement_digest,
            base_model_digest=plan.base_model_digest,
            adapter_layout_digest=plan.adapter_layout_digest,
            adapter_state_digest=state_digest(vector),
            adapter_length=plan.adapter_length,
            lora=plan.lora,
            labels=plan.labels,
            training=plan.training,
            secagg=plan.secagg,
            deadline_s=plan.deadline_s,
            seen_heads=tuple(head for head in self.seen_heads if head.site in plan.secagg.cohort),
            test_noise_seed=plan.test_noise_seed,
        )
