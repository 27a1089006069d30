"""How each row of the utility benchmark is trained. docs/utility.md tells what else was tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from privacy.order import LoraSpec
from privacy.secagg.threshold import default_collusion_bound, default_threshold
from simulations.benchmarks.frozen_head import HEAD_ONLY

DELTA = 1e-5
MAX_TOKENS = 32
MOMENTUM = 0.9

#: "joint-all": joint under an agreement in which every step needs all sites (``min_cohort`` = n); "joint-alone": joint
#: whose epsilon is against the coordinator without colluding sites, and outsiders, as a trusted server's is
Mode = Literal["plain", "federated", "central", "local", "joint", "joint-all", "joint-alone"]
Trains = Literal["probe", "head", "lora", "ffa", "two-stage"]

JOINT_MODES = ("joint", "joint-all", "joint-alone")

#: as printed
MODE_NAMES: dict[Mode, str] = {
    "plain": "non-private, centralised",
    "federated": "non-private, federated",
    "central": "DP, centralised",
    "local": "DP, local",
    "joint": "DP, joint",
    "joint-all": "DP, joint, all sites needed",
    "joint-alone": "DP, joint, no colluding site",
}
TRAINS_NAMES: dict[Trains, str] = {
    "probe": "linear probe",
    "head": "head",
    "lora": "head and LoRA",
    "ffa": "head and FFA-LoRA",
    "two-stage": "head, then LoRA",
}

_RANK = 8
#: how much of the clip norm LoRA's gradient gets, beside a head that is still learning, and after one that has learnt
_ALPHA, _ALPHA_AFTER_HEAD = 8.0, 32.0
#: two-stage: steps of head and LoRA together
_AFTER_HEAD = 8
#: without privacy, under AdamW, which scales by itself
PLAIN_LORA_ALPHA = 8.0
_TARGETS = ("query", "value")


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a private run; all public numbers."""

    sample_rate: float
    steps: int
    l2_clip_norm: float
    #: with momentum 0.9; a round of a single local step has no momentum and ten times the rate
    learning_rate: float
    #: start from the embeddings of the label names
    named: bool = True
    #: of mode ``local``: steps between two secure sums
    local_steps: int = 1
    #: two-stage: how the head is trained before, alone, with the same noise multiplier and out of the same budget
    head_first: Recipe | None = None
    #: what LoRA's product is multiplied with is this over the rank; None where there is no LoRA
    lora_alpha: float | None = None

    def stages(self) -> list[Recipe]:
        """In order; the last is this recipe itself."""
        return [*([] if self.head_first is None else [self.head_first]), self]

    def shortened(self, divisor: int) -> Recipe:
        """With so many times fewer steps, and one at least."""
        first = self.head_first and self.head_first.shortened(divisor)
        return replace(self, steps=max(1, self.steps // divisor), head_first=first)


def adapter_of(trains: Trains, lora_alpha: float | None) -> LoraSpec:
    """What a stage trains; the head alone where no alpha is given."""
    if lora_alpha is None:
        return HEAD_ONLY
    return LoraSpec(rank=_RANK, alpha=lora_alpha, targets=_TARGETS, freeze_a=trains == "ffa")


def fewest_sites(mode: Mode, sites: int) -> int:
    """The agreement's ``min_cohort``: sites in every sum, at least."""
    return sites if mode == "joint-all" else default_threshold(sites)


def noise_factor(mode: Mode, sites: int) -> float:
    """How much more noise is in a step's sum than if a trusted server had added it."""
    if mode == "local":
        return math.sqrt(sites)
    return _surplus(mode, sites) * multiplier_factor(mode, sites)


def multiplier_factor(mode: Mode, sites: int) -> float:
    """The run's noise multiplier over the one that spends the cell's epsilon: below one where nobody is taken to tell
    the coordinator its share, so that all shares of a sum count."""
    return 1 / _surplus(mode, sites) if mode == "joint-alone" else 1.0


def _surplus(mode: Mode, sites: int) -> float:
    """Noise in a sum over the run's noise multiplier. Nobody is lost, so of each of n shares is left what the n - c
    that the agreement takes for honest have to add."""
    return math.sqrt(sites / (sites - default_collusion_bound(sites))) if mode in JOINT_MODES else 1.0


#: head: with noise less than so much, so many steps at this rate
_HEAD = (
    (0.21, 100, 1.2),
    (0.36, 100, 0.8),
    (0.55, 100, 0.6),
    (0.8, 100, 0.4),
    (1.3, 50, 0.6),
    (1.7, 50, 0.4),
    (2.2, 50, 0.3),
    (math.inf, 50, 0.15),
)


def recipe_of(mode: Mode, trains: Trains, sites: int, epsilon: float) -> Recipe:
    """The recipe by what decides it: the noise. The more of it, the fewer and the smaller the steps.

    Rates and steps come from a grid on banking77 with one seed, and serve for clinc150 as they are.
    """
    noise = noise_factor(mode, sites) / epsilon
    if trains == "probe":
        rate = 16.0 if noise < 0.2 else 8.0 if noise < 1.02 else 4.0 if noise < 2.5 else 2.0
        return Recipe(0.3, 100 if noise < 0.34 else 50, l2_clip_norm=1.0, learning_rate=rate, named=noise > 1.2)
    steps, rate = next((steps, rate) for bound, steps, rate in _HEAD if noise < bound)
    head = Recipe(0.4, steps, l2_clip_norm=1.0, learning_rate=rate)
    if trains == "head":
        return head
    if trains == "two-stage":
        # samples as large as the head's, or the noise multiplier that suits the head drowns them
        after = replace(head, steps=_AFTER_HEAD, lora_alpha=_ALPHA_AFTER_HEAD)
        return replace(after, head_first=replace(head, steps=_before_lora(steps)))
    return Recipe(0.1, 40, l2_clip_norm=1.0, learning_rate=rate, lora_alpha=_ALPHA)


def _before_lora(steps: int) -> int:
    return steps * 4 // 5


def _scaled(*, clip: float) -> Callable[[Recipe], Recipe]:
    """Another clip norm, and steps as long as before where all gradients are clipped."""
    return lambda usual: replace(
        usual, l2_clip_norm=clip, learning_rate=usual.learning_rate * usual.l2_clip_norm / clip
    )


def _times(factor: float) -> Callable[[Recipe], Recipe]:
    return lambda usual: replace(usual, learning_rate=factor * usual.learning_rate)


def _with(**changes: Any) -> Callable[[Recipe], Recipe]:
    return lambda usual: replace(usual, **changes)


#: variants of a recipe, by name: from the usual one to the changed one
ABLATIONS: dict[str, Callable[[Recipe], Recipe]] = {
    "zero-start": _with(named=False),
    "clip-0.5": _scaled(clip=0.5),
    "clip-2": _scaled(clip=2.0),
    "clip-5": _scaled(clip=5.0),
    "rate-half": _times(0.5),
    "rate-double": _times(2.0),
    "steps-25": _with(steps=25),
    "steps-50": _with(steps=50),
    "steps-100": _with(steps=100),
    "steps-200": _with(steps=200),
    "sample-0.1": _with(sample_rate=0.1),
    "sample-0.2": _with(sample_rate=0.2),
    "sample-1": _with(sample_rate=1.0),
    # the head in as many records as the rows with LoRA take
    "as-lora": _with(sample_rate=0.1, steps=40),
    "as-two-stage": lambda usual: replace(usual, steps=_before_lora(usual.steps) + _AFTER_HEAD),
    "local-steps-5": _with(local_steps=5),
    "alpha-32": _with(lora_alpha=32.0),
    "small-samples": _with(sample_rate=0.1, steps=20, learning_rate=0.8),
    # of the run file in docs/utility.md, and what twice its time gives
    "example": lambda usual: Recipe(0.1, 50, l2_clip_norm=2.0, learning_rate=0.8),
    "example-twice": lambda usual: Recipe(0.1, 100, l2_clip_norm=2.0, learning_rate=0.4),
}
#: those of the head, centralised
HEAD_ABLATIONS = tuple(
    name for name in ABLATIONS if name not in ("local-steps-5", "alpha-32", "small-samples", "example", "example-twice")
)
#: those with LoRA, centralised
ADAPTER_ABLATIONS: dict[Trains, tuple[str, ...]] = {"lora": ("alpha-32",), "two-stage": ("small-samples",)}
