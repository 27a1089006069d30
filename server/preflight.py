"""Before a run is created: would every site's gate accept its orders, and does it fit the agreed budget?

The same :class:`client.gate.Gate` that decides at a site is asked here, under the agreement alone, so that an
engineer hears of a mistake at once and not from three refusals. The sites decide again for themselves.
"""

from __future__ import annotations

import math
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

import tacit
from client.gate import Gate
from privacy.accounting import adversary_bounds, epsilon
from privacy.agreement import Agreement, VerifiedAgreement
from privacy.clip_norm import ClipNorm
from privacy.events import DpEvent, PrivacyMode, kept_by
from privacy.noise_shares import NOISE_REACH
from privacy.order import Order, SecAggSpec, TrainingSpec, event_of
from privacy.policy import SitePolicy
from privacy.secagg.threshold import default_threshold, survivors_required
from server.run_spec import RunSpec
from strategies.orders import OrderBook, RunPlan
from tacit.errors import Refusal, RefusalReason
from tacit.figures import epsilon_text

#: a finer grid than this gains nothing beside the noise, and rounding works in float64
_FINEST = 2.0**50
#: the part of an expected batch's clip norms that may add up in one coordinate before it is clipped
_ALIGNED = 0.25
#: standard deviations by which a sample may be larger than expected before its count is clipped
_LARGE_SAMPLE = 6.0
#: room for noise shares that are wider than the plain ones because of rounding
_SHARE_MARGIN = 1.1
#: what brings epsilon down, by mode
_CHEAPER = {
    PrivacyMode.LOCAL: "raise noise_multiplier, or lower rounds, local_steps or sample_rate",
    PrivacyMode.JOINT: "raise noise_multiplier, or lower rounds, local_steps or sample_rate",
    PrivacyMode.SITE: "raise noise_multiplier, or lower rounds",
}
#: the encoder keeps one bit of headroom below the ring's half
_HEADROOM_BITS = 1


def training_of(spec: RunSpec, agreement: Agreement) -> TrainingSpec:
    """Complete ``[training]`` by what is agreed: the public normaliser, and the contribution bound of a user.

    The normaliser is the sample rate times the agreed dataset size, in privacy units.
    """
    training = spec.training
    return TrainingSpec(
        **training.model_dump(),
        expected_batch_size=training.sample_rate * agreement.privacy.public_dataset_size,
        max_tokens=spec.model.max_tokens,
        max_records_per_user=agreement.privacy.max_records_per_user,
    )


def secagg_of(spec: RunSpec, agreement: Agreement) -> SecAggSpec:
    """Derive the secure sums' parameters: the whole consortium, the default threshold, the finest safe scale.

    In mode ``joint`` every step of training is summed. Where noise comes in shares, they need room beside the values.
    """
    cohort = tuple(sorted(partner.name for partner in agreement.partners))
    terms = agreement.secure_aggregation
    threshold = default_threshold(len(cohort))
    bound, steps = spec.encoding.value_bound, 1
    if spec.run.mode is PrivacyMode.JOINT:
        steps = spec.training.local_steps
        # the grid stays far finer than the noise, so room for gradients that all point one way costs nothing
        training = training_of(spec, agreement)
        together = _ALIGNED * training.expected_batch_size * training.l2_clip_norm
        bound = max(bound, together, _largest_count(training))
    if spec.run.mode is not PrivacyMode.LOCAL:
        honest = max(1, survivors_required(threshold, terms.min_cohort) - terms.collusion_bound)
        # the share itself is a little wider for the rounding, by what the site computes from the grid
        share = spec.training.noise_multiplier * spec.training.l2_clip_norm / math.sqrt(honest)
        bound += _SHARE_MARGIN * NOISE_REACH * share
    scale = 1.0
    while len(cohort) * (bound * scale * 2 + 1) < 2.0 ** (terms.ring_bits - 1 - _HEADROOM_BITS):
        scale *= 2.0
        if bound * scale >= _FINEST:
            break
    return SecAggSpec(
        steps=steps,
        cohort=cohort,
        threshold=threshold,
        min_cohort=terms.min_cohort,
        ring_bits=terms.ring_bits,
        weights=terms.weights,
        scale=scale,
        value_bound=bound,
    )


def _largest_count(training: TrainingSpec) -> float:
    """What adaptive clipping's count can be in a site's joined vector: a coordinate beyond the bound is clipped.

    Half of a large Poisson sample of the agreed size, in the scale of :meth:`privacy.clip_norm.ClipNorm.join`.
    """
    if training.adaptive_clipping is None:
        return 0.0
    batch = training.expected_batch_size
    sample = batch + _LARGE_SAMPLE * math.sqrt(batch) + 1
    joined = ClipNorm.of(training).join(np.zeros(1), sample / 2)
    return float(joined[-1])


def plan_of(
    run_id: str,
    spec: RunSpec,
    agreement: VerifiedAgreement,
    *,
    base_model_digest: str,
    adapter_layout_digest: str,
    adapter_length: int,
) -> RunPlan:
    """Put together what every order of the run has in common."""
    agreed = agreement.agreement
    return RunPlan(
        run_id=run_id,
        run_name=spec.run.name,
        rounds=spec.run.rounds,
        strategy=spec.run.strategy,
        mode=spec.run.mode,
        unit=agreed.privacy.unit,
        adjacency=agreed.privacy.adjacency,
        agreement_digest=agreement.digest,
        base_model_digest=base_model_digest,
        adapter_layout_digest=adapter_layout_digest,
        adapter_length=adapter_length,
        lora=spec.lora,
        labels=tuple(agreed.task.labels),
        training=training_of(spec, agreed),
        secagg=secagg_of(spec, agreed),
        collusion_bound=agreed.secure_aggregation.collusion_bound,
        deadline_s=spec.run.deadline_s,
        test_noise_seed=spec.testing.noise_seed if spec.testing else None,
    )


