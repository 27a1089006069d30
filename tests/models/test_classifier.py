"""The classifier on a small random encoder: adapter, vector, loss, and what is refused."""

from __future__ import annotations

import hashlib
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.base import base_model_digest
from models.building import build_classifier
from models.classifier import AdapterModel
from models.layout import state_digest
from privacy.dpsgd import LoraGradients, check_independence, clipped_gradient_sum
from privacy.order import LoraSpec
from tacit.errors import ModelError, TrainingError

LORA = LoraSpec(rank=2, alpha=4.0, targets=("query", "value"))
LABELS = ("animal", "fruit", "metal")
TEXTS = (
    "the old horse is here",
    "what about my apple and the lemon please",
    "zinc",
    "a salmon",
    "please the silver is old and the iron and copper and nickel",
)
CLASSES = (0, 1, 2, 0, 2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def model(tiny_model: Path) -> AdapterModel:
    return build_classifier(tiny_model, LORA, LABELS, 16)


def moved(model: AdapterModel, seed: int = 1, size: float = 0.3) -> np.ndarray:
    """An adapter away from the start, where LoRA and head both have gradients."""
    noise = np.random.default_rng(seed).normal(size=model.layout.length) * size
    return (model.initial_vector() + noise).astype(np.float32)


# --- adapter and vector


def test_trainable_are_lora_and_head_and_nothing_else(model: AdapterModel) -> None:
    trainable = [name for name, parameter in model.module.named_parameters() if parameter.requires_grad]
    assert len(trainable) == len(model.layout.names) == 2 * 2 * 2 + 1
    assert all(".lora_A." in name or ".lora_B." in name or "classifier" in name for name in trainable)
    assert model.layout.names == tuple(sorted(model.layout.names))
    assert dict(zip(model.layout.names, model.layout.shapes, strict=True))["classifier.weight"] == (3, 32)
    assert not any("base_model" in name or "default" in name for name in model.layout.names)


def test_vector_round_trip(model: AdapterModel) -> None:
    vector = moved(model)
    model.set_vector(vector)
    assert model.get_vector().tolist() == vector.tolist()
    assert model.layout.length == vector.size
    for name, parameter in model.parameters.items():
        assert torch.equal(parameter.detach(), torch.from_numpy(model.layout.unflatten(vector)[name]))


def test_set_vector_copies(model: AdapterModel) -> None:
    vector = moved(model)
    model.set_vector(vector)
    vector[:] = 0
    assert model.get_vector().any()


def test_a_vector_that_does_not_fit_changes_nothing(model: AdapterModel) -> None:
    before = model.get_vector()
    for bad in (before[:-1], before.astype(np.float64), np.full_like(before, np.nan)):
        with pytest.raises(ModelError):
            model.set_vector(bad)
    assert model.get_vector().tolist() == before.tolist()


def test_initial_adapter_is_the_same_everywhere(model: AdapterModel) -> None:
    vector = model.initial_vector()
    assert model.get_vector().tolist() == vector.tolist()
    # Frozen on purpose: another digest here means that old checkpoints and new sites disagree about round 0.
    assert state_digest(vector) == "sha256:519b60341b6697f31c6ee68940e1acd0c1629ff954bed667fe93f96134f0ff95"


def test_initial_lora_factor_by_hand(model: AdapterModel) -> None:
    name = "bert.encoder.layer.1.attention.self.value.lora_A.weight"
    stream = hashlib.shake_256(b"tacit/initial-adapter/v1\0" + name.encode()).digest(4 * 2 * 32)
    values = [
        (int.from_bytes(stream[4 * i : 4 * i + 4], "little") // 2**8 / 2**23 - 1) / math.sqrt(32) for i in range(64)
    ]
    got = model.layout.unflatten(model.initial_vector())[name]
    np.testing.assert_allclose(got.ravel(), values, rtol=1e-6, atol=1e-9)


def test_initial_adapter_changes_nothing_and_predicts_nothing(model: AdapterModel) -> None:
    for name, values in model.layout.unflatten(model.initial_vector()).items():
        if ".lora_A." in name:
            bound = 1 / np.sqrt(values.shape[1])
            assert np.abs(values).max() <= bound
            assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.2)
        else:
            assert not values.any()
    accuracy, loss = model.evaluate(model.tokenise(TEXTS, CLASSES))
    assert accuracy == pytest.approx(2 / 5)  # all of one class
    assert loss == pytest.approx(np.log(3))


def test_two_builds_compute_the_same(model: AdapterModel, tiny_model: Path) -> None:
    other = build_classifier(tiny_model, LORA, LABELS, 16)
    assert other.layout == model.layout
    batch = model.tokenise(TEXTS, CLASSES).batch(np.arange(5))
    for each in (model, other):
        each.set_vector(moved(model))
    assert torch.equal(model.logits(batch), other.logits(batch))


def test_another_task_has_another_layout(model: AdapterModel, tiny_model: Path) -> None:
    digests = {
        build_classifier(tiny_model, lora, labels, 16).layout.digest()
        for lora, labels in (
            (LORA, LABELS),
            (LoraSpec(rank=3, alpha=4.0, targets=("query", "value")), LABELS),
            (LoraSpec(rank=2, alpha=4.0, targets=("query",)), LABELS),
            (LORA, (*LABELS, "plant")),
        )
    }
    assert len(digests) == 4
    assert model.layout.digest() in digests


# --- losses and gradients


def test_loss_is_one_cross_entropy_for_each_text(model: AdapterModel) -> None:
    model.set_vector(moved(model))
    data = model.tokenise(TEXTS, CLASSES)
    losses = model.per_example_loss(data.batch(np.arange(5)))
    assert losses.shape == (5,)
    for index in range(5):
        alone = model.per_example_loss(data.batch(np.array([index])))
        assert losses[index].item() == pytest.approx(alone.item(), rel=1e-4)
    log_probabilities = torch.log_softmax(model.logits(data.batch(np.arange(5))), 1)
    assert losses[1].item() == pytest.approx(-log_probabilities[1, 1].item())


def test_per_example_gradients_of_lora_and_head_equal_one_at_a_time(model: AdapterModel) -> None:
    model.set_vector(moved(model))
    data = model.tokenise(TEXTS, CLASSES)
    parameters = list(model.parameters.values())
    rows = [
        torch.autograd.grad(model.per_example_loss(data.batch(np.array([index]))).sum(), parameters)
        for index in range(5)
    ]
    with LoraGradients(model.module, model.parameters, model.per_example_loss) as engine:
        together = engine.per_example(data.batch(np.arange(5)), 5)
    for name, got, want in zip(model.parameters, together, zip(*rows, strict=True), strict=True):
        gap = torch.linalg.vector_norm(got - torch.stack(want))
        assert gap <= 1e-5 * torch.linalg.vector_norm(torch.stack(want)), name
        assert got.any(), name


def test_texts_are_independent_and_bounded(model: AdapterModel) -> None:
    model.set_vector(moved(model))
    data = model.tokenise(TEXTS, CLASSES)
    clip = 0.5
    with LoraGradients(model.module, model.parameters, model.per_example_loss) as engine:
        check_independence(engine, model.probe())

        def total(indices: list[int]) -> np.ndarray:
            return clipped_gradient_sum(engine, data, np.array(indices), l2_clip_norm=clip, physical_batch_size=3)

        everybody = total([0, 1, 2, 3, 4])
        changes = [np.linalg.norm(everybody - total([i for i in range(5) if i != gone])) for gone in range(5)]
    assert max(changes) <= clip * (1 + 1e-5)
    assert max(changes) > 0.99 * clip


def test_library_loss_is_refused(model: AdapterModel) -> None:
    """The mean over tokens that transformers returns as ``.loss`` is one number for the whole batch."""
    batch = model.tokenise(TEXTS, CLASSES).batch(np.arange(5))

    def loss(batch: object) -> torch.Tensor:
        labels = batch.labels[:, None].expand_as(batch.input_ids).contiguous()
        return model.module(batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss

    with (
        LoraGradients(model.module, model.parameters, loss) as engine,
        pytest.raises(TrainingError, match="expected one value for each record"),
    ):
        engine.per_example(batch, 5)


def test_mean_over_padding_is_refused(model: AdapterModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def padded_mean(batch: object) -> torch.Tensor:
        hidden = model._encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0]
        return hidden.mean(1)

    monkeypatch.setattr(model, "embed", padded_mean)
    model.set_vector(moved(model))
    with (
        LoraGradients(model.module, model.parameters, model.per_example_loss) as engine,
        pytest.raises(TrainingError, match="changes with the batch"),
    ):
        check_independence(engine, model.probe())


# --- texts


def test_long_texts_are_cut(model: AdapterModel) -> None:
    data = model.tokenise(["the " * 100, "zinc", ""], [0, 1, 2])
    assert data.lengths.tolist() == [16, 3, 2]


def test_predictions_do_not_depend_on_the_company(model: AdapterModel) -> None:
    model.set_vector(moved(model))
    together = model.predict(TEXTS)
    assert together.dtype == np.int64
    assert together.tolist() == [int(model.predict([text])[0]) for text in TEXTS]
    assert model.predict([]).shape == (0,)


# --- refusals


def test_unknown_target_lists_what_there_is(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"targets q_proj name no linear layer.*expected some of .*query"):
        build_classifier(tiny_model, LoraSpec(rank=2, alpha=4.0, targets=("query", "q_proj")), LABELS, 16)


def test_target_that_is_no_linear_layer(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="LayerNorm name no linear layer"):
        build_classifier(tiny_model, LoraSpec(rank=2, alpha=4.0, targets=("LayerNorm",)), LABELS, 16)


@pytest.mark.parametrize("labels", [("one",), ("one", "one")])
def test_labels_that_tell_nothing_apart(tiny_model: Path, labels: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="at least two, all different"):
        build_classifier(tiny_model, LORA, labels, 16)


def test_texts_longer_than_the_model_takes(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="at most 32 tokens"):
        build_classifier(tiny_model, LORA, LABELS, 33)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "no-such-model"}'),
        ("model.safetensors", b"not weights"),
    ],
)
def test_unreadable_model_says_what_was_expected(tmp_path: Path, tiny_model: Path, name: str, content: bytes) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be loaded .*expected an encoder") as caught:
        build_classifier(folder, LORA, LABELS, 16)
    assert caught.value.hint


