"""What each kind of certificate carries, and the check that it carries exactly that (RFC 5280, section 4.2).

================ =========== ==================== ================================ ==============
certificate      key         key usage            extended key usage               names
================ =========== ==================== ================================ ==============
CA               ECDSA P-256 keyCertSign, cRLSign none; CA:TRUE, pathlen 0         O = consortium
TLS, site        ECDSA P-256 digitalSignature     clientAuth                       URI
TLS, coordinator ECDSA P-256 digitalSignature     clientAuth, serverAuth           URI, DNS, IP
identity         Ed25519     digitalSignature     ``IDENTITY_SIGNING`` (critical)  URI
================ =========== ==================== ================================ ==============

A site's TLS leaf has neither serverAuth nor a host name, so a site cannot stand where sites expect the
coordinator. Subjects carry no common name: TLS stacks that fall back to it would read a site called
``localhost`` as a host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.names import PeerName, Role, parse_uri
from tacit.errors import CertificateError, InputError

#: "This key signs for a Tacit identity": an OID under 2.25, the arc of UUIDs (ITU-T X.667), which needs no
#: registry. The UUID is version 5 of the URL namespace and ``tacit/identity-signing``.
IDENTITY_SIGNING = x509.ObjectIdentifier("2.25.291085848491650609156770432492241691691")

PublicKey = EllipticCurvePublicKey | Ed25519PublicKey
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.I)
_LEAF_EXTENSIONS = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.SubjectKeyIdentifier,
    x509.AuthorityKeyIdentifier,
)


class Usage(StrEnum):
    """What a leaf may be used for. A certificate of one usage is refused for the other."""

    TLS = "TLS"
    IDENTITY = "identity"


def authority_subject(consortium: str) -> x509.Name:
    """The CA's distinguished name; the organisation is the consortium."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, consortium),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "tacit consortium authority"),
        ]
    )


def authority_extensions(key: PublicKey) -> list[tuple[x509.ExtensionType, bool]]:
    """Extensions of the CA certificate, each with its criticality."""
    return [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage(digital_signature=False, certificates=True), True),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
    ]


