"""The one port between organisations: who gets in, and who gets nowhere."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from certs.authority import ConsortiumAuthority
from certs.credentials import channel_credentials, server_credentials
from client.wire import tacit_pb2 as pb
from client.wire import tacit_pb2_grpc as rpc
from privacy.order import Order
from server.services import GatewayService
from server.steps import StepRegistry
from server.tunnel import FleetTunnel


class LostSites(FleetTunnel):
    """A tunnel with no SuperLink behind it that remembers whose connections broke."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:9")
        self.lost_sites: queue.SimpleQueue[str] = queue.SimpleQueue()

    def lost(self, site: str) -> None:
        super().lost(site)
        self.lost_sites.put(site)


@pytest.fixture
def tunnel() -> Iterator[LostSites]:
    with LostSites() as made:
        yield made


@pytest.fixture
def port(partners: Any, registry: StepRegistry, tunnel: LostSites) -> Iterator[int]:
    """A gateway's public service for the sites alpha and beta only."""
    service = GatewayService(registry, tunnel, "tests", {"alpha", "beta"})
    server = grpc.server(futures.ThreadPoolExecutor(4))
    rpc.add_GatewayServicer_to_server(service, server)
    bound = server.add_secure_port("127.0.0.1:0", server_credentials(partners.folder / "hub"))
    server.start()
    yield bound
    server.stop(0).wait()


def statuses(port: int, credentials: grpc.ChannelCredentials | None, *paths: str) -> list[int]:
    """Make fleet calls over one connection and return what the tunnel answered."""
    address = f"localhost:{port}"
    channel = grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    with channel:
        stub = rpc.GatewayStub(channel)
        return [stub.Fleet(pb.FleetCall(path=path), timeout=5.0).status for path in paths]


def refused(port: int, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as error:
        statuses(port, credentials, "/v1/fleet/pull-messages")
    return error.value.code()


def test_a_partner_gets_in_and_only_to_fleet_calls(port: int, partners: Any) -> None:
    credentials = channel_credentials(partners.folder / "alpha")
    paths = ("/v1/fleet/pull-messages", "/v1/control/start-run", "/v1/fleet/../control/start-run")
    # 401: nobody has registered a SuperNode yet; 404: not a fleet call
    assert statuses(port, credentials, *paths) == [401, 404, 404]


def test_nobody_without_a_certificate_of_this_authority_gets_in(port: int, tmp_path: Path) -> None:
    other = ConsortiumAuthority.create(tmp_path / "ca", "tests")
    other.issue("site", "alpha", tmp_path / "alpha")
    assert refused(port, None) is grpc.StatusCode.UNAVAILABLE
    assert refused(port, grpc.ssl_channel_credentials()) is grpc.StatusCode.UNAVAILABLE
    assert refused(port, channel_credentials(tmp_path / "alpha")) is grpc.StatusCode.UNAVAILABLE


def test_a_site_that_is_no_partner_and_the_coordinator_itself_are_turned_away(port: int, partners: Any) -> None:
    for name in ("gamma", "hub"):
        assert refused(port, channel_credentials(partners.folder / name)) is grpc.StatusCode.PERMISSION_DENIED


def test_a_site_whose_connection_breaks_is_told_to_the_tunnel(
    port: int, partners: Any, registry: StepRegistry, make_order: Callable[..., Order], tunnel: LostSites
) -> None:
    channel, call, _ = seated(port, partners, registry, make_order())
    assert tunnel.lost_sites.empty()
    channel.close()
    assert tunnel.lost_sites.get(timeout=10.0) == "alpha"
    assert call.code() is grpc.StatusCode.CANCELLED
    registry.abort_all("the test is over")


def seated(port: int, partners: Any, registry: StepRegistry, order: Order) -> tuple[grpc.Channel, Any, Any]:
    """A channel of alpha's, its session in the order's step, and where to put the session's next frames."""
    registry.open(order, join_deadline_s=60.0, on_event=lambda kind, fields: None)
    frames: queue.SimpleQueue[pb.Frame | None] = queue.SimpleQueue()
    frames.put(pb.Frame(hello=pb.Hello(run_id=order.run_id, step=order.step)))
    channel = grpc.secure_channel(f"localhost:{port}", channel_credentials(partners.folder / "alpha"))
    call = rpc.GatewayStub(channel).Aggregate(iter(frames.get, None))
    next(call)  # the gateway has seated the site
    return channel, call, frames


def test_a_session_whose_frames_just_end_is_a_broken_one(
    port: int, partners: Any, registry: StepRegistry, make_order: Callable[..., Order], tunnel: LostSites
) -> None:
    """What a broken connection looks like at first, if the end of its frames is noticed before the end of the call."""
    order = make_order()
    channel, _, frames = seated(port, partners, registry, order)
    with channel:
        frames.put(None)
        assert tunnel.lost_sites.get(timeout=10.0) == "alpha"
        registry.abort_all("the test is over")


@pytest.mark.parametrize("ending", ["leave", "closed"])
def test_a_session_that_ends_as_it_should_leaves_the_site_present(
    port: int, partners: Any, registry: StepRegistry, make_order: Callable[..., Order], tunnel: LostSites, ending: str
) -> None:
    channel, call, frames = seated(port, partners, registry, make_order())
    with channel:
        if ending == "leave":
            frames.put(pb.Frame(leave=pb.Leave()))
        else:
            registry.abort_all("the test is over")
            next(call)
        frames.put(None)
        assert call.code() is grpc.StatusCode.OK
        # another call of the same connection: by then the first is over
        assert rpc.GatewayStub(channel).Fleet(pb.FleetCall(path="/v1/fleet/pull-messages"), timeout=5.0).status == 401
        assert tunnel.lost_sites.empty()


def test_a_site_that_calls_too_often_is_held_off_and_others_are_not(port: int, partners: Any) -> None:
    with grpc.secure_channel(f"localhost:{port}", channel_credentials(partners.folder / "alpha")) as channel:
        stub = rpc.GatewayStub(channel)
        calls = (stub.Fleet(pb.FleetCall(path="/v1/control/start-run"), timeout=5.0) for _ in range(3000))
        with pytest.raises(grpc.RpcError) as error:
            list(calls)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert statuses(port, channel_credentials(partners.folder / "beta"), "/v1/control/start-run") == [404]
