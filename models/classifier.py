"""Sequence classification: a frozen encoder, LoRA on named linear layers, and a linear head.

The head sees ``sqrt(d) (u - centre)``: ``u`` is the mean of a text's last hidden states, scaled to unit length, and
``centre`` the mean ``u`` of the label names. Under differential privacy this input matters more than anything else,
because one clip norm is shared by all that is trained:

- Unit length makes the head's per-example gradients about equally long, so that clipping takes little from any.
- Texts of one domain share a large common direction that tells no label from another but takes its share of every
  gradient. Label names are public and point the same way; a bias would be one more such direction, so there is none.
- ``sqrt(d)`` gives each input about unit variance, as LayerNorm does, so that one learning rate fits head and LoRA.

Saved adapters are plain ``peft``: see :meth:`AdapterModel.save_peft`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from models.base import base_model_digest  # first: it puts the Hugging Face libraries into offline mode
from models.compute import Compute
from models.layout import AdapterLayout, Vector
from models.tokens import Batch, TokenisedData

# isort: split
import transformers
from peft import PeftModel

_INITIAL_LABEL = b"tacit/initial-adapter/v1\0"
_PREDICT_BATCH_SIZE = 64
#: how sure a head made of label names is; DP training starts from it and little depends on the exact value
_NAME_GAIN = 20.0
# Long enough to hold texts of clearly unequal lengths, so that a dependence on padding shows.
_PROBE_TEXTS = (
    "short",
    "a text of middling length, for comparison",
    "a text that is a good deal longer than the other two, so that the shorter ones are padded in a common batch",
)


class AdapterModel:
    """A frozen base model with a trainable adapter: LoRA factors and a linear head.

    Build it with :func:`build_classifier`. Not thread-safe; each site holds its own.

    Attributes:
        module: the ``peft`` model. Everything is frozen but the adapter; it is in ``eval()`` mode.
        layout: names and shapes of the adapter's parameters in the flat vector.
        labels: the label set, in the order of the class indices.
        max_tokens: longer texts are cut to this many tokens, special tokens included.
        parameters: the trainable parameters by layout name, in the layout's order.
        centre: mean embedding of the label names, float32 [width].
        input_scale: the head sees ``input_scale * (embed(batch) - centre)``.
    """

    def __init__(
        self,
        module: PeftModel,
        tokenizer: transformers.PreTrainedTokenizerBase,
        head_name: str,
        labels: Sequence[str],
        max_tokens: int,
        folder: Path,
        compute: Compute | None = None,
    ) -> None:
        self._folder = folder
        self._compute = compute or Compute()
        self.module = module.to(self._compute.device)
        self.labels = tuple(labels)
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._encoder: nn.Module = module.get_base_model().base_model
        self._head_name = head_name
        self._head: nn.Linear = getattr(module.get_base_model(), head_name).modules_to_save["default"]
        self.input_scale = math.sqrt(self._head.in_features)
        trainable = {
            _layout_name(name): parameter for name, parameter in module.named_parameters() if parameter.requires_grad
        }
        self.parameters = {name: trainable[name] for name in sorted(trainable)}
        self.layout = AdapterLayout(
            names=tuple(self.parameters),
            shapes=tuple(tuple(parameter.shape) for parameter in self.parameters.values()),
        )
        self.module.eval()
        # The initial adapter changes nothing, so these are the base model's embeddings.
        self._set_frozen_factors()
        self.set_vector(self.initial_vector())
        names = self.tokenise([label.replace("_", " ").replace("-", " ") for label in self.labels])
        with torch.no_grad(), self.in_float32():
            self._label_names = self.embed(names.batch(np.arange(len(names))))
        self.centre = self._label_names.mean(0)

    # --- adapter <-> vector

    def initial_vector(self) -> Vector:
        """The adapter every run starts from, float32 [d]: the same on every machine, from public constants only.

        LoRA A is uniform in +-1/sqrt(fan in), as ``peft`` draws it, from SHAKE-256 of the parameter's name; LoRA B
        and the head are zero, so the first model predicts nothing. A frozen A has the same values and is not in the
        vector.
        """
        tensors = {}
        for name, shape in zip(self.layout.names, self.layout.shapes, strict=True):
            if ".lora_A." in name:
                tensors[name] = _initial_factor(name, shape)
            else:
                tensors[name] = np.zeros(shape, dtype=np.float32)
        return self.layout.flatten(tensors)

    def label_name_vector(self) -> Vector:
        """:meth:`initial_vector` with a head that compares a text with the label names, float32 [d]: a zero-shot start.

        Row k of the head is ``_NAME_GAIN / sqrt(d) (u_k - centre)``, where ``u_k`` embeds the name of label k: public,
        like the names. Embeddings differ between machines in their last bits, so the coordinator sends this vector and
        nobody computes it again.
        """
        tensors = dict(self.layout.unflatten(self.initial_vector()))
        (head,) = (name for name, parameter in self.parameters.items() if parameter is self._head.weight)
        rows = (_NAME_GAIN / self.input_scale) * (self._label_names - self.centre)
        tensors[head] = rows.numpy(force=True)
        return self.layout.flatten(tensors)

    def _set_frozen_factors(self) -> None:
        """Give a frozen LoRA A its public values; ``peft`` drew them at random, differently at each site."""
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                if ".lora_A." in name and not parameter.requires_grad:
                    values = _initial_factor(_layout_name(name), tuple(parameter.shape))
                    parameter.copy_(torch.from_numpy(values))

    def get_vector(self) -> Vector:
        """The adapter's values, float32 [d], a copy in the layout's order."""
        return self.layout.flatten(
            {name: parameter.detach().cpu().numpy() for name, parameter in self.parameters.items()}
        )

    def set_vector(self, vector: npt.NDArray[np.float32]) -> None:
        """Put ``vector`` (float32 [d]) into the model.

        Raises:
            ModelError: another dtype, another length, or a value that is not finite; the model is unchanged.
        """
        tensors = self.layout.unflatten(vector)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(tensors[name].copy()))

    # --- texts

    def tokenise(self, texts: Sequence[str], labels: Sequence[int] | None = None) -> TokenisedData:
        """Tokenise once; ``labels`` are class indices, zeros when absent."""
        token_ids: list[list[int]] = (
            self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"] if texts else []
        )
        pad = self._tokenizer.pad_token_id
        return TokenisedData(token_ids, [0] * len(token_ids) if labels is None else labels, 0 if pad is None else pad)

    def probe(self) -> TokenisedData:
        """Public texts of unequal lengths, for checks whose outcome must not depend on anybody's data."""
        return self.tokenise(_PROBE_TEXTS, [index % len(self.labels) for index in range(len(_PROBE_TEXTS))])

    # --- forward

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Compute everything in float32 while open: for checks that the rounding of bfloat16 would drown."""
        usual, self._compute = self._compute, Compute(self._compute.device)
        try:
            yield
        finally:
            self._compute = usual

    def logits(self, batch: Batch) -> torch.Tensor:
        """Float32 [B, labels]."""
        return self._head(self.input_scale * (self.embed(batch) - self.centre))

    def per_example_loss(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy of each text, float32 [B]: a vector, never a mean."""
        labels = batch.labels.to(self._compute.device)
        return functional.cross_entropy(self.logits(batch), labels, reduction="none")

    def predict(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Most likely class index of each text, int64 [n]."""
        return self._all_logits(self.tokenise(texts)).argmax(1)

    def evaluate(self, data: TokenisedData) -> tuple[float, float]:
        """(accuracy, mean cross-entropy) on ``data``: for public test sets; never leaves a site for its own data."""
        logits = torch.from_numpy(self._all_logits(data))
        truth = torch.from_numpy(data.labels)
        accuracy = (logits.argmax(1) == truth).double().mean()
        return float(accuracy), float(functional.cross_entropy(logits.double(), truth))

    def embed(self, batch: Batch) -> torch.Tensor:
        """Mean of each text's last hidden states, scaled to unit length, float32 [B, width]."""
        batch = batch.to(self._compute.device)
        with self._compute.autocast():
            hidden = self._encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0]
        hidden = hidden.to(torch.float32)
        mask = batch.attention_mask[:, :, None].to(hidden.dtype)
        # Each text's own tokens only; the direction of the sum is the direction of the mean.
        return functional.normalize((hidden * mask).sum(1), dim=1)

    def _all_logits(self, data: TokenisedData) -> npt.NDArray[np.float32]:
        result = np.zeros((len(data), len(self.labels)), dtype=np.float32)
        order = np.argsort(data.lengths, kind="stable")
        with torch.no_grad():
            for start in range(0, len(order), _PREDICT_BATCH_SIZE):
                rows = order[start : start + _PREDICT_BATCH_SIZE]
                result[rows] = self.logits(data.batch(rows)).numpy(force=True)
        return result

    # --- release

    def save_peft(self, folder: Path) -> None:
        """Write the adapter as ``peft`` reads it, with ``labels.json`` and a README that shows how.

        LoRA factors and head (``modules_to_save``) are in ``adapter_model.safetensors``. Nothing but ``torch``,
        ``transformers`` and ``peft`` is needed: load the base with ``AutoModelForTokenClassification`` and the adapter
        with ``PeftModel.from_pretrained``, sum the last hidden states over the attention mask, scale the sum to unit
        length, and call the head on it. The README has the ten lines; a test runs them. It names the base by its
        digest, as agreements do: where it lies is this machine's business.

        The head is a token-classification head because that is the linear layer over last hidden states for which
        every encoder of ``transformers`` has a class; it is applied to the pooled text instead of to each token.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weight, bias = self._head.weight, self._head.bias
        kept = weight.detach().clone()
        with torch.no_grad():
            # s W (u - c) = (s W) u - s W c: scale and centre go into the weights, so that no reader needs to know.
            weight.mul_(self.input_scale)
            bias.copy_(-(weight @ self.centre))
        try:
            self.module.save_pretrained(str(folder))
        finally:
            with torch.no_grad():
                weight.copy_(kept)
                bias.zero_()
        (folder / "labels.json").write_text(json.dumps(list(self.labels), indent=1) + "\n", encoding="utf-8")
        page = _readme(self._head_name, self.max_tokens, base_model_digest(self._folder))
        (folder / "README.md").write_text(page, encoding="utf-8")


def _initial_factor(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Values of the LoRA A that the layout calls ``name``, float32 [r, in]."""
    stream = hashlib.shake_256(_INITIAL_LABEL + name.encode()).digest(4 * math.prod(shape))
    # 24 bits fit a float32 exactly; every operation here rounds the same everywhere (IEEE 754).
    unit = (np.frombuffer(stream, "<u4") >> 8).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return (unit * np.float32(1.0 / math.sqrt(shape[1]))).reshape(shape)


