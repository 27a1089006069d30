"""Device and precision: what is cast, what never is, that everything lies on the device, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import masking_utils

from models.building import build_classifier
from models.classifier import AdapterModel
from models.compute import Compute, configure_compute
from privacy.dpsgd import HookedGradients, LoraGradients, clipped_gradient_sum
from privacy.order import LoraSpec
from tacit.errors import ConfigError, TrainingError
from tests.models.test_classifier import CLASSES, LABELS, LORA, TEXTS, moved

BFLOAT16 = Compute(precision="bfloat16")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic, warn_only=warns)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine whose torch says that it sees one GPU, which does not compute in bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    return monkeypatch


def bfloat16_model(folder: Path, lora: LoraSpec = LORA) -> AdapterModel:
    model = build_classifier(folder, lora, LABELS, 16, BFLOAT16)
    model.set_vector(moved(model))
    return model


# --- settings


def test_the_cpu_is_deterministic_and_has_as_many_threads_as_told() -> None:
    assert configure_compute(1) == Compute(torch.device("cpu"), "float32")
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert configure_compute(2, "cpu", "bfloat16") == BFLOAT16
    assert torch.get_num_threads() == 2


def test_auto_is_a_gpu_where_torch_sees_one(gpu: pytest.MonkeyPatch) -> None:
    assert configure_compute(1, "auto").device == torch.device("cuda")
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    gpu.setattr(torch.cuda, "is_available", lambda: False)
    assert configure_compute(1, "auto").device == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused(gpu: pytest.MonkeyPatch) -> None:
    assert configure_compute(1, "cuda:0").device == torch.device("cuda:0")
    with pytest.raises(ConfigError, match=r"device is 'cuda:1', but torch .* sees 1 CUDA devices") as refused:
        configure_compute(1, "cuda:1")
    assert 'device = "cpu"' in str(refused.value.hint)
    gpu.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device is 'cuda', but torch .* sees 0 CUDA devices"):
        configure_compute(1, "cuda")


def test_a_gpu_that_only_emulates_bfloat16_is_refused(gpu: pytest.MonkeyPatch) -> None:
    del gpu
    with pytest.raises(ConfigError, match="Old GPU does not compute in it"):
        configure_compute(1, "cuda", "bfloat16")


# --- bfloat16


def test_frozen_weights_compute_in_bfloat16_and_what_comes_out_is_float32(tiny_model: Path) -> None:
    exact = build_classifier(tiny_model, LORA, LABELS, 16)
    exact.set_vector(moved(exact))
    rounded = bfloat16_model(tiny_model)
    assert (rounded.centre == exact.centre).all(), "a site's centre is no place to save time"
    assert {parameter.dtype for parameter in rounded.module.parameters()} == {torch.float32}
    batch = exact.tokenise(TEXTS, CLASSES).batch(np.arange(5))
    with torch.no_grad():
        usual, cast = exact.logits(batch), rounded.logits(batch)
        with rounded.in_float32():
            assert (rounded.logits(batch) == usual).all()
    assert cast.dtype == torch.float32
    assert 0 < float((cast - usual).abs().max()) < 0.05 * float(usual.abs().max())


def test_hidden_states_in_bfloat16_are_pooled_in_float32(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A BERT ends in a LayerNorm, which autocast computes in float32; other models hand on what their layers gave."""
    model = bfloat16_model(tiny_model)
    own = model._encoder.forward
    monkeypatch.setattr(model._encoder, "forward", lambda **inputs: [own(**inputs)[0].to(torch.bfloat16)])
    batch = model.tokenise(TEXTS, CLASSES).batch(np.arange(5))
    assert model.embed(batch).dtype == torch.float32
    assert {loss.dtype for loss in (model.per_example_loss(batch), model.logits(batch))} == {torch.float32}


