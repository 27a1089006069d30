"""A joint run with every option of training, held against a naive central trainer that shares no code with it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.data import load_records
from models.building import build_classifier
from models.classifier import AdapterModel
from privacy.events import PrivacyMode
from privacy.order import LoraSpec
from privacy.randomness import SeededRandomSource, standard_normal, uniform
from server.checkpoint import latest_checkpoint
from server.run_spec import load_run_spec
from simulations.local_consortium import ConsortiumPlan, make_consortium
from simulations.simulate import prepare
from tacit.errors import TrainingError
from tests.privacy.test_optimisers import naive_adam
from tests.simulations.test_simulate import simulated

ADAM = {"beta1": 0.8, "beta2": 0.9, "variance_floor": 0.2, "weight_decay": 0.1}
ADAPTIVE = {
    "quantile": 0.3,
    "learning_rate": 0.6,
    "count_noise_stddev": 0.8,
    "min_l2_clip_norm": 0.05,
    "max_l2_clip_norm": 8.0,
}
OPTIONS: dict[str, Any] = {
    "schedule": "cosine",
    "warmup_steps": 2,
    "clipping": "per-layer",
    "adam": ADAM,
    "layer_weights": [{"layer": "classifier", "weight": 5.0}],
    "adaptive_clipping": ADAPTIVE,
}


def test_a_run_with_every_option_completes_and_costs_what_it_costs_without(
    tmp_path: Path, small_plan: Callable[..., ConsortiumPlan]
) -> None:
    spent = []
    for name, options in (("plain", {}), ("options", OPTIONS)):
        _, events = simulated(tmp_path / name, small_plan(rounds=1, local_steps=3, l2_clip_norm=8.0, options=options))
        assert events[-1]["status"] == "completed", events[-1]
        spent.append([event["receipt"]["epsilon_run"] for event in events if event["event"] == "site-receipt"])
    assert spent[0] == spent[1]


def test_a_joint_run_takes_the_steps_of_a_central_trainer_with_the_same_options(
    tmp_path: Path, small_plan: Callable[..., ConsortiumPlan]
) -> None:
    recipe = {"local_steps": 4, "l2_clip_norm": 8.0, "learning_rate": 0.02, "options": OPTIONS}
    plan = replace(small_plan(sites=4, rounds=2, noise_seed=9, **recipe), mode=PrivacyMode.JOINT)
    run_folder, events = simulated(tmp_path, plan)
    assert events[-1]["status"] == "completed", events[-1]
    found = latest_checkpoint(run_folder / "checkpoints")
    assert found is not None
    expected, clip = centrally_trained(plan, json.loads((run_folder / "run.json").read_bytes()), found.vector.size)
    assert clip < 0.8 * 8.0
    # a record near the clip norm may fall on its other side by rounding; nothing like an option left out is as small
    moved = np.linalg.norm(found.vector)
    assert np.linalg.norm(found.vector - expected) < 1e-3 * moved


def clipped(model: AdapterModel, batch: Any, clip: float) -> tuple[np.ndarray, bool]:
    """One record's gradient, each layer clipped to its share of ``clip``; and whether none was."""
    losses = model.per_example_loss(batch)
    gradients = torch.autograd.grad(losses[0], list(model.parameters.values()))
    pieces = [gradient.numpy().astype(np.float64) for gradient in gradients]
    layers = [name.removesuffix(".weight").removesuffix(".lora_A").removesuffix(".lora_B") for name in model.parameters]
    shares = {layer: 5.0 if layer == "classifier" else 1.0 for layer in layers}
    fits = True
    for layer, share in shares.items():
        bound = clip * math.sqrt(share / sum(shares.values()))
        mine = [index for index, of in enumerate(layers) if of == layer]
        norm = math.sqrt(sum(float((pieces[index] ** 2).sum()) for index in mine))
        fits = fits and norm <= bound
        for index in mine:
            pieces[index] = pieces[index] * min(1.0, bound / max(norm, 1e-30))
    return np.concatenate([piece.ravel() for piece in pieces]), fits