def submission_facts(
    run_id: str, spec: RunSpec, agreement: VerifiedAgreement, *, base_model_digest: str
) -> dict[str, Any]:
    """Check the run as a site would and return the facts of its ``run-submitted`` event.

    Raises:
        Refusal: the agreement does not allow the run, or its whole cost exceeds the agreed epsilon per run.
    """
    agreed = agreement.agreement
    order = ask_every_gate(run_id, spec, agreement, base_model_digest, now=datetime.now(UTC))
    event, delta = round_event(spec, agreed), agreed.privacy.delta
    # the whole first: a plan far beyond the budget has thousands of rounds to go through
    run_event = event.model_copy(update={"steps": event.steps * spec.run.rounds})
    whole = epsilon([run_event], delta)
    if whole > agreed.privacy.epsilon_per_run:
        raise Refusal(
            RefusalReason.BUDGET,
            f"the run would spend epsilon {epsilon_text(whole)} in {spec.run.rounds} rounds, "
            f"the agreement allows {agreed.privacy.epsilon_per_run:g} per run at delta {agreed.privacy.delta:g}",
            hint=_CHEAPER[spec.run.mode] + "; `tacit privacy calibrate` finds the noise for a budget",
        )
    bounds = adversary_bounds(
        [run_event],
        delta,
        collusion_bound=agreed.secure_aggregation.collusion_bound,
        noise_secret=spec.testing is None,
    )
    return {
        "run_id": run_id,
        "run_name": spec.run.name,
        "rounds": spec.run.rounds,
        "sites": list(order.secagg.cohort),
        "mode": str(spec.run.mode),
        "unit": agreed.privacy.unit.value,
        "strategy": spec.run.strategy,
        "labels_count": len(order.labels),
        "budget": {"epsilon": agreed.privacy.epsilon_per_run, "delta": agreed.privacy.delta},
        "epsilon_per_round": epsilon_per_round(event, spec.run.rounds, delta),
        # of the whole run; nothing is claimed under a test seed
        "epsilon_by_adversary": {name: bound.epsilon for name, bound in bounds.items() if bound.epsilon is not None},
        "training": order.training.model_dump(mode="json"),
        "secagg": order.secagg.model_dump(mode="json"),
        "agreement_digest": agreement.digest,
        "base_model": {"name": agreed.base_model.name, "digest": agreed.base_model.digest},
        "versions": versions(),
        "testing": spec.testing is not None,
        "spec": spec.model_dump(mode="json"),
    }


def ask_every_gate(
    run_id: str, spec: RunSpec, agreement: VerifiedAgreement, base_model_digest: str, *, now: datetime
) -> Order:
    """Return the run's first order, which the gates of all partners accept under the agreement alone.

    Raises:
        Refusal: the first rule of a gate that the order breaks.
        InputError: as :func:`round_event`.
    """
    agreed = agreement.agreement
    order = _first_order(run_id, spec, agreement, base_model_digest)
    for partner in agreed.partners:
        policy = SitePolicy.draft(
            agreed, partner.name, accept_runs=True, allow_testing=True, max_rounds_per_run=spec.run.rounds, weight=1
        )
        try:
            # the coordinator has no data; each site's gate knows what its own are kept by
            Gate(agreement, policy, partner.name, data_unit=kept_by(agreed.privacy.unit)).check(order, now=now)
        except Refusal as refusal:
            hint = refusal.hint or "correct the run file, or agree on other limits in a new agreement"
            raise Refusal(refusal.reason, refusal.message, hint=hint) from refusal
    return order


def round_event(spec: RunSpec, agreement: Agreement) -> DpEvent:
    """Return what one round of the run spends at each site.

    Raises:
        InputError: a mode that the agreed unit does not go with, or one that shares noise with a threshold that leaves
            fewer than two honest sites in a sum.
    """
    return event_of(
        spec.run.mode,
        agreement.privacy.unit,
        agreement.privacy.adjacency,
        training_of(spec, agreement),
        secagg_of(spec, agreement),
        None,
        agreement.secure_aggregation.collusion_bound,
    )


def epsilon_per_round(event: DpEvent, rounds: int, delta: float) -> list[float]:
    """Return the epsilon a site will have spent after round 1, 2, ... of a run that burns no step."""
    return [epsilon([event.model_copy(update={"steps": event.steps * done})], delta) for done in range(1, rounds + 1)]


def versions() -> dict[str, str]:
    """Return the versions that decide what a run computes."""
    packages = ("flwr", "torch", "transformers", "peft", "opacus", "cryptography", "grpcio")
    return {
        "tacit": tacit.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _first_order(run_id: str, spec: RunSpec, agreement: VerifiedAgreement, base_model_digest: str) -> Order:
    """The first round's order, but for the adapter, which only a loaded model can tell.

    One rule depends on its length, room for the noise: the run looks at it again when it has loaded the model.
    """
    placeholder = agreement.digest
    plan = plan_of(
        run_id,
        spec,
        agreement,
        base_model_digest=base_model_digest,
        adapter_layout_digest=placeholder,
        adapter_length=1,
    )
    return OrderBook(plan).next(1, np.zeros(1, dtype=np.float32))
