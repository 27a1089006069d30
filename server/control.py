"""Submit, watch and stop Flower runs through the SuperLink's Control API.

Not through ``flwr run``, which starts a daemon of its own and writes into the user's home.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import httpx
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest, StopRunRequest, StreamLogsRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.transport_pb2 import Scalar
from flwr.supercore.control.control_http_client import ControlHttpClient

from client.fab import RUN_SPEC_KEY, build_fab
from client.flower import LOOPBACK, free_port
from tacit.canonical import Json, canonical_json
from tacit.errors import TransportError

_ERROR_CHARACTERS = 300
_STATUS_POLL_S = 2.0
_SILENCE_S = 60.0


@dataclass(frozen=True)
class FlowerRun:
    """What Flower says about a run.

    Args:
        run_id: Flower's id.
        status: where it is in its life.
        outcome: empty until it is finished.
        details: why it failed, in Flower's words.
    """

    run_id: int
    status: Literal["pending", "starting", "running", "finished"]
    outcome: Literal["", "completed", "failed", "stopped"]
    details: str

    @property
    def finished(self) -> bool:
        """Whether the ServerApp has ended."""
        return self.status == "finished"


class FlowerControl:
    """A client of the SuperLink's Control API on the loopback interface. Safe to use from several threads.

    Args:
        port: the SuperLink's loopback port; 0 picks a free one, for a SuperLink that is started afterwards.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self._closing = threading.Event()
        self._client = ControlHttpClient.from_server_address(
            self.address, insecure=True, root_certificates=None, interceptors=()
        )

    @property
    def address(self) -> str:
        """``127.0.0.1:<port>``."""
        return f"{LOOPBACK}:{self.port}"

    def submit_run(self, run_spec: Mapping[str, Json], *, fab: bytes | None = None) -> int:
        """Start a run and return Flower's run id.

        Args:
            run_spec: reaches the ServerApp as JSON in ``context.run_config["run-spec"]``.
            fab: the bundle; :func:`client.fab.build_fab`'s when None.

        Raises:
            TransportError: the SuperLink is not there or does not accept the run.
        """
        content = build_fab() if fab is None else fab
        request = StartRunRequest(
            fab=Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content),
            override_config={RUN_SPEC_KEY: Scalar(string=canonical_json(dict(run_spec)).decode())},
        )
        with _translated(self.address, "start the run"):
            response = self._client.StartRun(request)
        if not response.HasField("run_id"):
            raise TransportError("the SuperLink gave the run no id", hint="look into the SuperLink's log")
        return int(response.run_id)

    def status(self, run_id: int) -> FlowerRun | None:
        """Return what Flower says about a run, or None when the SuperLink, restarted perhaps, has no such run.

        Raises:
            TransportError: the SuperLink is not there.
        """
        with _translated(self.address, f"look up run {run_id}"):
            try:
                runs = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.NOT_FOUND:
                    raise
                return None
        status = runs[run_id].status
        return FlowerRun(run_id, status.status, status.sub_status, status.details)

    def stop_run(self, run_id: int) -> bool:
        """Stop a run; return whether it was still going.

        Raises:
            TransportError: the SuperLink is not there.
        """
        run = self.status(run_id)
        if run is None or run.finished:
            return False
        with _translated(self.address, f"stop run {run_id}"):
            return bool(self._client.StopRun(StopRunRequest(run_id=run_id)).success)

    def wait_finished(self, run_id: int) -> str:
        """Block until the run has ended; return why, for people: ``"completed"``, or what went wrong.

        Returns early, saying so, when this object is closed, when the SuperLink no longer knows the run
        (it was restarted), or when it has not answered for a minute.
        """
        silent_since: float | None = None
        while not self._closing.wait(_STATUS_POLL_S):
            try:
                run = self.status(run_id)
            except TransportError as error:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > _SILENCE_S:
                    return error.message
                continue
            silent_since = None
            if run is None:
                return "the SuperLink was restarted and has forgotten the run"
            if run.finished:
                return ": ".join(part for part in (run.outcome, run.details) if part)
        return "the gateway is stopping"

    def log_of(self, run_id: int) -> str:
        """Return everything the ServerApp of a finished run logged, tracebacks included.

        Raises:
            TransportError: the run is not finished (its log would not end), or the SuperLink is not there.
        """
        run = self.status(run_id)
        if run is None or not run.finished:
            raise TransportError(f"run {run_id} is not finished", hint="wait for it to end, or stop it")
        with _translated(self.address, f"read the log of run {run_id}"):
            parts = self._client.StreamLogs(StreamLogsRequest(run_id=run_id, after_timestamp=0.0))
            return "".join(part.log_output for part in parts)

    def close(self) -> None:
        """End every wait and close the connections."""
        self._closing.set()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _translated(address: str, attempt: str) -> Iterator[None]:
    """Turn what the HTTP client raises into an error that says what was attempted."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        answer = f"{error.response.status_code} {error.response.text[:_ERROR_CHARACTERS]}"
        message = f"could not {attempt}: the SuperLink answered {answer}"
        raise TransportError(message, hint="look into the SuperLink's log") from error
    except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client was closed meanwhile
        raise TransportError(
            f"could not {attempt}: no SuperLink answers at {address} ({type(error).__name__})",
            hint="is the gateway running? `tacit coordinator serve` starts the SuperLink",
        ) from error
