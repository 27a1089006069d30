"""The LoRA engine on language models: equal to one example at a time and to Opacus's hooks; what it leaves alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from privacy.dpsgd import HookedGradients, LoraGradients, clipped_sum
from privacy.dpsgd.lora import _patches
from tacit.errors import TrainingError
from tests.privacy.dpsgd.language_models import (
    Batch,
    Case,
    Engine,
    Texts,
    assert_same,
    causal_gpt2,
    causal_llama,
    one_at_a_time,
    sequence_classifier,
    together,
    token_classifier,
)

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")


def ffa_lora() -> Case:
    case = token_classifier()
    for name, parameter in case.module.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    return case


def norms_and_embeddings() -> Case:
    case = token_classifier()
    for name, parameter in case.module.named_parameters():
        if "LayerNorm" in name or "word_embeddings" in name:
            parameter.requires_grad_(True)
    return case


def base_weights() -> Case:
    case = token_classifier(("query",))
    for name, parameter in case.module.named_parameters():
        if "query.base_layer" in name:
            parameter.requires_grad_(True)
    return case


CASES: dict[str, Callable[[], Case]] = {
    "BERT, attention, head": lambda: token_classifier(("query", "value")),
    "BERT, every linear layer": token_classifier,
    "BERT, biases too": lambda: token_classifier(bias="lora_only"),
    "BERT, all biases": lambda: token_classifier(("query", "value"), bias="all"),
    "BERT, norms and embeddings too": norms_and_embeddings,
    "BERT, a frozen": ffa_lora,
    "BERT, sequences, rank-stabilised": lambda: sequence_classifier(use_rslora=True),
    "Llama, every linear layer": causal_llama,
    "Llama, attention": lambda: causal_llama(("q_proj", "v_proj")),
    "Llama, head": lambda: causal_llama(("q_proj", "v_proj"), modules_to_save=["lm_head"]),
    "Llama, LoRA on the head": lambda: causal_llama(("q_proj", "lm_head")),
    # LoRA layers that are not computed as one
    "LoRA and what it is on": base_weights,
    "LoRA with biases": lambda: token_classifier(("query",), lora_bias=True),
    "LoRA with dropout": lambda: token_classifier(("query",), lora_dropout=0.5),
    "GPT-2": causal_gpt2,
}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_one_at_a_time_and_to_opacus(name: str) -> None:
    case, texts = CASES[name](), Texts()
    names = list(case.parameters)
    got = together(case, texts)
    assert_same(names, got, one_at_a_time(case, texts))
    assert_same(names, got, together(case, texts, HookedGradients))
    assert all(gradient.any() for gradient in got)


def test_lora_layers_are_computed_as_one() -> None:
    """Else all tests would pass by way of the plain linear layers."""
    fused = _patches(token_classifier().module, _book())
    assert sum(hasattr(layer, "lora_A") for layer in fused) == 2 * 6
    assert [type(layer) for layer in fused if not hasattr(layer, "lora_A")] == [nn.Linear]  # the head
    for unusual in (causal_gpt2(), token_classifier(("query",), lora_dropout=0.5)):
        assert not any(hasattr(layer, "lora_A") for layer in _patches(unusual.module, _book()))


def _book() -> object:
    return type("Book", (), {"size": 0})()


@pytest.mark.parametrize("build", [token_classifier, causal_llama])
def test_first_step_of_training(build: Callable[..., Case]) -> None:
    """LoRA B starts at zero: A's gradients are exactly zero, and there all the same."""
    case, texts = build(zero_b=True), Texts()
    got = dict(zip(case.parameters, together(case, texts), strict=True))
    assert_same(list(got), list(got.values()), one_at_a_time(case, texts))
    assert all(gradient.any() != ("lora_A" in name) for name, gradient in got.items())


def test_adapter_far_from_the_start() -> None:
    """No gradient is right only while LoRA is small."""
    case, texts = token_classifier(), Texts()
    with torch.no_grad():
        for parameter in case.parameters.values():
            parameter.mul_(3.0)
    assert_same(list(case.parameters), together(case, texts), one_at_a_time(case, texts))


