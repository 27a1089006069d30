"""How each row of the utility benchmark is trained. docs/utility.md tells what else was tried."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from privacy.order import LoraSpec
from privacy.secagg.threshold import default_collusion_bound, default_threshold
from simulations.benchmarks.frozen_head import HEAD_ONLY

DELTA = 1e-5
MAX_TOKENS = 32
MOMENTUM = 0.9

#: "joint-all": joint under an agreement in which every step needs all sites (``min_cohort`` = n)
Mode = Literal["plain", "federated", "central", "local", "joint", "joint-all"]
Trains = Literal["probe", "head", "lora", "ffa", "two-stage"]

#: as printed
MODE_NAMES: dict[Mode, str] = {
    "plain": "non-private, centralised",
    "federated": "non-private, federated",
    "central": "DP, centralised",
    "local": "DP, local",
    "joint": "DP, joint",
    "joint-all": "DP, joint, all sites needed",
}
TRAINS_NAMES: dict[Trains, str] = {
    "probe": "linear probe",
    "head": "head",
    "lora": "head and LoRA",
    "ffa": "head and FFA-LoRA",
    "two-stage": "head, then LoRA",
}

LORA = LoraSpec(rank=8, alpha=4.0, targets=("query", "value"))
FFA = LoraSpec(rank=8, alpha=4.0, targets=("query", "value"), freeze_a=True)


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
    #: two-stage: the first so many of ``steps`` train the head alone
    head_steps: int = 0


def adapter_of(trains: Trains) -> LoraSpec:
    """What the last stage trains."""
    if trains in ("probe", "head"):
        return HEAD_ONLY
    return FFA if trains == "ffa" else LORA


def fewest_sites(mode: Mode, sites: int) -> int:
    """The agreement's ``min_cohort``: sites in every sum, at least."""
    return sites if mode == "joint-all" else default_threshold(sites)


def noise_factor(mode: Mode, sites: int) -> float:
    """How much more noise is in a step's sum than if a trusted server had added it."""
    if mode == "local":
        return math.sqrt(sites)
    if mode in ("joint", "joint-all"):
        # shares are sized for the honest sites of the smallest sum, and all n sites add one
        return math.sqrt(sites / (fewest_sites(mode, sites) - default_collusion_bound(sites)))
    return 1.0


def recipe_of(mode: Mode, trains: Trains, sites: int, epsilon: float) -> Recipe:
    """The recipe by what decides it: the noise. The more of it, the fewer and the smaller the steps.

    Rates and steps come from a grid on banking77 with one seed, and serve for clinc150 as they are.
    """
    noise = noise_factor(mode, sites) / epsilon
    if trains == "probe":
        rate = 16.0 if noise < 0.2 else 8.0 if noise < 1.2 else 4.0
        return Recipe(0.2, 100 if noise < 0.34 else 50, l2_clip_norm=1.0, learning_rate=rate, named=noise > 1.2)
    many = noise < 0.55
    # "less than": with 100 steps, then with 50
    rates = {0.34: 0.4, 0.44: 0.2 if mode == "local" else 0.3, 0.55: 0.2, 1.02: 0.4, 2.2: 0.2, math.inf: 0.1}
    rate = next(rate for bound, rate in rates.items() if noise < bound)
    if trains == "head":
        return Recipe(0.2, 100 if many else 50, l2_clip_norm=2.0, learning_rate=rate)
    if trains == "two-stage":
        return Recipe(0.1, 80, l2_clip_norm=2.0, learning_rate=rate, head_steps=60)
    return Recipe(0.1, 40, l2_clip_norm=2.0, learning_rate=rate)


#: variants of a recipe, by name: what they change
ABLATIONS: dict[str, dict[str, object]] = {
    "zero-start": {"named": False},
    "clip-1": {"l2_clip_norm": 1.0, "learning_rate": 0.8},
    "clip-5": {"l2_clip_norm": 5.0, "learning_rate": 0.16},
    "rate-half": {"learning_rate": 0.2},
    "rate-0.3": {"learning_rate": 0.3},
    "rate-double": {"learning_rate": 0.8},
    "steps-25": {"steps": 25},
    "steps-50": {"steps": 50},
    "steps-100": {"steps": 100},
    "steps-200": {"steps": 200},
    "sample-0.1": {"sample_rate": 0.1},
    "sample-0.4": {"sample_rate": 0.4},
    # the head in as many records as the rows with LoRA take
    "as-lora": {"sample_rate": 0.1, "steps": 40},
    "as-two-stage": {"sample_rate": 0.1, "steps": 80},
    "local-steps-5": {"local_steps": 5},
    # of the run file in docs/utility.md, and what twice its time gives
    "example": {"sample_rate": 0.1, "steps": 50, "learning_rate": 0.8},
    "example-twice": {"sample_rate": 0.1, "steps": 100},
}
