"""One step of DP-SGD: sample, clip, sum, noise, divide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from privacy.clip_norm import ClipNorm
from privacy.dpsgd.clipping import ClipGroups, clip_by_group
from privacy.dpsgd.gradients import GradientEngine
from privacy.dpsgd.plan import DpSgdPlan
from privacy.dpsgd.sampling import Indices, physical_batches, poisson_sample
from privacy.dpsgd.users import UserRecords
from privacy.events import PrivacyUnit
from privacy.randomness import RandomSource, standard_normal
from tacit.errors import TrainingError

Float64 = npt.NDArray[np.float64]


class Examples(Protocol):
    """A dataset of independent records: the privacy units, or parts of them where :class:`UserRecords` says whose."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Cost of each record, int64 [n]; batches are cut from records of like cost."""
        ...

    def batch(self, indices: Indices) -> Any:
        """The records at ``indices`` as the batch that the engine's loss takes."""
        ...


def noisy_gradient(
    engine: GradientEngine[Any],
    examples: Examples,
    plan: DpSgdPlan,
    source: RandomSource,
    users: UserRecords | None = None,
    *,
    clip: ClipNorm | None = None,
) -> Float64:
    """One private gradient: (clipped sum over a Poisson sample + N(0, (sigma C)^2)) / expected batch size.

    An empty sample skips the model, still gets noise and still counts as a step.

    With adaptive clipping the gradient has the noise multiplier that is left beside the noised count, and ``clip``
    follows that count; the step costs what it costs without (:class:`privacy.clip_norm.ClipNorm`).

    Args:
        users: whose records they are, where the plan's unit is a user; None where it is a record.
        clip: the state of adaptive clipping, from :meth:`DpSgdPlan.clip_norm`; changed. None if the plan has none.

    Returns:
        float64 [P], parameters flattened and concatenated in the engine's order. Its sensitivity to one privacy unit is
        the clip norm over ``expected_batch_size`` (Abadi et al. 2016), whatever the dataset's size.

    Raises:
        TrainingError: the plan is adaptive and ``clip`` is not given, or the other way round; or as
            :func:`sampled_sum`.
    """
    if (plan.adaptive_clipping is not None) != (clip is not None and clip.adaptive is not None):
        raise TrainingError("plan and clip norm disagree on adaptive clipping; expected the plan's own clip norm")
    clip = clip or plan.clip_norm()
    sample = sampled_sum(engine, examples, plan, source, users, clip.value)
    noised = sample.total + clip.noise_stddev * standard_normal(source, sample.total.size)
    if clip.adaptive is not None:
        count_noise = clip.adaptive.count_noise_stddev * float(standard_normal(source, 1)[0])
        clip.follow(sample.centred_count + count_noise, plan.expected_batch_size)
    return noised / plan.expected_batch_size


@dataclass(frozen=True)
class SampleSum:
    """What one sample gives before any noise: secret.

    Attributes:
        total: float64 [P], the sum of clipped gradients; zeros for an empty sample.
        centred_count: over the sample, (1 if a unit's gradient was not clipped, else 0) - 1/2 summed. One privacy unit
            more or less changes it by 1/2.
    """

    total: Float64
    centred_count: float


def sampled_sum(
    engine: GradientEngine[Any],
    examples: Examples,
    plan: DpSgdPlan,
    source: RandomSource,
    users: UserRecords | None,
    l2_clip_norm: float,
) -> SampleSum:
    """Clip and sum over a Poisson sample of the plan's privacy units, at this step's clip norm; without noise: secret.

    Raises:
        TrainingError: the plan's unit is a user and nobody says whose records they are, or the other way round; or
            ``users`` is about another number of records.
    """
    if (users is None) is not (plan.unit is PrivacyUnit.RECORD):
        told = "is not known whose they are" if users is None else "is known whose they are"
        raise TrainingError(
            f"the plan's privacy unit is a {plan.unit.value}, and of the records it {told}; expected users for unit "
            "user, and for no other",
            hint="the agreement's unit and the site's key column go together",
        )
    if users is None:
        indices = poisson_sample(source, len(examples), plan.sample_rate)
        return clip_sample(engine, examples, indices, plan, l2_clip_norm)
    if len(users.owners) != len(examples):
        raise TrainingError(f"users of {len(users.owners)} records were given, expected {len(examples)}")
    assert plan.max_records_per_user is not None
    sample = poisson_sample(source, len(users), plan.sample_rate)
    contributions = users.draw(source, sample, plan.max_records_per_user)
    return clip_users(engine, examples, contributions, plan, l2_clip_norm)


