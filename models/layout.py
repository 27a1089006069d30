"""Adapter <-> flat vector: which numbers travel, in which order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tacit.canonical import digest, digest_bytes
from tacit.errors import ModelError

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AdapterLayout:
    """Names and shapes of the trainable parameters, in the order in which they lie in the flat vector.

    Two sites add the same coordinates only if their layouts are equal; :meth:`digest` is part of every order.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Number of float32 values in the flat vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def digest(self) -> str:
        """``sha256:<hex>`` over the canonical JSON of names and shapes, in order."""
        return digest(
            "tacit/adapter-layout/v1",
            [[name, list(shape)] for name, shape in zip(self.names, self.shapes, strict=True)],
        )

    def flatten(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> Vector:
        """Concatenate ``tensors`` (one array of the right shape for each name) into one float32 vector.

        Raises:
            ModelError: a name is missing or left over, or an array has another shape.
        """
        if set(tensors) != set(self.names):
            raise ModelError(
                f"got tensors {sorted(tensors)}, expected exactly {sorted(self.names)}",
                hint="the adapter belongs to another layout: check LoRA targets, rank and labels",
            )
        for name, shape in zip(self.names, self.shapes, strict=True):
            if tensors[name].shape != shape:
                raise ModelError(f"{name} has shape {tensors[name].shape}, expected {shape}")
        return np.concatenate([np.asarray(tensors[name], dtype=np.float32).ravel() for name in self.names])

    def unflatten(self, vector: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Cut ``vector`` (float32, shape [length]) into one array for each name; the arrays are views.

        Raises:
            ModelError: another dtype, another length, or a value that is not finite.
        """
        self.check(vector)
        tensors, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            stop = start + math.prod(shape)
            tensors[name] = vector[start:stop].reshape(shape)
            start = stop
        return tensors

    def check(self, vector: npt.NDArray[np.float32]) -> None:
        """Raise :class:`ModelError` unless ``vector`` is float32, has shape [length] and is finite."""
        if vector.dtype != np.float32 or vector.shape != (self.length,):
            raise ModelError(
                f"got an adapter vector of {vector.dtype} and shape {vector.shape}, "
                f"expected float32 and shape ({self.length},)",
                hint="both sides must be built from the same base model, LoRA targets, rank and labels",
            )
        if not np.isfinite(vector).all():
            raise ModelError(
                "the adapter vector holds values that are not finite; expected finite float32 values",
                hint="training diverged: lower the learning rate, or resume from an earlier checkpoint",
            )


def state_digest(vector: npt.NDArray[np.float32]) -> str:
    """``sha256:<hex>`` of an adapter's values: float32, little endian, in the layout's order."""
    return digest_bytes("tacit/adapter-state/v1", np.ascontiguousarray(vector, dtype="<f4").tobytes())
