"""The stock flower-superlink and flower-supernode, as real processes, through the tunnel over a real gRPC server.

TLS is not used here (``tests/certs`` and the demo use it): the test tells the gateway who is calling by metadata.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
from flwr.cli.build import build_fab_from_files

from certs.names import PeerName, Role
from client.fab import build_fab, check_fab
from client.fleet_api import GRPC_OPTIONS
from client.supernode import AGENT_SOCKET_VARIABLE, supernode_child
from client.tunnel import FleetProxy
from client.wire import tacit_pb2 as pb
from client.wire import tacit_pb2_grpc as rpc
from server.control import FlowerControl
from server.superlink import superlink_child
from server.tunnel import FleetTunnel
from tacit.sockets import socket_path
from tacit.supervisor import Supervisor

pytestmark = pytest.mark.processes

SITES = ("alpha", "beta")
ECHO = "echo_app:app"
READY_S = 60.0

#: The ServerApp of this test: sends the same order to some nodes, several times, and writes down the receipts.
ECHO_APP = """
import json, pathlib, threading, time
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    spec = json.loads(context.run_config["run-spec"])
    rounds = []
    for number in range(spec["rounds"]):
        began = time.monotonic()
        order = json.dumps({"round": number, "deadline_s": 30.0}).encode()
        vector = np.arange(spec["length"], dtype=np.float32) + number
        content = lambda: RecordDict({
            "order": ConfigRecord({"json": order}), "adapter": ArrayRecord({"vector": Array(vector)})})
        waiting = {
            grid.push_messages([Message(content(), int(node), "train")])[0]: node for node in spec["nodes"]}
        replies = []
        while waiting and time.monotonic() - began < spec["patience_s"]:
            for reply in grid.pull_messages(list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id)
                receipt = None if reply.has_error() else json.loads(reply.content["receipt"]["json"])
                replies.append({
                    "node": node,
                    "receipt": receipt,
                    "error": reply.error.reason if reply.has_error() else "",
                })
            threading.Event().wait(0.1)
        rounds.append({"seconds": time.monotonic() - began, "replies": replies})
    out = pathlib.Path(spec["out"])
    out.with_suffix(".part").write_text(json.dumps(rounds))
    out.with_suffix(".part").rename(out)
"""


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        pause.wait(0.05)


def _alive(pid: int) -> bool:
    """Whether the process runs; a zombie, which its new parent has yet to collect, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Gateway(rpc.GatewayServicer):
    """What the real gateway does with a fleet call, except that it believes the caller's metadata."""

    def __init__(self, tunnel: FleetTunnel) -> None:
        self.tunnel = tunnel

    def Fleet(self, request: pb.FleetCall, context: grpc.ServicerContext) -> pb.FleetReply:
        site = dict(context.invocation_metadata())["site"]
        return self.tunnel.forward(PeerName("test", Role.SITE, site), request)