def clip_sample(
    engine: GradientEngine[Any], examples: Examples, indices: Indices, plan: DpSgdPlan, l2_clip_norm: float
) -> SampleSum:
    """Clip and sum the gradients of the records at ``indices`` as the plan says, at this step's clip norm."""
    groups = plan.groups(list(engine.parameters))
    return _clip_records(engine, examples, indices, l2_clip_norm, plan.physical_batch_size, groups)


def clip_users(
    engine: GradientEngine[Any],
    examples: Examples,
    contributions: Sequence[Indices],
    plan: DpSgdPlan,
    l2_clip_norm: float,
) -> SampleSum:
    """Clip and sum the mean gradients of users as the plan says, at this step's clip norm.

    Args:
        contributions: the records of each user in the sample, int64 [k_u].
    """
    groups = plan.groups(list(engine.parameters))
    return _clip_users(engine, examples, contributions, l2_clip_norm, plan.physical_batch_size, groups)


def clipped_gradient_sum(
    engine: GradientEngine[Any],
    examples: Examples,
    indices: Indices,
    *,
    l2_clip_norm: float,
    physical_batch_size: int,
    groups: ClipGroups | None = None,
) -> Float64:
    """Sum of the clipped gradients of the records at ``indices``, without noise: secret.

    Args:
        groups: what is clipped together; None: everything, by one norm.

    Returns:
        float64 [P]; zeros for an empty sample.
    """
    return _clip_records(engine, examples, indices, l2_clip_norm, physical_batch_size, groups).total


def clipped_user_gradient_sum(
    engine: GradientEngine[Any],
    examples: Examples,
    contributions: Sequence[Indices],
    *,
    l2_clip_norm: float,
    physical_batch_size: int,
    groups: ClipGroups | None = None,
) -> Float64:
    """Sum over users of the mean of each one's per-example gradients, clipped as a whole; without noise: secret.

    Each user counts once, whatever the number of its records (Charles et al. 2024, "Fine-tuning large language models
    with user-level differential privacy", user-level sampling). The mean divides by the user's own number of records,
    which no other user changes, and comes before the clip: whatever it is, the user adds at most the clip norm.

    At most ``physical_batch_size`` records are in the model, and the gradients of as many users are being added up, at
    once: twice the memory of the same batch of single records. A user's records may lie in several batches.

    Args:
        contributions: the records of each user in the sample, int64 [k_u]; none for a user adds nothing.
        groups: what is clipped together; None: everything, by one norm.

    Returns:
        float64 [P]. Adding or removing a user with all its records changes it by at most ``l2_clip_norm`` in L2 norm.
    """
    return _clip_users(engine, examples, contributions, l2_clip_norm, physical_batch_size, groups).total


def _clip_records(
    engine: GradientEngine[Any],
    examples: Examples,
    indices: Indices,
    l2_clip_norm: float,
    physical_batch_size: int,
    groups: ClipGroups | None,
) -> SampleSum:
    total = np.zeros(sum(parameter.numel() for parameter in engine.parameters.values()), dtype=np.float64)
    unclipped = 0.0
    groups = groups or ClipGroups.flat(len(engine.parameters))
    for rows in physical_batches(indices, examples.lengths, physical_batch_size):
        clipped = clip_by_group(engine.per_example(examples.batch(rows), len(rows)), l2_clip_norm, groups)
        total += clipped.total.numpy(force=True)
        unclipped += float(clipped.unclipped)
    return SampleSum(total, unclipped - len(indices) / 2)


