"""What a site leaves with its peers so that the step survives it: shares of its seeds, sealed and committed
to.

A site ("dealer") splits each of its secrets, b first and then k with each of its peers by name. The shares
one recipient gets are a row. Rows travel in boxes sealed for the recipient; the dealer's signed offer holds
a digest of each row over the hashes of its shares, so that a recipient can later open some shares of a row,
give only the hashes of the others, and be checked against what the dealer signed: a bad row is told apart
from a bad reveal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from privacy.secagg.descriptor import StepDescriptor
from privacy.secagg.keys import HASH_BYTES, TAG_BYTES, StepKey, commit_pair, labelled_hash, seal, session_hash, unseal
from privacy.secagg.messages import OfferedParcel, RevealedRow
from privacy.secagg.shamir import SHARE_BYTES, split_all
from tacit.errors import BadShare

Row = tuple[bytes, ...]
_SHARE_PREFIX = b"tacit/secagg/share/v2\0" + SHARE_BYTES.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Session:
    """What every site in one step knows: the step, under which setup, and who takes part."""

    ctx: bytes
    hash: bytes
    cohort: tuple[str, ...]
    participants: tuple[str, ...]
    threshold: int
    #: each participant's place among them, from 0
    places: Mapping[str, int] = field(compare=False)

    @classmethod
    def of(cls, descriptor: StepDescriptor, setup: bytes, participants: tuple[str, ...]) -> Session:
        """Make it from the setup's hash and the participants, in the order of names."""
        ctx = descriptor.ctx()
        hashed = session_hash(ctx, setup, participants)
        places = {name: place for place, name in enumerate(participants)}
        return cls(ctx, hashed, descriptor.cohort, participants, descriptor.threshold, places)

    def point(self, name: str) -> int:
        """Return the Shamir point of a site: its place in the cohort, from 1."""
        return self.cohort.index(name) + 1

    def peers_of(self, name: str) -> tuple[str, ...]:
        """Return the other participants, sorted: the order of a dealer's pair secrets."""
        return tuple(peer for peer in self.participants if peer != name)

    def box_bytes(self) -> int:
        """Return the size of every box: one share for each secret of a dealer, and the seal's tag."""
        return len(self.participants) * SHARE_BYTES + TAG_BYTES


def deal(
    session: Session,
    me: str,
    self_seed: bytes,
    pair_seeds: Mapping[str, bytes],
    keys: Mapping[str, StepKey],
    random_bytes: Callable[[int], bytes],
) -> tuple[OfferedParcel, ...]:
    """Split, commit to and seal this site's secrets: one parcel for each peer, by name."""
    peers = session.peers_of(me)
    points = [session.point(peer) for peer in peers]
    secrets = [self_seed, *(pair_seeds[peer] for peer in peers)]
    rows = split_all(secrets, session.threshold, points, random_bytes)
    parcels = []
    for peer, row in zip(peers, rows, strict=True):
        key = keys[peer].seal_key(me, peer)
        parcels.append(
            OfferedParcel(
                peer=peer,
                pair_commitment=commit_pair(session.ctx, session.hash, me, peer, pair_seeds[peer]),
                row_digest=row_digest(session, me, peer, [share_hash(share) for share in row]),
                box=seal(key, b"".join(row), _associated(session, me, peer)),
            )
        )
    return tuple(parcels)


def open_parcel(session: Session, dealer: str, me: str, digest: bytes, box: bytes, key: StepKey) -> Row:
    """Open what ``dealer`` sealed for ``me`` and check it against the digest of its row.

    Raises:
        BadShare: the box does not open, or holds other shares than the dealer committed to; names the dealer.
    """
    try:
        data = unseal(key.seal_key(dealer, me), box, _associated(session, dealer, me))
    except BadShare as error:
        raise BadShare(f"the box {dealer} sealed for {me} does not open", peer=dealer) from error
    row = tuple(data[at : at + SHARE_BYTES] for at in range(0, len(data), SHARE_BYTES))
    if len(data) != len(session.participants) * SHARE_BYTES or digest != row_digest(
        session, dealer, me, [share_hash(share) for share in row]
    ):
        raise BadShare(f"{dealer} sealed other shares for {me} than it committed to", peer=dealer)
    return row


def redact(session: Session, dealer: str, row: Row, dropped: Sequence[str]) -> RevealedRow:
    """Open the shares that the locked sum needs, b and k with each dropped site, and hash the others."""
    keep = [True, *(peer in dropped for peer in session.peers_of(dealer))]
    return RevealedRow(
        dealer, tuple(share if shown else share_hash(share) for share, shown in zip(row, keep, strict=True))
    )


def check_revealed(
    session: Session, revealer: str, revealed: RevealedRow, digest: bytes, dropped: Sequence[str]
) -> dict[str | None, bytes]:
    """Check an opened row against the dealer's signed digest and return its shares.

    Returns:
        the share of the dealer's b under ``None``, and of its k with each dropped site under that site's
        name.

    Raises:
        BadShare: the row opens other shares than the lock asks for, or does not match; names the revealer.
    """
    peers = session.peers_of(revealed.dealer)
    shown = [True, *(peer in dropped for peer in peers)]
    if [len(entry) == SHARE_BYTES for entry in revealed.entries] != shown:
        raise BadShare(f"{revealer} opened other shares of {revealed.dealer} than the locked sum needs", peer=revealer)
    hashes = [entry if len(entry) == HASH_BYTES else share_hash(entry) for entry in revealed.entries]
    if row_digest(session, revealed.dealer, revealer, hashes) != digest:
        raise BadShare(
            f"{revealer} revealed other shares of {revealed.dealer} than {revealed.dealer} committed to",
            peer=revealer,
        )
    owners: list[str | None] = [None, *peers]
    return {owner: entry for owner, entry, is_shown in zip(owners, revealed.entries, shown, strict=True) if is_shown}


def share_hash(share: bytes) -> bytes:
    """Hash one share, as ``labelled_hash("share", share)`` does. Below the threshold shares are uniform, so the hash
    hides them. A step hashes n^2 shares at every site, so the constant part is made once."""
    return hashlib.sha256(_SHARE_PREFIX + share).digest()


def row_digest(session: Session, dealer: str, recipient: str, hashes: Sequence[bytes]) -> bytes:
    """Commit to a row by the hashes of its shares."""
    return labelled_hash("row", session.ctx, session.hash, dealer.encode(), recipient.encode(), *hashes)


def _associated(session: Session, dealer: str, recipient: str) -> bytes:
    return labelled_hash("box", session.ctx, session.hash, dealer.encode(), recipient.encode())
