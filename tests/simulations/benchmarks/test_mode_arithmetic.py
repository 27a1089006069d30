"""The benchmark's arithmetic is that of a run: held against ``tacit simulate`` with the same seeds."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from client.data import load_records
from client.training import open_engine
from models.building import build_classifier
from models.layout import Vector
from privacy.agreement import load_bundle
from privacy.dpsgd import DpSgdPlan, clipped_gradient_sum, gradient_norms
from privacy.events import PrivacyMode
from privacy.order import LoraSpec
from privacy.randomness import SeededRandomSource, standard_normal, uniform
from server.checkpoint import latest_checkpoint
from server.run_spec import RunSpec, load_run_spec
from simulations.benchmarks.frozen_head import FrozenHead
from simulations.benchmarks.mode_arithmetic import (
    run_central,
    run_joint,
    run_local,
    run_plain,
    run_plain_federated,
    seeded,
)
from simulations.benchmarks.unsigned_agreement import plan_under, unsigned_agreement
from simulations.local_consortium import ConsortiumPlan, make_consortium
from simulations.simulate import prepare
from strategies.orders import OrderBook

Plan = Callable[..., ConsortiumPlan]
SEED = 11
HEAD_ONLY = {"rank": 0, "alpha": 1.0, "targets": []}
FFA = {"rank": 2, "alpha": 4.0, "targets": ["query", "value"], "freeze_a": True}
LORA = {"rank": 2, "alpha": 4.0, "targets": ["query", "value"]}


def simulate(folder: Path, plan: ConsortiumPlan, lora: dict[str, Any], head_start: str) -> tuple[RunSpec, Any, Vector]:
    """The real thing; return run file, agreement and last adapter."""
    made = make_consortium(folder / "made", plan)
    content = tomllib.loads(made.run_file.read_text())
    content["lora"] = lora
    content["model"]["head_start"] = head_start
    made.run_file.write_text(tomli_w.dumps(content))
    spec = load_run_spec(made.run_file)
    with prepare(spec, folder / "sim") as consortium:
        run_folder = consortium.run(consortium.submit())
    found = latest_checkpoint(run_folder / "checkpoints")
    assert found is not None
    return spec, load_bundle(made.agreement).agreement, found.vector


@pytest.mark.parametrize(
    ("mode", "sites", "min_cohort", "lora", "head_start"),
    [
        (PrivacyMode.JOINT, 4, None, LORA, "zero"),
        (PrivacyMode.JOINT, 4, 4, HEAD_ONLY, "label-names"),
        (PrivacyMode.LOCAL, 3, None, FFA, "zero"),
        (PrivacyMode.LOCAL, 4, None, HEAD_ONLY, "label-names"),
    ],
)
def test_a_run_without_masks_gives_the_bits_of_a_simulated_one(
    tmp_path: Path,
    small_plan: Plan,
    mode: PrivacyMode,
    sites: int,
    min_cohort: int | None,
    lora: dict[str, Any],
    head_start: str,
) -> None:
    plan = small_plan(sites=sites, rounds=2, noise_seed=SEED, local_steps=2, momentum=0.5)
    plan = replace(plan, mode=mode, min_cohort=min_cohort)
    spec, agreement, expected = simulate(tmp_path, plan, lora, head_start)
    model = build_classifier(Path(plan.base_model), spec.lora, plan.labels, spec.model.max_tokens)
    records = {}
    for site, path in plan.sites.items():
        data = load_records(path, "text", "label", plan.labels, profile="standard-v1")
        records[site] = model.tokenise(data.texts, data.labels)
    start = model.label_name_vector() if head_start == "label-names" else model.initial_vector()

    def run(trained: Any, at_sites: dict[str, Any]) -> Vector:
        common = plan_under(
            spec,
            agreement,
            adapter_layout_digest=trained.layout.digest(),
            adapter_length=trained.layout.length,
        )
        book = OrderBook(common)
        if mode is PrivacyMode.JOINT:
            return run_joint(trained, at_sites, book, start, 1, seeded(SEED))
        return run_local(trained, at_sites, book, start, seeded(SEED), spec.server.learning_rate)

    found = run(model, records)
    assert np.array_equal(found, expected)
    assert np.abs(found - start).max() > 1e-2
    if lora == HEAD_ONLY:
        head = FrozenHead(model)
        frozen = run(head, {site: head.records(data) for site, data in records.items()})
        # embeddings of other batches differ in their last bits, which a sum on the grid may round the other way
        assert np.abs(frozen - expected).max() < 1e-4


@pytest.mark.parametrize("clip", [0.5, 4.0, 100.0])
def test_the_fast_clipped_sum_is_the_engines(tiny_model: Path, clip: float) -> None:
    base = build_classifier(tiny_model, LoraSpec(rank=0, alpha=1.0, targets=()), ("animal", "fruit", "metal"), 16)
    head = FrozenHead(base)
    texts = ["the horse", "a plum", "iron and zinc", "my lemon", "old otter here"] * 8
    records = head.records(base.tokenise(texts, [0, 1, 2, 1, 0] * 8))
    vector = np.random.default_rng(0).normal(size=head.layout.length).astype(np.float32) * 0.2
    head.set_vector(vector)
    for indices in (np.arange(0, 40, 3), np.array([], dtype=np.int64)):
        with open_engine(head) as engine:
            expected = clipped_gradient_sum(engine, records, indices, l2_clip_norm=clip, physical_batch_size=4)
        found = head.clipped_sum(records, indices, clip)
        assert np.abs(found - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1e-30)
        assert found.dtype == np.float64
    # some were clipped and some were not
    with open_engine(head) as engine:
        norms = gradient_norms(engine.per_example(records.batch(np.arange(40)), 40)).numpy()
    assert (norms > clip).any() == (clip < 100)


@pytest.mark.parametrize("min_cohort", [None, 4])
def test_an_unsigned_agreement_gives_the_secure_sums_of_a_signed_one(
    tmp_path: Path, small_plan: Plan, min_cohort: int | None
) -> None:
    plan = replace(small_plan(sites=4, noise_seed=SEED), mode=PrivacyMode.JOINT, min_cohort=min_cohort)
    made = make_consortium(tmp_path / "made", plan)
    spec = load_run_spec(made.run_file)
    unsigned = unsigned_agreement(
        spec, list(plan.sites), plan.labels, public_dataset_size=120, delta=1e-4, min_cohort=min_cohort
    )
    ours, theirs = (
        plan_under(spec, one, adapter_layout_digest="sha256:" + "0" * 64, adapter_length=3)
        for one in (unsigned, load_bundle(made.agreement).agreement)
    )
    assert (ours.training, ours.secagg) == (theirs.training, theirs.secagg)


def test_centralised_training_is_dp_sgd(tiny_model: Path) -> None:
    """Held against the formula, one record at a time."""
    import torch

    labels = ("animal", "fruit", "metal")
    base = build_classifier(tiny_model, LoraSpec(rank=0, alpha=1.0, targets=()), labels, 16)
    head = FrozenHead(base)
    records = head.records(base.tokenise(["the horse", "a plum", "iron and zinc", "my lemon"] * 10, [0, 1, 2, 1] * 10))
    plan = DpSgdPlan(sample_rate=0.5, noise_multiplier=0.8, l2_clip_norm=1.5, expected_batch_size=20.0, steps=3)
    start = head.initial_vector()
    found = run_central(
        head, records, plan, start, learning_rate=0.3, momentum=0.9, source=SeededRandomSource(4, "central")
    )
    source = SeededRandomSource(4, "central")
    weights, velocity = start.astype(np.float64), np.zeros(start.size)
    for _ in range(3):
        head.set_vector(weights.astype(np.float32))
        total = np.zeros(start.size)
        for index in np.flatnonzero(uniform(source, 40) < 0.5):
            loss = head.per_example_loss(records.batch(np.array([index])))[0]
            gradient = torch.autograd.grad(loss, head.module.weight)[0].numpy().ravel().astype(np.float64)
            total += gradient * min(1.0, 1.5 / np.linalg.norm(gradient))
        total += 0.8 * 1.5 * standard_normal(source, start.size)
        velocity = 0.9 * velocity + total / 20.0
        weights = weights - 0.3 * velocity
    assert np.abs(found - weights).max() < 1e-5
    assert np.abs(found).max() > 1e-2


def test_training_without_privacy_learns_and_one_site_is_all_of_it(tiny_model: Path) -> None:
    labels = ("animal", "fruit", "metal")
    base = build_classifier(tiny_model, LoraSpec(rank=0, alpha=1.0, targets=()), labels, 16)
    head = FrozenHead(base)
    texts, classes = ["the horse", "a plum", "iron and zinc", "my lemon"] * 10, [0, 1, 2, 1] * 10
    records = head.records(base.tokenise(texts, classes))
    facts = {"batch_size": 8, "learning_rate": 0.05, "seed": 3}
    alone = run_plain(head, records, head.initial_vector(), epochs=1, **facts)
    federated = run_plain_federated(head, {"only": records}, head.initial_vector(), rounds=1, **facts)
    assert np.array_equal(alone, federated)
    # two sites that hold the same learn the same; the mean is theirs but for the order of records
    twice = run_plain_federated(head, {"a": records, "b": records}, head.initial_vector(), rounds=3, **facts)
    head.set_vector(twice)
    logits = head.logits(records.batch(np.arange(40))).detach().numpy()
    assert (logits.argmax(1) == classes).mean() > 0.9
