"""Keys of a session: agreement between two sites, and every key, hash and commitment derived from it.

::

    X25519 secret --HKDF-Extract(salt = hash of ctx and both signed adverts)--> pair root
    pair root --HKDF-Expand("mask", ctx, low, high)--> k_ij, the pair's mask seed
    pair root --HKDF-Expand("seal", ctx, sender, recipient)--> key of the one box sender gives recipient

X25519: RFC 7748, section 6.1. HKDF-SHA256: RFC 5869. All hashes are SHA-256 over a label and length-prefixed
parts, so that no two kinds of object, and no two lists of parts, share an input.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tacit.errors import BadShare, BadSignature, MalformedMessage

KEY_BYTES = 32
HASH_BYTES = 32
SIGNATURE_BYTES = 64
#: What sealing adds to a box: GCM's tag.
TAG_BYTES = 16

#: Signature contexts; an identity key signs nothing here outside them.
ADVERT_CONTEXT = "tacit/secagg/advert/v1"
UPLOAD_CONTEXT = "tacit/secagg/upload/v1"
LOCK_CONTEXT = "tacit/secagg/lock/v1"


class Signer(Protocol):
    """This site's identity: ``certs.identity.Identity`` has this shape."""

    def sign(self, context: str, message: bytes) -> bytes:
        """Return a 64-byte Ed25519 signature of ``message`` under ``context``."""
        ...


class Verifier(Protocol):
    """A peer's pinned identity: ``certs.identity.PeerIdentity`` has this shape."""

    def verify(self, context: str, message: bytes, signature: bytes) -> None:
        """Return if the signature is this peer's; raise BadSignature otherwise."""
        ...


Roster = Mapping[str, Verifier]


def verify(roster: Roster, peer: str, context: str, message: bytes, signature: bytes) -> None:
    """Check ``peer``'s signature against the roster.

    Raises:
        BadSignature: unknown peer, or not its signature; names the peer.
    """
    if peer not in roster:
        raise BadSignature(
            f"{peer!r} is not in the roster of this run",
            peer=peer,
            hint="check the partners in the agreement",
        )
    try:
        roster[peer].verify(context, message, signature)
    except BadSignature as error:
        raise BadSignature(
            f"the signature of {peer} under {context} does not verify against its identity in the roster",
            peer=peer,
            hint=f"{peer}'s message was replaced, or its identity rotated without a new agreement",
        ) from error


class EphemeralKey:
    """One X25519 key pair, drawn for one session and forgotten with it.

    Args:
        private_bytes: 32 secret random bytes.
    """

    def __init__(self, private_bytes: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(private_bytes)
        self.public_bytes = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def agree(self, peer_public: bytes) -> bytes:
        """Return the 32-byte shared secret with ``peer_public``.

        Raises:
            MalformedMessage: a point of small order, which would make the secret zero (RFC 7748, section
                6.1).
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            raise MalformedMessage("an X25519 public key is not usable: it gives an all-zero secret") from error


def labelled_hash(label: str, *parts: bytes) -> bytes:
    """Return SHA-256 of ``tacit/secagg/<label>/v1 || 0x00`` and each part behind its 4-byte length."""
    hasher = hashlib.sha256(f"tacit/secagg/{label}/v1\0".encode())
    for part in parts:
        hasher.update(len(part).to_bytes(4, "big") + part)
    return hasher.digest()


def session_hash(ctx: bytes, adverts: Mapping[str, bytes]) -> bytes:
    """Hash one setup: ``ctx`` and every signed advert, in the order of names.

    Uploads and locks carry it, so sites that were shown different sets of keys cannot reach one quorum.
    """
    return labelled_hash("session", ctx, *(adverts[name] for name in sorted(adverts)))


def hkdf_extract(salt: bytes, input_key: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869, section 2.2): 32 bytes."""
    return hmac.digest(salt, input_key, "sha256")


def hkdf_expand(pseudorandom_key: bytes, info: bytes, size_bytes: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869, section 2.3): ``size_bytes`` bytes."""
    return HKDFExpand(SHA256(), size_bytes, info).derive(pseudorandom_key)


class PairRoot:
    """The secret two sites share for one session, from which the keys of a step are derived.

    Args:
        shared: X25519 secret, 32 bytes.
        transcript: hash of ctx and both adverts (:func:`pair_transcript`).
    """

    def __init__(self, shared: bytes, transcript: bytes) -> None:
        self._root = hkdf_extract(transcript, shared)

    def mask_seed(self, ctx: bytes, one: str, other: str) -> bytes:
        """Return k_ij for the step of ``ctx``: the same 32 bytes on both sides."""
        low, high = sorted((one, other))
        return self._expand("mask", ctx, low, high)

    def seal_key(self, ctx: bytes, sender: str, recipient: str) -> bytes:
        """Return the 32-byte key of the one box ``sender`` seals for ``recipient`` in the step of ``ctx``."""
        return self._expand("seal", ctx, sender, recipient)

    def _expand(self, label: str, ctx: bytes, first: str, second: str) -> bytes:
        # A hash as info is unambiguous and of one size.
        return hkdf_expand(self._root, labelled_hash(label, ctx, first.encode(), second.encode()), KEY_BYTES)


def pair_transcript(ctx: bytes, adverts: Mapping[str, bytes], one: str, other: str) -> bytes:
    """Hash what two sites agreed under: ``ctx`` and both signed adverts, in the order of names."""
    low, high = sorted((one, other))
    return labelled_hash("pair", ctx, adverts[low], adverts[high])


def seal(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Encrypt with AES-256-GCM. The nonce is zero: a key seals one box and nothing else."""
    return AESGCM(key).encrypt(bytes(12), plaintext, associated)


def unseal(key: bytes, box: bytes, associated: bytes) -> bytes:
    """Open a box.

    Raises:
        BadShare: the box was not sealed with this key for this recipient and session.
    """
    try:
        return AESGCM(key).decrypt(bytes(12), box, associated)
    except (InvalidTag, ValueError) as error:
        raise BadShare("a box of shares does not open with the key of its pair") from error


def commit_self(ctx: bytes, session: bytes, name: str, seed: bytes) -> bytes:
    """Commit to b_i. Seeds have 256 bits of entropy, so the hash hides as well as it binds."""
    return labelled_hash("commit-self", ctx, session, name.encode(), seed)


def commit_pair(ctx: bytes, session: bytes, one: str, other: str, seed: bytes) -> bytes:
    """Commit to k_ij. Both sides give the same commitment, so the coordinator sees when they disagree."""
    low, high = sorted((one, other))
    return labelled_hash("commit-pair", ctx, session, low.encode(), high.encode(), seed)
