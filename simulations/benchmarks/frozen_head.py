"""Head-only training on embeddings that were computed once: the same head, loss and engine, seconds instead of minutes.

A model whose adapter has rank 0 sends every text through a frozen encoder each time it is sampled. Here each text went
through once. :class:`FrozenHead` has what training needs of :class:`models.classifier.AdapterModel`, so the very same
code trains it; a test holds the two against each other.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from models.base import base_model_digest, resolve_model_folder
from models.building import build_classifier
from models.classifier import AdapterModel
from models.layout import AdapterLayout, Vector
from models.tokens import TokenisedData
from privacy.dpsgd import clip_factors
from privacy.order import LoraSpec

HEAD_ONLY = LoraSpec(rank=0, alpha=1.0, targets=())
_BATCH = 64

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class InputBatch:
    """Head inputs on their way."""

    #: float32 [B, width]
    inputs: torch.Tensor
    #: int64 [B]
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


class EmbeddedData:
    """Head inputs with their labels: independent records, as :class:`models.tokens.TokenisedData`.

    Args:
        inputs: float32 [n, width].
        labels: class index of each record, int64 [n].
        lengths: tokens of each record, int64 [n]: physical batches are cut as those of the texts.
    """

    def __init__(self, inputs: Floats, labels: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
        self._inputs = torch.from_numpy(inputs)
        self._labels = torch.from_numpy(labels)
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class index of each record, int64 [n]."""
        return self._labels.numpy()

    def at(self, rows: npt.NDArray[np.int64]) -> EmbeddedData:
        """The records at ``rows`` alone."""
        return EmbeddedData(self._inputs.numpy()[rows], self.labels[rows], self.lengths[rows])

    def batch(self, indices: npt.NDArray[np.int64]) -> InputBatch:
        """The records at ``indices``."""
        rows = torch.from_numpy(np.asarray(indices))
        return InputBatch(self._inputs[rows], self._labels[rows])


class FrozenHead:
    """The linear head of a model, on its own.

    Args:
        model: an :class:`AdapterModel` with :data:`HEAD_ONLY`; it is not changed.
        centred: the head sees ``sqrt(d) (u - centre)`` as everywhere in this project. False: the plain unit-norm
            embedding ``u``, as a linear probe has it.
    """

    def __init__(self, model: AdapterModel, *, centred: bool = True) -> None:
        (name,), ((labels, width),) = model.layout.names, model.layout.shapes
        self.labels, self.max_tokens = model.labels, model.max_tokens
        self.layout: AdapterLayout = model.layout
        self._model, self._centred = model, centred
        self.module = nn.Linear(width, labels, bias=False)
        self.parameters = {name: self.module.weight}
        self.set_vector(self.initial_vector())

    def initial_vector(self) -> Vector:
        """Zeros, float32 [d]."""
        return self._model.initial_vector()

    def label_name_vector(self) -> Vector:
        """As :meth:`AdapterModel.label_name_vector`; on plain embeddings with weights as much larger as inputs are
        smaller."""
        found = self._model.label_name_vector()
        return found if self._centred else (found * np.float32(self._model.input_scale)).astype(np.float32)

    def get_vector(self) -> Vector:
        """The head's values, float32 [d], a copy."""
        return self.module.weight.detach().numpy().ravel().copy()

    def set_vector(self, vector: Vector) -> None:
        """Put ``vector`` (float32 [d]) into the head."""
        self.layout.check(vector)
        with torch.no_grad():
            self.module.weight.copy_(torch.from_numpy(vector.reshape(self.module.weight.shape).copy()))

    def records(self, data: TokenisedData, embeddings: Floats | None = None) -> EmbeddedData:
        """The head's inputs for ``data``; ``embeddings``, float32 [n, width], are computed where they are not given."""
        found = torch.from_numpy(embed(self._model, data) if embeddings is None else embeddings)
        inputs = self._model.input_scale * (found - self._model.centre) if self._centred else found
        return EmbeddedData(inputs.numpy(), data.labels, data.lengths)

    def probe(self) -> EmbeddedData:
        """As :meth:`AdapterModel.probe`."""
        return self.records(self._model.probe())

    def in_float32(self) -> AbstractContextManager[None]:
        """As :meth:`AdapterModel.in_float32`: nothing here computes in any other type."""
        return nullcontext()

    def logits(self, batch: InputBatch) -> torch.Tensor:
        """Float32 [B, labels]."""
        return self.module(batch.inputs)

    def per_example_loss(self, batch: InputBatch) -> torch.Tensor:
        """Cross-entropy of each record, float32 [B]."""
        return functional.cross_entropy(self.logits(batch), batch.labels, reduction="none")

    def clipped_sum(
        self, data: EmbeddedData, indices: npt.NDArray[np.int64], l2_clip_norm: float
    ) -> npt.NDArray[np.float64]:
        """As :func:`privacy.dpsgd.clipped_gradient_sum`, without writing down any record's gradient, float64 [d].

        A record is one row of inputs, so its gradient is the outer product of two vectors and its norm the product of
        theirs (Goodfellow 2015): ten times faster. A test holds it against the engine.
        """
        batch = data.batch(indices)
        with torch.no_grad():
            outer = torch.softmax(self.logits(batch), dim=1)
            outer[torch.arange(len(batch)), batch.labels] -= 1.0
            norms = [torch.linalg.vector_norm(each, dim=1, dtype=torch.float64) for each in (outer, batch.inputs)]
            factors = clip_factors(norms[0] * norms[1], l2_clip_norm)
            total = (factors.to(outer.dtype)[:, None] * outer).T @ batch.inputs
        return total.flatten().numpy().astype(np.float64)


