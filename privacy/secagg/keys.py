"""Keys: agreement between two sites, the chain that is ratcheted each step, and every hash and commitment.

::

    X25519 secret || ML-KEM-768 secret
      --HKDF-Extract(salt = hash of the epoch, both signed adverts and the signed ciphertext)--> chain
    chain --HKDF-Expand("ratchet", step)--> the chain of the next step; this one is forgotten
    chain --HKDF-Expand("step", ctx, session)--> step key
    step key --HKDF-Expand("mask", low, high)--> k_ij, the pair's mask seed of the step
    step key --HKDF-Expand("seal", sender, recipient)--> key of the one box sender gives recipient

X25519: RFC 7748, section 6.1. ML-KEM-768: FIPS 203. HKDF-SHA256: RFC 5869. The secrets are concatenated and bound
to the whole transcript, so the chain is as strong as the stronger of the two (Giacon, Heuer, Poettering 2018;
NIST SP 800-227, section 4.6). All hashes are SHA-256 over a label and length-prefixed parts, so that no two kinds of
object, and no two lists of parts, share an input.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.errors import BadShare, BadSignature, MalformedMessage

KEY_BYTES = 32
#: Seed of an ML-KEM-768 key pair (d || z), its encapsulation key and a ciphertext (FIPS 203, table 3).
KEM_SEED_BYTES = 64
KEM_PUBLIC_BYTES = 1184
CIPHERTEXT_BYTES = 1088
HASH_BYTES = 32
SIGNATURE_BYTES = 64
#: What sealing adds to a box: GCM's tag.
TAG_BYTES = 16

#: Signature contexts; an identity key signs nothing here outside them.
ADVERT_CONTEXT = "tacit/secagg/advert/v2"
ENCAPSULATION_CONTEXT = "tacit/secagg/encapsulation/v2"
UPLOAD_CONTEXT = "tacit/secagg/upload/v2"
LOCK_CONTEXT = "tacit/secagg/lock/v2"


_LENGTHS = [size.to_bytes(4, "big") for size in range(256)]


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


class HybridKey:
    """An X25519 and an ML-KEM-768 key pair, drawn for one key setup and forgotten with it.

    Args:
        random_bytes: 96 secret random bytes: the X25519 key, then the ML-KEM seed ``d || z`` (FIPS 203, section 7.1).
    """

    def __init__(self, random_bytes: bytes) -> None:
        if len(random_bytes) != KEY_BYTES + KEM_SEED_BYTES:
            raise ValueError(f"got {len(random_bytes)} random bytes; expected {KEY_BYTES + KEM_SEED_BYTES}")
        self._x25519 = X25519PrivateKey.from_private_bytes(random_bytes[:KEY_BYTES])
        self._kem = MLKEM768PrivateKey.from_seed_bytes(random_bytes[KEY_BYTES:])
        self.public_bytes = self._x25519.public_key().public_bytes_raw()
        self.kem_public_bytes = self._kem.public_key().public_bytes_raw()

    def agree(self, peer_public: bytes) -> bytes:
        """Return the 32-byte X25519 secret with ``peer_public``.

        Raises:
            MalformedMessage: a point of small order, which would make the secret zero (RFC 7748, section
                6.1).
        """
        try:
            return self._x25519.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            raise MalformedMessage("an X25519 public key is not usable: it gives an all-zero secret") from error

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """Return the 32-byte ML-KEM secret of ``ciphertext``; of a wrong one, an unrelated secret (implicit rejection,
        FIPS 203, section 6.3).

        Raises:
            MalformedMessage: not 1088 bytes.
        """
        try:
            return self._kem.decapsulate(ciphertext)
        except ValueError as error:
            raise MalformedMessage(f"an ML-KEM-768 ciphertext has {len(ciphertext)} bytes; expected 1088") from error


def encapsulate(kem_public: bytes) -> tuple[bytes, bytes]:
    """Return a fresh 32-byte secret and its ciphertext for the owner of an encapsulation key, 1184 bytes.

    Raises:
        MalformedMessage: not an encapsulation key (FIPS 203, section 7.2).
    """
    try:
        return MLKEM768PublicKey.from_public_bytes(kem_public).encapsulate()
    except ValueError as error:
        raise MalformedMessage("an ML-KEM-768 encapsulation key is not usable") from error


def labelled_hash(label: str, *parts: bytes) -> bytes:
    """Return SHA-256 of ``tacit/secagg/<label>/v2 || 0x00`` and each part behind its 4-byte length."""
    framed = [_LENGTHS[size] + part if (size := len(part)) < 256 else size.to_bytes(4, "big") + part for part in parts]
    return hashlib.sha256(b"tacit/secagg/" + label.encode() + b"/v2\0" + b"".join(framed)).digest()


def setup_hash(epoch_ctx: bytes, adverts: Mapping[str, bytes]) -> bytes:
    """Hash one key setup: the epoch and every signed advert, in the order of names.

    Ciphertexts, uploads and locks carry it, so sites that were shown different keys cannot work together.
    """
    return labelled_hash("setup", epoch_ctx, *(adverts[name] for name in sorted(adverts)))


def session_hash(ctx: bytes, setup: bytes, participants: Sequence[str]) -> bytes:
    """Hash what the sites of one step work under: the step, the key setup, and who takes part."""
    return labelled_hash("session", ctx, setup, *(name.encode() for name in participants))


def hkdf_extract(salt: bytes, input_key: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869, section 2.2): 32 bytes."""
    return hmac.digest(salt, input_key, "sha256")


