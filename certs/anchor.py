"""The one certificate a peer trusts: its consortium's CA."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from certs.names import PeerName
from certs.pemfiles import certificate_pem, parse_certificate, read_certificate
from certs.profiles import Usage, check_authority, check_leaf, check_validity_period
from tacit.errors import CertificateError


class TrustAnchor:
    """A consortium's CA certificate. Everything else is believed because this one signed it."""

    def __init__(self, certificate: x509.Certificate, source: str = "the CA certificate") -> None:
        """Wrap a CA certificate.

        Args:
            certificate: self-signed, with the CA profile of :mod:`certs.profiles`.
            source: what to call it in errors.

        Raises:
            CertificateError: it is not a consortium's CA certificate.
        """
        self._certificate = certificate
        self._source = source
        self.consortium = check_authority(certificate, source)
        self._check_signature(certificate, source)

    @classmethod
    def load(cls, path: Path) -> TrustAnchor:
        """Read ``ca.pem``.

        Raises:
            CertificateError: missing, unreadable, or not a consortium's CA certificate.
        """
        return cls(read_certificate(path), str(path))

    @classmethod
    def from_pem(cls, pem: bytes) -> TrustAnchor:
        """Read a CA certificate from PEM text.

        Raises:
            CertificateError: unreadable, or not a consortium's CA certificate.
        """
        return cls(parse_certificate(pem, "the CA certificate"))

    @property
    def fingerprint(self) -> str:
        """``sha256:<hex>`` of the CA certificate's DER encoding; what an agreement pins."""
        return fingerprint(self._certificate)

    @property
    def certificate(self) -> x509.Certificate:
        """The parsed CA certificate."""
        return self._certificate

    @property
    def certificate_pem(self) -> bytes:
        """The CA certificate as PEM."""
        return certificate_pem(self._certificate)

    def verify(
        self,
        certificate: x509.Certificate,
        usage: Usage,
        *,
        at: datetime | None = None,
        source: str = "the certificate",
    ) -> PeerName:
        """Check issuer, validity period and usage of a leaf, and return the name it binds.

        Args:
            certificate: the leaf.
            usage: what it is about to be used for.
            at: the time of the check, with time zone; now when absent.
            source: what to call it in errors.

        Raises:
            CertificateError: foreign, expired or not yet valid, made for another use, or of another
                consortium.
        """
        at = at or datetime.now(UTC)
        self._check_signature(certificate, source)
        check_validity_period(self._certificate, at, self._source)
        check_validity_period(certificate, at, source)
        name = check_leaf(certificate, usage, source)
        if name.consortium != self.consortium:
            raise CertificateError(f"{source} names a peer of {name.consortium!r}, expected {self.consortium!r}")
        return name

    def _check_signature(self, certificate: x509.Certificate, source: str) -> None:
        try:
            certificate.verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise CertificateError(
                f"{source} was not issued by the CA of consortium {self.consortium!r} ({self.fingerprint}); "
                f"it says its issuer is {certificate.issuer.rfc4514_string()!r}",
                hint="use a certificate of this consortium, or the ca.pem that belongs to the certificate",
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrustAnchor) and self._certificate == other._certificate

    def __hash__(self) -> int:
        return hash(self._certificate)

    def __repr__(self) -> str:
        return f"TrustAnchor({self.consortium!r}, {self.fingerprint})"


def fingerprint(certificate: x509.Certificate) -> str:
    """``sha256:<hex>`` of a certificate's DER encoding."""
    return f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}"
