"""Adapter <-> flat vector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.layout import AdapterLayout, state_digest
from tacit.errors import ModelError

LAYOUT = AdapterLayout(names=("b", "a"), shapes=((2, 3), (4,)))


def vector() -> np.ndarray:
    return np.arange(10, dtype=np.float32)


def test_unflatten_cuts_in_order() -> None:
    tensors = LAYOUT.unflatten(vector())
    assert tensors["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["a"].tolist() == [6, 7, 8, 9]


@given(shapes=st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=5))
def test_round_trip(shapes: list[tuple[int, ...]]) -> None:
    layout = AdapterLayout(names=tuple(f"p{index}" for index in range(len(shapes))), shapes=tuple(shapes))
    values = np.arange(layout.length, dtype=np.float32)
    assert layout.flatten(layout.unflatten(values)).tolist() == values.tolist()


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(9, dtype=np.float32),
        np.zeros(11, dtype=np.float32),
        np.zeros((1, 10), dtype=np.float32),
        np.zeros(10, dtype=np.float64),
    ],
)
def test_another_length_or_dtype_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"expected float32 and shape \(10,\)"):
        LAYOUT.unflatten(bad)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    bad = vector()
    bad[7] = value
    with pytest.raises(ModelError, match="not finite"):
        LAYOUT.unflatten(bad)


def test_other_tensors_are_refused() -> None:
    tensors = LAYOUT.unflatten(vector())
    with pytest.raises(ModelError, match="expected exactly"):
        LAYOUT.flatten({"a": tensors["a"]})
    with pytest.raises(ModelError, match="b has shape"):
        LAYOUT.flatten({"a": tensors["a"], "b": tensors["b"].T})


def test_digest_tells_names_shapes_and_order_apart() -> None:
    digests = {
        layout.digest()
        for layout in (
            LAYOUT,
            AdapterLayout(("a", "b"), ((4,), (2, 3))),
            AdapterLayout(("b", "a"), ((3, 2), (4,))),
            AdapterLayout(("b", "c"), ((2, 3), (4,))),
        )
    }
    assert len(digests) == 4
    assert LAYOUT.digest() == AdapterLayout(("b", "a"), ((2, 3), (4,))).digest()


def test_state_digest_tells_single_bits_apart() -> None:
    other = vector()
    other[3] = np.nextafter(other[3], np.float32(9))
    assert state_digest(vector()) != state_digest(other)
    assert state_digest(vector()) == state_digest(vector().astype(">f4"))
