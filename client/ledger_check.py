"""Does this site's ledger continue the one it showed the coordinator before? Asked before any data is touched."""

from __future__ import annotations

import logging

from certs.identity import PeerIdentity
from privacy.ledger import Ledger, TreeHead
from privacy.order import Order
from tacit.errors import LedgerCorrupt, Refusal, RefusalReason

_log = logging.getLogger(__name__)

_HINT = "bring back the newest ledger; what the lost entries reserved is spent and cannot be unspent"


def check_ledger(order: Order, ledger: Ledger, site: PeerIdentity) -> None:
    """Refuse to go on with a ledger that is older than one this site has signed, or another one.

    What the lost entries reserved was spent, and this ledger would let it be spent again.

    Args:
        order: names the head the coordinator has seen of this site, if any.
        ledger: the site's.
        site: its identity; a head that it did not sign proves nothing to it.

    Raises:
        Refusal: the ledger was rolled back or rewritten.
    """
    seen = order.seen_head(site.name.name)
    if seen is None:
        return
    head = TreeHead(
        size=seen.tree_size, root=seen.tree_root, timestamp=seen.tree_timestamp, signature=seen.tree_signature
    )
    try:
        head.verify(site)
    except LedgerCorrupt:
        # Made up, or signed before the key was rotated. The coordinator asks for a consistency proof all the same.
        _log.warning("the order names a tree head that this site's key did not sign")
        return
    size = ledger.tree_head().size
    if head.size > size:
        raise Refusal(
            RefusalReason.LEDGER,
            f"this site signed a tree head over {head.size} ledger entries at {head.timestamp}, and its ledger has "
            f"{size}: an old copy was restored",
            hint=_HINT,
        )
    if ledger.root(head.size).hex() != head.root:
        raise Refusal(
            RefusalReason.LEDGER,
            f"the first {head.size} entries of this site's ledger are not those it signed at {head.timestamp}: it was "
            "rewritten, or an old copy was restored and went on",
            hint=_HINT,
        )


def consistency(order: Order | None, site: str, ledger: Ledger) -> tuple[str, ...]:
    """Return the proof (hex hashes) that the ledger continues what the coordinator has seen; none where it does not."""
    seen = order.seen_head(site) if order else None
    if seen is None or seen.tree_size > ledger.tree_head().size:
        return ()
    return tuple(item.hex() for item in ledger.consistency_proof(seen.tree_size))
