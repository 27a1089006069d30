"""Every message of the protocol and its canonical bytes.

A frame is ``version (1) | type (1) | ctx (32) | body``. Messages of a site have types below 16.
:func:`decode` is total: it returns a message or raises :class:`~tacit.errors.MalformedMessage`, and nothing
else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from privacy.secagg.keys import HASH_BYTES, KEY_BYTES, SIGNATURE_BYTES, labelled_hash
from privacy.secagg.shamir import SHARE_BYTES
from privacy.secagg.wire import Reader, Writer, check_ascending
from tacit.errors import MalformedMessage

VERSION = 1
CTX_BYTES = 32
#: Payload of every chunk of a vector but the last, which holds the rest.
CHUNK_BYTES = 1 << 20
#: No frame is longer; :data:`~privacy.secagg.threshold.MAX_COHORT` keeps every other message below a chunk.
MAX_FRAME_BYTES = CHUNK_BYTES + 64


@dataclass(frozen=True, slots=True)
class KeyAdvert:
    """Site: this is my ephemeral X25519 key for this run, epoch and ctx. Signed by my identity."""

    TYPE: ClassVar[int] = 1
    ctx: bytes
    run_id: bytes
    """8 bytes."""
    epoch: int
    name: str
    public_key: bytes
    signature: bytes

    def signed_part(self) -> bytes:
        """The bytes the signature is over: the frame without it."""
        out = _start(self.TYPE, self.ctx)
        out.fixed(self.run_id, 8)
        out.u32(self.epoch)
        out.name(self.name)
        out.fixed(self.public_key, KEY_BYTES)
        return out.bytes()

    def encode(self) -> bytes:
        return self.signed_part() + self.signature

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> KeyAdvert:
        return cls(ctx, data.fixed(8), data.u32(), data.name(), data.fixed(KEY_BYTES), data.fixed(SIGNATURE_BYTES))


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
    """SHA-256 of the masked vector's bytes (little-endian uint32)."""
    self_commitment: bytes
    """Commitment to b_i."""
    parcels: tuple[OfferedParcel, ...]
    signature: bytes

    def signed_part(self) -> bytes:
        """The bytes the signature is over: the frame without it."""
        out = _start(self.TYPE, self.ctx)
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
        out = _start(self.TYPE, self.ctx)
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
        out = _start(self.TYPE, self.ctx)
        out.fixed(self.digest, HASH_BYTES)
        out.u8(len(self.complaints))
        for name in self.complaints:
            out.name(name)
        return out.bytes() + self.signature

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Lock:
        digest = data.fixed(HASH_BYTES)
        complaints = tuple(data.name() for _ in range(data.count()))
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
    """Site: my own seeds that open the locked sum, and my shares of the survivors' seeds."""

    TYPE: ClassVar[int] = 5
    ctx: bytes
    digest: bytes
    """The lock this answers."""
    self_seed: bytes
    """b_i."""
    pair_seeds: tuple[tuple[str, bytes], ...]
    """k_ij for each dropped peer j."""
    rows: tuple[RevealedRow, ...]

    def encode(self) -> bytes:
        out = _start(self.TYPE, self.ctx)
        out.fixed(self.digest, HASH_BYTES)
        out.fixed(self.self_seed, KEY_BYTES)
        out.u8(len(self.pair_seeds))
        for name, seed in self.pair_seeds:
            out.name(name)
            out.fixed(seed, KEY_BYTES)
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
    def read(cls, ctx: bytes, data: Reader) -> Reveal:
        digest, self_seed = data.fixed(HASH_BYTES), data.fixed(KEY_BYTES)
        pair_seeds = tuple((data.name(), data.fixed(KEY_BYTES)) for _ in range(data.count()))
        rows = tuple(
            RevealedRow(data.name(), tuple(_read_entry(data) for _ in range(data.count()))) for _ in range(data.count())
        )
        check_ascending([name for name, _ in pair_seeds])
        check_ascending([row.dealer for row in rows])
        return cls(ctx, digest, self_seed, pair_seeds, rows)


@dataclass(frozen=True, slots=True)
class Announce:
    """Coordinator: this is the step, and these are the signed adverts of the sites that take it."""

    TYPE: ClassVar[int] = 16
    ctx: bytes
    descriptor: bytes
    adverts: tuple[bytes, ...]
    """Whole :class:`KeyAdvert` frames, as the sites sent them."""

    def encode(self) -> bytes:
        out = _start(self.TYPE, self.ctx)
        out.blob(self.descriptor)
        out.u8(len(self.adverts))
        for advert in self.adverts:
            out.blob(advert)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Announce:
        return cls(ctx, data.blob(), tuple(data.blob() for _ in range(data.count())))


@dataclass(frozen=True, slots=True)
class Grant:
    """Coordinator: there is room for your vector; send its chunks."""

    TYPE: ClassVar[int] = 17
    ctx: bytes

    def encode(self) -> bytes:
        return _start(self.TYPE, self.ctx).bytes()

    @classmethod
    def read(cls, ctx: bytes, _data: Reader) -> Grant:
        return cls(ctx)