def _layout_name(name: str) -> str:
    """``peft``'s name for a parameter, without the parts that only say how ``peft`` wraps it."""
    return name.removeprefix("base_model.model.").replace(".default.", ".").replace(".modules_to_save.", ".")


def _readme(head_name: str, max_tokens: int, base_digest: str) -> str:
    return f"""# A LoRA adapter with a text-classification head

Load it with `peft` on the base model it was trained on. Three names are yours to set:

- `base`: the folder of that base model. The agreement and the run's `report.html` name it; its digest is
  `{base_digest}`.
- `adapter`: this folder.
- `texts`: a list of strings to classify.

```python
import json, torch
from peft import PeftModel
from transformers import AutoModelForTokenClassification, AutoTokenizer

labels = json.load(open(f"{{adapter}}/labels.json"))
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForTokenClassification.from_pretrained(base, num_labels=len(labels))
model = PeftModel.from_pretrained(model, adapter).eval()

batch = tokenizer(texts, padding=True, truncation=True, max_length={max_tokens}, return_tensors="pt")
with torch.no_grad():
    hidden = model(**batch, output_hidden_states=True).hidden_states[-1]
    pooled = (hidden * batch["attention_mask"][..., None]).sum(1)
    logits = model.{head_name}(torch.nn.functional.normalize(pooled, dim=1))
answers = [labels[i] for i in logits.argmax(1)]
```

The head is applied to the unit-length mean of the last hidden states, not to each token.
"""
