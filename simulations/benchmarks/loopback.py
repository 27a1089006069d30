"""A gateway and its sites as processes of this machine: real gRPC with mutual TLS over loopback, and no Flower.

The gateway's process holds the port's own service, ``server.services.GatewayService``, over a ``StepRegistry``. Sites
are threads of worker processes and drive ``SiteMachine`` with the agent's own loop, ``client.aggregation.take_part``.
A session is one key setup and any number of steps; between them every site gets the sum that the next one builds on.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from certs.authority import ConsortiumAuthority
from certs.credentials import channel_credentials, server_credentials
from certs.identity import Identity
from client.aggregation import take_part
from client.aggregation_grpc import GrpcAggregation
from client.fleet_api import GRPC_OPTIONS
from client.step_journal import FileStepJournal
from client.wire import tacit_pb2_grpc as rpc
from privacy.order import Order
from privacy.secagg import (
    Contribution,
    Ended,
    SiteMachine,
    default_collusion_bound,
    default_threshold,
    descriptor_for,
)
from server.services import GatewayService
from server.steps import StepRegistry
from server.tunnel import FleetTunnel
from simulations.benchmarks.process_memory import ProcessMemory, read_memory
from simulations.benchmarks.secure_step import SCALE, VALUE_BOUND, encoded, site_names

_CONSORTIUM = "bench"
_HUB = "hub"
_ANSWER_S = 300.0
#: nothing listens there: no fleet call is made
_NO_SUPERLINK = "127.0.0.1:9"

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class SiteTimes:
    """When one site got where, on the clock that all processes of a machine share (seconds)."""

    ready_s: float
    """It has verified the step, and so has every other site: the step begins."""
    encoded_s: float
    ended_s: float
    """It was told what came of the step, and has the sum if another step follows."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """One step, seen from all its sites."""

    sites: tuple[SiteTimes, ...]
    survivors: int
    opened_s: float
    """The gateway has opened the sum."""

    @property
    def latency_s(self) -> float:
        """From the last site's ready to the sum."""
        return self.opened_s - max(one.ready_s for one in self.sites)

    @property
    def encoded_latency_s(self) -> float:
        """The same from when the last site had its update in fixed point."""
        return self.opened_s - max(one.encoded_s for one in self.sites)

    @property
    def told_latency_s(self) -> float:
        """From the last site's ready to the last site's knowing what came of it."""
        return max(one.ended_s for one in self.sites) - max(one.ready_s for one in self.sites)


class Loopback:
    """Drives the processes; made by :func:`loopback`."""

    def __init__(self, gateway: Connection, workers: Sequence[Connection], names: Sequence[str]) -> None:
        self._gateway = gateway
        self._workers = workers
        self._names = tuple(names)
        self._next_step = 1

    def session(self, length: int, steps: int) -> list[StepTimes]:
        """Set up once and take ``steps`` steps of all sites over ``length`` coordinates."""
        order = make_order(self._names, length, self._next_step, steps)
        self._next_step += steps
        _ask(self._gateway, ("open", order))
        for worker in self._workers:
            worker.send(("session", order))
        by_site = [times for worker in self._workers for times in _answer(worker)]
        results = _ask(self._gateway, ("wait", order))
        return [
            StepTimes(tuple(sites), survivors, opened_s)
            for sites, (survivors, opened_s) in zip(zip(*by_site, strict=True), results, strict=True)
        ]

    def gateway_memory(self) -> ProcessMemory:
        """Return what the gateway's process holds, and the most it has held."""
        return _ask(self._gateway, ("memory", None))


@contextmanager
def loopback(sites: int, workers: int = 1) -> Iterator[Loopback]:
    """Start a gateway for ``sites`` sites, which live in ``workers`` processes; stop them in the end."""
    names = site_names(sites)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tacit-bench-")))
        authority = ConsortiumAuthority.create(folder / "ca", _CONSORTIUM)
        authority.issue("coordinator", _HUB, folder / _HUB)
        for name in names:
            authority.issue("site", name, folder / name)
        gateway = stack.enter_context(_process(_serve, folder, names))
        port = _answer(gateway)
        together = _spawn.Barrier(sites)
        crowds = [
            stack.enter_context(_process(_crowd, folder, names, names[index::workers], port, together))
            for index in range(workers)
        ]
        yield Loopback(gateway, crowds, names)


def make_order(names: Sequence[str], length: int, step: int, steps: int) -> Order:
    """An order whose secure steps are what :func:`simulations.benchmarks.secure_step.describe` describes."""
    return Order.model_validate(
        {
            "run_id": "00112233445566ff",
            "run_name": "bench",
            "epoch": step,
            "round": step,
            "rounds_planned": 10**6,
            "step": step,
            "strategy": "fedavg",
            "mode": "local",
            "unit": "record",
            "adjacency": "add-remove",
            "agreement_digest": "sha256:" + "a" * 64,
            "base_model_digest": "sha256:" + "b" * 64,
            "adapter_layout_digest": "sha256:" + "c" * 64,
            "adapter_state_digest": "sha256:" + "d" * 64,
            "adapter_length": length,
            "lora": {"rank": 8, "alpha": 16.0, "targets": ["query"]},
            "labels": ["a", "b"],
            "training": {
                "local_steps": 1,
                "sample_rate": 0.1,
                "expected_batch_size": 10.0,
                "noise_multiplier": 1.0,
                "l2_clip_norm": 1.0,
                "learning_rate": 0.1,
                "max_tokens": 16,
            },
            "secagg": {
                "steps": steps,
                "cohort": list(names),
                "threshold": default_threshold(len(names)),
                "min_cohort": 3,
                "scale": SCALE,
                "value_bound": VALUE_BOUND,
            },
            "deadline_s": _ANSWER_S,
        }
    )


