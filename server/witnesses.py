"""The coordinator as a witness of every site's ledger: the last tree head of each, and only continuations of it.

A site whose ledger was restored from an old copy, cut back or rewritten has no consistency proof from the head seen
before; its receipt is refused. What was seen outlives the process, in one file that is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Literal

from pydantic import ValidationError

from certs.identity import PeerIdentity
from privacy.ledger import TreeHead, Witness
from privacy.order import Name, Receipt, SeenHead, Strict
from tacit.canonical import canonical_json
from tacit.durable import write_atomic
from tacit.errors import ConfigError, LedgerCorrupt


class _Seen(Strict):
    """The file: the last accepted head of each site."""

    tacit_witness: Literal[1]
    heads: dict[Name, TreeHead]


class SiteWitnesses:
    """One witness for each site. Thread-safe.

    Args:
        path: where the heads are kept; it need not exist yet.
        roster: identities of the sites.

    Raises:
        ConfigError: the file cannot be read: without it a rollback would pass unseen.
    """

    def __init__(self, path: Path, roster: Mapping[str, PeerIdentity]) -> None:
        self._path = path
        self._roster = roster
        self._lock = Lock()
        self._heads = _read(path)

    def seen(self) -> tuple[SeenHead, ...]:
        """The last head of every site that has one, by name: what goes into an order."""
        with self._lock:
            return tuple(
                SeenHead(
                    site=site,
                    tree_size=head.size,
                    tree_root=head.root,
                    tree_timestamp=head.timestamp,
                    tree_signature=head.signature,
                )
                for site, head in sorted(self._heads.items())
                if site in self._roster
            )

    def observe(self, receipt: Receipt) -> None:
        """Accept the receipt's head as a continuation of the last one, durably, before anybody relies on it.

        Raises:
            LedgerCorrupt: not signed by the site, a rollback, a fork, or no proof; what was seen before still counts.
            StorageFull: the head could not be kept.
        """
        verifier = self._roster.get(receipt.site)
        if verifier is None:
            raise LedgerCorrupt(f"{receipt.site!r} is no site of the agreement")
        head = head_of(receipt)
        with self._lock:
            witness = Witness(verifier, self._heads.get(receipt.site))
            witness.observe(head, [bytes.fromhex(item) for item in receipt.tree_consistency])
            heads = {**self._heads, receipt.site: head}
            write_atomic(
                self._path, canonical_json(_Seen(tacit_witness=1, heads=heads).model_dump(mode="json")), mode=0o600
            )
            self._heads = heads


def head_of(receipt: Receipt) -> TreeHead:
    """Return the tree head a receipt carries; its signature is not checked here.

    Raises:
        LedgerCorrupt: it carries none, or one that is malformed.
    """
    try:
        return TreeHead(
            size=receipt.tree_size,
            root=receipt.tree_root,
            timestamp=receipt.tree_timestamp,
            signature=receipt.tree_signature,
        )
    except ValidationError as error:
        raise LedgerCorrupt(f"the receipt of {receipt.site!r} carries no tree head") from error


def _read(path: Path) -> dict[str, TreeHead]:
    if not path.exists():
        return {}
    try:
        return _Seen.model_validate_json(path.read_bytes()).heads
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path} cannot be read: it says what was last seen of every site's ledger",
            hint="restore it from a copy; without it, a ledger that was rolled back would pass unseen",
        ) from error
