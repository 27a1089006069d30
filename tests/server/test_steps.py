"""Open steps over every transport: the same suite for the in-memory session and for gRPC with mutual TLS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from certs.credentials import channel_credentials, server_credentials
from client.aggregation import AggregationTransport, GrpcAggregation, take_part
from client.wire import tacit_pb2_grpc as rpc
from privacy.order import Order
from privacy.randomness import OsRandomSource
from privacy.secagg.descriptor import descriptor_for
from privacy.secagg.encoding import decode, encode
from privacy.secagg.site import SiteMachine
from server.services import GatewayService
from server.steps import StepRegistry
from server.tunnel import FleetTunnel
from simulations.memory_transport import MemoryAggregation
from tacit.errors import ProtocolViolation, StepBurnt, TacitError, TransportError

Transports = dict[str, AggregationTransport]
SITES = ("alpha", "beta", "delta", "gamma")


@pytest.fixture(params=["memory", "grpc"])
def transports(request: pytest.FixtureRequest, registry: StepRegistry, partners: Any) -> Iterator[Transports]:
    if request.param == "memory":
        yield {site: MemoryAggregation(registry, site) for site in SITES}
        return
    tunnel = FleetTunnel("127.0.0.1:9")
    service = GatewayService(registry, tunnel, "tests", SITES)
    server = grpc.server(futures.ThreadPoolExecutor(16))
    rpc.add_GatewayServicer_to_server(service, server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(partners.folder / "hub"))
    server.start()
    channels = {
        site: grpc.secure_channel(f"localhost:{port}", channel_credentials(partners.folder / site)) for site in SITES
    }
    yield {site: GrpcAggregation(channel) for site, channel in channels.items()}
    for channel in channels.values():
        channel.close()
    server.stop(0).wait()
    tunnel.close()


def open_step(registry: StepRegistry, order: Order, events: list[dict[str, Any]] | None = None) -> Any:
    def on_event(kind: str, fields: dict[str, object]) -> None:
        if events is not None:
            events.append({"event": kind, **fields})

    return registry.open(order, join_deadline_s=20.0, on_event=on_event)


def values_of(site: str, order: Order) -> np.ndarray:
    return np.linspace(-1, 1, order.adapter_length) * (1 + SITES.index(site))


def join(
    transport: AggregationTransport,
    site: str,
    order: Order,
    partners: Any,
    before_upload: Callable[[], None] = lambda: None,
) -> tuple[str, ...]:
    """Take part as ``site``, as the agent does."""
    machine = SiteMachine(site, partners.identities[site], partners.roster, descriptor_for(order, 1))
    session = transport.open(order.run_id, order.step)

    def update() -> Any:
        before_upload()
        secagg = order.secagg
        return encode(
            values_of(site, order), secagg.scale, secagg.value_bound, OsRandomSource(), summands=len(secagg.cohort)
        )

    try:
        return take_part(session, machine, update, timeout_s=20.0)
    finally:
        session.close()


def test_the_sum_is_exact_and_every_site_learns_the_survivors(
    transports: Transports, registry: StepRegistry, make_order: Callable[..., Order], partners: Any
) -> None:
    order, events = make_order(), []
    step = open_step(registry, order, events)
    with ThreadPoolExecutor(4) as pool:
        sites = {site: pool.submit(join, transports[site], site, order, partners) for site in SITES}
        result = step.wait(30.0)
        assert {site: future.result() for site, future in sites.items()} == dict.fromkeys(SITES, SITES)
    expected = sum(values_of(site, order) for site in SITES)
    found = decode(result.total, order.secagg.scale, 4)
    assert result.survivors == SITES
    assert np.abs(found - expected).max() < 4 / order.secagg.scale
    phases = [event["phase"] for event in events if event.get("site") == "beta"]
    assert phases.index("joined") < phases.index("uploaded") < phases.index("locked") < phases.index("revealed")


def test_a_site_that_breaks_off_before_its_upload_is_left_out(
    transports: Transports, registry: StepRegistry, make_order: Callable[..., Order], partners: Any
) -> None:
    order = make_order()
    step = open_step(registry, order)

    def power_cut() -> None:
        raise ConnectionError("power cut")

    with ThreadPoolExecutor(4) as pool:
        for site in ("alpha", "beta", "gamma"):
            pool.submit(join, transports[site], site, order, partners)
        gone = pool.submit(join, transports["delta"], "delta", order, partners, power_cut)
        assert isinstance(gone.exception(), ConnectionError)
        result = step.wait(30.0)
    assert result.survivors == ("alpha", "beta", "gamma")
    expected = sum(values_of(site, order) for site in result.survivors)
    assert np.abs(decode(result.total, order.secagg.scale, 3) - expected).max() < 3 / order.secagg.scale


def test_too_few_survivors_burn_the_step_and_every_site_is_told_who_was_missing(
    transports: Transports, registry: StepRegistry, make_order: Callable[..., Order], partners: Any
) -> None:
    order = make_order()
    step = open_step(registry, order)

    def power_cut() -> None:
        raise ConnectionError("power cut")

    with ThreadPoolExecutor(4) as pool:
        loyal = [pool.submit(join, transports[site], site, order, partners) for site in ("alpha", "beta")]
        for site in ("delta", "gamma"):
            pool.submit(join, transports[site], site, order, partners, power_cut)
        with pytest.raises(StepBurnt, match=r"delta.*gamma"):
            step.wait(30.0)
        for future in loyal:
            assert isinstance(future.exception(), StepBurnt)


def test_a_step_that_is_not_open_cannot_be_joined(transports: Transports, make_order: Callable[..., Order]) -> None:
    with pytest.raises(TransportError, match="not open"):
        transports["alpha"].open(make_order().run_id, 1).receive(10.0)


def test_a_site_joins_once(transports: Transports, registry: StepRegistry, make_order: Callable[..., Order]) -> None:
    order, seated = make_order(), threading.Event()
    step = registry.open(order, join_deadline_s=20.0, on_event=lambda kind, fields: seated.set())
    first = transports["alpha"].open(order.run_id, order.step)
    first.tell("gate")
    assert seated.wait(10.0)
    with pytest.raises(TransportError, match="already joined"):
        transports["alpha"].open(order.run_id, order.step).receive(10.0)
    step.abort("the test is over")


def test_a_site_outside_the_cohort_is_turned_away(
    transports: Transports, registry: StepRegistry, make_order: Callable[..., Order]
) -> None:
    secagg = make_order().secagg.model_dump() | {"cohort": ["alpha", "beta", "gamma"]}
    order = make_order(secagg=secagg)
    step = open_step(registry, order)
    with pytest.raises(TransportError, match="not in the cohort"):
        transports["delta"].open(order.run_id, order.step).receive(10.0)
    step.abort("the test is over")


def test_garbage_from_one_site_takes_it_out_and_names_it(
    transports: Transports, registry: StepRegistry, make_order: Callable[..., Order], partners: Any
) -> None:
    order, events = make_order(), []
    step = open_step(registry, order, events)
    with ThreadPoolExecutor(4) as pool:
        for site in ("alpha", "beta", "gamma"):
            pool.submit(join, transports[site], site, order, partners)
        session = transports["delta"].open(order.run_id, order.step)
        session.send(b"\xff" * 100)
        assert step.wait(30.0).survivors == ("alpha", "beta", "gamma")
        session.close()
    assert any(event["site"] == "delta" and event["phase"] == "failed" for event in events)


def test_a_step_number_is_opened_once_and_never_an_older_one(
    registry: StepRegistry, make_order: Callable[..., Order]
) -> None:
    open_step(registry, make_order(step=5)).abort("over")
    for number in (5, 4):
        with pytest.raises(ProtocolViolation, match="opened before"):
            open_step(registry, make_order(step=number))
    open_step(registry, make_order(step=6)).abort("over")


def test_nobody_joining_ends_the_step_at_its_deadline(registry: StepRegistry, make_order: Callable[..., Order]) -> None:
    step = registry.open(make_order(), join_deadline_s=0.05, on_event=lambda kind, fields: None)
    with pytest.raises(StepBurnt):
        step.wait(10.0)


def test_waiting_is_released_by_an_abort_from_another_thread(
    registry: StepRegistry, make_order: Callable[..., Order]
) -> None:
    step = open_step(registry, make_order())
    released: list[TacitError] = []

    def wait() -> None:
        try:
            step.wait(10.0)
        except TacitError as error:
            released.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    registry.abort_all("the gateway is stopping")
    waiter.join(10.0)
    assert "stopping" in released[0].message
