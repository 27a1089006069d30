"""Small language models with LoRA, built from configuration, and their losses for each record.

What ``privacy.dpsgd`` must be right about, made with the libraries that it does not import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from privacy.dpsgd import HookedGradients, LoraGradients

VOCABULARY, CLASSES, IGNORED = 37, 4, -100
LENGTHS = (3, 9, 6, 9, 1, 5)

Engine = type[HookedGradients] | type[LoraGradients]


@dataclass
class Batch:
    """Padded token sequences: int64 [B, T] each; a class each, int64 [B]."""

    tokens: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    classes: torch.Tensor


class Texts:
    """Random token sequences of unequal lengths; an ``Examples``."""

    def __init__(self, lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rows = [torch.randint(1, VOCABULARY, (length,), generator=generator) for length in lengths]
        self.labels = [torch.randint(0, CLASSES, (length,), generator=generator) for length in lengths]
        self.classes = torch.randint(0, CLASSES, (len(lengths),), generator=generator)
        self.kept = list(range(len(lengths)))

    def without(self, index: int) -> Texts:
        rest = Texts(())
        rest.rows, rest.labels, rest.classes = self.rows, self.labels, self.classes
        rest.kept = [kept for kept in self.kept if kept != index]
        return rest

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(self.rows[index]) for index in self.kept], dtype=np.int64)

    def batch(self, indices: np.ndarray) -> Batch:
        kept = [self.kept[index] for index in indices]
        rows = [self.rows[index] for index in kept]
        pad = nn.utils.rnn.pad_sequence
        return Batch(
            tokens=pad(rows, batch_first=True),
            mask=pad([torch.ones_like(row) for row in rows], batch_first=True),
            labels=pad([self.labels[index] for index in kept], batch_first=True, padding_value=IGNORED),
            classes=self.classes[kept],
        )

    def everybody(self) -> Batch:
        return self.batch(np.arange(len(self)))


@dataclass
class Case:
    """A model, its trainable parameters, its loss for each record, and the library's own loss."""

    module: nn.Module
    loss: Callable[[Batch], torch.Tensor]
    library_loss: Callable[[Batch], torch.Tensor]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.module.named_parameters() if value.requires_grad}

    def engine(self, kind: Engine = LoraGradients, **changes: object) -> HookedGradients | LoraGradients:
        case = replace(self, **changes) if changes else self
        return kind(case.module, case.parameters, case.loss)


def token_mean(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over each record's own tokens, [B]; 0 for a record without any."""
    losses = functional.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=IGNORED, reduction="none")
    return losses.sum(1) / (labels != IGNORED).sum(1).clamp_min(1)


def adapted(model: nn.Module, *, zero_b: bool = False, **lora: object) -> nn.Module:
    """``model`` with LoRA, random in B unless ``zero_b``, without dropout."""
    module = get_peft_model(model, LoraConfig(**{"r": 3, "lora_alpha": 5, **lora}))
    if not zero_b:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3)
    return module


def bert_config(**changes: object) -> BertConfig:
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 16,
        "num_labels": CLASSES,
        "initializer_range": 0.3,
    }
    return BertConfig(**{**sizes, **changes})


def token_classifier(targets: tuple[str, ...] = ("query", "key", "value", "dense"), **lora: object) -> Case:
    torch.manual_seed(3)
    model = BertForTokenClassification(bert_config())
    module = adapted(model, task_type="TOKEN_CLS", target_modules=list(targets), **lora)

    def run(batch: Batch, **labels: torch.Tensor) -> object:
        return module(input_ids=batch.tokens, attention_mask=batch.mask, **labels)

    return Case(
        module,
        lambda batch: token_mean(run(batch).logits, batch.labels),
        lambda batch: run(batch, labels=batch.labels).loss,
    )


def sequence_classifier(**lora: object) -> Case:
    torch.manual_seed(4)
    model = BertForSequenceClassification(bert_config())
    module = adapted(model, task_type="SEQ_CLS", target_modules=["query", "value"], **lora)

    def run(batch: Batch, **labels: torch.Tensor) -> object:
        return module(input_ids=batch.tokens, attention_mask=batch.mask, **labels)

    return Case(
        module,
        lambda batch: functional.cross_entropy(run(batch).logits, batch.classes, reduction="none"),
        lambda batch: run(batch, labels=batch.classes).loss,
    )


def _causal(module: nn.Module) -> Case:
    def targets(batch: Batch) -> torch.Tensor:
        return batch.tokens.masked_fill(batch.mask == 0, IGNORED)

    def run(batch: Batch, **labels: torch.Tensor) -> object:
        return module(input_ids=batch.tokens, attention_mask=batch.mask, **labels)

    def loss(batch: Batch) -> torch.Tensor:
        return token_mean(run(batch).logits[:, :-1], targets(batch)[:, 1:])

    return Case(module, loss, lambda batch: run(batch, labels=targets(batch)).loss)


LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def causal_llama(targets: tuple[str, ...] = LLAMA_LINEARS, dtype: torch.dtype = torch.float32, **lora: object) -> Case:
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).to(dtype)
    return _causal(adapted(model, task_type="CAUSAL_LM", target_modules=list(targets), **lora))


def causal_gpt2(**lora: object) -> Case:
    """Its linear layers are transposed ones of their own kind: LoRA's wrapper is not on ``nn.Linear``."""
    torch.manual_seed(6)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    lora = {"target_modules": ["c_attn"], "fan_in_fan_out": True, **lora}
    return _causal(adapted(GPT2LMHeadModel(config), task_type="CAUSAL_LM", **lora))


def one_at_a_time(case: Case, texts: Texts) -> list[torch.Tensor]:
    """The naive loop: each record alone, by autograd; one tensor [n, *shape] for each parameter."""
    case.module.eval()
    parameters = list(case.parameters.values())
    rows = []
    for index in range(len(texts)):
        loss = case.loss(texts.batch(np.array([index]))).sum()
        rows.append(torch.autograd.grad(loss, parameters, materialize_grads=True) if loss.requires_grad else None)
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def together(case: Case, texts: Texts, kind: Engine = LoraGradients) -> list[torch.Tensor]:
    """The same by an engine, in one padded batch."""
    with case.engine(kind) as engine:
        return engine.per_example(texts.everybody(), len(texts))


def assert_same(names: list[str], got: list[torch.Tensor], want: list[torch.Tensor], bound: float = 1e-5) -> None:
    """Relative error below ``bound`` for each parameter; and zero where zero is expected.

    Softmax does not see the bias of an attention's keys: its gradient is rounding, and is taken for zero.
    """
    rounding = 1e-6 * max(float(torch.linalg.vector_norm(expected)) for expected in want)
    for name, ours, expected in zip(names, got, want, strict=True):
        gap = torch.linalg.vector_norm((ours - expected).double())
        size = torch.linalg.vector_norm(expected.double())
        if not (gap <= bound * size or (name.endswith(("key.bias", "key.base_layer.bias")) and gap <= rounding)):
            pytest.fail(f"{name}: off by {gap:.1e}, expected at most {bound:g} of {size:.1e}")