def embed(model: AdapterModel, data: TokenisedData) -> Floats:
    """Unit-norm mean-pooled embeddings under the adapter that the model holds, float32 [n, width]."""
    found = np.zeros((len(data), model.centre.numel()), dtype=np.float32)
    order = np.argsort(data.lengths, kind="stable")
    with torch.no_grad():
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            found[rows] = model.embed(data.batch(rows)).numpy(force=True)
    return found


def accuracy(model: Any, data: Any) -> float:
    """Share of records whose most likely label is right, in percent; for public test sets."""
    right = 0
    order = np.argsort(data.lengths, kind="stable")
    with torch.no_grad():
        for start in range(0, len(order), _BATCH):
            batch = data.batch(order[start : start + _BATCH])
            right += int((model.logits(batch).argmax(1) == batch.labels).sum())
    return 100.0 * right / len(data)


class Encoder:
    """A base model and the embeddings of texts under it, kept in ``folder`` between runs.

    Args:
        base: ``package:NAME`` or a local folder.
        folder: where embeddings are kept, a file for each list of texts.
        max_tokens: longer texts are cut.
    """

    def __init__(self, base: str, folder: Path, max_tokens: int) -> None:
        self.base, self.max_tokens = base, max_tokens
        self._path = resolve_model_folder(base)
        self.digest = base_model_digest(self._path)
        self._folder = folder

    def model(self, lora: LoraSpec, labels: tuple[str, ...]) -> AdapterModel:
        """Return the base model with an adapter."""
        return build_classifier(self._path, lora, labels, self.max_tokens)

    def embeddings(self, model: AdapterModel, data: TokenisedData, texts: tuple[str, ...]) -> Floats:
        """:func:`embed` of a head-only ``model``, from disk where it was computed before."""
        named = hashlib.sha256("\0".join((self.digest, str(self.max_tokens), *texts)).encode()).hexdigest()[:24]
        path = self._folder / f"embeddings-{named}.npy"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.npy")
            np.save(partial, embed(model, data))
            partial.replace(path)
        return np.load(path)
