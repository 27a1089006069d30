"""The ServerApp's and the command line's side of the gateway's private Unix socket."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from certs.anchor import TrustAnchor
from client.wire import tacit_pb2 as pb
from client.wire import tacit_pb2_grpc as rpc
from privacy.agreement import VerifiedAgreement, load_bundle, verify
from privacy.order import Order, Receipt, SeenHead
from server.run_spec import RunSpec
from strategies.secure_sum import SumResult
from tacit.canonical import canonical_json
from tacit.errors import (
    ConfigError,
    InputError,
    LedgerCorrupt,
    Refusal,
    RefusalReason,
    StepBurnt,
    TacitError,
    TransportError,
)

#: trailing metadata in which the gateway says which of its errors it was
ERROR_KIND = "tacit-error-bin"

_SETTLED_S = 30.0
#: errors that a caller tells apart
_KINDS: dict[str, type[TacitError]] = {
    "StepBurnt": StepBurnt,
    "ConfigError": ConfigError,
    "InputError": InputError,
    "LedgerCorrupt": LedgerCorrupt,
}


class GatewayLink:
    """Calls the gateway on ``socket`` (a path). Implements ``CoordinatorLink``.

    Args:
        socket: the gateway's private socket.
        home: the coordinator's folder, where known: named where no gateway answers.

    Raises (all methods):
        TransportError: no gateway listens there.
        TacitError: what the gateway itself raised.
    """

    def __init__(self, socket: str | Path, *, home: Path | None = None) -> None:
        self._socket = str(socket)
        self._home = home
        self._channel = grpc.insecure_channel(
            f"unix:{self._socket}",
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        self._stub = rpc.CoordinatorStub(self._channel)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def submit(self, spec: RunSpec, resume: str | None = None) -> str:
        """Submit a run, or go on with the run ``resume``; return its id."""
        reply = self._json(self._stub.Submit, {"spec": spec.model_dump(mode="json"), "resume": resume})
        return str(reply["run_id"])

    def runs(self) -> list[dict[str, Any]]:
        """Return one summary a run, oldest first."""
        return list(self._decode(self._call(self._stub.Runs, pb.Empty()))["runs"])

    def stop(self, run_id: str) -> None:
        """End a run."""
        self._json(self._stub.Stop, {"run_id": run_id})

    def watch(self, run_id: str, after: int = 0, *, follow: bool = True) -> Iterator[dict[str, Any]]:
        """Yield a run's events as they happen, until it has finished."""
        stream = self._stub.Watch(pb.WatchRequest(run_id=run_id, after=after, follow=follow))
        try:
            for envelope in stream:
                yield json.loads(envelope.json)
        except grpc.RpcError as error:
            raise self._translate(error) from error
        finally:
            stream.cancel()

    def status(self) -> dict[str, Any]:
        """Return the gateway's facts: folders, agreement digest, connected sites."""
        return self._decode(self._call(self._stub.Sites, pb.Empty()))

    def node_ids(self) -> Mapping[str, int]:
        """Return Flower's node ids of connected sites."""
        return {site: int(node) for site, node in self.status()["node_ids"].items()}

    def run_folder(self, run_id: str) -> Path:
        """Return the run's folder, on this same host."""
        return Path(self.status()["runs_folder"]) / run_id

    def agreement(self) -> VerifiedAgreement:
        """Return the agreement the gateway serves, verified again from its file."""
        status = self.status()
        anchor = TrustAnchor.load(Path(status["pki_folder"]) / "ca.pem")
        return verify(load_bundle(Path(status["agreement_path"])), anchor, now=datetime.now(UTC))

    def seen_heads(self) -> tuple[SeenHead, ...]:
        """Return the last tree head the gateway has seen of every site's ledger."""
        return tuple(SeenHead.model_validate(head) for head in self.status()["seen_heads"])

    def witness(self, receipt: Receipt) -> None:
        """Have the gateway accept a receipt's tree head as a continuation; raises LedgerCorrupt if it is none."""
        self._call(self._stub.Witness, pb.Envelope(json=canonical_json(receipt.model_dump(mode="json"))))

    def submission(self, run_id: str) -> dict[str, Any]:
        """Return what was submitted: the facts of ``run.json``."""
        facts: dict[str, Any] = json.loads((self.run_folder(run_id) / "run.json").read_bytes())
        return facts

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's events so far."""
        return list(self.watch(run_id, follow=False))

    def emit(self, run_id: str, event: dict[str, Any]) -> None:
        """Record a run event."""
        self._call(self._stub.Emit, pb.Envelope(json=json.dumps({"run_id": run_id, "body": event}).encode()))

    def open_step(self, order: Order) -> None:
        """Open the order's secure step."""
        self._call(self._stub.OpenStep, pb.Envelope(json=canonical_json(order.model_dump(mode="json"))))

    def step_ended(self, order: Order) -> bool:
        """Return whether the order's step has ended."""
        key = {"run_id": order.run_id, "step": order.step}
        return bool(self._json(self._stub.StepEnded, key)["ended"])

    def site_left(self, order: Order, site: str) -> None:
        """Do not wait for a site that said outside the step's own stream that it takes no part."""
        self._json(self._stub.SiteLeft, {"run_id": order.run_id, "step": order.step, "site": site})

    def await_step(self, order: Order, step: int | None = None) -> SumResult:
        """Block until a step of the order has ended; raises StepBurnt when it ended without a sum."""
        head: dict[str, Any] = {}
        chunks: list[bytes] = []
        try:
            for part in self._stub.AwaitStep(pb.StepKey(run_id=order.run_id, step=step or order.step)):
                if part.WhichOneof("kind") == "json":
                    head = json.loads(part.json)
                else:
                    chunks.append(part.chunk)
        except grpc.RpcError as error:
            raise self._translate(error) from error
        if not head["summed"]:
            raise StepBurnt(str(head["reason"]))
        total = np.frombuffer(b"".join(chunks), dtype=head["dtype"])
        return SumResult(total, tuple(head["survivors"]))

    def _json(self, method: Any, body: dict[str, Any]) -> dict[str, Any]:
        return self._decode(self._call(method, pb.Envelope(json=json.dumps(body).encode())))

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=_SETTLED_S)
        except grpc.RpcError as error:
            raise self._translate(error) from error

    def _translate(self, error: grpc.RpcError) -> TacitError:
        """Turn a failed call into the error the gateway raised, or say that it is not there."""
        for key, value in error.trailing_metadata() or ():
            if key == ERROR_KIND:
                told = json.loads(value)
                if told["reason"] is not None:
                    return Refusal(RefusalReason(told["reason"]), told["message"], hint=told["hint"])
                kind = _KINDS.get(told["kind"], TacitError)
                return kind(told["message"], hint=told["hint"])
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return TransportError(
                f"no gateway answers on {self._socket}",
                hint=f"start it with `tacit coordinator serve --home {self._home or 'FOLDER'}`",
            )
        return TransportError(
            f"the gateway failed: {error.code().name}: {error.details()}", hint="see logs/gateway.jsonl"
        )

    @staticmethod
    def _decode(envelope: Any) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(envelope.json)
        return body


def error_details(error: TacitError) -> bytes:
    """Serialise an error for the trailing metadata of a failed call (see :data:`ERROR_KIND`)."""
    details = {
        "kind": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "reason": str(error.reason) if isinstance(error, Refusal) else None,
    }
    return json.dumps(details).encode()
