"""A real gRPC server on loopback: who gets in, who gets nowhere."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.credentials import channel_credentials, peer_from_auth_context, server_credentials
from certs.profiles import IDENTITY_SIGNING
from tacit.errors import CertificateError

if TYPE_CHECKING:
    from tests.certs.conftest import Consortium, Forger

CALL_TIMEOUT_S = 20


@dataclass
class WhoAmI:
    """A server that answers with the caller's name, and remembers who reached its code at all."""

    port: int = 0
    reached: list[str] = field(default_factory=list)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.reached.append(context.peer())
        try:
            return str(peer_from_auth_context(context.auth_context(), "demo")).encode()
        except CertificateError as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)
            raise AssertionError("abort raises") from error


@contextmanager
def serving(credentials: grpc.ServerCredentials) -> Iterator[WhoAmI]:
    service = WhoAmI()
    server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(service.answer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Who", {"AmI": handler})])
    service.port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield service
    finally:
        server.stop(None).wait()


@pytest.fixture(scope="module")
def gateway(consortium: Consortium) -> Iterator[WhoAmI]:
    with serving(server_credentials(consortium.pki("hub"))) as service:
        yield service


def ask(service: WhoAmI, credentials: grpc.ChannelCredentials, host: str = "localhost") -> str:
    with grpc.secure_channel(f"{host}:{service.port}", credentials) as channel:
        return channel.unary_unary("/test.Who/AmI")(b"", timeout=CALL_TIMEOUT_S).decode()


def refused(service: WhoAmI, credentials: grpc.ChannelCredentials, host: str = "localhost") -> None:
    """The handshake fails and the server's code is never reached."""
    before = len(service.reached)
    with pytest.raises(grpc.RpcError) as caught:
        ask(service, credentials, host)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(service.reached) == before


def raw_credentials(
    authority: Path, certificate: bytes | None = None, key: bytes | None = None
) -> grpc.ChannelCredentials:
    """What somebody would use who does not go through our checks."""
    return grpc.ssl_channel_credentials(authority.read_bytes(), key, certificate)


def raw_from_folder(folder: Path, kind: str = "tls") -> grpc.ChannelCredentials:
    certificate, key = (folder / f"{kind}.{suffix}" for suffix in ("pem", "key"))
    return raw_credentials(folder / "ca.pem", certificate.read_bytes(), key.read_bytes())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("alpha", "tacit://demo/site/alpha"),
        ("beta", "tacit://demo/site/beta"),
        ("hub", "tacit://demo/coordinator/hub"),
    ],
)
def test_a_peer_of_the_consortium_gets_in(
    consortium: Consortium, gateway: WhoAmI, peer: str, name: str, host: str
) -> None:
    assert ask(gateway, channel_credentials(consortium.pki(peer)), host) == name


def test_raw_credentials_of_a_peer_get_in(consortium: Consortium, gateway: WhoAmI) -> None:
    """So that the refusals below are about the certificates, not about how they were loaded."""
    assert ask(gateway, raw_from_folder(consortium.pki("alpha"))) == "tacit://demo/site/alpha"


def test_no_certificate(consortium: Consortium, gateway: WhoAmI) -> None:
    refused(gateway, raw_credentials(consortium.pki("alpha") / "ca.pem"))


def test_no_tls(gateway: WhoAmI) -> None:
    before = len(gateway.reached)
    with grpc.insecure_channel(f"localhost:{gateway.port}") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/test.Who/AmI")(b"", timeout=CALL_TIMEOUT_S)
    assert len(gateway.reached) == before


def test_a_certificate_of_another_ca(consortium: Consortium, own_consortium: Consortium, gateway: WhoAmI) -> None:
    """Of another CA with the same consortium name, by a client that trusts the right server."""
    folder = own_consortium.pki("alpha")
    (folder / "ca.pem").write_bytes((consortium.pki("alpha") / "ca.pem").read_bytes())
    refused(gateway, raw_from_folder(folder))


