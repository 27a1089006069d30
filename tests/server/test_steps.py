"""Open steps over every transport: the same suite for the in-memory session and for gRPC with mutual TLS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from certs.credentials import channel_credentials, server_credentials
from client.aggregation import AggregationTransport, Session, take_part
from client.aggregation_grpc import GrpcAggregation
from client.wire import tacit_pb2_grpc as rpc
from privacy.order import Order
from privacy.randomness import OsRandomSource
from privacy.secagg.descriptor import descriptor_for
from privacy.secagg.effects import Ended
from privacy.secagg.encoding import decode, encode
from privacy.secagg.journal import StepRecord, last_steps
from privacy.secagg.phases import CoordinatorPhase
from privacy.secagg.site import SiteMachine
from privacy.secagg.surplus import Contribution
from server.seats import Protocol, Seat
from server.services import GatewayService
from server.steps import StepRegistry
from server.tunnel import FleetTunnel
from simulations.memory_transport import MemoryAggregation
from tacit.errors import ConfigError, ProtocolViolation, RepeatedStep, StepBurnt, TacitError, TransportError

Transports = dict[str, AggregationTransport]
SITES = ("alpha", "beta", "delta", "gamma")
GATEWAY_THREADS = 16


@pytest.fixture(params=["memory", "grpc"])
def transports(request: pytest.FixtureRequest, registry: StepRegistry, partners: Any) -> Iterator[Transports]:
    if request.param == "memory":
        yield {site: MemoryAggregation(registry, site) for site in SITES}
        return
    tunnel = FleetTunnel("127.0.0.1:9")
    service = GatewayService(registry, tunnel, "tests", SITES)
    server = grpc.server(futures.ThreadPoolExecutor(GATEWAY_THREADS))
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


class ListJournal:
    """What a site would have written down."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def keep(self, record: StepRecord) -> None:
        self.records.append(record)


def join(
    transport: AggregationTransport,
    site: str,
    order: Order,
    partners: Any,
    before_upload: Callable[[int, Session], None] = lambda step, session: None,
    on_ended: Callable[[Ended], None] = lambda ended: None,
) -> list[Ended]:
    """Take part as ``site``, as the agent does; return what came of each step."""
    machine = SiteMachine(site, partners.identities[site], partners.roster, descriptor_for(order, 1))
    session = transport.open(order.run_id, order.step)
    ends: list[Ended] = []

    def update(step: int) -> Any:
        before_upload(step, session)
        secagg = order.secagg
        vector = encode(
            values_of(site, order) / step,
            secagg.scale,
            secagg.value_bound,
            OsRandomSource(),
            summands=len(secagg.cohort),
        )
        return Contribution(vector)

    def ended(end: Ended) -> None:
        ends.append(end)
        on_ended(end)

    try:
        take_part(session, machine, update, journal=ListJournal(), timeout_s=20.0, on_ended=ended)
    finally:
        session.close()
    return ends


def power_cut(step: int, session: Session) -> None:
    raise ConnectionError("power cut")


def test_the_sum_is_exact_and_every_site_learns_the_survivors(
    transports: Transports, registry: StepRegistry, make_order: Callable[..., Order], partners: Any
) -> None:
    order, events = make_order(), []
    step = open_step(registry, order, events)
    with ThreadPoolExecutor(4) as pool:
        sites = {site: pool.submit(join, transports[site], site, order, partners) for site in SITES}
        result = step.wait(30.0)
        assert {site: future.result()[0].survivors for site, future in sites.items()} == dict.fromkeys(SITES, SITES)
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

    with ThreadPoolExecutor(4) as pool:
        loyal = [pool.submit(join, transports[site], site, order, partners) for site in ("alpha", "beta")]
        for site in ("delta", "gamma"):
            pool.submit(join, transports[site], site, order, partners, power_cut)
        with pytest.raises(StepBurnt, match=r"delta.*gamma"):
            step.wait(30.0)
        for future in loyal:
            assert isinstance(future.exception(), StepBurnt)


def many_steps(make_order: Callable[..., Order], steps: int, **changes: Any) -> Order:
    secagg = make_order().secagg.model_dump(mode="json") | {"steps": steps}
    return make_order(secagg=secagg, **changes)


def assert_sum(order: Order, result: Any, step: int, survivors: tuple[str, ...]) -> None:
    assert result.survivors == survivors
    expected = sum(values_of(site, order) / step for site in survivors)
    assert np.abs(decode(result.total, order.secagg.scale, 4) - expected).max() < 4 / order.secagg.scale