def _clip_users(
    engine: GradientEngine[Any],
    examples: Examples,
    contributions: Sequence[Indices],
    l2_clip_norm: float,
    physical_batch_size: int,
    groups: ClipGroups | None,
) -> SampleSum:
    total = np.zeros(sum(parameter.numel() for parameter in engine.parameters.values()), dtype=np.float64)
    groups = groups or ClipGroups.flat(len(engine.parameters))
    holding = sorted(
        (records for records in contributions if len(records)),
        key=lambda records: int(examples.lengths[records].max()),
    )
    # a user without a record adds zero, which nothing clips
    unclipped = float(len(contributions) - len(holding))
    for start in range(0, len(holding), physical_batch_size):
        means = _mean_gradients(engine, examples, holding[start : start + physical_batch_size], physical_batch_size)
        clipped = clip_by_group(means, l2_clip_norm, groups)
        total += clipped.total.numpy(force=True)
        unclipped += float(clipped.unclipped)
    return SampleSum(total, unclipped - len(contributions) / 2)


def _mean_gradients(
    engine: GradientEngine[Any], examples: Examples, contributions: Sequence[Indices], physical_batch_size: int
) -> list[torch.Tensor]:
    """Mean of each user's per-example gradients: one tensor [users, *shape] for each parameter."""
    counts = [len(records) for records in contributions]
    records = np.concatenate(contributions)
    owners = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    sums: list[torch.Tensor] = []
    places = np.arange(len(records), dtype=np.int64)
    for rows in physical_batches(places, examples.lengths[records], physical_batch_size):
        gradients = engine.per_example(examples.batch(records[rows]), len(rows))
        if not sums:
            sums = [gradient.new_zeros((len(counts), *gradient.shape[1:])) for gradient in gradients]
        owner = torch.from_numpy(owners[rows]).to(sums[0].device)
        for added, gradient in zip(sums, gradients, strict=True):
            # never a product with a matrix of zeros and ones: 0 * inf would spread one user's overflow to all
            added.index_add_(0, owner, gradient)
        del gradients  # before the next batch is in memory, too
    for added in sums:
        added.div_(torch.tensor(counts, dtype=added.dtype, device=added.device).reshape(-1, *[1] * (added.dim() - 1)))
    return sums


def check_independence(engine: GradientEngine[Any], examples: Examples, *, relative_tolerance: float = 1e-3) -> None:
    """Refuse a model or loss that couples records: each record's gradient must not depend on its batch.

    The clip bounds what one record adds to the sum only if removing it leaves the other gradients alone. Means over
    padded lengths, batch statistics and contrastive losses break that without any other sign.

    Args:
        examples: public records of unequal lengths (at least two); never a site's own data, because the answer
            would depend on them.
        relative_tolerance: largest difference between a record's gradient in a batch and alone, relative to the
            largest gradient's norm, that still counts as rounding.

    Raises:
        TrainingError: a gradient in a batch differs from the gradient alone.
    """
    count = len(examples)
    if count < 2:
        raise TrainingError(f"got {count} probe records, expected at least two")
    together = engine.per_example(examples.batch(np.arange(count)), count)
    alone = [engine.per_example(examples.batch(np.array([index])), 1) for index in range(count)]
    # a record whose own gradient vanishes shows only rounding, so gaps are held against the largest gradient
    largest = max(_norm([gradient[0] for gradient in gradients]) for gradients in alone)
    for index, gradients in enumerate(alone):
        gap = _norm([a[0] - t[index] for a, t in zip(gradients, together, strict=True)])
        if not gap <= relative_tolerance * largest:
            raise TrainingError(
                "the gradient of one record changes with the batch it is in "
                f"(by {gap / max(largest, 1e-30):.1e} of the largest norm); expected independent records",
                hint="use a loss for each record over its own tokens only, and no layer with batch statistics",
            )


def _norm(gradients: list[torch.Tensor]) -> float:
    return float(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt())