@dataclass(frozen=True, slots=True)
class DeliveredParcel:
    """In a lock request, what one survivor sealed for the receiving site."""

    dealer: str
    row_digest: bytes
    box: bytes


@dataclass(frozen=True, slots=True)
class LockRequest:
    """Coordinator: these sites uploaded, with these hashes; sign it. And these are your shares."""

    TYPE: ClassVar[int] = 18
    ctx: bytes
    survivors: tuple[tuple[str, bytes], ...]
    """Name and upload hash, by name."""
    parcels: tuple[DeliveredParcel, ...]

    def encode(self) -> bytes:
        out = _start(self.TYPE, self.ctx)
        out.u8(len(self.survivors))
        for name, upload_hash in self.survivors:
            out.name(name)
            out.fixed(upload_hash, HASH_BYTES)
        out.u8(len(self.parcels))
        for parcel in self.parcels:
            out.name(parcel.dealer)
            out.fixed(parcel.row_digest, HASH_BYTES)
            out.blob(parcel.box)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> LockRequest:
        survivors = tuple((data.name(), data.fixed(HASH_BYTES)) for _ in range(data.count()))
        parcels = tuple(DeliveredParcel(data.name(), data.fixed(HASH_BYTES), data.blob()) for _ in range(data.count()))
        check_ascending([name for name, _ in survivors])
        check_ascending([parcel.dealer for parcel in parcels])
        return cls(ctx, survivors, parcels)


@dataclass(frozen=True, slots=True)
class RevealRequest:
    """Coordinator: these sites signed the lock you signed; reveal."""

    TYPE: ClassVar[int] = 19
    ctx: bytes
    digest: bytes
    signatures: tuple[tuple[str, bytes], ...]

    def encode(self) -> bytes:
        out = _start(self.TYPE, self.ctx)
        out.fixed(self.digest, HASH_BYTES)
        out.u8(len(self.signatures))
        for name, signature in self.signatures:
            out.name(name)
            out.fixed(signature, SIGNATURE_BYTES)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> RevealRequest:
        digest = data.fixed(HASH_BYTES)
        signatures = tuple((data.name(), data.fixed(SIGNATURE_BYTES)) for _ in range(data.count()))
        check_ascending([name for name, _ in signatures])
        return cls(ctx, digest, signatures)


Message = KeyAdvert | Offer | Chunk | Lock | Reveal | Announce | Grant | LockRequest | RevealRequest

_MESSAGES: Mapping[int, type[Message]] = {
    kind.TYPE: kind for kind in (KeyAdvert, Offer, Chunk, Lock, Reveal, Announce, Grant, LockRequest, RevealRequest)
}


def decode(frame: bytes) -> Message:
    """Read one frame.

    Raises:
        MalformedMessage: another version, an unknown type, fields missing, left over, or not in canonical
            form.
    """
    if len(frame) > MAX_FRAME_BYTES:
        raise MalformedMessage(f"a frame of {len(frame)} bytes was sent; at most {MAX_FRAME_BYTES} are allowed")
    data = Reader(frame)
    version, kind = data.u8(), data.u8()
    if version != VERSION:
        raise MalformedMessage(
            f"a frame of protocol version {version} was sent; this site speaks {VERSION}",
            hint="upgrade the older of the two packages",
        )
    if kind not in _MESSAGES:
        raise MalformedMessage(f"a frame of unknown type {kind} was sent")
    message = _MESSAGES[kind].read(data.fixed(CTX_BYTES), data)
    data.end()
    return message


def lock_digest(ctx: bytes, session: bytes, survivors: tuple[tuple[str, bytes], ...]) -> bytes:
    """Hash what a lock signs: the step, its setup, and who survived with which upload."""
    parts = [part for name, upload_hash in survivors for part in (name.encode(), upload_hash)]
    return labelled_hash("lock", ctx, session, *parts)


def chunks_of(ctx: bytes, vector: memoryview) -> list[bytes]:
    """Return the frames that carry ``vector``'s bytes."""
    return [
        Chunk(ctx, index, vector[at : at + CHUNK_BYTES]).encode()
        for index, at in enumerate(range(0, len(vector), CHUNK_BYTES))
    ]


def vector_hasher(ctx: bytes) -> hashlib._Hash:
    """Return the running hash of a masked vector's bytes, to be updated with them in order."""
    return hashlib.sha256(b"tacit/secagg/vector/v1\0" + ctx)


def _start(kind: int, ctx: bytes) -> Writer:
    out = Writer()
    out.u8(VERSION)
    out.u8(kind)
    out.fixed(ctx, CTX_BYTES)
    return out


def _read_entry(data: Reader) -> bytes:
    tag = data.u8()
    if tag > 1:
        raise MalformedMessage(f"an entry of a row is tagged {tag}; expected 0 (hash) or 1 (share)")
    return data.fixed(SHARE_BYTES if tag else HASH_BYTES)
