"""Who signs, and how the others check it: Ed25519 (RFC 8032) under a certificate or a pinned key.

Every signature is over ``b"tacit/sig/v1\\0" + context + b"\\0" + message``, so that a signature made in one
context (``"tacit/agreement/v1"``) means nothing in another.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from certs.anchor import TrustAnchor
from certs.names import PeerName
from certs.pemfiles import (
    CA_CERTIFICATE,
    IDENTITY_CERTIFICATE,
    IDENTITY_KEY,
    certificate_pem,
    parse_certificate,
    read_certificate,
    read_ed25519_key,
)
from certs.profiles import Usage
from tacit.errors import BadSignature, CertificateError, InputError

__all__ = ["PUBLIC_KEY_BYTES", "SIGNATURE_BYTES", "Identity", "PeerIdentity", "TrustAnchor"]

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
_PREFIX = b"tacit/sig/v1\0"


class Identity:
    """This peer's own identity: it can sign. Holds a private key; never leaves the process."""

    def __init__(self, name: PeerName, certificate_pem: bytes, key: Ed25519PrivateKey) -> None:
        self.name = name
        self.certificate_pem = certificate_pem
        self._key = key

    @classmethod
    def load(cls, pki_folder: Path, *, at: datetime | None = None) -> Self:
        """Read ``identity.pem`` and ``identity.key``, and check them against ``ca.pem``.

        Args:
            pki_folder: a folder written by :meth:`certs.authority.ConsortiumAuthority.issue`.
            at: the time of the check, with time zone; now when absent.

        Raises:
            CertificateError: missing, expired, foreign, not an identity certificate, readable by others, or a
                key that does not belong to the certificate.
        """
        path = pki_folder / IDENTITY_CERTIFICATE
        certificate = read_certificate(path)
        anchor = TrustAnchor.load(pki_folder / CA_CERTIFICATE)
        name = anchor.verify(certificate, Usage.IDENTITY, at=at, source=str(path))
        key = read_ed25519_key(pki_folder / IDENTITY_KEY)
        if key.public_key() != certificate.public_key():
            raise CertificateError(
                f"{pki_folder / IDENTITY_KEY} is not the key of {path}",
                hint="keep the files of one `tacit pki issue` together",
            )
        return cls(name, certificate_pem(certificate), key)

    @property
    def public_key_bytes(self) -> bytes:
        """The raw Ed25519 public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def public(self) -> PeerIdentity:
        """What others know of this identity."""
        return PeerIdentity.from_public_key(self.name, self.public_key_bytes)

    def sign(self, context: str, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message`` in ``context``.

        Raises:
            InputError: ``context`` is empty or is not printable ASCII.
        """
        return self._key.sign(_framed(context, message))

    def __repr__(self) -> str:
        return f"Identity({str(self.name)!r})"


class PeerIdentity:
    """Somebody else's identity: it can verify. Equal when name and key are equal."""

    def __init__(self, name: PeerName, key: Ed25519PublicKey) -> None:
        self.name = name
        self._key = key

    @classmethod
    def from_certificate(
        cls,
        pem: bytes,
        authority: TrustAnchor,
        *,
        at: datetime | None = None,
        source: str = "the identity certificate",
    ) -> Self:
        """Believe an identity certificate because the consortium's CA signed it.

        Args:
            pem: PEM text with exactly one certificate.
            authority: the consortium's CA.
            at: the time of the check, with time zone; now when absent.
            source: what to call the certificate in errors.

        Raises:
            CertificateError: unreadable, foreign, expired or not yet valid, or not an identity certificate.
        """
        certificate = parse_certificate(pem, source)
        name = authority.verify(certificate, Usage.IDENTITY, at=at, source=source)
        key = certificate.public_key()
        assert isinstance(key, Ed25519PublicKey)  # the identity profile was just checked
        return cls(name, key)

    @classmethod
    def from_public_key(cls, name: PeerName, raw: bytes) -> Self:
        """Believe a key because something already trusted (a signed agreement) pins it.

        Args:
            name: whose key it is.
            raw: the raw Ed25519 public key, 32 bytes.

        Raises:
            CertificateError: not 32 bytes.
        """
        if len(raw) != PUBLIC_KEY_BYTES:
            raise CertificateError(
                f"the identity key of {name} has {len(raw)} bytes, expected {PUBLIC_KEY_BYTES} (raw Ed25519)",
                hint="`tacit pki show` prints the key to write into an agreement",
            )
        return cls(name, Ed25519PublicKey.from_public_bytes(raw))

    @property
    def public_key_bytes(self) -> bytes:
        """The raw Ed25519 public key, 32 bytes."""
        return self._key.public_bytes_raw()

    def verify(self, context: str, message: bytes, signature: bytes) -> None:
        """Check ``signature`` over ``message`` in ``context``; returns only when it is right.

        Raises:
            BadSignature: it is not this peer's signature of this message in this context.
            InputError: ``context`` is empty or is not printable ASCII.
        """
        framed = _framed(context, message)
        try:
            self._key.verify(signature, framed)
        except InvalidSignature as error:
            raise BadSignature(
                f"the signature ({len(signature)} bytes) in context {context!r} is not {self.name}'s",
                peer=self.name.name,
            ) from error

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PeerIdentity)
            and self.name == other.name
            and self.public_key_bytes == other.public_key_bytes
        )

    def __hash__(self) -> int:
        return hash((self.name, self.public_key_bytes))

    def __repr__(self) -> str:
        return f"PeerIdentity({str(self.name)!r})"


def _framed(context: str, message: bytes) -> bytes:
    # NUL ends the context, so it must not occur in it: else two (context, message) pairs share one framing.
    if not context or not context.isascii() or not context.isprintable():
        raise InputError(f"a signature's context must be printable ASCII, received {context!r}")
    return _PREFIX + context.encode("ascii") + b"\0" + message