# The gateway's process.


def _serve(pipe: Connection, folder: Path, names: tuple[str, ...]) -> None:
    """Serve sessions; answer ``open``, ``wait`` and ``memory`` until told to stop."""
    registry = StepRegistry(_roster(folder, names), default_collusion_bound(len(names)))
    tunnel = FleetTunnel(_NO_SUPERLINK)
    # each open session holds a thread
    server = grpc.server(ThreadPoolExecutor(len(names) + 4), options=[("grpc.so_reuseport", 0)])
    rpc.add_GatewayServicer_to_server(GatewayService(registry, tunnel, _CONSORTIUM, names), server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(folder / _HUB))
    server.start()
    pipe.send(port)
    opened: dict[int, float] = {}
    epoch: Any = None
    while (asked := pipe.recv()) is not None:
        what, order = asked
        match what:
            case "open":
                epoch = registry.open(order, join_deadline_s=_ANSWER_S, on_event=lambda kind, fields: None)
                for step in _steps_of(order):
                    epoch.when_done(step, lambda step=step: opened.setdefault(step, time.monotonic()))
                pipe.send(True)
            case "wait":
                survivors = [len(epoch.wait(_ANSWER_S, step=step).survivors) for step in _steps_of(order)]
                pipe.send(list(zip(survivors, map(opened.__getitem__, _steps_of(order)), strict=True)))
            case _:
                pipe.send(read_memory())
    server.stop(0).wait()
    tunnel.close()


# The sites' processes.


def _crowd(
    pipe: Connection, folder: Path, names: tuple[str, ...], mine: tuple[str, ...], port: int, together: Any
) -> None:
    """Be the sites ``mine``: take part in a session with all of them at once whenever asked."""
    roster = _roster(folder, names)
    identities = {name: Identity.load(folder / name) for name in mine}
    target = f"localhost:{port}"
    channels = {
        name: grpc.secure_channel(target, channel_credentials(folder / name), options=GRPC_OPTIONS) for name in mine
    }
    with ThreadPoolExecutor(len(mine)) as pool:
        while (asked := pipe.recv()) is not None:
            _, order = asked
            values = np.random.default_rng(order.step).uniform(-1, 1, order.adapter_length).astype(np.float32)
            take = partial(_take_steps, order=order, roster=roster, values=values, together=together, folder=folder)
            sites = [pool.submit(take, identities[name], GrpcAggregation(channels[name])) for name in mine]
            pipe.send([site.result() for site in sites])
    for channel in channels.values():
        channel.close()


def _take_steps(
    identity: Identity,
    transport: GrpcAggregation,
    *,
    order: Order,
    roster: Any,
    values: Any,
    together: Any,
    folder: Path,
) -> list[SiteTimes]:
    """Take part in a session as the agent does, with a journal that is synced before each of its messages."""
    begun: list[tuple[float, float]] = []
    times: list[SiteTimes] = []
    descriptor = descriptor_for(order, default_collusion_bound(len(order.secagg.cohort)))
    machine = SiteMachine(identity.name.name, identity, roster, descriptor)

    def update(step: int) -> Any:
        # nobody starts ahead of the others: what is measured begins when the last site is ready
        together.wait(_ANSWER_S)
        ready_s = time.monotonic()
        vector = encoded(values, len(order.secagg.cohort))
        begun.append((ready_s, time.monotonic()))
        return Contribution(vector)

    def ended(end: Ended) -> None:
        times.append(SiteTimes(*begun[-1], ended_s=time.monotonic()))

    journal = FileStepJournal(folder / identity.name.name / "steps.jsonl")
    session = transport.open(order.run_id, order.step)
    try:
        take_part(session, machine, update, journal=journal, timeout_s=_ANSWER_S, on_ended=ended)
        return times
    finally:
        session.close()
        journal.close()


def _steps_of(order: Order) -> range:
    return range(order.step, order.step + order.secagg.steps)


def _roster(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    return {name: Identity.load(folder / name).public for name in names}


# Processes and what is said to them.


@contextmanager
def _process(main: Any, *arguments: Any) -> Iterator[Connection]:
    """Run ``main`` in a process of its own, with one end of a pipe; None through it means stop."""
    here, there = _spawn.Pipe()
    process = _spawn.Process(target=main, args=(there, *arguments), daemon=True)
    process.start()
    # held by the process alone: when it dies, this end says so instead of waiting
    there.close()
    try:
        yield here
        here.send(None)
        process.join(10.0)
    finally:
        process.terminate()
        process.join()
        here.close()


def _ask(pipe: Connection, request: Any) -> Any:
    pipe.send(request)
    return _answer(pipe)


def _answer(pipe: Connection) -> Any:
    """Return what the process says.

    Raises:
        RuntimeError: it ended, or says nothing.
    """
    if not pipe.poll(_ANSWER_S):
        raise RuntimeError(f"a process of the benchmark was silent for {_ANSWER_S:g} s")
    try:
        return pipe.recv()
    except EOFError as error:
        raise RuntimeError("a process of the benchmark ended; what it printed says why") from error