def test_batch_of_one_and_batch_of_equals() -> None:
    case = token_classifier()
    for texts in (Texts((7,)), Texts((5, 5, 5, 5))):
        assert_same(list(case.parameters), together(case, texts), one_at_a_time(case, texts))


def test_layers_compute_what_they_did() -> None:
    case, batch = token_classifier(bias="all"), Texts().everybody()
    case.module.eval()
    before = case.loss(batch).detach()
    with case.engine() as engine:
        seen: list[torch.Tensor] = []
        engine._loss = lambda batch: seen.append(case.loss(batch)) or seen[-1]
        engine.per_example(batch, 6)
        with torch.no_grad():
            assert torch.equal(case.loss(batch), before)
        torch.testing.assert_close(case.loss(batch).detach(), before)
    torch.testing.assert_close(seen[0].detach(), before)
    assert torch.equal(case.loss(batch).detach(), before)


def test_same_bits_again() -> None:
    case, batch = causal_llama(), Texts().everybody()
    with case.engine() as engine:
        first, second = engine.per_example(batch, 6), engine.per_example(batch, 6)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_hooks_within_a_lora_layer_are_not_skipped() -> None:
    case, texts = token_classifier(("query",)), Texts()
    for layer in case.module.modules():
        if hasattr(layer, "base_layer"):
            layer.base_layer.register_forward_hook(lambda layer, inputs, output: 2 * output)
    assert_same(list(case.parameters), together(case, texts), one_at_a_time(case, texts))


# --- what is left alone


def test_nothing_is_left_behind_and_frozen_weights_get_no_gradient() -> None:
    case, batch = token_classifier(), Texts().everybody()
    before = {name: value.clone() for name, value in case.module.state_dict().items()}
    attributes = {name: set(vars(layer)) for name, layer in case.module.named_modules()}
    with case.engine() as engine:
        engine.per_example(batch, 6)
        assert all(parameter.grad is None for parameter in case.module.parameters())
        assert engine._book.of(next(iter(case.parameters.values()))) is None
    assert {name: set(vars(layer)) for name, layer in case.module.named_modules()} == attributes
    assert not any(layer.training for layer in case.module.modules())
    assert all(torch.equal(before[name], value) for name, value in case.module.state_dict().items())
    # and the model trains as any other
    case.loss(batch).mean().backward()
    assert all(parameter.grad is not None for parameter in case.parameters.values())


def test_layers_are_given_back_after_an_error() -> None:
    case, batch = token_classifier(), Texts().everybody()

    def stop(batch: Batch) -> torch.Tensor:
        case.loss(batch)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), LoraGradients(case.module, case.parameters, stop) as engine:
        engine.per_example(batch, 6)
    assert_same(list(case.parameters), together(case, Texts()), one_at_a_time(case, Texts()))


def test_gradients_from_before_are_forgotten() -> None:
    """Not taken for a use of the weights past their layers."""
    case, texts = token_classifier(), Texts()
    case.loss(texts.everybody()).mean().backward()
    got = together(case, texts)
    assert all(parameter.grad is None for parameter in case.parameters.values())
    assert_same(list(case.parameters), got, one_at_a_time(case, texts))


def test_closed_engine_is_refused() -> None:
    case = token_classifier()
    with case.engine() as engine:
        pass
    engine.close()
    with pytest.raises(TrainingError, match="closed"):
        engine.per_example(Texts().everybody(), 6)


def test_first_layer_computes_no_gradient_of_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings are frozen, so what comes back from the first block's query, key and value goes nowhere."""
    from privacy.dpsgd import layers

    wanted: list[bool] = []
    backward = layers._LoraLinear.backward

    def watched(ctx: object, back: torch.Tensor) -> object:
        result = backward(ctx, back)
        wanted.append(result[0] is not None)
        return result

    monkeypatch.setattr(layers._LoraLinear, "backward", staticmethod(watched))
    together(token_classifier(("query", "key", "value")), Texts())
    assert sorted(wanted) == [False] * 3 + [True] * 3


