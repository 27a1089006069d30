"""One round of local DP-SGD on a small random encoder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from client.training import Engine, open_engine, train_round
from models.building import build_classifier
from models.classifier import AdapterModel
from models.compute import configure_compute
from models.layout import state_digest
from models.tokens import Batch, TokenisedData
from privacy.dpsgd import HookedGradients, LoraGradients, UserRecords
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit
from privacy.options import AdamSpec, AdaptiveClipSpec, LayerWeight
from privacy.order import LoraSpec, Order, SecAggSpec, TrainingSpec
from privacy.randomness import RandomSource, SeededRandomSource
from tacit.errors import DataError, ModelError, TrainingError
from tests.privacy.test_optimisers import naive_adam

ROOT = Path(__file__).parents[2]
LORA = LoraSpec(rank=2, alpha=2.0, targets=("query", "value"))
LABELS = ("animal", "fruit", "metal")
WORDS = (("horse", "eagle", "otter"), ("apple", "cherry", "lemon"), ("iron", "zinc", "silver"))
NONE = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def model(tiny_model: Path) -> AdapterModel:
    return build_classifier(tiny_model, LORA, LABELS, 16)


def records(model: AdapterModel, count: int = 60) -> TokenisedData:
    generator = np.random.default_rng(0)
    texts, classes = [], []
    for index in range(count):
        filler = generator.choice(["the", "a", "is", "here", "and", "please"], size=generator.integers(0, 6))
        texts.append(" ".join([*filler, WORDS[index % 3][generator.integers(3)]]))
        classes.append(index % 3)
    return model.tokenise(texts, classes)


def order_for(model: AdapterModel, *, at_round: int = 1, rounds: int = 1, **training: object) -> Order:
    spec = {
        "local_steps": 3,
        "sample_rate": 0.5,
        "expected_batch_size": 30.0,
        "noise_multiplier": 1.0,
        "l2_clip_norm": 1.0,
        "learning_rate": 0.1,
        "momentum": 0.0,
        "max_tokens": 16,
        **training,
    }
    return Order(
        run_id="0" * 16,
        run_name="test",
        epoch=0,
        round=at_round,
        rounds_planned=rounds,
        step=1,
        strategy="fedavg",
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        agreement_digest=NONE,
        base_model_digest=NONE,
        adapter_layout_digest=model.layout.digest(),
        adapter_state_digest=NONE,
        adapter_length=model.layout.length,
        lora=LORA,
        labels=LABELS,
        training=TrainingSpec(**spec),
        secagg=SecAggSpec(cohort=("a", "b", "c"), threshold=3, min_cohort=3, scale=1e5, value_bound=1.0),
        deadline_s=10.0,
    )


def noise(label: str = "noise") -> RandomSource:
    return SeededRandomSource(7, label)


def start(model: AdapterModel) -> np.ndarray:
    """Away from zero, so that LoRA has gradients in the first step."""
    offsets = np.random.default_rng(1).normal(size=model.layout.length) * 0.1
    return (model.initial_vector() + offsets).astype(np.float32)


# --- what a round does


def test_returns_how_far_the_adapter_moved(model: AdapterModel) -> None:
    before = start(model)
    steps: list[tuple[int, int]] = []
    delta = train_round(
        model, records(model), before, order_for(model), noise(), lambda done, total: steps.append((done, total))
    )
    assert delta.dtype == np.float32
    assert delta.shape == before.shape
    assert np.isfinite(delta).all()
    assert steps == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_allclose(model.get_vector(), before + delta, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_steps_are_those_of_plain_sgd(model: AdapterModel, momentum: float) -> None:
    """The naive loop: one example at a time, lists of Python floats, no engine."""
    data, before = records(model, 9), start(model)
    order = order_for(
        model, noise_multiplier=1e-12, sample_rate=1.0, momentum=momentum, l2_clip_norm=0.8, expected_batch_size=11.0
    )
    delta = train_round(model, data, before, order, noise())

    weights, velocity = before.astype(np.float64), np.zeros(before.size)
    parameters = list(model.parameters.values())
    for _ in range(3):
        model.set_vector(weights.astype(np.float32))
        total = np.zeros(before.size)
        for index in range(9):
            loss = model.per_example_loss(data.batch(np.array([index]))).sum()
            gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double().numpy()
            total += gradient * min(1.0, 0.8 / np.sqrt((gradient**2).sum()))
        velocity = momentum * velocity + total / 11.0
        weights = weights - 0.1 * velocity
    moved = weights - before
    assert np.linalg.norm(delta - moved) < 1e-4 * np.linalg.norm(moved)


def test_options_are_those_of_a_naive_loop(model: AdapterModel) -> None:
    """All at once, in the middle of a run: a falling rate, Adam, a norm for each layer, a clip norm that follows."""
    data, before = records(model, 9), start(model)
    adaptive = AdaptiveClipSpec(
        quantile=0.4, learning_rate=0.5, count_noise_stddev=1e-5, min_l2_clip_norm=0.01, max_l2_clip_norm=2.0
    )
    order = order_for(
        model,
        at_round=2,
        rounds=3,
        noise_multiplier=1e-6,
        sample_rate=1.0,
        l2_clip_norm=0.8,
        expected_batch_size=9.0,
        schedule="linear",
        warmup_steps=4,
        adam=AdamSpec(beta1=0.5, beta2=0.9, variance_floor=1e9, weight_decay=0.2),
        clipping="per-layer",
        layer_weights=(LayerWeight(layer="classifier", weight=5.0),),
        adaptive_clipping=adaptive,
    )
    delta = train_round(model, data, before, order, noise())

    names, parameters = list(model.parameters), list(model.parameters.values())
    layers = [re.sub(r"(\.lora_[AB])?\.weight$", "", name) for name in names]
    shares = {layer: 5.0 if layer == "classifier" else 1.0 for layer in layers}
    whole, clip = sum(shares.values()), 0.8
    weights, gradients, variances, rates = before.astype(np.float64), [], [], []
    sigma = (1e-6**-2 - 2e-5**-2) ** -0.5
    for step in range(3):
        model.set_vector(weights.astype(np.float32))
        total, unclipped = np.zeros(before.size), 0
        for index in range(9):
            loss = model.per_example_loss(data.batch(np.array([index]))).sum()
            pieces = [piece.double().numpy() for piece in torch.autograd.grad(loss, parameters)]
            fits = True
            for layer, share in shares.items():
                mine = [piece for piece, of in zip(pieces, layers, strict=True) if of == layer]
                norm = np.sqrt(sum((piece**2).sum() for piece in mine))
                bound = clip * np.sqrt(share / whole)
                fits &= bool(norm <= bound)
                for piece in mine:
                    piece *= min(1.0, bound / norm) if norm else 1.0
            unclipped += fits
            total += np.concatenate([piece.ravel() for piece in pieces])
        gradients.append(total / 9.0)
        variances.append((sigma * clip / 9.0) ** 2)
        rates.append(0.1 * (1.0, 1.0, 0.8)[step])  # steps 3 to 5 of 9, the fourth ends the warm-up
        weights = naive_adam(before, np.array(gradients), rates, variances, order.training.adam)
        clip = min(2.0, max(0.01, clip * np.exp(-0.5 * (unclipped / 9.0 - 0.4))))
    assert 0 < unclipped < 9
    moved = weights - before
    assert np.linalg.norm(delta - moved) < 2e-4 * np.linalg.norm(moved)


@pytest.mark.parametrize("engine", [LoraGradients, HookedGradients])
@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_a_step_of_users_clips_what_a_user_says_together(model: AdapterModel, engine: Engine) -> None:
    """The naive loop: one user at a time, one example at a time."""
    owners = [0, 1, 0, 2, 1, 0, 3, 0, 0]
    data, before = records(model, 9), start(model)
    order = order_for(
        model, noise_multiplier=1e-12, sample_rate=1.0, l2_clip_norm=0.8, expected_batch_size=4.0, local_steps=1
    )
    bounded = order.training.model_copy(update={"max_records_per_user": 5})
    order = order.model_copy(update={"unit": PrivacyUnit.USER, "training": bounded})
    users = data.owned_by(UserRecords(owners))
    delta = train_round(model, users, before, order, noise(), engine=engine)

    model.set_vector(before)
    parameters = list(model.parameters.values())
    total = np.zeros(before.size)
    for user in range(4):
        mine = [index for index, owner in enumerate(owners) if owner == user]
        mean = np.zeros(before.size)
        for index in mine:
            loss = model.per_example_loss(data.batch(np.array([index]))).sum()
            gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double().numpy()
            mean += gradient / len(mine)
        total += mean * min(1.0, 0.8 / np.sqrt((mean**2).sum()))
    moved = -0.1 * total / 4.0
    # the difference of two float32 adapters
    assert np.linalg.norm(delta - moved) < 1e-5 * np.linalg.norm(moved)

    with pytest.raises(TrainingError, match="not known whose"):
        train_round(model, data, before, order, noise(), engine=engine)
    with pytest.raises(DataError, match="users of 2 records"):
        data.owned_by(UserRecords([0, 1]))


def test_adapters_really_change(model: AdapterModel) -> None:
    """LoRA's A has no gradient while B is zero, and nothing has one while the head is: it takes three steps."""
    changed = {}
    for steps in (1, 2, 3):
        delta = train_round(
            model,
            records(model),
            model.initial_vector(),
            order_for(model, local_steps=steps, noise_multiplier=1e-30, learning_rate=2.0),
            noise(),
        )
        changed[steps] = {
            kind
            for name, values in model.layout.unflatten(delta).items()
            for kind in ("lora_A", "lora_B", "classifier")
            if kind in name and np.abs(values).max() > 1e-12
        }
    assert changed == {1: {"classifier"}, 2: {"classifier", "lora_B"}, 3: {"classifier", "lora_A", "lora_B"}}