def test_float32_ends_with_its_context_even_by_an_error(tiny_model: Path) -> None:
    model = bfloat16_model(tiny_model)
    batch = model.tokenise(TEXTS, CLASSES).batch(np.arange(5))
    with torch.no_grad():
        before = model.logits(batch)
        with pytest.raises(ValueError, match="inside"), model.in_float32():
            raise ValueError("inside")
        assert (model.logits(batch) == before).all()


@pytest.mark.parametrize("lora", [LORA, LoraSpec(rank=2, alpha=4.0, targets=("query", "value"), freeze_a=True)])
def test_removing_a_record_moves_the_sum_by_no_more_than_the_clip_norm_in_bfloat16(
    tiny_model: Path, lora: LoraSpec
) -> None:
    """Texts of one length: a batch without the record is padded alike, so that the others' roundings stay."""
    model = bfloat16_model(tiny_model, lora)
    texts = ["the old horse is here", "what about my old apple", "please the silver is old", "a salmon and my horse"]
    data = model.tokenise(texts, [0, 1, 2, 0])
    assert len(set(data.lengths)) == 1
    clip = 0.3
    with LoraGradients(model.module, model.parameters, model.per_example_loss) as engine:
        assert {gradient.dtype for gradient in engine.per_example(data.batch(np.arange(4)), 4)} == {torch.float32}

        def total(rows: list[int]) -> np.ndarray:
            return clipped_gradient_sum(engine, data, np.array(rows), l2_clip_norm=clip, physical_batch_size=1)

        everybody = total([0, 1, 2, 3])
        for gone in range(4):
            change = np.linalg.norm(everybody - total([row for row in range(4) if row != gone]))
            assert 0.5 * clip < change <= clip


def test_opacus_hooks_in_bfloat16_are_refused(tiny_model: Path) -> None:
    """Autocast is the model's own here: it is off again when the engine could ask."""
    model = bfloat16_model(tiny_model)
    batch = model.tokenise(TEXTS, CLASSES).batch(np.arange(5))
    with (
        HookedGradients(model.module, model.parameters, model.per_example_loss) as engine,
        pytest.raises(TrainingError, match=r"float32"),
    ):
        engine.per_example(batch, 5)
    assert not any(layer._forward_pre_hooks for layer in model.module.modules())


# --- placement


def test_everything_of_a_step_lies_on_the_models_device(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's ``meta`` device, which has shapes and no values, and takes no tensor that lies elsewhere."""
    # looks at the mask's values to see whether it can be left out
    monkeypatch.setattr(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda *args, **kwargs: False)
    meta = Compute(torch.device("meta"))
    model = build_classifier(tiny_model, LORA, LABELS, 16, meta)
    model.set_vector(model.initial_vector())
    batch = model.tokenise(TEXTS, CLASSES).batch(np.arange(5))
    assert batch.to(meta.device).attention_mask.is_meta
    assert model.logits(batch).shape == (5, 3)
    assert {parameter.device for parameter in model.parameters.values()} == {meta.device}
    losses = model.per_example_loss(batch)
    gradients = torch.autograd.grad(losses.sum(), list(model.parameters.values()))
    assert {each.device for each in (losses, *gradients)} == {meta.device}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_gives_the_gradients_of_the_cpu(tiny_model: Path, precision: str) -> None:
    sums = []
    for compute in (configure_compute(1), configure_compute(1, "cuda", precision)):  # type: ignore[arg-type]
        model = build_classifier(tiny_model, LORA, LABELS, 16, compute)
        model.set_vector(moved(model))
        data = model.tokenise(TEXTS, CLASSES)
        with LoraGradients(model.module, model.parameters, model.per_example_loss) as engine:
            rows = np.arange(5)
            sums.append(clipped_gradient_sum(engine, data, rows, l2_clip_norm=0.3, physical_batch_size=2))
    bound = 1e-4 if precision == "float32" else 5e-2
    assert np.linalg.norm(sums[0] - sums[1]) < bound * np.linalg.norm(sums[0])