def hkdf_expand(pseudorandom_key: bytes, info: bytes) -> bytes:
    """HKDF-Expand with SHA-256 to one block (RFC 5869, section 2.3): 32 bytes."""
    return hmac.digest(pseudorandom_key, info + b"\x01", "sha256")


class PairChain:
    """What two sites share in an epoch: a secret that moves on with every step and cannot be turned back.

    Args:
        secret: X25519 secret and ML-KEM secret, 64 bytes.
        transcript: :func:`pair_transcript` of their agreement.
        first_step: the epoch's first step.
    """

    __slots__ = ("_chain", "_step", "_transcript")

    def __init__(self, secret: bytes, transcript: bytes, first_step: int) -> None:
        self._chain = hkdf_extract(transcript, secret)
        self._transcript = transcript
        self._step = first_step

    def step_key(self, step: int, ctx: bytes, session: bytes) -> StepKey:
        """Return the key of ``step`` and forget all that could give it again. Steps may be skipped, never repeated.

        Raises:
            ValueError: the step is behind the chain.
        """
        if step < self._step:
            raise ValueError(f"step {step} was asked of a chain that is at step {self._step}")
        while self._step < step:
            self._ratchet()
        key = StepKey(hkdf_expand(self._chain, labelled_hash("step", ctx, session)))
        self._ratchet()
        return key

    def _ratchet(self) -> None:
        # the transcript keeps the chains of two pairs apart even if their secrets were equal
        info = labelled_hash("ratchet", self._transcript, self._step.to_bytes(4, "big"))
        self._chain = hkdf_expand(self._chain, info)
        self._step += 1


class StepKey:
    """The secret of two sites in one step.

    Args:
        key: 32 bytes of :meth:`PairChain.step_key`.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def mask_seed(self, one: str, other: str) -> bytes:
        """Return k_ij: the same 32 bytes on both sides."""
        low, high = sorted((one, other))
        return hkdf_expand(self._key, labelled_hash("mask", low.encode(), high.encode()))

    def seal_key(self, sender: str, recipient: str) -> bytes:
        """Return the 32-byte key of the one box ``sender`` seals for ``recipient``."""
        return hkdf_expand(self._key, labelled_hash("seal", sender.encode(), recipient.encode()))


def pair_transcript(
    epoch_ctx: bytes, adverts: Mapping[str, bytes], one: str, other: str, encapsulation: bytes
) -> bytes:
    """Hash what two sites agreed under: the epoch, both signed adverts in the order of names, and the signed
    ciphertext that the first sent the second."""
    low, high = sorted((one, other))
    return labelled_hash("pair", epoch_ctx, adverts[low], adverts[high], encapsulation)


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
