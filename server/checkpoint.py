"""Training state that survives the coordinator: the adapter's vector, the round it belongs to, the steps used."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.layout import state_digest
from tacit.canonical import canonical_json, parse_json
from tacit.durable import write_atomic
from tacit.errors import ConfigError


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
        ConfigError: its vector is missing or is not the one its digest names.
    """
    heads = sorted(folder.glob("round-*.json"))
    if not heads:
        return None
    head = parse_json(heads[-1].read_bytes())
    path = folder / head["vector"]
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"checkpoint {path} cannot be read: {error}", hint="restore it from a backup") from error
    if vector.dtype != np.float32 or state_digest(vector) != head["vector_digest"]:
        raise ConfigError(
            f"checkpoint {path} is not the vector its digest names",
            hint=f"remove {heads[-1].name} to go on from the round before",
        )
    return Checkpoint(head["round"], head["last_step"], vector)
