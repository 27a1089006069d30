"""The check of a ``pki`` folder, and who a verified certificate says is calling."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from certs.credentials import (
    channel_credentials,
    check_validity,
    expires_in_days,
    peer_from_auth_context,
    server_credentials,
)
from certs.profiles import IDENTITY_SIGNING
from tacit.errors import CertificateError

if TYPE_CHECKING:
    from tests.certs.conftest import Consortium, Forger


def auth_context(pem: bytes) -> dict[str, list[bytes]]:
    return {"transport_security_type": [b"ssl"], "x509_pem_cert": [pem]}


def test_a_good_folder_says_whose_it_is(consortium: Consortium) -> None:
    assert str(check_validity(consortium.pki("alpha"))) == "tacit://demo/site/alpha"
    assert str(check_validity(consortium.pki("hub"))) == "tacit://demo/coordinator/hub"


@pytest.mark.parametrize("check", [check_validity, channel_credentials, server_credentials])
class TestABadFolder:
    """Every way to credentials refuses it."""

    def test_expired(self, own_consortium: Consortium, check: object, old_hub: Path) -> None:
        with pytest.raises(
            CertificateError, match=r"old-hub/tls\.pem has expired: valid from \d{4}-\d\d-\d\d"
        ) as caught:
            check(old_hub)  # type: ignore[operator]
        assert "tacit pki issue --rotate" in (caught.value.hint or "")

    @pytest.mark.parametrize("file", ["tls", "identity"])
    def test_foreign(self, own_consortium: Consortium, consortium: Consortium, check: object, file: str) -> None:
        folder = own_consortium.pki("hub")
        for name in (f"{file}.pem", f"{file}.key"):
            shutil.copy(consortium.pki("hub") / name, folder / name)
        with pytest.raises(CertificateError, match=rf"{file}\.pem was not issued by the CA of consortium 'demo'"):
            check(folder)  # type: ignore[operator]

    @pytest.mark.parametrize("name", ["ca.pem", "tls.pem", "tls.key", "identity.pem", "identity.key"])
    def test_incomplete(self, own_consortium: Consortium, check: object, name: str) -> None:
        path = own_consortium.pki("hub") / name
        path.unlink()
        with pytest.raises(CertificateError, match="No such file") as caught:
            check(path.parent)  # type: ignore[operator]
        assert str(path) in caught.value.message
        assert "tacit pki issue" in (caught.value.hint or "")

    @pytest.mark.parametrize("name", ["tls.key", "identity.key"])
    def test_a_key_others_can_read(self, own_consortium: Consortium, check: object, name: str) -> None:
        path = own_consortium.pki("hub") / name
        path.chmod(0o640)
        with pytest.raises(CertificateError, match="has mode 0640, expected 0600") as caught:
            check(path.parent)  # type: ignore[operator]
        assert f"chmod 600 {path}" in (caught.value.hint or "")

    def test_the_identity_in_the_place_of_the_tls_leaf(self, own_consortium: Consortium, check: object) -> None:
        folder = own_consortium.pki("hub")
        for suffix in ("pem", "key"):
            shutil.copy(folder / f"identity.{suffix}", folder / f"tls.{suffix}")
        with pytest.raises(CertificateError, match=r"tls\.pem is for identity signatures"):
            check(folder)  # type: ignore[operator]

    def test_the_key_of_another_peer(self, own_consortium: Consortium, check: object) -> None:
        shutil.copy(own_consortium.pki("beta") / "tls.key", own_consortium.pki("hub") / "tls.key")
        with pytest.raises(CertificateError, match=r"tls\.key is not the key of"):
            check(own_consortium.pki("hub"))  # type: ignore[operator]

    def test_leaves_of_two_peers(self, own_consortium: Consortium, check: object) -> None:
        for name in ("identity.pem", "identity.key"):
            shutil.copy(own_consortium.pki("beta") / name, own_consortium.pki("hub") / name)
        with pytest.raises(CertificateError, match="names tacit://demo/coordinator/hub, but"):
            check(own_consortium.pki("hub"))  # type: ignore[operator]


@pytest.fixture
def old_hub(own_consortium: Consortium) -> Path:
    """A coordinator's folder that expired."""
    folder = own_consortium.root / "old-hub"
    start = own_consortium.anchor.certificate.not_valid_before_utc
    own_consortium.authority.issue("coordinator", "old", folder, valid_days=5, valid_from=start)
    return folder