# --- memory and types


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("build", [token_classifier, causal_llama])
def test_gradient_checkpointing(build: Callable[[], Case], reentrant: bool) -> None:
    case, texts = build(), Texts()
    expected = one_at_a_time(case, texts)
    case.module.get_base_model().gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        # that kind needs inputs with gradients: the way peft does it
        case.module.enable_input_require_grads()
    layer = next(layer for name, layer in case.module.named_modules() if name.endswith((".query", "q_proj")))
    calls: list[bool] = []
    layer.register_forward_hook(lambda *_: calls.append(True))
    assert_same(list(case.parameters), together(case, texts), expected)
    assert len(calls) == 2, "the block was not computed again"
    assert not any(block.training for block in case.module.modules())


def test_frozen_weights_in_bfloat16() -> None:
    """peft keeps the adapter in float32 on such a base; its gradients are float32, of the rounded activations."""
    case, texts = causal_llama(dtype=torch.bfloat16), Texts()
    assert {parameter.dtype for parameter in case.parameters.values()} == {torch.float32}
    got = together(case, texts)
    assert {gradient.dtype for gradient in got} == {torch.float32}
    # padding changes the rounding of the frozen part, so the loop agrees only to bfloat16's 8 bits
    assert_same(list(case.parameters), got, together(case, texts, HookedGradients))
    assert_same(list(case.parameters), got, one_at_a_time(case, texts), bound=0.1)


def test_trainable_weights_in_bfloat16_are_refused() -> None:
    case = causal_llama()
    case.module.to(torch.bfloat16)
    with pytest.raises(TrainingError, match=r"is torch\.bfloat16; expected trainable parameters in float32"):
        case.engine()


def test_autocast_of_opacus_hooks_is_refused() -> None:
    case = token_classifier()
    with (
        case.engine(HookedGradients) as engine,
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(TrainingError, match="autocast"),
    ):
        engine.per_example(Texts().everybody(), 6)