def centrally_trained(plan: ConsortiumPlan, run: dict[str, Any], length: int) -> tuple[np.ndarray, float]:
    """DP-SGD on all sites' records with all options; noise in shares, sized for what one record changes of a sum.

    Returns the adapter and the last clip norm.
    """
    recipe, secagg = plan.recipe, run["secagg"]
    lora = LoraSpec(rank=recipe.lora_rank, alpha=recipe.lora_alpha, targets=("query", "value"))
    model = build_classifier(Path(plan.base_model), lora, plan.labels, recipe.max_tokens)
    records = {}
    for site, path in plan.sites.items():
        data = load_records(path, "text", "label", plan.labels, profile="standard-v1")
        records[site] = model.tokenise(data.texts, data.labels)
    sigma, sigma_b, first_clip = recipe.noise_multiplier, ADAPTIVE["count_noise_stddev"], recipe.l2_clip_norm
    sigma_delta = (sigma**-2 - (2 * sigma_b) ** -2) ** -0.5
    # rounding d + 1 coordinates widens all noise by this
    wider = (first_clip + math.sqrt(length + 1) / secagg["scale"]) / first_clip
    # nobody is lost: of each share is left what n - 1 honest sites have to add, and a seed for each layer was drawn
    fewest, honest = max(secagg["threshold"], secagg["min_cohort"]), len(plan.sites) - 1
    batch = recipe.sample_rate * recipe.public_dataset_size * len(plan.sites)
    total_steps = recipe.rounds * recipe.local_steps
    weights = model.initial_vector()
    for round_number in range(1, recipe.rounds + 1):
        start, clip = weights, first_clip
        gradients, variances, rates = [], [], []
        first_step = 1 + (round_number - 1) * recipe.local_steps
        sources = {
            site: SeededRandomSource(plan.noise_seed or 0, f"{site}/{round_number}/{first_step}/noise")
            for site in plan.sites
        }
        for step in range(first_step - 1, first_step - 1 + recipe.local_steps):
            model.set_vector(weights)
            total, count = np.zeros(length), 0.0
            for site, source in sources.items():
                for index in np.flatnonzero(uniform(source, len(records[site])) < recipe.sample_rate):
                    gradient, fits = clipped(model, records[site].batch(np.array([index])), clip)
                    total += gradient
                    count += fits - 0.5
                noise = standard_normal(source, length + 1) * wider / math.sqrt(honest)
                source.bytes(32 * (len(plan.sites) - fewest))
                total += sigma_delta * clip * noise[:-1]
                count += sigma_b * noise[-1]
            gradients.append(total / batch)
            variances.append(len(sources) / honest * (sigma_delta * clip * wider / batch) ** 2)
            if step < 2:
                rates.append(recipe.learning_rate * (step + 1) / 2)
            else:
                rates.append(recipe.learning_rate * (1 + math.cos(math.pi * (step - 2) / (total_steps - 2))) / 2)
            weights = naive_adam(start, np.array(gradients), rates, variances, Adam()).astype(np.float32)
            clip *= math.exp(-ADAPTIVE["learning_rate"] * (count / batch + 0.5 - ADAPTIVE["quantile"]))
            clip = min(max(clip, ADAPTIVE["min_l2_clip_norm"]), ADAPTIVE["max_l2_clip_norm"])
    return weights, clip


class Adam:
    """The numbers of ``ADAM``, as the naive loop reads them."""

    beta1, beta2 = ADAM["beta1"], ADAM["beta2"]
    variance_floor, weight_decay = ADAM["variance_floor"], ADAM["weight_decay"]


def test_layer_weights_that_fit_no_layer_end_the_run_before_any_site_is_asked(
    tmp_path: Path, small_plan: Callable[..., ConsortiumPlan]
) -> None:
    options = {"clipping": "per-layer", "layer_weights": [{"layer": "clasifier", "weight": 5.0}]}
    made = make_consortium(tmp_path / "made", small_plan(rounds=1, options=options))
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        run_id = consortium.submit()
        with pytest.raises(TrainingError, match="clasifier fit no trainable layer"):
            consortium.run(run_id)
        assert not [event for event in consortium.coordinator.events(run_id) if event["event"] == "round-started"]
