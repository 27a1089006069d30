"""A small consortium, and a forger who holds its CA key: for what the authority itself would never issue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.anchor import TrustAnchor
from certs.authority import ConsortiumAuthority

NOW = datetime.now(UTC).replace(microsecond=0)
LONG_AGO = NOW - timedelta(days=400)


@dataclass(frozen=True)
class Consortium:
    """``demo``: a CA, the coordinator ``hub`` and the sites ``alpha`` and ``beta``, each in its folder."""

    root: Path
    authority: ConsortiumAuthority

    @property
    def anchor(self) -> TrustAnchor:
        return self.authority.anchor

    def pki(self, name: str) -> Path:
        return self.root / name


def build_consortium(root: Path, name: str = "demo") -> Consortium:
    authority = ConsortiumAuthority.create(root / "ca", name, valid_from=LONG_AGO)
    authority.issue("coordinator", "hub", root / "hub")
    authority.issue("site", "alpha", root / "alpha")
    authority.issue("site", "beta", root / "beta")
    return Consortium(root, authority)


@pytest.fixture(scope="session")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """Shared by all tests: read it, do not change it."""
    return build_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def own_consortium(tmp_path: Path) -> Consortium:
    """A test's own consortium, to damage as it likes."""
    return build_consortium(tmp_path)


@dataclass(frozen=True)
class Forged:
    certificate: x509.Certificate
    key_pem: bytes

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


class Forger:
    """Signs whatever it is asked to with the consortium's own CA key."""

    def __init__(self, consortium: Consortium) -> None:
        key = serialization.load_pem_private_key((consortium.root / "ca" / "ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._authority_key = key
        self._issuer = consortium.anchor.certificate.subject

    def forge(
        self,
        *,
        uris: Sequence[str] = ("tacit://demo/site/alpha",),
        usages: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.CLIENT_AUTH,),
        key: object = None,
        ca: bool | None = False,
        digital_signature: bool = True,
        extra: x509.ExtensionType | None = None,
        start: datetime = NOW - timedelta(days=1),
        end: datetime = NOW + timedelta(days=1),
        issuer_key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Forged:
        leaf_key = key or ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "demo")]))
            .issuer_name(self._issuer)
            .public_key(leaf_key.public_key())  # type: ignore[attr-defined]
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(
                x509.KeyUsage(digital_signature, False, False, False, False, False, False, False, False), True
            )
        )
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca, None), True)
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), True)
        if extra is not None:
            builder = builder.add_extension(extra, True)
        return Forged(
            builder.sign(issuer_key or self._authority_key, hashes.SHA256()),
            leaf_key.private_bytes(  # type: ignore[attr-defined]
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


@pytest.fixture(scope="session")
def forger(consortium: Consortium) -> Forger:
    return Forger(consortium)
