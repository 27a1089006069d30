"""Training state that survives the coordinator: the adapter's vector, the round it belongs to, the steps used."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from models.layout import state_digest
from privacy.order import Digest, Strict
from tacit.canonical import canonical_json, parse_json
from tacit.durable import write_atomic
from tacit.errors import ConfigError, InputError
from tacit.validation import validated


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``round`` (0 = before training).

    Attributes:
        vector: the global adapter, float32, shape ``(adapter_length,)``.
        last_step: the highest step number used so far, burnt ones included.
    """

    round: int
    last_step: int
    vector: npt.NDArray[np.float32]


class _Head(Strict):
    """The small file. ``vector`` is a name in the same folder and never a path out of it."""

    round: int = Field(ge=0)
    last_step: int = Field(ge=0)
    vector: str = Field(pattern=r"^round-[0-9]+\.npy$")
    vector_digest: Digest


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint: first the vector, then the small file that makes it count. Returns that file."""
    name = f"round-{checkpoint.round:05d}"
    buffer = io.BytesIO()
    np.save(buffer, checkpoint.vector, allow_pickle=False)
    write_atomic(folder / f"{name}.npy", buffer.getvalue())
    head = {
        "round": checkpoint.round,
        "last_step": checkpoint.last_step,
        "vector": f"{name}.npy",
        "vector_digest": state_digest(checkpoint.vector),
    }
    path = folder / f"{name}.json"
    write_atomic(path, canonical_json(head))
    return path


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint, or None when there is none.

    Raises:
        ConfigError: its small file is not one, or its vector is missing or is not the one its digest names.
    """
    heads = sorted(folder.glob("round-*.json"))
    if not heads:
        return None
    before = f"remove {heads[-1].name} to go on from the round before"
    try:
        head = validated(_Head, parse_json(heads[-1].read_bytes()), source=str(heads[-1]))
    except InputError as error:
        raise ConfigError(f"checkpoint {heads[-1]} cannot be read: {error.message}", hint=before) from error
    path = folder / head.vector
    try:
        vector = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy evaluates a file's header, and a damaged one makes it raise nearly anything
        raise ConfigError(f"checkpoint {path} cannot be read: {error}", hint="restore it from a backup") from error
    # A zip of arrays is loaded as a mapping.
    is_vector = isinstance(vector, np.ndarray) and vector.dtype == np.float32 and vector.ndim == 1
    if not is_vector or state_digest(vector) != head.vector_digest:
        raise ConfigError(f"checkpoint {path} is not the vector its digest names", hint=before)
    return Checkpoint(head.round, head.last_step, vector)