def test_an_expired_certificate(own_consortium: Consortium) -> None:
    start = own_consortium.anchor.certificate.not_valid_before_utc
    folder = own_consortium.root / "old"
    own_consortium.authority.issue("site", "old", folder, valid_days=5, valid_from=start)
    with serving(server_credentials(own_consortium.pki("hub"))) as service:
        refused(service, raw_from_folder(folder))
        assert ask(service, channel_credentials(own_consortium.pki("alpha")))


def test_a_certificate_that_is_not_valid_yet(own_consortium: Consortium) -> None:
    start = own_consortium.anchor.certificate.not_valid_after_utc - timedelta(days=10)
    folder = own_consortium.root / "early"
    own_consortium.authority.issue("site", "early", folder, valid_days=5, valid_from=start)
    with serving(server_credentials(own_consortium.pki("hub"))) as service:
        refused(service, raw_from_folder(folder))


def test_an_identity_leaf_as_tls_leaf(consortium: Consortium, gateway: WhoAmI) -> None:
    refused(gateway, raw_from_folder(consortium.pki("alpha"), "identity"))


def test_an_identity_usage_on_a_tls_key(consortium: Consortium, forger: Forger, gateway: WhoAmI) -> None:
    """Not the key's type keeps an identity leaf out, but its usage."""
    forged = forger.forge(usages=[IDENTITY_SIGNING])
    refused(gateway, raw_credentials(consortium.pki("alpha") / "ca.pem", forged.pem, forged.key_pem))


@pytest.mark.parametrize(
    "changes",
    [
        {"uris": []},
        {"uris": ["tacit://demo/site/alpha", "tacit://demo/site/beta"]},
        {"uris": ["tacit://other/site/alpha"]},
        {"usages": [ExtendedKeyUsageOID.CLIENT_AUTH, IDENTITY_SIGNING]},
    ],
)
def test_what_tls_itself_lets_in_is_refused_by_name(
    consortium: Consortium, forger: Forger, gateway: WhoAmI, changes: dict[str, object]
) -> None:
    forged = forger.forge(**changes)  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as caught:
        ask(gateway, raw_credentials(consortium.pki("alpha") / "ca.pem", forged.pem, forged.key_pem))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_site_cannot_stand_where_the_coordinator_is_expected(own_consortium: Consortium) -> None:
    """Not even one whose name is the host's."""
    own_consortium.authority.issue("site", "localhost", own_consortium.root / "impostor")
    folder = own_consortium.root / "impostor"
    pair = ((folder / "tls.key").read_bytes(), (folder / "tls.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], own_consortium.anchor.certificate_pem, True)
    with serving(credentials) as service:
        refused(service, channel_credentials(own_consortium.pki("alpha")))


def test_a_coordinator_of_another_ca_is_not_believed(
    consortium: Consortium, own_consortium: Consortium, gateway: WhoAmI
) -> None:
    refused(gateway, channel_credentials(own_consortium.pki("alpha")))


def test_a_coordinator_on_a_host_it_was_not_issued_for_is_not_believed(own_consortium: Consortium) -> None:
    folder = own_consortium.root / "far"
    own_consortium.authority.issue("coordinator", "far", folder, hosts=("gate.example.org",))
    with serving(server_credentials(folder)) as service:
        refused(service, channel_credentials(own_consortium.pki("alpha")))


def handshake(consortium: Consortium, port: int, version: ssl.TLSVersion) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(consortium.pki("alpha") / "ca.pem")
    context.load_cert_chain(consortium.pki("alpha") / "tls.pem", consortium.pki("alpha") / "tls.key")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), CALL_TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return connection.version()


def test_tls_1_3_and_1_2_are_spoken_and_nothing_older(consortium: Consortium, gateway: WhoAmI) -> None:
    assert handshake(consortium, gateway.port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert handshake(consortium, gateway.port, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises((ssl.SSLError, ConnectionError)) as caught:
        handshake(consortium, gateway.port, ssl.TLSVersion.TLSv1_1)
    # The server hung up or raised an alert: it was not this client that had no such version to offer.
    assert getattr(caught.value, "reason", None) != "NO_PROTOCOLS_AVAILABLE"