def leaf_subject(name: PeerName) -> x509.Name:
    """A leaf's distinguished name, for people; programs read the URI."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, name.consortium),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, name.role.value),
            x509.NameAttribute(NameOID.USER_ID, name.name),
        ]
    )


def leaf_extensions(
    name: PeerName, usage: Usage, hosts: Sequence[str], key: PublicKey, authority_key: PublicKey
) -> list[tuple[x509.ExtensionType, bool]]:
    """Extensions of a leaf, each with its criticality.

    Raises:
        InputError: a host that is neither a host name nor an IP address.
    """
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(name))]
    if usage is Usage.TLS and name.role is Role.COORDINATOR:
        names.extend(_host_name(host) for host in hosts)
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(digital_signature=True, certificates=False), True),
        # Critical where no TLS stack should know it; the CA/Browser profile wants it otherwise in TLS leaves.
        (x509.ExtendedKeyUsage(_extended_usage(name.role, usage)), usage is Usage.IDENTITY),
        (x509.SubjectAlternativeName(names), False),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), False),
    ]


def check_authority(certificate: x509.Certificate, source: str) -> str:
    """Check that ``certificate`` is a consortium's self-signed CA, and return the consortium.

    Raises:
        CertificateError: it is not one.
    """
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    organisations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if (
        constraints is None
        or not constraints.ca
        or usage is None
        or not usage.key_cert_sign
        or certificate.subject != certificate.issuer
        or len(organisations) != 1
    ):
        raise CertificateError(
            f"{source} is not the certificate of a consortium CA: "
            "expected CA:TRUE, keyCertSign, one organisation, self-signed",
            hint="ask the consortium for its ca.pem; `tacit pki init` writes one",
        )
    return str(organisations[0].value)


def check_leaf(certificate: x509.Certificate, usage: Usage, source: str) -> PeerName:
    """Check that a certificate has the profile of ``usage``, and return the name it binds.

    Says nothing about who issued it: that is :meth:`certs.anchor.TrustAnchor.verify`.

    Raises:
        CertificateError: a CA, another usage, another key, an unknown critical extension, or not exactly one
            name.
    """
    for extension in certificate.extensions:
        if extension.critical and not isinstance(extension.value, _LEAF_EXTENSIONS):
            raise CertificateError(f"{source} has the unknown critical extension {extension.oid.dotted_string}")
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or constraints.ca:
        raise CertificateError(f"{source} is a CA or does not say that it is none, expected a peer's certificate")
    name = peer_name(certificate, source)
    granted = _extension(certificate, x509.ExtendedKeyUsage)
    expected = _extended_usage(name.role, usage)
    if granted is None or set(granted) != set(expected):
        found = ", ".join(item.dotted_string for item in granted) if granted is not None else "nothing"
        raise CertificateError(
            f"{source} is for {_usage_of(granted)} (extended key usage: {found}), "
            f"expected the {usage} certificate of a {name.role}",
            hint="tls.pem and identity.pem are two certificates: neither can be used as the other",
        )
    key_usage = _extension(certificate, x509.KeyUsage)
    if key_usage is None or not key_usage.digital_signature or key_usage.key_cert_sign:
        raise CertificateError(f"{source} may not sign, expected the key usage digitalSignature and no keyCertSign")
    _check_key(certificate, usage, source)
    return name


def peer_name(certificate: x509.Certificate, source: str) -> PeerName:
    """Return the one peer name among a certificate's URIs.

    Raises:
        CertificateError: no ``tacit`` URI, more than one, or one that is not a peer's name.
    """
    alternatives = _extension(certificate, x509.SubjectAlternativeName)
    uris = alternatives.get_values_for_type(x509.UniformResourceIdentifier) if alternatives is not None else []
    ours = [uri for uri in uris if uri.lower().startswith("tacit:")]
    if len(ours) != 1:
        raise CertificateError(f"{source} names {len(ours)} peers, expected exactly one tacit:// URI")
    try:
        return parse_uri(ours[0])
    except InputError as error:
        raise CertificateError(f"{source}: {error.message}") from error


def check_validity_period(certificate: x509.Certificate, at: datetime, source: str) -> None:
    """Check that ``at`` lies in the certificate's validity period, both ends included.

    Raises:
        CertificateError: not yet valid, or expired; with the dates.
        InputError: ``at`` has no time zone.
    """
    if at.tzinfo is None:
        raise InputError(f"the time {at.isoformat()} has no time zone, expected UTC")
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = at.astimezone(UTC)
    period = f"valid from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, now {now:%Y-%m-%d %H:%M} UTC"
    if at < start:
        raise CertificateError(f"{source} is not valid yet: {period}", hint="check this machine's clock")
    if at > end:
        raise CertificateError(
            f"{source} has expired: {period}",
            hint="have a new one issued (`tacit pki issue --rotate`), or check this machine's clock",
        )


def _extended_usage(role: Role, usage: Usage) -> list[x509.ObjectIdentifier]:
    if usage is Usage.IDENTITY:
        return [IDENTITY_SIGNING]
    if role is Role.COORDINATOR:
        return [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    return [ExtendedKeyUsageOID.CLIENT_AUTH]


def _usage_of(granted: x509.ExtendedKeyUsage | None) -> str:
    if granted is None:
        return "no stated use"
    if IDENTITY_SIGNING in granted:
        return "identity signatures"
    return "TLS"


def _check_key(certificate: x509.Certificate, usage: Usage, source: str) -> None:
    key = certificate.public_key()
    if usage is Usage.IDENTITY:
        right = isinstance(key, Ed25519PublicKey)
    else:
        right = isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    if not right:
        expected = "Ed25519" if usage is Usage.IDENTITY else "ECDSA P-256"
        raise CertificateError(f"{source} holds a {type(key).__name__}, expected {expected} in a {usage} certificate")


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _HOST.fullmatch(host):
        raise InputError(
            f"{host!r} is neither a host name nor an IP address",
            hint="give the name sites connect to, without scheme and port: gateway.example.org",
        )
    return x509.DNSName(host.lower())


def _key_usage(*, digital_signature: bool, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )
