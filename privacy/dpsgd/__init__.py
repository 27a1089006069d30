"""DP-SGD at a site: Poisson sampling, per-example gradients, clipping, Gaussian noise, a public divisor.

Knows no transformer and no server. A model comes in as a module, its trainable parameters, and a loss that gives one
value for each record::

    plan = DpSgdPlan(sample_rate=0.1, noise_multiplier=1.0, l2_clip_norm=1.0, expected_batch_size=120, steps=5)
    with LoraGradients(module, parameters, loss) as engine:
        gradient = noisy_gradient(engine, examples, plan, OsRandomSource())   # float64 [P]
    plan.event()                                                              # what each run of the plan spends

Pitfalls, most severe first; each has a test:

- A loss averaged over the batch or its tokens couples records, and the clip bounds nothing. Losses are vectors.
- Clipping each record of a user, or sampling records where users are promised, bounds nothing for the user. Users are
  sampled, and a user's gradient is clipped as a whole.
- A divisor or a sample rate derived from the dataset's size tells that size. Both are agreed numbers.
- An empty Poisson sample is a step: it gets noise and it is charged.
- Norms in float32 read low; they are taken in float64.
- A trainable parameter without per-example gradients would be left out of the norm. It is refused.
"""

from privacy.dpsgd.clipping import ClipGroups, clip_by_group, clip_factors, clipped_sum, gradient_norms
from privacy.dpsgd.gradients import SUPPORTED_LAYERS, GradientEngine, HookedGradients, PerExampleLoss
from privacy.dpsgd.lora import LoraGradients
from privacy.dpsgd.mechanism import (
    Examples,
    check_independence,
    clip_sample,
    clip_users,
    clipped_gradient_sum,
    clipped_user_gradient_sum,
    noisy_gradient,
    sampled_sum,
)
from privacy.dpsgd.plan import DpSgdPlan
from privacy.dpsgd.sampling import physical_batches, poisson_sample
from privacy.dpsgd.users import UserRecords

__all__ = [
    "SUPPORTED_LAYERS",
    "ClipGroups",
    "DpSgdPlan",
    "Examples",
    "GradientEngine",
    "HookedGradients",
    "LoraGradients",
    "PerExampleLoss",
    "UserRecords",
    "check_independence",
    "clip_by_group",
    "clip_factors",
    "clip_sample",
    "clip_users",
    "clipped_gradient_sum",
    "clipped_sum",
    "clipped_user_gradient_sum",
    "gradient_norms",
    "noisy_gradient",
    "physical_batches",
    "poisson_sample",
    "sampled_sum",
]
