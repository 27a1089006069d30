"""Certificates a consortium's CA could sign by mistake are still refused for what they carry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.anchor import TrustAnchor
from certs.profiles import IDENTITY_SIGNING, Usage
from tacit.errors import CertificateError

if TYPE_CHECKING:
    from tests.certs.conftest import Consortium, Forger

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
ALPHA, BETA = "tacit://demo/site/alpha", "tacit://demo/site/beta"


def test_what_the_forger_makes_is_otherwise_right(consortium: Consortium, forger: Forger) -> None:
    """The negative cases below differ from these two in one thing each."""
    tls = forger.forge().certificate
    identity = forger.forge(usages=[IDENTITY_SIGNING], key=ed25519.Ed25519PrivateKey.generate()).certificate
    assert str(consortium.anchor.verify(tls, Usage.TLS)) == ALPHA
    assert str(consortium.anchor.verify(identity, Usage.IDENTITY)) == ALPHA


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uris": []}, "names 0 peers"),
        ({"uris": ["https://demo/site/alpha"]}, "names 0 peers"),
        ({"uris": [ALPHA, BETA]}, "names 2 peers"),
        ({"uris": [ALPHA, "TACIT://demo/site/beta"]}, "names 2 peers"),
        ({"uris": ["tacit://demo/site/Alpha"]}, "not a valid name"),
        ({"uris": ["tacit://demo/steward/alpha"]}, "is not a role"),
        ({"uris": ["tacit://other/site/alpha"]}, "names a peer of 'other', expected 'demo'"),
        ({"usages": None}, "no stated use"),
        ({"usages": [SERVER]}, "expected the TLS certificate of a site"),
        ({"usages": [CLIENT, SERVER]}, "expected the TLS certificate of a site"),
        ({"usages": [CLIENT, IDENTITY_SIGNING]}, "expected the TLS certificate of a site"),
        ({"usages": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]}, "expected the TLS certificate of a site"),
        ({"uris": ["tacit://demo/coordinator/hub"]}, "expected the TLS certificate of a coordinator"),
        ({"ca": True}, "is a CA"),
        ({"ca": None}, "is a CA or does not say"),
        ({"digital_signature": False}, "may not sign"),
        ({"key": ec.generate_private_key(ec.SECP384R1())}, "expected ECDSA P-256"),
        ({"key": ed25519.Ed25519PrivateKey.generate()}, "expected ECDSA P-256"),
        (
            {"extra": x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1"), b"\x05\x00")},
            r"unknown critical extension 1\.3\.6\.1\.4\.1\.32473\.1",
        ),
        ({"issuer_key": ec.generate_private_key(ec.SECP256R1())}, "was not issued by the CA"),
    ],
)
def test_one_wrong_thing_is_enough(
    consortium: Consortium, forger: Forger, changes: dict[str, object], message: str
) -> None:
    certificate = forger.forge(**changes).certificate  # type: ignore[arg-type]
    with pytest.raises(CertificateError, match=message):
        consortium.anchor.verify(certificate, Usage.TLS)


def test_an_identity_leaf_needs_an_ed25519_key(consortium: Consortium, forger: Forger) -> None:
    certificate = forger.forge(usages=[IDENTITY_SIGNING]).certificate
    with pytest.raises(CertificateError, match="expected Ed25519"):
        consortium.anchor.verify(certificate, Usage.IDENTITY)


def test_leaves_are_for_one_use_each(consortium: Consortium) -> None:
    for file, wrong in (("tls.pem", Usage.IDENTITY), ("identity.pem", Usage.TLS)):
        for peer in ("alpha", "hub"):
            pem = (consortium.pki(peer) / file).read_bytes()
            with pytest.raises(CertificateError, match="expected the") as caught:
                consortium.anchor.verify(x509.load_pem_x509_certificate(pem), wrong)
            assert "neither can be used as the other" in (caught.value.hint or "")


def test_a_leaf_of_a_site_signs_no_leaves(consortium: Consortium, forger: Forger) -> None:
    """A chain through a site's own key ends at the site."""
    site_key = ec.generate_private_key(ec.SECP256R1())
    forged = forger.forge(issuer_key=site_key).certificate
    with pytest.raises(CertificateError, match="was not issued by"):
        consortium.anchor.verify(forged, Usage.TLS)


def test_an_expired_ca_vouches_for_nobody(consortium: Consortium, forger: Forger) -> None:
    end = consortium.anchor.certificate.not_valid_after_utc
    leaf = forger.forge(end=end + timedelta(days=10)).certificate
    assert str(consortium.anchor.verify(leaf, Usage.TLS, at=end)) == ALPHA
    with pytest.raises(CertificateError, match="the CA certificate has expired"):
        consortium.anchor.verify(leaf, Usage.TLS, at=end + timedelta(seconds=1))


def _self_signed(*, sign: bool, subject: str, organisations: int = 1, ca: bool = True) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "demo")] * organisations)
    issuer = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, subject)] * organisations)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    return (
        x509.CertificateBuilder(issuer, name, key.public_key(), 1, start, start.replace(year=2099))
        .add_extension(x509.BasicConstraints(ca, 0 if ca else None), True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, sign, sign, False, False), True)
        .sign(key, hashes.SHA256())
    )


@pytest.mark.parametrize(
    "changes",
    [{"sign": False}, {"subject": "other"}, {"organisations": 0}, {"organisations": 2}, {"ca": False}],
)
def test_what_is_not_a_consortiums_ca_is_no_anchor(changes: dict[str, object]) -> None:
    right: dict[str, object] = {"sign": True, "subject": "demo"}
    assert TrustAnchor(_self_signed(**right)).consortium == "demo"  # type: ignore[arg-type]
    with pytest.raises(CertificateError, match="is not the certificate of a consortium CA"):
        TrustAnchor(_self_signed(**{**right, **changes}))  # type: ignore[arg-type]


def test_a_ca_that_did_not_sign_itself_is_no_anchor(consortium: Consortium) -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    genuine = consortium.anchor.certificate
    builder = x509.CertificateBuilder(
        genuine.issuer,
        genuine.subject,
        key.public_key(),
        1,
        genuine.not_valid_before_utc,
        genuine.not_valid_after_utc,
    )
    for extension in genuine.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    with pytest.raises(CertificateError, match="was not issued by"):
        TrustAnchor(builder.sign(other, hashes.SHA256()))
