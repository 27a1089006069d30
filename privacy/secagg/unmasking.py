"""Opening a locked sum at the coordinator: which seeds must be subtracted, each checked against its
commitment.

A survivor that answers reveals its own seeds. For one that vanished after its upload they are rebuilt from
the shares of at least ``threshold`` others. A wrong seed or share is told apart by who committed to what: the
revealer of a share that does not match the dealer's row digest, or the dealer of shares that do not match its
commitment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from privacy.secagg.keys import commit_pair, commit_self
from privacy.secagg.messages import Offer, OfferedParcel, Reveal, Shares
from privacy.secagg.parcels import Session, check_revealed
from privacy.secagg.shamir import Reconstruction
from tacit.errors import BadShare, StepBurnt


@dataclass(frozen=True, slots=True)
class LockedSum:
    """A survivor set and what its sites uploaded: everything a reveal is checked against."""

    session: Session
    offers: Mapping[str, Offer]
    """Of the survivors, by name."""
    survivors: tuple[str, ...]

    @property
    def dropped(self) -> tuple[str, ...]:
        """Participants that are not in the sum."""
        return tuple(name for name in self.session.participants if name not in self.survivors)

    def parcel(self, dealer: str, peer: str) -> OfferedParcel:
        """Return what ``dealer``'s offer says about ``peer``: an offer's parcels are in the order of participants."""
        places = self.session.places
        at = places[peer]
        return self.offers[dealer].parcels[at - (at > places[dealer])]

    def check_seed(self, owner: str, dropped_peer: str | None, seed: bytes, blame: str) -> None:
        """Check b (``None``) or k with a dropped peer against what ``owner`` committed to.

        Raises:
            BadShare: it does not match; names ``blame``.
        """
        session = self.session
        if dropped_peer is None:
            what = "self seed"
            commitment = self.offers[owner].self_commitment
            matches = commit_self(session.ctx, session.hash, owner, seed) == commitment
        else:
            what = f"seed with {dropped_peer}"
            commitment = self.parcel(owner, dropped_peer).pair_commitment
            matches = commit_pair(session.ctx, session.hash, owner, dropped_peer, seed) == commitment
        if not matches:
            raise BadShare(f"the {what} of {owner} is not the one it committed to", peer=blame)


#: A site's own seeds: b under ``None``, k under each dropped site's name.
CheckedReveal = Mapping[str | None, bytes]


def check_reveal(locked: LockedSum, site: str, reveal: Reveal) -> CheckedReveal:
    """Check one site's reveal and return its seeds.

    Raises:
        BadShare: it reveals other things than the lock asks for, or wrong ones; names ``site``.
    """
    if tuple(name for name, _ in reveal.pair_seeds) != locked.dropped:
        raise BadShare(f"{site} revealed seeds for other sites than the dropped ones", peer=site)
    seeds: dict[str | None, bytes] = {None: reveal.self_seed, **dict(reveal.pair_seeds)}
    for peer, seed in seeds.items():
        locked.check_seed(site, peer, seed, blame=site)
    return seeds


def check_shares(
    locked: LockedSum, site: str, message: Shares, asked: Collection[str]
) -> dict[str, Mapping[str | None, bytes]]:
    """Check one site's shares of vanished survivors' seeds and return them by dealer, then as in
    :data:`CheckedReveal`. Dealers whose box the site could not use are missing.

    Raises:
        BadShare: it opens other shares than were asked for, or wrong ones; names ``site``.
    """
    shares: dict[str, Mapping[str | None, bytes]] = {}
    for row in message.rows:
        if row.dealer not in asked or row.dealer == site:
            raise BadShare(f"{site} opened shares of {row.dealer}, which were not asked for", peer=site)
        digest = locked.parcel(row.dealer, site).row_digest
        shares[row.dealer] = check_revealed(locked.session, site, row, digest, locked.dropped)
    return shares


def open_masks(
    locked: LockedSum,
    reveals: Mapping[str, CheckedReveal],
    shares: Mapping[str, Mapping[str, Mapping[str | None, bytes]]],
) -> tuple[list[bytes], list[bytes]]:
    """Return the seeds whose masks must be added to and subtracted from the sum of uploads to open it.

    Args:
        locked: the survivors and their offers.
        reveals: the seeds of survivors that revealed them.
        shares: of the others' seeds: by dealer, by holder.

    Raises:
        BadShare: a vanished site dealt shares of other seeds than it committed to; names it.
        StepBurnt: too few shares of a vanished site's seeds are left; names it.
    """
    plus: list[bytes] = []
    minus: list[bytes] = []
    for owner in locked.survivors:
        seeds = reveals[owner] if owner in reveals else _rebuild(locked, owner, shares.get(owner, {}))
        for peer, seed in seeds.items():
            # The owner added b and every k with a peer behind it in the order of names, and subtracted the
            # others.
            (plus if peer is not None and peer < owner else minus).append(seed)
    return plus, minus


def disagreements(locked: LockedSum) -> list[tuple[str, str]]:
    """Return the pairs of survivors that committed to different seeds: their masks would not cancel."""
    return [
        (low, high)
        for i, low in enumerate(locked.survivors)
        for high in locked.survivors[i + 1 :]
        if locked.parcel(low, high).pair_commitment != locked.parcel(high, low).pair_commitment
    ]


def common_member(pairs: Sequence[tuple[str, str]]) -> str | None:
    """Return the one site that is in every pair, if there are two pairs or more and one such site."""
    common = set(pairs[0]).intersection(*pairs) if len(pairs) > 1 else set()
    return common.pop() if len(common) == 1 else None


def _rebuild(locked: LockedSum, dealer: str, held: Mapping[str, Mapping[str | None, bytes]]) -> dict[str | None, bytes]:
    """Rebuild all the seeds of a vanished site from one set of holders: one field inversion."""
    session = locked.session
    holders = sorted(held)
    if len(holders) < session.threshold:
        raise StepBurnt(
            f"{dealer} vanished after its upload and only {len(holders)} sites hold good shares of its seeds"
            f"{_listed(holders)}; {session.threshold} are needed"
        )
    holders = holders[: session.threshold]
    reconstruction = Reconstruction([session.point(name) for name in holders])
    owners: list[str | None] = [None, *locked.dropped]
    seeds = {}
    for peer in owners:
        try:
            seed = reconstruction.secret([held[name][peer] for name in holders])
        except BadShare as error:
            raise BadShare(f"{dealer} dealt shares of no seed: {error.message}", peer=dealer) from error
        locked.check_seed(dealer, peer, seed, blame=dealer)
        seeds[peer] = seed
    return seeds


def _listed(names: Collection[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
