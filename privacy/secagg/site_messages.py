"""What a site sends in a step, and its canonical bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from privacy.secagg.frames import start_frame
from privacy.secagg.keys import HASH_BYTES, KEY_BYTES, SIGNATURE_BYTES, labelled_hash
from privacy.secagg.shamir import SHARE_BYTES
from privacy.secagg.surplus import SEED_BYTES
from privacy.secagg.wire import Reader, check_ascending
from tacit.errors import MalformedMessage


@dataclass(frozen=True, slots=True)
class OfferedParcel:
    """In an offer, what concerns one peer of the offering site."""

    peer: str
    pair_commitment: bytes
    """Commitment to k_ij."""
    row_digest: bytes
    """Commitment to the shares in the box (:func:`privacy.secagg.parcels.row_digest`)."""
    box: bytes
    """The peer's shares of b_i and of each k_ij, sealed for it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Site: my masked vector has this hash, and this is how to open its masks when I am gone. Signed."""

    TYPE: ClassVar[int] = 2
    ctx: bytes
    session: bytes
    name: str
    length: int
    vector_hash: bytes
    """SHA-256 of the masked vector's bytes (little-endian, of the ring's size)."""
    self_commitment: bytes
    """Commitment to b_i."""
    parcels: tuple[OfferedParcel, ...]
    signature: bytes

    def signed_part(self) -> bytes:
        """The bytes the signature is over: the frame without it."""
        out = start_frame(self.TYPE, self.ctx)
        out.fixed(self.session, HASH_BYTES)
        out.name(self.name)
        out.u32(self.length)
        out.fixed(self.vector_hash, HASH_BYTES)
        out.fixed(self.self_commitment, HASH_BYTES)
        out.u8(len(self.parcels))
        for parcel in self.parcels:
            out.name(parcel.peer)
            out.fixed(parcel.pair_commitment, HASH_BYTES)
            out.fixed(parcel.row_digest, HASH_BYTES)
            out.blob(parcel.box)
        return out.bytes()

    def encode(self) -> bytes:
        return self.signed_part() + self.signature

    def upload_hash(self) -> bytes:
        """What a lock says about this upload: one hash over the vector's hash, shares and commitments."""
        return labelled_hash("upload", self.signed_part())

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Offer:
        session, name, length = data.fixed(HASH_BYTES), data.name(), data.u32()
        vector_hash, self_commitment = data.fixed(HASH_BYTES), data.fixed(HASH_BYTES)
        parcels = tuple(
            OfferedParcel(data.name(), data.fixed(HASH_BYTES), data.fixed(HASH_BYTES), data.blob())
            for _ in range(data.count())
        )
        check_ascending([parcel.peer for parcel in parcels])
        signature = data.fixed(SIGNATURE_BYTES)
        return cls(ctx, session, name, length, vector_hash, self_commitment, parcels, signature)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Site: the ``index``-th piece of my masked vector."""

    TYPE: ClassVar[int] = 3
    ctx: bytes
    index: int
    payload: bytes | memoryview

    def encode(self) -> bytes:
        out = start_frame(self.TYPE, self.ctx)
        out.u32(self.index)
        out.blob(self.payload)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Chunk:
        return cls(ctx, data.u32(), data.blob())


@dataclass(frozen=True, slots=True)
class Lock:
    """Site: my signature on the one survivor set I accept for this step."""

    TYPE: ClassVar[int] = 4
    ctx: bytes
    digest: bytes
    """:func:`lock_digest` of what is signed."""
    complaints: tuple[str, ...]
    """Survivors whose box of shares this site could not use."""
    signature: bytes

    def encode(self) -> bytes:
        out = start_frame(self.TYPE, self.ctx)
        out.fixed(self.digest, HASH_BYTES)
        out.names(self.complaints)
        return out.bytes() + self.signature

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Lock:
        digest = data.fixed(HASH_BYTES)
        complaints = data.names()
        check_ascending(complaints)
        return cls(ctx, digest, complaints, data.fixed(SIGNATURE_BYTES))


@dataclass(frozen=True, slots=True)
class RevealedRow:
    """In a reveal, a site's shares of one dealer's secrets: b, then k with each of the dealer's peers by
    name.

    An entry of 33 bytes is a share; one of 32 bytes is the hash of a share that stays closed.
    """

    dealer: str
    entries: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Reveal:
    """Site: my own seeds that open the locked sum."""

    TYPE: ClassVar[int] = 5
    ctx: bytes
    digest: bytes
    """The lock this answers."""
    self_seed: bytes
    """b_i."""
    pair_seeds: tuple[tuple[str, bytes], ...]
    """k_ij for each dropped peer j."""
    surplus_seeds: tuple[bytes, ...]
    """Layers of my noise that the survivors make superfluous, for ever more of them."""

    def encode(self) -> bytes:
        out = start_frame(self.TYPE, self.ctx)
        out.fixed(self.digest, HASH_BYTES)
        out.fixed(self.self_seed, KEY_BYTES)
        out.u8(len(self.pair_seeds))
        for name, seed in self.pair_seeds:
            out.name(name)
            out.fixed(seed, KEY_BYTES)
        out.u8(len(self.surplus_seeds))
        for seed in self.surplus_seeds:
            out.fixed(seed, SEED_BYTES)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Reveal:
        digest, self_seed = data.fixed(HASH_BYTES), data.fixed(KEY_BYTES)
        pair_seeds = tuple((data.name(), data.fixed(KEY_BYTES)) for _ in range(data.count()))
        check_ascending([name for name, _ in pair_seeds])
        surplus_seeds = tuple(data.fixed(SEED_BYTES) for _ in range(data.count()))
        return cls(ctx, digest, self_seed, pair_seeds, surplus_seeds)


@dataclass(frozen=True, slots=True)
class Shares:
    """Site: my shares of the seeds of survivors that vanished before they revealed them."""

    TYPE: ClassVar[int] = 7
    ctx: bytes
    digest: bytes
    """The lock this answers."""
    rows: tuple[RevealedRow, ...]

    def encode(self) -> bytes:
        out = start_frame(self.TYPE, self.ctx)
        out.fixed(self.digest, HASH_BYTES)
        out.u8(len(self.rows))
        for row in self.rows:
            out.name(row.dealer)
            out.u8(len(row.entries))
            for entry in row.entries:
                is_share = len(entry) == SHARE_BYTES
                out.u8(int(is_share))
                out.fixed(entry, SHARE_BYTES if is_share else HASH_BYTES)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Shares:
        digest = data.fixed(HASH_BYTES)
        rows = tuple(
            RevealedRow(data.name(), tuple(_read_entry(data) for _ in range(data.count()))) for _ in range(data.count())
        )
        check_ascending([row.dealer for row in rows])
        return cls(ctx, digest, rows)


def _read_entry(data: Reader) -> bytes:
    tag = data.u8()
    if tag > 1:
        raise MalformedMessage(f"an entry of a row is tagged {tag}; expected 0 (hash) or 1 (share)")
    return data.fixed(SHARE_BYTES if tag else HASH_BYTES)
