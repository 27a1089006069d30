"""Tokenised texts and the batches cut from them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from privacy.dpsgd.users import UserRecords
from tacit.errors import DataError


@dataclass(frozen=True)
class Batch:
    """A padded physical batch on its way through the model."""

    #: int64 [B, T]
    input_ids: torch.Tensor
    #: int64 [B, T], 1 for a token and 0 for padding
    attention_mask: torch.Tensor
    #: int64 [B]
    labels: torch.Tensor

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    def to(self, device: torch.device) -> Batch:
        """Return this batch on ``device``."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


class TokenisedData:
    """Texts, tokenised once, with their labels. Records are independent of each other.

    Args:
        token_ids: one array of token ids for each text, none empty.
        labels: one class index for each text.
        pad_token_id: fills the right of shorter texts; masked, so its value does not matter.

    Raises:
        DataError: the two lengths differ.
    """

    def __init__(self, token_ids: Sequence[Sequence[int]], labels: Sequence[int], pad_token_id: int = 0) -> None:
        if len(token_ids) != len(labels):
            raise DataError("got unequal numbers of texts and labels, expected one label for each text")
        self._token_ids = [torch.tensor(ids, dtype=torch.int64) for ids in token_ids]
        self._labels = torch.tensor(list(labels), dtype=torch.int64)
        self._pad_token_id = pad_token_id
        self._lengths = np.array([len(ids) for ids in token_ids], dtype=np.int64)
        #: whose records they are; None where every record is a privacy unit of its own
        self.users: UserRecords | None = None

    def __len__(self) -> int:
        return len(self._token_ids)

    def owned_by(self, users: UserRecords | None) -> TokenisedData:
        """Return these records with what is known of whose they are.

        Raises:
            DataError: ``users`` is about another number of records.
        """
        if users is not None and len(users.owners) != len(self):
            raise DataError(f"got users of {len(users.owners)} records, expected {len(self)}")
        owned = copy(self)
        owned.users = users
        return owned

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each record, int64 [n]; batches are cut from records of like length."""
        return self._lengths

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class index of each record, int64 [n]."""
        return self._labels.numpy()

    def batch(self, indices: npt.NDArray[np.int64]) -> Batch:
        """Return the records at ``indices`` (int64 [B], B > 0) as one batch, padded to the longest of them."""
        rows = [self._token_ids[index] for index in indices]
        width = max(len(row) for row in rows)
        input_ids = torch.full((len(rows), width), self._pad_token_id, dtype=torch.int64)
        attention_mask = torch.zeros((len(rows), width), dtype=torch.int64)
        for place, row in enumerate(rows):
            input_ids[place, : len(row)] = row
            attention_mask[place, : len(row)] = 1
        return Batch(input_ids, attention_mask, self._labels[torch.from_numpy(np.asarray(indices))])
