"""Mutual TLS for gRPC: only certificates of this consortium's CA, in both directions.

gRPC speaks TLS 1.2 and 1.3 and nothing older, and offers Python no switch for it; a test holds it to that.
TLS itself checks issuer, dates and extended key usage; :func:`peer_from_auth_context` then reads *who* it is
and checks the certificate again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509

from certs.anchor import TrustAnchor
from certs.identity import Identity
from certs.names import PeerName, Role
from certs.pemfiles import (
    CA_CERTIFICATE,
    IDENTITY_CERTIFICATE,
    TLS_CERTIFICATE,
    TLS_KEY,
    certificate_pem,
    parse_certificate,
    read_certificate,
    read_ecdsa_key,
    read_private_pem,
)
from certs.profiles import Usage, check_leaf, check_validity_period
from tacit.errors import CertificateError

_PEER = "the peer's certificate"
_SECONDS_A_DAY = 86_400


def server_credentials(pki_folder: Path) -> grpc.ServerCredentials:
    """Credentials of a server that requires a client certificate of this consortium's CA.

    Raises:
        CertificateError: as :func:`check_validity`; or the folder belongs to a site, which serves nobody.
    """
    name = check_validity(pki_folder)
    if name.role is not Role.COORDINATOR:
        raise CertificateError(
            f"{pki_folder} holds the certificates of {name}, expected those of a coordinator to serve with",
            hint="issue some with `tacit pki issue --role coordinator`",
        )
    key, chain, authority = _pem_files(pki_folder)
    return grpc.ssl_server_credentials([(key, chain)], root_certificates=authority, require_client_auth=True)


def channel_credentials(pki_folder: Path) -> grpc.ChannelCredentials:
    """Credentials of a client that presents its TLS certificate and trusts this consortium's CA alone.

    The host in the channel's target must be one of the ``hosts`` the coordinator's certificate was made for.

    Raises:
        CertificateError: as :func:`check_validity`.
    """
    check_validity(pki_folder)
    key, chain, authority = _pem_files(pki_folder)
    return grpc.ssl_channel_credentials(root_certificates=authority, private_key=key, certificate_chain=chain)


def peer_from_auth_context(
    auth_context: Mapping[str, Iterable[bytes]], consortium: str, *, at: datetime | None = None
) -> PeerName:
    """Who is calling, from ``ServicerContext.auth_context()``.

    The dates are checked here too: a stream or a resumed TLS session may outlive the certificate it began
    with.

    Args:
        auth_context: of a connection made under :func:`server_credentials`.
        consortium: the consortium the peer must belong to.
        at: the time of the check, with time zone; now when absent.

    Raises:
        CertificateError: no TLS, no certificate, not a TLS leaf, expired, or not exactly one name of
            ``consortium``.
    """
    if [*auth_context.get("transport_security_type", ())] != [b"ssl"]:
        raise CertificateError("the peer did not connect over TLS, expected mutual TLS")
    certificates = [*auth_context.get("x509_pem_cert", ())]
    if len(certificates) != 1:
        raise CertificateError(f"the peer presented {len(certificates)} certificates, expected exactly one")
    certificate = parse_certificate(certificates[0], _PEER)
    check_validity_period(certificate, at or datetime.now(UTC), _PEER)
    name = check_leaf(certificate, Usage.TLS, _PEER)
    if name.consortium != consortium:
        raise CertificateError(f"{_PEER} names {name}, expected a peer of consortium {consortium!r}")
    return name


def check_validity(pki_folder: Path, at: datetime | None = None) -> PeerName:
    """Check everything in a peer's ``pki`` folder, before anything else is touched.

    Returns:
        Whose certificates they are.

    Raises:
        CertificateError: a file that is missing, expired, not yet valid, foreign, made for another use, of
            somebody else, or a private key that others can read; names the file, the dates, and what to do.
    """
    at = at or datetime.now(UTC)
    anchor = TrustAnchor.load(pki_folder / CA_CERTIFICATE)
    path = pki_folder / TLS_CERTIFICATE
    certificate = read_certificate(path)
    name = anchor.verify(certificate, Usage.TLS, at=at, source=str(path))
    if read_ecdsa_key(pki_folder / TLS_KEY).public_key() != certificate.public_key():
        raise CertificateError(
            f"{pki_folder / TLS_KEY} is not the key of {path}",
            hint="keep the files of one `tacit pki issue` together",
        )
    identity = Identity.load(pki_folder, at=at)
    if identity.name != name:
        raise CertificateError(
            f"{path} names {name}, but {pki_folder / IDENTITY_CERTIFICATE} names {identity.name}",
            hint="keep the files of one `tacit pki issue` together",
        )
    return name


def expires_in_days(pki_folder: Path, at: datetime | None = None) -> float:
    """Days until the first certificate of the folder expires; negative when one has.

    Raises:
        CertificateError: a certificate is missing or unreadable.
    """
    at = at or datetime.now(UTC)
    ends = [
        read_certificate(pki_folder / name).not_valid_after_utc
        for name in (CA_CERTIFICATE, TLS_CERTIFICATE, IDENTITY_CERTIFICATE)
    ]
    return (min(ends) - at).total_seconds() / _SECONDS_A_DAY


def _pem_files(pki_folder: Path) -> tuple[bytes, bytes, bytes]:
    certificates: list[x509.Certificate] = [
        read_certificate(pki_folder / name) for name in (TLS_CERTIFICATE, CA_CERTIFICATE)
    ]
    chain, authority = (certificate_pem(certificate) for certificate in certificates)
    return read_private_pem(pki_folder / TLS_KEY), chain, authority
