"""Certificates and private keys on disk: where they lie, how they are read, and that keys stay private."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from tacit.durable import create_private
from tacit.errors import CertificateError

CA_CERTIFICATE = "ca.pem"
TLS_CERTIFICATE = "tls.pem"
TLS_KEY = "tls.key"
IDENTITY_CERTIFICATE = "identity.pem"
IDENTITY_KEY = "identity.key"

#: Everything a peer's ``pki`` folder holds.
PKI_FILES = (CA_CERTIFICATE, TLS_CERTIFICATE, TLS_KEY, IDENTITY_CERTIFICATE, IDENTITY_KEY)

PrivateKey = EllipticCurvePrivateKey | Ed25519PrivateKey

_PEM_MAX_BYTES = 64 * 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MARK = b"-----BEGIN CERTIFICATE-----"


def parse_certificate(pem: bytes, source: str) -> x509.Certificate:
    """Read the one certificate in ``pem``.

    Args:
        pem: PEM text holding exactly one certificate.
        source: what to call it in an error, a file's path for example.

    Raises:
        CertificateError: no certificate, more than one, or one that cannot be parsed.
    """
    count = pem.count(_MARK)
    if count != 1:
        raise CertificateError(f"{source} holds {count} PEM certificates, expected exactly one")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        # All of it is parsed lazily; a certificate of which a part does not parse is not readable.
        _ = certificate.extensions, certificate.subject, certificate.issuer, certificate.public_key()
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise CertificateError(f"{source} is not a readable X.509 certificate: {error}") from error
    return certificate


def read_certificate(path: Path) -> x509.Certificate:
    """Read the one certificate in the file ``path``.

    Raises:
        CertificateError: the file is missing, unreadable, or does not hold exactly one certificate.
    """
    return parse_certificate(_read(path, private=False), str(path))


def read_ecdsa_key(path: Path) -> EllipticCurvePrivateKey:
    """Read an unencrypted ECDSA private key (the CA's, or a TLS leaf's).

    Raises:
        CertificateError: the file is missing, readable by others than its owner, or holds something else.
    """
    key = _read_private_key(path)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise CertificateError(f"{path} holds a {type(key).__name__}, expected an ECDSA private key")
    return key


def read_ed25519_key(path: Path) -> Ed25519PrivateKey:
    """Read an unencrypted Ed25519 private key (an identity's).

    Raises:
        CertificateError: the file is missing, readable by others than its owner, or holds something else.
    """
    key = _read_private_key(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise CertificateError(f"{path} holds a {type(key).__name__}, expected an Ed25519 private key")
    return key


def read_private_pem(path: Path) -> bytes:
    """Return the bytes of a private key file, after the check that nobody else can read it.

    Raises:
        CertificateError: missing, or readable by others than its owner.
    """
    return _read(path, private=True)


def write_new(path: Path, data: bytes, *, private: bool) -> None:
    """Create ``path``, 0600 when ``private`` and 0644 otherwise; never overwrites.

    Raises:
        InputError: the file exists already.
    """
    create_private(path, data)
    if not private:
        path.chmod(0o644)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Encode a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_key_pem(key: PrivateKey) -> bytes:
    """Encode a private key as unencrypted PKCS #8 PEM (RFC 5958)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_private_key(path: Path) -> PrivateKeyTypes:
    data = _read(path, private=True)
    try:
        return serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The parser's own words may quote what it read, so they stay out of the message.
        raise CertificateError(
            f"{path} is not an unencrypted PEM private key", hint="restore the key, or issue a new one"
        ) from error


def _read(path: Path, *, private: bool) -> bytes:
    try:
        with path.open("rb") as stream:
            # The open file is examined, not the path: nobody can swap it between the check and the read.
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if private and mode & _OTHERS:
                raise CertificateError(
                    f"the private key {path} has mode {mode:04o}, expected 0600: others than its owner can reach it",
                    hint=f"chmod 600 {path}; if others may have read it, issue a new one",
                )
            data = stream.read(_PEM_MAX_BYTES + 1)
    except OSError as error:
        raise CertificateError(
            f"cannot read {path}: {error.strerror or error}",
            hint=f"a pki folder holds {', '.join(PKI_FILES)}: see `tacit pki issue --help`",
        ) from error
    if len(data) > _PEM_MAX_BYTES:
        raise CertificateError(f"{path} is larger than {_PEM_MAX_BYTES} bytes, expected a PEM file")
    return data