@pytest.mark.parametrize(
    "build",
    [
        token_classifier,
        norms_and_embeddings,
        base_weights,
        CASES["Llama, head"],
        lambda: token_classifier(("value",), bias="lora_only"),
    ],
)
def test_autocast_casts_what_is_frozen_and_nothing_else(build: Callable[[], Case]) -> None:
    case, texts = build(), Texts()
    expected = one_at_a_time(case, texts)
    products = torch.nn.functional.linear
    dtypes: set[torch.dtype] = set()

    def watched(inputs: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        result = products(inputs, *others)
        dtypes.add(result.dtype)
        return result

    with case.engine() as engine, torch.autocast("cpu", torch.bfloat16), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", watched)
        got = engine.per_example(texts.everybody(), len(texts))
        assert torch.is_autocast_enabled("cpu")
    assert torch.bfloat16 in dtypes, "nothing was computed in the smaller type"
    assert {gradient.dtype for gradient in got} == {torch.float32}
    assert_same(list(case.parameters), got, expected, bound=0.1)
    assert float(torch.linalg.vector_norm(clipped_sum([gradient[:1] for gradient in got], 0.3))) <= 0.3


@pytest.mark.parametrize("back", [torch.float32, torch.bfloat16])
def test_the_adapter_computes_in_float32_under_autocast(back: torch.dtype) -> None:
    """A loss that is linear in the layer's output: its gradients depend on no rounding but the adapter's own."""
    torch.manual_seed(11)
    base = nn.Sequential(OrderedDict(only=nn.Linear(24, 16)))
    module = get_peft_model(base, LoraConfig(r=3, target_modules=["only"]))
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    inputs, weights = torch.randn(5, 7, 24), torch.randn(5, 7, 16).to(back)
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    case = Case(module, lambda batch: (module(inputs) * weights).sum((1, 2)).float(), lambda batch: torch.zeros(()))
    with case.engine() as engine:
        exact = engine.per_example(Texts((1,) * 5).everybody(), 5)
        with torch.autocast("cpu", torch.bfloat16):
            got = engine.per_example(Texts((1,) * 5).everybody(), 5)
    assert_same(list(parameters), got, exact, bound=1e-6)


# --- refusals


@pytest.mark.parametrize("build", [token_classifier, sequence_classifier, causal_llama])
def test_the_librarys_loss_is_refused(build: Callable[[], Case]) -> None:
    case = build()
    with case.engine(loss=case.library_loss) as engine, pytest.raises(TrainingError, match=r"shape \(\), expected one"):
        engine.per_example(Texts().everybody(), 6)


def test_dora_is_refused() -> None:
    case = token_classifier(("query",), use_dora=True)
    with pytest.raises(TrainingError, match="lora_magnitude_vector"):
        case.engine()
    # nor is it computed as if it were LoRA when its magnitudes are frozen
    for name, parameter in case.module.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.requires_grad_(False)
    with pytest.raises(TrainingError, match="expected the records first"):
        together(case, Texts())


def test_lora_on_an_embedding_is_refused() -> None:
    with pytest.raises(TrainingError, match="lora_embedding_A"):
        token_classifier(("word_embeddings",)).engine()


def test_merged_and_disabled_adapters_are_refused() -> None:
    """They are not computed, so they get no gradient, and the engine must not compute them instead."""
    merged = token_classifier()
    merged.module.merge_adapter()
    with pytest.raises(TrainingError, match="no per-example gradient"):
        together(merged, Texts())
    disabled = token_classifier()
    with disabled.module.disable_adapter(), pytest.raises(TrainingError):
        together(disabled, Texts())


def test_adapter_that_is_not_active_is_left_alone() -> None:
    case, texts = token_classifier(("query",)), Texts()
    expected = one_at_a_time(case, texts)
    case.module.add_adapter("other", case.module.peft_config["default"])
    assert sum(hasattr(layer, "lora_A") for layer in _patches(case.module, _book())) == 2
    assert_same(list(case.parameters), together(case, texts), expected)


def test_adapter_that_is_not_on_every_lora_layer() -> None:
    case, texts = token_classifier(("query",)), Texts()
    case.module.add_adapter("other", LoraConfig(task_type="TOKEN_CLS", target_modules=["value"], r=2))
    case.module.set_adapter("other")
    assert_same(list(case.parameters), together(case, texts), one_at_a_time(case, texts))


def test_second_adapter_that_trains_is_refused() -> None:
    case = token_classifier(("query",))
    case.module.add_adapter("other", case.module.peft_config["default"])
    for name, parameter in case.module.named_parameters():
        if ".other." in name:
            parameter.requires_grad_(True)
    with pytest.raises(TrainingError, match=r"other.* has no per-example gradient"):
        together(case, Texts())


def test_extra_arguments_of_a_lora_layer_are_refused() -> None:
    """``adapter_names`` chooses an adapter for each record; the engine would not."""
    case = token_classifier()

    def loss(batch: Batch) -> torch.Tensor:
        names = ["__base__"] * len(batch.tokens)
        return case.module(input_ids=batch.tokens, attention_mask=batch.mask, adapter_names=names).logits.sum((1, 2))

    with case.engine(loss=loss) as engine, pytest.raises(TrainingError, match="adapter_names"):
        engine.per_example(Texts().everybody(), 6)


@pytest.mark.parametrize("first", [LoraGradients, HookedGradients])
def test_second_engine_on_a_lora_model_is_refused(first: Engine) -> None:
    """Here only wrappers are patched, and no layer that owns a trainable parameter."""
    case = causal_llama()
    for second in (LoraGradients, HookedGradients):
        with case.engine(first), pytest.raises(TrainingError, match="already"):
            case.engine(second)


def test_tied_weights_are_refused() -> None:
    """The head of a causal model and its embeddings are one parameter."""
    case = causal_gpt2()
    case.module.get_base_model().lm_head.weight.requires_grad_(True)
    with pytest.raises(TrainingError, match="are one parameter"):
        case.engine()


def test_position_embeddings_are_refused() -> None:
    """They are looked up once for the whole batch, so nobody's share can be told apart."""
    case = token_classifier()
    case.module.get_base_model().bert.embeddings.position_embeddings.weight.requires_grad_(True)
    with pytest.raises(TrainingError, match=r"position_embeddings got inputs of shape \(1, 9\) for a batch of 6"):
        together(case, Texts())