def test_folder_without_weights(tmp_path: Path, tiny_model: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no .*safetensors"):
        build_classifier(folder, LORA, LABELS, 16)


def test_weights_of_another_model_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("encoder.layer.1.attention.self.query.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lack"):
        build_classifier(folder, LORA, LABELS, 16)


# --- release

LOAD_WITH_PLAIN_PEFT = """
import sys, re
class Fence:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("models", "tacit", "privacy", "client"):
            raise ImportError("plain peft only, not " + name)
sys.meta_path.insert(0, Fence())
base, adapter, *texts = sys.argv[1:]
snippet = re.search(r"```python\\n(.*?)```", open(adapter + "/README.md").read(), re.S)[1]
exec(snippet)
print("ANSWERS", *answers)
print("LOGITS", *(f"{v:.6f}" for v in logits.flatten().tolist()))
"""


def test_saved_adapter_loads_with_plain_peft(model: AdapterModel, tiny_model: Path, tmp_path: Path) -> None:
    model.set_vector(moved(model))
    before = model.get_vector()
    model.save_peft(tmp_path / "adapter")
    assert model.get_vector().tolist() == before.tolist()
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors", "labels.json"}
    page = (tmp_path / "adapter" / "README.md").read_text()
    assert base_model_digest(tiny_model) in page
    assert all(f"- `{name}`: " in page for name in ("base", "adapter", "texts"))
    assert str(tiny_model) not in page + (tmp_path / "adapter" / "adapter_config.json").read_text()

    run = subprocess.run(
        [sys.executable, "-c", LOAD_WITH_PLAIN_PEFT, str(tiny_model), str(tmp_path / "adapter"), *TEXTS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = {line.split()[0]: line.split()[1:] for line in run.stdout.splitlines() if line}
    assert lines["ANSWERS"] == [LABELS[index] for index in model.predict(TEXTS)]
    expected = model.logits(model.tokenise(TEXTS).batch(np.arange(5))).detach().flatten().numpy()
    np.testing.assert_allclose([float(value) for value in lines["LOGITS"]], expected, rtol=1e-3, atol=1e-4)