def test_many_steps_on_one_session(
    transports: Transports, registry: StepRegistry, make_order: Callable[..., Order], partners: Any
) -> None:
    order = many_steps(make_order, 4, step=3)
    epoch = open_step(registry, order)
    with ThreadPoolExecutor(4) as pool:
        sites = [pool.submit(join, transports[site], site, order, partners) for site in SITES]
        for step in (3, 4, 5, 6):
            assert_sum(order, epoch.wait(30.0, step=step), step, SITES)
        for future in sites:
            ends = future.result()
            assert [end.step for end in ends] == [3, 4, 5, 6]
            # every site was told the sum that the next step builds on, and not the last one
            for end in ends[:-1]:
                assert np.array_equal(end.total, epoch.wait(step=end.step).total)
            assert ends[-1].total is None
    assert registry.step(order.run_id, 6) is epoch
    assert epoch.done()


@pytest.mark.parametrize("moment", ["keys", "established", "announce", "upload", "lock request", "reveal request"])
def test_a_site_whose_connection_breaks_comes_back_within_the_step(
    transports: Transports,
    registry: StepRegistry,
    make_order: Callable[..., Order],
    partners: Any,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The frame that arrives, and the one that answers it, may be lost with the connection; neither is in the end."""
    order = many_steps(make_order, 2)
    epoch = open_step(registry, order)
    sessions: list[Session] = []
    breaks: list[str] = []
    receive = SiteMachine.receive

    def breaking(machine: SiteMachine, frame: bytes) -> Any:
        effects = receive(machine, frame)
        kind = {16: "keys", 20: "established", 21: "announce", 18: "lock request", 19: "reveal request"}.get(frame[1])
        if machine.name == "beta" and sessions and kind == moment:
            breaks.append(moment)
            sessions[0].interrupt()
        return effects

    def in_training(step: int, session: Session) -> None:
        if moment == "upload":
            breaks.append(moment)
            session.interrupt()

    monkeypatch.setattr(SiteMachine, "receive", breaking)
    transport = transports["beta"]

    class Remembering:
        def open(self, run_id: str, step: int) -> Session:
            sessions.append(transport.open(run_id, step))
            return sessions[0]

    with ThreadPoolExecutor(4) as pool:
        sites = [pool.submit(join, transports[site], site, order, partners) for site in SITES if site != "beta"]
        sites.append(pool.submit(join, Remembering(), "beta", order, partners, in_training))
        for step in (1, 2):
            assert_sum(order, epoch.wait(30.0, step=step), step, SITES)
        for future in sites:
            assert len(future.result()) == 2
    assert breaks


def test_a_connection_that_breaks_again_and_again_holds_nothing_at_the_gateway(
    transports: Transports, registry: StepRegistry, make_order: Callable[..., Order], partners: Any
) -> None:
    """More often than the gateway has threads, and over longer than one reconnection may take."""
    order = make_order()
    back = threading.Semaphore(0)

    def on_event(kind: str, fields: dict[str, object]) -> None:
        if fields.get("phase") == "reconnected":
            back.release()

    epoch = registry.open(order, join_deadline_s=20.0, on_event=on_event)

    def flap(step: int, session: Session) -> None:
        if isinstance(transports["beta"], GrpcAggregation):
            session._reconnect_s = 1.5  # type: ignore[attr-defined]
        for _ in range(GATEWAY_THREADS + 2):
            session.interrupt()
            assert back.acquire(timeout=10.0)
            time.sleep(0.05)  # until the site has heard it too

    with ThreadPoolExecutor(4) as pool:
        sites = [pool.submit(join, transports[site], site, order, partners) for site in SITES if site != "beta"]
        sites.append(pool.submit(join, transports["beta"], "beta", order, partners, flap))
        assert_sum(order, epoch.wait(40.0), 1, SITES)
        for future in sites:
            future.result(20.0)


def test_the_queue_of_a_connection_that_ended_ends() -> None:
    seat = Seat(vector_bytes=10)
    first = seat.connect(0)
    assert seat.disconnect(first)
    second = seat.connect(0)
    assert not seat.disconnect(first)
    assert seat.is_connected
    for stream, is_over in ((first, True), (second, False)):
        items = []
        while not stream.empty():
            items.append(stream.get())
        assert (items[-1] is None) == is_over


def test_a_site_that_stays_away_is_lost_and_the_step_goes_on(
    transports: Transports, registry: StepRegistry, make_order: Callable[..., Order], partners: Any
) -> None:
    order, events = make_order(), []
    epoch = open_step(registry, order, events)
    epoch._reconnect_s = 0.05
    with ThreadPoolExecutor(4) as pool:
        for site in ("alpha", "beta", "gamma"):
            pool.submit(join, transports[site], site, order, partners)
        seat = epoch._seats["delta"]
        session = transports["delta"].open(order.run_id, order.step)
        machine = SiteMachine("delta", partners.identities["delta"], partners.roster, descriptor_for(order, 1))
        for effect in machine.start():
            session.send(effect.frame)
        machine.receive(session.receive(20.0))
        epoch.disconnected("delta", seat._stream)
        assert epoch.wait(30.0).survivors == ("alpha", "beta", "gamma")
    phases = [event["phase"] for event in events if event.get("site") == "delta"]
    assert phases.index("away") < phases.index("lost")
    assert phases.count("lost") == 1


def test_a_site_that_leaves_is_said_to_leave_once(registry: StepRegistry, make_order: Callable[..., Order]) -> None:
    events: list[dict[str, Any]] = []
    epoch = open_step(registry, make_order(), events)
    epoch.join("delta")
    for _ in range(2):
        epoch.left("delta")
    assert [event["phase"] for event in events if event.get("site") == "delta"] == ["left"]


def test_a_restarted_coordinator_knows_no_session_and_a_site_takes_no_step_twice(
    registry: StepRegistry, make_order: Callable[..., Order], partners: Any
) -> None:
    order = make_order()
    journal = ListJournal()

    def machine(last_step: int = 0) -> SiteMachine:
        return SiteMachine(
            "alpha", partners.identities["alpha"], partners.roster, descriptor_for(order, 1), last_step=last_step
        )

    registry.open(order, join_deadline_s=20.0, on_event=lambda kind, fields: None)
    session = MemoryAggregation(registry, "alpha").open(order.run_id, order.step)
    with ThreadPoolExecutor(4) as pool:
        for site in ("beta", "delta", "gamma"):
            pool.submit(join, MemoryAggregation(registry, site), site, order, partners)
        update = np.zeros(order.adapter_length, dtype=np.uint32)
        take_part(session, machine(), lambda step: Contribution(update), journal=journal, timeout_s=20.0)
    restarted = StepRegistry(partners.roster, collusion_bound=1)
    with pytest.raises(TransportError, match="not open here"):
        MemoryAggregation(restarted, "alpha").open(order.run_id, order.step)
    restarted.open(order, join_deadline_s=20.0, on_event=lambda kind, fields: None)
    with pytest.raises(RepeatedStep, match="step 1"):
        machine(last_steps(journal.records)[order.run_id])
    restarted.abort_all("the test is over")


def test_a_late_site_takes_part_in_the_next_step(
    transports: Transports, registry: StepRegistry, make_order: Callable[..., Order], partners: Any
) -> None:
    order = many_steps(make_order, 2)
    uploaded = threading.Semaphore(0)

    def on_event(kind: str, fields: dict[str, object]) -> None:
        if fields.get("phase") == "uploaded":
            uploaded.release()

    epoch = registry.open(order, join_deadline_s=20.0, on_event=on_event)

    def dawdle(step: int, session: Session) -> None:
        if step == 1:
            assert all(uploaded.acquire(timeout=20.0) for _ in range(3))
            epoch._passed(CoordinatorPhase.UPLOAD)
            epoch.wait(20.0, step=1)

    with ThreadPoolExecutor(4) as pool:
        sites = [pool.submit(join, transports[site], site, order, partners) for site in ("alpha", "beta", "gamma")]
        late = pool.submit(join, transports["delta"], "delta", order, partners, dawdle)
        assert_sum(order, epoch.wait(30.0, step=1), 1, ("alpha", "beta", "gamma"))
        assert_sum(order, epoch.wait(30.0, step=2), 2, SITES)
        assert [len(future.result()) for future in (*sites, late)] == [2, 2, 2, 2]
        assert "delta" not in late.result()[0].survivors
        assert "delta" in late.result()[1].survivors


def test_a_site_that_reads_nothing_holds_no_more_than_its_own_buffer(
    registry: StepRegistry, make_order: Callable[..., Order]
) -> None:
    seat = Seat(vector_bytes=1000)
    stream = seat.connect(0)
    limit = 2 * 1000 + (16 << 20)
    piece = bytes(1 << 20)
    for _ in range(16):
        seat.put(Protocol(piece))
    assert not seat.is_full
    seat.put(Protocol(piece))
    assert seat.is_full
    assert seat._outbox.size_bytes <= limit
    last = None
    while not stream.empty():
        last = stream.get()
    assert last is None, "its connection is ended"
    epoch = open_step(registry, make_order())
    epoch._seats["alpha"] = seat
    with pytest.raises(ProtocolViolation, match="come back"):
        epoch.join("alpha", resume=True)
    registry.abort_all("the test is over")


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


def test_what_a_run_left_is_forgotten_at_its_end_but_not_its_step_numbers(
    registry: StepRegistry, make_order: Callable[..., Order]
) -> None:
    order = make_order(step=3)
    open_step(registry, order)
    registry.abort_all("the run has ended")
    with pytest.raises(ProtocolViolation, match="not open here"):
        registry.step(order.run_id, 3)
    with pytest.raises(ProtocolViolation, match="opened before"):
        open_step(registry, order)


def test_sums_that_do_not_fit_into_memory_are_not_begun(
    registry: StepRegistry, make_order: Callable[..., Order]
) -> None:
    with pytest.raises(ConfigError, match="3814 MiB"):
        open_step(registry, many_steps(make_order, 1000, adapter_length=10**6))
    open_step(registry, many_steps(make_order, 100, adapter_length=10**6)).abort("over")


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
