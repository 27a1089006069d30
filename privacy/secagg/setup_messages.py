"""The messages of a key setup. Their ``ctx`` is the epoch's, not a step's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from privacy.secagg.frames import start_frame
from privacy.secagg.keys import CIPHERTEXT_BYTES, HASH_BYTES, KEM_PUBLIC_BYTES, KEY_BYTES, SIGNATURE_BYTES
from privacy.secagg.wire import Reader, check_ascending


@dataclass(frozen=True, slots=True)
class KeyAdvert:
    """Site: these are my keys for this epoch. Signed by my identity."""

    TYPE: ClassVar[int] = 1
    ctx: bytes
    name: str
    public_key: bytes
    """X25519, 32 bytes."""
    kem_public_key: bytes
    """ML-KEM-768 encapsulation key, 1184 bytes."""
    signature: bytes

    def signed_part(self) -> bytes:
        """The bytes the signature is over: the frame without it."""
        out = start_frame(self.TYPE, self.ctx)
        out.name(self.name)
        out.fixed(self.public_key, KEY_BYTES)
        out.fixed(self.kem_public_key, KEM_PUBLIC_BYTES)
        return out.bytes()

    def encode(self) -> bytes:
        return self.signed_part() + self.signature

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> KeyAdvert:
        return cls(ctx, data.name(), data.fixed(KEY_BYTES), data.fixed(KEM_PUBLIC_BYTES), data.fixed(SIGNATURE_BYTES))


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """Site: a secret for one peer, sealed to the KEM key it advertised. Signed by my identity.

    A site makes one for every peer behind it in the order of names.
    """

    TYPE: ClassVar[int] = 6
    ctx: bytes
    setup: bytes
    """:func:`privacy.secagg.keys.setup_hash` of the adverts it was made under."""
    sender: str
    recipient: str
    ciphertext: bytes
    """ML-KEM-768, 1088 bytes."""
    signature: bytes

    def signed_part(self) -> bytes:
        """The bytes the signature is over: the frame without it."""
        out = start_frame(self.TYPE, self.ctx)
        out.fixed(self.setup, HASH_BYTES)
        out.name(self.sender)
        out.name(self.recipient)
        out.fixed(self.ciphertext, CIPHERTEXT_BYTES)
        return out.bytes()

    def encode(self) -> bytes:
        return self.signed_part() + self.signature

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Encapsulation:
        setup, sender, recipient = data.fixed(HASH_BYTES), data.name(), data.name()
        return cls(ctx, setup, sender, recipient, data.fixed(CIPHERTEXT_BYTES), data.fixed(SIGNATURE_BYTES))


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """Site: all my encapsulations, in the order of recipients; none if nobody is behind me."""

    TYPE: ClassVar[int] = 8
    ctx: bytes
    frames: tuple[bytes, ...]
    """Whole :class:`Encapsulation` frames."""

    def encode(self) -> bytes:
        out = start_frame(self.TYPE, self.ctx)
        out.blobs(self.frames)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Encapsulated:
        return cls(ctx, data.blobs())


@dataclass(frozen=True, slots=True)
class Keys:
    """Coordinator: this is the epoch, and these are the signed adverts of the sites that set it up."""

    TYPE: ClassVar[int] = 16
    ctx: bytes
    epoch: bytes
    """:meth:`privacy.secagg.descriptor.StepDescriptor.encode_epoch`."""
    adverts: tuple[bytes, ...]
    """Whole :class:`KeyAdvert` frames, as the sites sent them."""

    def encode(self) -> bytes:
        out = start_frame(self.TYPE, self.ctx)
        out.blob(self.epoch)
        out.blobs(self.adverts)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Keys:
        return cls(ctx, data.blob(), data.blobs())


@dataclass(frozen=True, slots=True)
class Established:
    """Coordinator: these sites finished the setup, and these are the encapsulations made for you."""

    TYPE: ClassVar[int] = 20
    ctx: bytes
    joined: tuple[str, ...]
    encapsulations: tuple[bytes, ...]
    """Whole :class:`Encapsulation` frames, as the sites sent them, in the order of senders."""

    def encode(self) -> bytes:
        out = start_frame(self.TYPE, self.ctx)
        out.names(self.joined)
        out.blobs(self.encapsulations)
        return out.bytes()

    @classmethod
    def read(cls, ctx: bytes, data: Reader) -> Established:
        joined = data.names()
        check_ascending(joined)
        return cls(ctx, joined, data.blobs())
