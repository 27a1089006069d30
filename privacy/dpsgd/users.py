"""The privacy unit ``user``: whose record is whose, and which of a user's records enter a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from privacy.dpsgd.sampling import Indices
from privacy.randomness import RandomSource, uniform
from tacit.errors import TrainingError


class UserRecords:
    """A dataset's records by user. Every record is one user's: no two users can share one.

    Args:
        owners: the user of each record, integers [n] from 0 to ``count`` - 1.
        count: users; some may have no record. By default one more than the largest owner.

    Raises:
        TrainingError: an owner is out of range.
    """

    def __init__(self, owners: Sequence[int] | npt.NDArray[np.int64], count: int | None = None) -> None:
        #: the user of each record, int64 [n]
        self.owners: Indices = np.array(owners, dtype=np.int64)
        self.owners.setflags(write=False)
        self._count = int(self.owners.max(initial=-1)) + 1 if count is None else count
        if self.owners.size and not 0 <= int(self.owners.min()) <= int(self.owners.max()) < self._count:
            raise TrainingError(
                f"owners range from {self.owners.min()} to {self.owners.max()}, expected 0 to {self._count - 1}"
            )
        self._by_user = np.argsort(self.owners, kind="stable").astype(np.int64)
        self._bounds = np.searchsorted(self.owners[self._by_user], np.arange(self._count + 1))

    def __len__(self) -> int:
        """Users. Secret, as the number of records is."""
        return self._count

    def records(self, user: int) -> Indices:
        """The records of one user, int64, ascending."""
        return self._by_user[self._bounds[user] : self._bounds[user + 1]]

    def draw(self, source: RandomSource, users: Indices, max_records: int) -> list[Indices]:
        """Return the records with which each of ``users`` enters one step: all of them, or ``max_records`` at random.

        Of more than ``max_records`` every subset of that size is equally likely, drawn anew in each step and for each
        user by itself: what one user enters with says nothing about another.

        Args:
            users: a sample of users, int64.
            max_records: the contribution bound, above 0.
        """
        drawn = []
        for user in users:
            records = self.records(int(user))
            if len(records) > max_records:
                # the places of the smallest of as many independent numbers: two are equal once in 2^53
                places = np.argsort(uniform(source, len(records)), kind="stable")[:max_records]
                records = records[np.sort(places)]
            drawn.append(records)
        return drawn
