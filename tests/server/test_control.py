"""The Control API's client, against an HTTP server made of answers. The real SuperLink: test_flower_processes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from flwr.proto.control_pb2 import (
    ListRunsRequest,
    ListRunsResponse,
    StartRunRequest,
    StartRunResponse,
    StopRunResponse,
)
from flwr.proto.run_pb2 import Run, RunStatus
from google.protobuf.message import Message

from client.fab import build_fab
from client.flower import free_port
from server import control
from server.control import FlowerControl, FlowerRun
from tacit.errors import TransportError


class SuperLink:
    """Answers each path with what the test put there; keeps the bodies."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.bodies: dict[str, list[bytes]] = {}
        table = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                table.bodies.setdefault(self.path, []).append(body)
                status, content = table.answers.get(self.path, (500, b"{}"))
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answers_with(self, call: str, message: Message) -> None:
        self.answers[f"/v1/control/{call}"] = (200, message.SerializeToString())

    def run_is(self, status: str, outcome: str = "", details: str = "") -> None:
        run = Run(run_id=7, status=RunStatus(status=status, sub_status=outcome, details=details))
        self.answers_with("list-runs", ListRunsResponse(run_dict={7: run}))


@pytest.fixture
def superlink() -> Iterator[SuperLink]:
    made = SuperLink()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def client(superlink: SuperLink) -> Iterator[FlowerControl]:
    with FlowerControl(superlink.port) as made:
        yield made


def test_a_run_is_submitted_with_the_bundle_without_code_and_its_spec(
    superlink: SuperLink, client: FlowerControl
) -> None:
    superlink.answers_with("start-run", StartRunResponse(run_id=7))
    assert client.submit_run({"run_id": "abc", "n": 1}) == 7
    request = StartRunRequest.FromString(superlink.bodies["/v1/control/start-run"][0])
    assert request.fab.content == build_fab()
    assert request.fab.hash_str == hashlib.sha256(build_fab()).hexdigest()
    assert {key: json.loads(value.string) for key, value in request.override_config.items()} == {
        "run-spec": {"run_id": "abc", "n": 1}
    }


def test_a_run_without_an_id_is_an_error(superlink: SuperLink, client: FlowerControl) -> None:
    superlink.answers_with("start-run", StartRunResponse())
    with pytest.raises(TransportError, match="gave the run no id"):
        client.submit_run({})


def test_what_flower_says_about_a_run(superlink: SuperLink, client: FlowerControl) -> None:
    superlink.run_is("running")
    assert client.status(7) == FlowerRun(7, "running", "", "")
    superlink.run_is("finished", "failed", "it broke")
    run = client.status(7)
    assert run is not None
    assert run.finished
    assert ListRunsRequest.FromString(superlink.bodies["/v1/control/list-runs"][0]).run_id == 7


def test_a_run_the_superlink_does_not_know(superlink: SuperLink, client: FlowerControl) -> None:
    superlink.answers["/v1/control/list-runs"] = (404, b'{"message": "Run ID not found."}')
    assert client.status(7) is None
    assert client.stop_run(7) is False
    assert client.wait_finished(7) == "the SuperLink was restarted and has forgotten the run"


def test_only_a_run_that_goes_on_is_stopped(superlink: SuperLink, client: FlowerControl) -> None:
    superlink.answers_with("stop-run", StopRunResponse(success=True))
    superlink.run_is("running")
    assert client.stop_run(7) is True
    superlink.run_is("finished", "stopped")
    assert client.stop_run(7) is False
    assert len(superlink.bodies["/v1/control/stop-run"]) == 1


def test_waiting_ends_with_the_run(
    superlink: SuperLink, client: FlowerControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_STATUS_POLL_S", 0.01)
    superlink.run_is("finished", "completed")
    assert client.wait_finished(7) == "completed"
    superlink.run_is("finished", "failed", "ServerApp failed with exception: x")
    assert client.wait_finished(7) == "failed: ServerApp failed with exception: x"


def test_waiting_ends_when_the_client_is_closed(superlink: SuperLink, client: FlowerControl) -> None:
    superlink.run_is("running")
    ended: list[str] = []
    thread = threading.Thread(target=lambda: ended.append(client.wait_finished(7)))
    thread.start()
    client.close()
    thread.join(20)
    assert ended == ["the gateway is stopping"]


def test_waiting_bears_a_short_silence_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_STATUS_POLL_S", 0.01)
    monkeypatch.setattr(control, "_SILENCE_S", 0.1)
    with FlowerControl(free_port()) as client:
        assert "no SuperLink answers" in client.wait_finished(7)


def test_the_log_of_a_run_that_goes_on_is_not_read(superlink: SuperLink, client: FlowerControl) -> None:
    superlink.run_is("running")
    with pytest.raises(TransportError, match="not finished"):
        client.log_of(7)


def test_an_error_says_what_was_attempted(superlink: SuperLink, client: FlowerControl) -> None:
    superlink.answers["/v1/control/start-run"] = (412, b'{"message": "Invalid run configuration."}')
    with pytest.raises(TransportError, match=r"could not start the run.*412.*Invalid run configuration") as caught:
        client.submit_run({})
    assert "log" in str(caught.value.hint)


def test_a_superlink_that_is_not_there() -> None:
    with FlowerControl() as client:
        assert client.address == f"127.0.0.1:{client.port}"
        with pytest.raises(TransportError, match=f"no SuperLink answers at {client.address}") as caught:
            client.submit_run({})
        assert "tacit coordinator serve" in str(caught.value.hint)