def test_every_coordinate_gets_noise(model: AdapterModel) -> None:
    delta = train_round(model, records(model), model.initial_vector(), order_for(model, local_steps=1), noise())
    for name, values in model.layout.unflatten(delta).items():
        assert values.all(), name
        if "classifier" not in name:
            # learning rate x sigma x C / expected batch size; at the start nothing but noise moves LoRA
            assert values.std() == pytest.approx(0.1 * 1.0 / 30.0, rel=5 / np.sqrt(2 * values.size)), name


def test_a_model_is_learnt(model: AdapterModel) -> None:
    words = [word for group in WORDS for word in group]
    data = model.tokenise(words * 4, [index // 3 for index in range(9)] * 4)
    vector = model.initial_vector()
    assert model.evaluate(data)[0] == pytest.approx(1 / 3)
    for round_number in range(10):
        order = order_for(model, local_steps=10, noise_multiplier=0.5, expected_batch_size=18.0, learning_rate=0.3)
        vector = vector + train_round(model, data, vector, order, noise(f"round {round_number}"))
    model.set_vector(vector)
    accuracy, loss = model.evaluate(data)
    assert accuracy > 0.8
    assert loss < 0.6


def test_no_record_drawn_still_gives_noise(model: AdapterModel) -> None:
    for data in (records(model), model.tokenise([], [])):
        delta = train_round(model, data, start(model), order_for(model, sample_rate=1e-9, local_steps=1), noise())
        assert delta.std() == pytest.approx(0.1 / 30.0, rel=5 / np.sqrt(2 * delta.size))


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_engine_changes_nothing_but_rounding(model: AdapterModel) -> None:
    data, order = records(model), order_for(model)
    ours = train_round(model, data, start(model), order, noise())
    reference = train_round(model, data, start(model), order, noise(), engine=HookedGradients)
    assert np.linalg.norm(ours - reference) < 1e-5 * np.linalg.norm(reference)
    assert ours.tolist() != reference.tolist(), "the engine was not chosen"


def test_size_of_the_dataset_scales_nothing(model: AdapterModel) -> None:
    """Twice the records, twice the clipped sum: the divisor stays the agreed number."""
    rows = records(model, 20)
    twice = TokenisedData([r.tolist() for r in rows._token_ids] * 2, rows.labels.tolist() * 2)
    order = order_for(model, sample_rate=1.0, noise_multiplier=1e-12, local_steps=1)
    once_delta = train_round(model, rows, start(model), order, noise())
    twice_delta = train_round(model, twice, start(model), order, noise())
    np.testing.assert_allclose(twice_delta, 2 * once_delta, rtol=1e-3, atol=1e-7)


# --- the same bits

ONE_ROUND = """
import sys, pathlib, importlib.util
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("training_tests", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
model = tests.build_classifier(pathlib.Path(sys.argv[2]), tests.LORA, tests.LABELS, 16)
data, order = tests.records(model), tests.order_for(model)
for _ in range(int(sys.argv[3])):
    delta = tests.train_round(model, data, tests.start(model), order, tests.noise())
print(tests.state_digest(delta))
"""


def test_same_bits_in_two_processes_and_in_a_used_model(tiny_model: Path, model: AdapterModel) -> None:
    here = state_digest(train_round(model, records(model), start(model), order_for(model), noise()))
    digests = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", ONE_ROUND, __file__, str(tiny_model), rounds],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for rounds in ("1", "2")
    }
    assert digests == {here}


def test_another_source_gives_another_result(model: AdapterModel) -> None:
    first = train_round(model, records(model), start(model), order_for(model), noise("a"))
    again = train_round(model, records(model), start(model), order_for(model), noise("a"))
    other = train_round(model, records(model), start(model), order_for(model), noise("b"))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_torch_generator_has_no_say(model: AdapterModel) -> None:
    torch.manual_seed(1)
    first = train_round(model, records(model), start(model), order_for(model), noise())
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert first.tolist() == train_round(model, records(model), start(model), order_for(model), noise()).tolist()
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


# --- refusals


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"adapter_layout_digest": NONE}, "adapter layout"),
        ({"adapter_length": 3}, "adapter length"),
        ({"labels": ("animal", "fruit", "plant")}, "label set"),
    ],
)
def test_order_for_another_model_is_refused(model: AdapterModel, change: dict[str, object], what: str) -> None:
    order = order_for(model).model_copy(update=change)
    with pytest.raises(TrainingError, match=f"the model's {what} is"):
        train_round(model, records(model), start(model), order, noise())


