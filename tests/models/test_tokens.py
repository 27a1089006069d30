"""Tokenised records and the batches cut from them."""

from __future__ import annotations

import numpy as np
import pytest

from models.tokens import TokenisedData
from tacit.errors import DataError

DATA = TokenisedData([[5, 6, 7], [8], [9, 4]], [2, 0, 1], pad_token_id=3)


def test_batch_pads_to_its_own_longest_record() -> None:
    batch = DATA.batch(np.array([2, 1]))
    assert batch.input_ids.tolist() == [[9, 4], [8, 3]]
    assert batch.attention_mask.tolist() == [[1, 1], [1, 0]]
    assert batch.labels.tolist() == [1, 0]
    assert len(batch) == 2


def test_lengths_and_labels() -> None:
    assert len(DATA) == 3
    assert DATA.lengths.tolist() == [3, 1, 2]
    assert DATA.labels.tolist() == [2, 0, 1]


def test_no_records() -> None:
    assert len(TokenisedData([], [])) == 0


def test_one_label_for_each_text() -> None:
    with pytest.raises(DataError, match="unequal numbers") as caught:
        TokenisedData([[1], [2]], [0])
    assert "2" not in caught.value.message
