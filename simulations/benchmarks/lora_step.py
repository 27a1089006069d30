"""One training step of LoRA, private and not: the same model, batch and loss for every way of taking it.

Models have random weights from a configuration: what a step costs does not depend on their values.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertForTokenClassification, LlamaConfig, LlamaForCausalLM

from models.compute import Compute
from privacy.dpsgd import HookedGradients, LoraGradients, clipped_sum
from privacy.randomness import OsRandomSource, standard_normal

RANK = 8
CLIP = 1.0
NOISE_MULTIPLIER = 1.0
LEARNING_RATE = 1e-3
LABELS = 9

#: by model
VOCABULARY = {"minilm": 2000, "llama": 2000, "decoder": 32_000}

#: linear layers that carry LoRA, by model
TARGETS = {
    "minilm": {
        "attention": ["query", "key", "value", "attention.output.dense"],
        "all": ["query", "key", "value", "dense"],
    },
    "llama": {
        "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    },
}
TARGETS["decoder"] = TARGETS["llama"]

#: layers, width, width of the feed-forward, heads
_LLAMAS = {"llama": (4, 512, 1408, 8), "decoder": (20, 1536, 4096, 12)}


@dataclass(frozen=True, slots=True)
class Size:
    """One cell of the grid."""

    model: str
    """``minilm`` (6 layers of 384, token classification), ``llama`` (4 layers of 512, causal LM) or ``decoder`` (the
    same kind with 20 layers of 1536: 0.67 billion weights)."""
    targets: str
    """``attention`` or ``all`` linear layers."""
    batch: int
    """Records."""
    length: int
    """Tokens of each record."""

    @property
    def key(self) -> str:
        return f"{self.model} {self.targets} B={self.batch} T={self.length}"


class Workload:
    """A model with LoRA, a batch of random tokens, and the loss of each record.

    Args:
        compute: where it lies and in what precision frozen weights compute; by default the CPU and float32.
    """

    def __init__(self, size: Size, compute: Compute | None = None) -> None:
        torch.manual_seed(0)
        self.size = size
        self.compute = compute or Compute()
        self.module = _build(size).to(self.compute.device)
        self.module.eval()
        self.parameters = {name: value for name, value in self.module.named_parameters() if value.requires_grad}
        shape = (size.batch, size.length)
        vocabulary = VOCABULARY[size.model]
        self.tokens = torch.randint(5, vocabulary, shape).to(self.compute.device)
        self.mask = torch.ones_like(self.tokens)
        classes = LABELS if size.model == "minilm" else vocabulary
        self.labels = torch.randint(0, classes, shape).to(self.compute.device)

    def loss(self, module: Any = None) -> torch.Tensor:
        """Mean cross-entropy over each record's own tokens, float32 [B]."""
        with self.compute.autocast():
            logits = (module or self.module)(self.tokens, self.mask).logits
        return functional.cross_entropy(logits.transpose(1, 2), self.labels, reduction="none").mean(1)

    def clock(self) -> float:
        """Seconds: of this process's CPU time, or on a GPU of real time once all that was asked of it is done."""
        if self.compute.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.compute.device)
        return time.perf_counter()

    def descend(self, gradient: torch.Tensor) -> None:
        """One step of SGD along ``gradient``, float64 [P]."""
        parts = gradient.split([parameter.numel() for parameter in self.parameters.values()])
        with torch.no_grad():
            for parameter, part in zip(self.parameters.values(), parts, strict=True):
                parameter.sub_(part.view_as(parameter).to(parameter.dtype), alpha=LEARNING_RATE)


@dataclass(frozen=True, slots=True)
class PrivateSeconds:
    """Seconds of one private step, by the workload's clock."""

    step_s: float
    """Forward, backward, clipping, sum and descent."""
    noise_s: float
    """Drawing and adding the noise: paid once for each step, however many batches it is cut into."""


def stock_step(work: Workload) -> float:
    """Seconds of the step that everybody takes: mean loss, backward, ``torch.optim.SGD``."""
    optimiser = torch.optim.SGD(list(work.parameters.values()), lr=LEARNING_RATE)
    optimiser.zero_grad()
    started = work.clock()
    work.loss().mean().backward()
    optimiser.step()
    seconds = work.clock() - started
    optimiser.zero_grad()
    return seconds


def private_step(work: Workload, kind: type[LoraGradients] | type[HookedGradients] = LoraGradients) -> PrivateSeconds:
    """Seconds of a step of DP-SGD with our engine, or with the reference."""
    with kind(work.module, work.parameters, lambda _: work.loss()) as engine:
        started = work.clock()
        total = clipped_sum(engine.per_example(None, work.size.batch), CLIP)
        summed = work.clock()
        noise = torch.from_numpy(NOISE_MULTIPLIER * CLIP * standard_normal(OsRandomSource(), len(total)))
        total += noise.to(total.device)
        noised = work.clock()
        work.descend(total / work.size.batch)
        ended = work.clock()
    return PrivateSeconds(step_s=ended - noised + summed - started, noise_s=noised - summed)


def fused_step(work: Workload) -> float:
    """Seconds of a step without privacy in which LoRA layers are computed as one, as our engine does."""
    with _fused(work.module):
        return stock_step(work)


class _Fused(torch.autograd.Function):
    """The engine's layer with the gradient of the batch in place of the gradients of its records."""

    @staticmethod
    def forward(ctx: Any, inputs: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float) -> Any:
        rows = inputs.reshape(-1, inputs.shape[-1])
        low = (rows @ a.t()).mul_(scaling)
        output = functional.linear(rows, weight, bias).addmm_(low, b.t())
        ctx.save_for_backward(inputs, low, weight, a, b)
        ctx.scaling = scaling
        return output.reshape(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, back: Any) -> Any:
        inputs, low, weight, a, b = ctx.saved_tensors
        rows = back.reshape(-1, back.shape[-1])
        low_back = (rows @ b).mul_(ctx.scaling)
        to_inputs = None
        if ctx.needs_input_grad[0]:
            to_inputs = (rows @ weight).addmm_(low_back, a).reshape(inputs.shape)
        to_a = low_back.t() @ inputs.reshape(-1, inputs.shape[-1])
        return to_inputs, None, None, to_a, (low.t() @ rows).t(), None


@contextmanager
def _fused(module: nn.Module) -> Iterator[None]:
    layers = [layer for layer in module.modules() if hasattr(layer, "base_layer") and layer.lora_A]
    try:
        for layer in layers:
            layer.forward = _fused_forward(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _fused_forward(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    base, a, b = layer.base_layer, layer.lora_A["default"], layer.lora_B["default"]
    scaling = layer.scaling["default"]
    return lambda inputs: _Fused.apply(inputs, base.weight, base.bias, a.weight, b.weight, scaling)


def _build(size: Size) -> nn.Module:
    if size.model == "minilm":
        task = "TOKEN_CLS"
        config = BertConfig(
            vocab_size=VOCABULARY[size.model],
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=1536,
            num_labels=LABELS,
        )
        model = BertForTokenClassification(config)
    else:
        task = "CAUSAL_LM"
        layers, width, feed_forward, heads = _LLAMAS[size.model]
        config = LlamaConfig(
            vocab_size=VOCABULARY[size.model],
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=feed_forward,
            max_position_embeddings=512,
            use_cache=False,
        )
        model = LlamaForCausalLM(config)
    lora = LoraConfig(task_type=task, r=RANK, lora_alpha=RANK, target_modules=TARGETS[size.model][size.targets])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return module