def test_a_site_serves_nobody(consortium: Consortium) -> None:
    with pytest.raises(CertificateError, match="expected those of a coordinator") as caught:
        server_credentials(consortium.pki("alpha"))
    assert "--role coordinator" in (caught.value.hint or "")


def test_days_until_the_first_certificate_expires(own_consortium: Consortium) -> None:
    issued = own_consortium.authority.issue("site", "gamma", own_consortium.root / "gamma", valid_days=30)
    assert expires_in_days(issued.folder, issued.not_after - timedelta(hours=36)) == 1.5
    assert expires_in_days(issued.folder, issued.not_after + timedelta(days=2)) == -2
    assert 29.9 < expires_in_days(issued.folder) < 30.1


def test_the_caller_is_who_its_certificate_names(consortium: Consortium) -> None:
    pem = (consortium.pki("alpha") / "tls.pem").read_bytes()
    assert str(peer_from_auth_context(auth_context(pem), "demo")) == "tacit://demo/site/alpha"


def test_a_caller_of_another_consortium_is_refused(consortium: Consortium) -> None:
    pem = (consortium.pki("alpha") / "tls.pem").read_bytes()
    with pytest.raises(CertificateError, match="expected a peer of consortium 'other'"):
        peer_from_auth_context(auth_context(pem), "other")


def test_a_caller_whose_certificate_has_expired_since_is_refused(consortium: Consortium) -> None:
    pem = (consortium.pki("alpha") / "tls.pem").read_bytes()
    with pytest.raises(CertificateError, match="the peer's certificate has expired"):
        peer_from_auth_context(auth_context(pem), "demo", at=datetime.fromisoformat("2099-01-01T00:00:00Z"))


def test_an_identity_leaf_does_not_call(consortium: Consortium) -> None:
    pem = (consortium.pki("alpha") / "identity.pem").read_bytes()
    with pytest.raises(CertificateError, match="is for identity signatures"):
        peer_from_auth_context(auth_context(pem), "demo")


@pytest.mark.parametrize(
    "changes",
    [
        {"uris": []},
        {"uris": ["tacit://demo/site/alpha", "tacit://demo/site/beta"]},
        {"uris": ["tacit://other/site/alpha"]},
        {"usages": [IDENTITY_SIGNING]},
        {"ca": True},
    ],
)
def test_a_certificate_without_exactly_one_right_name_is_refused(forger: Forger, changes: dict[str, object]) -> None:
    assert peer_from_auth_context(auth_context(forger.forge().pem), "demo").name == "alpha"
    with pytest.raises(CertificateError):
        peer_from_auth_context(auth_context(forger.forge(**changes).pem), "demo")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [[], [b"insecure"], [b"local"], [b"ssl", b"ssl"]])
def test_without_tls_nobody_is_anybody(consortium: Consortium, kind: list[bytes]) -> None:
    context = auth_context((consortium.pki("alpha") / "tls.pem").read_bytes())
    with pytest.raises(CertificateError, match="expected mutual TLS"):
        peer_from_auth_context({**context, "transport_security_type": kind}, "demo")


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_certificate_is_presented(consortium: Consortium, count: int) -> None:
    pem = (consortium.pki("alpha") / "tls.pem").read_bytes()
    with pytest.raises(CertificateError, match=f"presented {count} certificates"):
        peer_from_auth_context({**auth_context(pem), "x509_pem_cert": [pem] * count}, "demo")
