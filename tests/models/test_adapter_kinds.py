"""What an adapter can be besides LoRA with a head: the head alone, FFA-LoRA, and a start from label names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.building import build_classifier
from models.classifier import AdapterModel
from privacy.dpsgd import HookedGradients, LoraGradients
from privacy.order import LoraSpec
from tests.models.test_classifier import CLASSES, LABELS, LOAD_WITH_PLAIN_PEFT, TEXTS, moved

HEAD_ONLY = LoraSpec(rank=0, alpha=1.0, targets=())
FFA = LoraSpec(rank=2, alpha=4.0, targets=("query", "value"), freeze_a=True)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def build(folder: Path, lora: LoraSpec) -> AdapterModel:
    return build_classifier(folder, lora, LABELS, 16)


def test_rank_zero_trains_the_head_alone(tiny_model: Path) -> None:
    model = build(tiny_model, HEAD_ONLY)
    assert model.layout.names == ("classifier.weight",)
    assert model.layout.shapes == ((3, 32),)
    assert [name for name, value in model.module.named_parameters() if value.requires_grad] == [
        "base_model.model.classifier.modules_to_save.default.weight"
    ]
    assert not any("lora_" in name for name, _ in model.module.named_parameters())


def test_a_frozen_factor_is_public_and_does_not_travel(tiny_model: Path) -> None:
    trained, frozen, again = (
        build(tiny_model, LoraSpec(**{**FFA.model_dump(), "freeze_a": False})),
        *(build(tiny_model, FFA) for _ in range(2)),
    )
    assert frozen.layout.names == tuple(name for name in trained.layout.names if ".lora_A." not in name)
    start = trained.layout.unflatten(trained.initial_vector())
    for model in (frozen, again):
        factors = {name: value for name, value in model.module.named_parameters() if ".lora_A." in name}
        assert len(factors) == 4
        for name, value in factors.items():
            public = start[name.removeprefix("base_model.model.").replace(".default.", ".")]
            assert np.array_equal(value.detach().numpy(), public)
    # two sites with the same vector compute the same
    batch = frozen.tokenise(TEXTS, CLASSES).batch(np.arange(5))
    vector = moved(frozen)
    for model in (frozen, again):
        model.set_vector(vector)
    assert torch.equal(frozen.logits(batch), again.logits(batch))
    trained.set_vector(
        trained.layout.flatten(
            {**trained.layout.unflatten(trained.initial_vector()), **frozen.layout.unflatten(vector)}
        )
    )
    assert torch.equal(frozen.logits(batch), trained.logits(batch))


@pytest.mark.parametrize("lora", [HEAD_ONLY, FFA])
def test_engines_agree(tiny_model: Path, lora: LoraSpec) -> None:
    model = build(tiny_model, lora)
    model.set_vector(moved(model))
    batch = model.tokenise(TEXTS, CLASSES).batch(np.arange(5))
    found = []
    for engine in (LoraGradients, HookedGradients):
        with engine(model.module, model.parameters, model.per_example_loss) as opened:
            found.append(opened.per_example(batch, 5))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_head_made_of_label_names_compares_with_them(tiny_model: Path) -> None:
    named = ("horse", "apple", "iron")
    model = build_classifier(tiny_model, HEAD_ONLY, named, 16)
    model.set_vector(model.label_name_vector())
    batch = model.tokenise(TEXTS).batch(np.arange(5))
    names = model.tokenise(named).batch(np.arange(3))
    with torch.no_grad():
        texts, labels = (model.embed(each) - model.centre for each in (batch, names))
        torch.testing.assert_close(model.logits(batch), 20.0 * texts @ labels.T, rtol=1e-3, atol=1e-4)
    # the names themselves are recognised
    assert model.predict(named).tolist() == [0, 1, 2]


def test_label_names_change_the_head_and_nothing_else(tiny_model: Path) -> None:
    model = build_classifier(tiny_model, FFA, ("horse", "apple", "iron"), 16)
    start, named = (model.layout.unflatten(each) for each in (model.initial_vector(), model.label_name_vector()))
    assert [name for name in start if not np.array_equal(start[name], named[name])] == ["classifier.weight"]
    # whatever the model holds at the time
    model.set_vector(moved(model))
    assert np.array_equal(model.label_name_vector(), model.layout.flatten(named))


def test_a_saved_head_loads_with_plain_peft(tiny_model: Path, tmp_path: Path) -> None:
    model = build(tiny_model, HEAD_ONLY)
    model.set_vector(moved(model))
    model.save_peft(tmp_path / "adapter")
    run = subprocess.run(
        [sys.executable, "-c", LOAD_WITH_PLAIN_PEFT, str(tiny_model), str(tmp_path / "adapter"), *TEXTS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = {line.split()[0]: line.split()[1:] for line in run.stdout.splitlines() if line}
    expected = model.logits(model.tokenise(TEXTS).batch(np.arange(5))).detach().flatten().numpy()
    np.testing.assert_allclose([float(value) for value in lines["LOGITS"]], expected, rtol=1e-3, atol=1e-4)
    assert json.loads((tmp_path / "adapter" / "labels.json").read_text()) == list(LABELS)
