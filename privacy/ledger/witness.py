"""A witness remembers the last tree head it saw and accepts only continuations of it.

The coordinator's gateway and the auditor are witnesses. A log restored from an old backup, cut short, rewritten or
shown in two versions has no consistency proof, and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from privacy.ledger.head import TreeHead, Verifier
from privacy.ledger.merkle import EMPTY_ROOT, verify_consistency
from tacit.errors import LedgerCorrupt


class Witness:
    """Follows one log. Pure: persist :attr:`head` and hand it back to resume.

    Args:
        verifier: the site's identity.
        head: the last head this witness accepted, None for a log it has never seen.
    """

    def __init__(self, verifier: Verifier, head: TreeHead | None = None) -> None:
        self._verifier = verifier
        self._head = head

    @property
    def head(self) -> TreeHead | None:
        """The last accepted head."""
        return self._head

    def observe(self, head: TreeHead, proof: Sequence[bytes]) -> None:
        """Accept ``head``, given the consistency proof from the last accepted head's size.

        The first head of all needs no proof.

        Raises:
            LedgerCorrupt: a wrong signature, a rollback, a fork, or a proof that proves nothing; the witness keeps
                the head it had.
        """
        head.verify(self._verifier)
        last = self._head
        if last is None:
            if head.size == 0 and head.root != EMPTY_ROOT.hex():
                raise LedgerCorrupt("a log without entries has another root than the empty tree's")
            self._head = head
            return
        if head.size < last.size:
            raise LedgerCorrupt(
                f"the ledger was rolled back: it has {head.size} entries and had {last.size} before",
                hint="an old backup was restored; bring back the newest ledger, what it lost cannot be unspent",
            )
        try:
            verify_consistency(last.size, head.size, bytes.fromhex(last.root), bytes.fromhex(head.root), proof)
        except LedgerCorrupt as error:
            raise LedgerCorrupt(
                f"the ledger's {head.size} entries do not continue the {last.size} entries seen before",
                hint="the log was rewritten or exists twice; compare the site's copies with what witnesses hold",
            ) from error
        self._head = head