def test_order_with_longer_texts_is_refused(model: AdapterModel) -> None:
    with pytest.raises(TrainingError, match="max_tokens is 16, but the order says 32"):
        train_round(model, records(model), start(model), order_for(model, max_tokens=32), noise())


def test_vector_that_does_not_fit_is_refused(model: AdapterModel) -> None:
    for bad in (start(model)[:-1], np.full(model.layout.length, np.inf, dtype=np.float32)):
        with pytest.raises(ModelError):
            train_round(model, records(model), bad, order_for(model), noise())


def test_loss_that_couples_records_is_refused(model: AdapterModel, monkeypatch: pytest.MonkeyPatch) -> None:
    own = model.per_example_loss
    monkeypatch.setattr(model, "per_example_loss", lambda batch: own(batch) / len(batch))
    with pytest.raises(TrainingError, match="changes with the batch"):
        train_round(model, records(model), start(model), order_for(model), noise())


def test_model_is_free_again_after_an_error(model: AdapterModel) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        train_round(model, records(model), start(model), order_for(model), noise(), stop)
    train_round(model, records(model), start(model), order_for(model), noise())


# --- precision


def test_a_round_in_bfloat16_is_nearly_the_round_in_float32(tiny_model: Path) -> None:
    """Independence is checked in float32: padding changes the roundings of bfloat16 by more than that allows."""
    updates = {}
    for precision in ("float32", "bfloat16"):
        model = build_classifier(tiny_model, LORA, LABELS, 16, configure_compute(1, "cpu", precision))
        # so little noise that the gradients decide
        order = order_for(model, noise_multiplier=1e-3)
        updates[precision] = train_round(model, records(model), start(model), order, noise()).astype(np.float64)
    usual, rounded = updates.values()
    assert 0 < np.linalg.norm(usual - rounded) < 0.1 * np.linalg.norm(usual)


def test_opacus_hooks_are_refused_for_a_model_in_bfloat16(tiny_model: Path) -> None:
    model = build_classifier(tiny_model, LORA, LABELS, 16, configure_compute(1, "cpu", "bfloat16"))
    with pytest.raises(TrainingError, match="expected trainable layers in float32"):
        train_round(model, records(model), start(model), order_for(model), noise(), engine=HookedGradients)


def test_an_engine_that_was_refused_is_closed(model: AdapterModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def coupled(batch: Batch) -> torch.Tensor:
        return AdapterModel.per_example_loss(model, batch) / len(batch)

    monkeypatch.setattr(model, "per_example_loss", coupled)
    with pytest.raises(TrainingError, match="changes with the batch it is in"):
        open_engine(model)
    monkeypatch.undo()
    open_engine(model).close()
