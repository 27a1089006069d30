"""What a coordinator sends in a step, and its canonical bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from privacy.secagg.frames import start_frame
from privacy.secagg.keys import HASH_BYTES, SIGNATURE_BYTES
from privacy.secagg.wire import Reader, check_ascending
from tacit.errors import MalformedMessage

#: Longest reason an outcome carries, bytes of UTF-8.
REASON_MAX_BYTES = 4000


@dataclass(frozen=True, slots=True)
class Announce:
    """Coordinator: this is the step, and these sites take part in it."""

    TYPE: ClassVar[int] = 21
    ctx: bytes
    descriptor: bytes
    participants: tuple[str, ...]

    def encode(self) -> bytes:
        out = start_frame(self.TYPE, self.ctx)
        out.blob(self.descriptor)
        out.names(self.participants)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Announce:
        descriptor, participants = data.blob(), data.names()
        check_ascending(participants)
        return cls(ctx, descriptor, participants)


@dataclass(frozen=True, slots=True)
class Grant:
    """Coordinator: there is room for your vector; send its chunks."""

    TYPE: ClassVar[int] = 17
    ctx: bytes

    def encode(self) -> bytes:
        return start_frame(self.TYPE, self.ctx).bytes()

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
        out = start_frame(self.TYPE, self.ctx)
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
        out = start_frame(self.TYPE, self.ctx)
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


@dataclass(frozen=True, slots=True)
class SharesRequest:
    """Coordinator: these survivors vanished after the lock; send your shares of their seeds."""

    TYPE: ClassVar[int] = 22
    ctx: bytes
    digest: bytes
    dealers: tuple[str, ...]

    def encode(self) -> bytes:
        out = start_frame(self.TYPE, self.ctx)
        out.fixed(self.digest, HASH_BYTES)
        out.names(self.dealers)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> SharesRequest:
        digest, dealers = data.fixed(HASH_BYTES), data.names()
        check_ascending(dealers)
        return cls(ctx, digest, dealers)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Coordinator: the step has ended, with a sum over these survivors or, when there are none, without."""

    TYPE: ClassVar[int] = 23
    ctx: bytes
    survivors: tuple[str, ...]
    reason: str
    """Why the step was burnt; empty when it was not."""

    def encode(self) -> bytes:
        out = start_frame(self.TYPE, self.ctx)
        out.names(self.survivors)
        out.blob(self.reason.encode())
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Outcome:
        survivors, reason = data.names(), data.blob()
        check_ascending(survivors)
        if bool(survivors) == bool(reason) or len(reason) > REASON_MAX_BYTES:
            raise MalformedMessage("an outcome names survivors, or gives a reason of at most 4000 bytes, and not both")
        try:
            return cls(ctx, survivors, reason.decode())
        except UnicodeDecodeError as error:
            raise MalformedMessage("an outcome's reason is not UTF-8") from error


@dataclass(frozen=True, slots=True)
class TotalChunk:
    """Coordinator: the ``index``-th piece of the step's sum, which the next step builds on."""

    TYPE: ClassVar[int] = 24
    ctx: bytes
    index: int
    payload: bytes | memoryview

    def encode(self) -> bytes:
        out = start_frame(self.TYPE, self.ctx)
        out.u32(self.index)
        out.blob(self.payload)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> TotalChunk:
        return cls(ctx, data.u32(), data.blob())