class Agent(rpc.AgentServicer):
    """Stands for the site agent: says what it was given."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.calls = 0
        self.called, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def Execute(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:
        self.calls += 1
        if not self.may_answer.is_set():
            self.called.set()
            self.may_answer.wait(READY_S)
        receipt = {
            "site": self.site,
            "order": json.loads(request.json),
            "vector": hashlib.sha256(request.vector).hexdigest(),
        }
        return pb.Envelope(json=json.dumps(receipt).encode())


class Site:
    """One site: agent, proxy and SuperNode."""

    def __init__(self, name: str, folder: Path, gateway_address: str) -> None:
        self.name = name
        self.refusals: list[str] = []
        self.agent = Agent(name)
        socket = socket_path(folder / "state", "agent.sock")
        self._agent_server = grpc.server(futures.ThreadPoolExecutor(4))
        rpc.add_AgentServicer_to_server(self.agent, self._agent_server)
        self._agent_server.add_insecure_port(f"unix:{socket}")
        self._agent_server.start()
        self._channel = grpc.insecure_channel(gateway_address, options=GRPC_OPTIONS)
        fleet = rpc.GatewayStub(self._channel).Fleet

        class Stub:
            Fleet = staticmethod(functools.partial(fleet, metadata=(("site", name),)))

        self.proxy = FleetProxy(
            Stub(), self.refusals.append, check_bundle=functools.partial(check_fab, serverapp=ECHO)
        ).start()
        child = supernode_child(
            folder / "state" / "flower",
            superlink=self.proxy.address,
            log_path=folder / "logs" / "supernode.log",
            env={AGENT_SOCKET_VARIABLE: str(socket), "HOME": str(folder / "home")},
            ready=lambda: self.proxy.node_id is not None,
        )
        (folder / "home").mkdir()
        self.home = folder / "home"
        self.supernode = Supervisor(child, on_event=self._on_event).start()

    def _on_event(self, event: object) -> None:
        if getattr(event, "kind", "") == "exited":
            self.proxy.release()

    def stop(self) -> None:
        self.supernode.stop()
        self.proxy.stop()
        self._channel.close()
        self._agent_server.stop(None).wait()


class Consortium:
    """A coordinator and some sites on this machine."""

    def __init__(self, folder: Path, sites: tuple[str, ...] = SITES) -> None:
        self.folder = folder
        support = folder / "support"
        support.mkdir(parents=True)
        (support / "echo_app.py").write_text(ECHO_APP)
        self.home = folder / "coordinator" / "home"
        self.home.mkdir(parents=True)
        self.control = FlowerControl()
        child = superlink_child(
            folder / "coordinator" / "state" / "flower",
            self.control.port,
            folder / "coordinator" / "logs" / "superlink.log",
            {"HOME": str(self.home), "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{support}"},
        )
        self.superlink = Supervisor(child).start()
        self.tunnel = FleetTunnel(self.control.address, folder / "coordinator" / "state")
        self._server = grpc.server(futures.ThreadPoolExecutor(16), options=GRPC_OPTIONS)
        rpc.add_GatewayServicer_to_server(Gateway(self.tunnel), self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self.sites = {name: Site(name, folder / name, f"127.0.0.1:{port}") for name in sites}

    def wait_ready(self) -> None:
        self.superlink.wait_ready(READY_S)
        for site in self.sites.values():
            site.supernode.wait_ready(READY_S)

    def run(self, nodes: list[int], *, rounds: int = 1, length: int = 1000, patience_s: float = 40.0) -> list:
        out = self.folder / f"out-{time.monotonic_ns()}.json"
        spec = {"nodes": [str(n) for n in nodes], "rounds": rounds, "length": length, "out": str(out)}
        run_id = self.control.submit_run({**spec, "patience_s": patience_s}, fab=build_fab(serverapp=ECHO))
        assert self.control.wait_finished(run_id) == "completed", self.control.log_of(run_id)
        return json.loads(out.read_text())

    def supervisors(self) -> list[Supervisor]:
        return [self.superlink, *(site.supernode for site in self.sites.values())]

    def stop(self) -> None:
        for site in self.sites.values():
            site.stop()
        self._server.stop(None).wait()
        self.superlink.stop()
        self.tunnel.close()
        self.control.close()


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    world = Consortium(tmp_path_factory.mktemp("consortium"))
    try:
        world.wait_ready()
        yield world
    finally:
        world.stop()


def test_an_order_reaches_each_agent_and_its_receipt_comes_back(consortium: Consortium) -> None:
    nodes = consortium.tunnel.sites()
    assert nodes == {name: site.proxy.node_id for name, site in consortium.sites.items()}
    rounds = consortium.run(list(nodes.values()), rounds=2)
    for number, outcome in enumerate(rounds):
        print(f"round trip {number}: {outcome['seconds']:.2f} s")
        vector = (np.arange(1000, dtype="<f4") + number).tobytes()
        receipts = sorted((r["receipt"] for r in outcome["replies"]), key=lambda r: r["site"])
        assert receipts == [
            {
                "site": site,
                "order": {"round": number, "deadline_s": 30.0},
                "vector": hashlib.sha256(vector).hexdigest(),
            }
            for site in SITES
        ]


def test_a_supernode_killed_at_work_is_missed_at_once_and_comes_back(consortium: Consortium) -> None:
    site = consortium.sites["alpha"]
    old, pid = site.proxy.node_id, site.supernode.pid
    assert old is not None
    assert pid is not None
    site.agent.may_answer.clear()
    try:
        with futures.ThreadPoolExecutor(1) as background:
            running = background.submit(consortium.run, [old])
            wait_until(site.agent.called.is_set, READY_S, "the order's arrival")
            os.kill(pid, signal.SIGKILL)
            (outcome,) = running.result(READY_S)
    finally:
        site.agent.may_answer.set()
    # the run is told that the node is gone, long before its heartbeat lapses (60 s)
    (reply,) = outcome["replies"]
    assert reply["receipt"] is None
    assert "Node Unavailable" in reply["error"]
    assert outcome["seconds"] < 40
    wait_until(lambda: site.supernode.starts == 2, 20, "the restart")
    site.supernode.wait_ready(READY_S)
    new = site.proxy.node_id
    assert new is not None
    assert new != old
    assert consortium.tunnel.node_id_of("alpha") == new
    (outcome,) = consortium.run([new])
    assert [r["receipt"]["site"] for r in outcome["replies"]] == ["alpha"]


def test_a_bundle_with_code_never_runs_at_a_site(consortium: Consortium) -> None:
    site = consortium.sites["beta"]
    calls = site.agent.calls
    spy = consortium.folder / "spy"
    with zipfile.ZipFile(io.BytesIO(build_fab(serverapp=ECHO))) as archive:
        document = archive.read("pyproject.toml")
    code = f"import pathlib; pathlib.Path({str(spy)!r}).touch()".encode()
    evil, _ = build_fab_from_files({"pyproject.toml": document, "client/__init__.py": b"", "client/app.py": code})
    spec = {"nodes": [str(site.proxy.node_id)], "rounds": 1, "length": 1, "patience_s": 30.0}
    run_id = consortium.control.submit_run({**spec, "out": str(consortium.folder / "none.json")}, fab=evil)
    try:
        wait_until(lambda: bool(site.refusals), READY_S, "the refusal")
    finally:
        assert consortium.control.stop_run(run_id)
    assert "client/app.py" in site.refusals[0]
    assert site.agent.calls == calls
    assert not spy.exists()
    assert consortium.control.wait_finished(run_id).startswith("stopped")


def test_a_serverapp_that_fails_leaves_its_traceback_and_unknown_runs_are_unknown(
    consortium: Consortium,
) -> None:
    run_id = consortium.control.submit_run({"nodes": []}, fab=build_fab(serverapp=ECHO))
    assert consortium.control.wait_finished(run_id) == "failed: ServerApp failed with exception: 'rounds'"
    assert "Traceback" in consortium.control.log_of(run_id)
    assert consortium.control.status(12345) is None


def test_stopping_leaves_no_process_and_nothing_in_the_home_folder(tmp_path: Path) -> None:
    world = Consortium(tmp_path, ("alpha",))
    try:
        world.wait_ready()
        before = [pid for supervisor in world.supervisors() for pid in supervisor.processes()]
        assert len(before) == 4, "SuperLink and SuperNode, and a SuperExec each"
    finally:
        world.stop()
    assert [pid for supervisor in world.supervisors() for pid in supervisor.processes()] == []
    assert [pid for pid in before if _alive(pid)] == []
    for home in (world.home, *(site.home for site in world.sites.values())):
        assert list(home.iterdir()) == []
