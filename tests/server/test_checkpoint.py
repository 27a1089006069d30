"""Checkpoints: the newest counts, and only whole ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.checkpoint import Checkpoint, latest_checkpoint, write_checkpoint
from tacit.errors import ConfigError


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=20).astype(np.float32)


def test_the_newest_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    for number in (0, 1, 2, 10):
        write_checkpoint(tmp_path, Checkpoint(number, 3 * number, vector(number)))
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.round, found.last_step) == (10, 30)
    assert np.array_equal(found.vector, vector(10))


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None


def test_a_vector_without_its_head_does_not_count(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Checkpoint(1, 1, vector(1)))
    write_checkpoint(tmp_path, Checkpoint(2, 2, vector(2))).unlink()
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.round == 1


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_vector_is_refused_with_its_name(tmp_path: Path, damage: bytes | None) -> None:
    write_checkpoint(tmp_path, Checkpoint(1, 1, vector(1)))
    path = tmp_path / "round-00001.npy"
    if damage is None:
        np.save(path, vector(2))
    else:
        path.write_bytes(damage)
    with pytest.raises(ConfigError, match=r"round-00001\.npy"):
        latest_checkpoint(tmp_path)
