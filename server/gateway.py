"""The gateway process: the one port between organisations, the private socket, and Flower's SuperLink as a child."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from concurrent import futures
from datetime import UTC, datetime
from typing import Any

import grpc

from certs.anchor import TrustAnchor
from certs.credentials import check_validity, server_credentials
from certs.names import Role
from client.wire import tacit_pb2_grpc as rpc
from models.base import base_model_digest, resolve_model_folder
from privacy.agreement import Agreement, VerifiedAgreement, load_bundle, verify
from server.config import CoordinatorHome
from server.control import FlowerControl
from server.coordinator import Coordinator
from server.run_spec import RunSpec
from server.services import CoordinatorService, GatewayService
from server.superlink import superlink_child
from server.tunnel import FleetTunnel
from tacit.durable import write_atomic
from tacit.errors import CertificateError, ConfigError, TransportError
from tacit.sockets import claim_socket
from tacit.supervisor import Supervisor

_log = logging.getLogger(__name__)

_THREADS = 64
_STOP_GRACE_S = 5.0
_SUPERLINK_READY_S = 60.0
#: gRPC's own limit on one message from a site: a fleet call carries an adapter, a frame at most 1 MiB
_MESSAGE_MAX_BYTES = 256 << 20

_STOPPED = "stopped by the operator"


class FlowerRuns:
    """Submits Tacit's runs to Flower and remembers which is which."""

    def __init__(self, coordinator: Coordinator, control: FlowerControl) -> None:
        self._coordinator = coordinator
        self._control = control
        self._flower_ids: dict[str, int] = {}
        #: Flower's ids of runs that the operator has ended: whoever notices the end says so
        self._stopped: set[int] = set()

    def start(self, spec: RunSpec, resume: str | None) -> str:
        """Submit a new run, or go on with ``resume`` from its last checkpoint; return tacit's run id.

        Raises:
            Refusal, ConfigError, ModelError: nothing was started.
        """
        if resume is None:
            digest = base_model_digest(resolve_model_folder(spec.model.base))
            run_id = self._coordinator.submit(spec, base_model_digest=digest)
        else:
            self._coordinator.require_idle()
            run_id = resume
            self._coordinator.store.facts(run_id)
            self._coordinator.emit(run_id, {"event": "run-resumed"})
        try:
            self._flower_ids[run_id] = self._control.submit_run({"run_id": run_id})
        except Exception as error:
            reason = f"Flower did not take the run: {error}"
            self._coordinator.emit(run_id, {"event": "run-finished", "status": "failed", "reason": reason})
            raise
        threading.Thread(
            target=self._follow, args=(run_id, self._flower_ids[run_id]), name=f"follow-{run_id}", daemon=True
        ).start()
        return run_id

    def stop(self, run_id: str) -> None:
        """End a run: Flower's side, then its open step.

        Raises:
            ConfigError: it is not running here, or there is no such run.
            InputError: this is no run's id.
        """
        self._coordinator.store.facts(run_id)
        flower_id = self._flower_ids.get(run_id)
        if flower_id is None or self._coordinator.store.finished(run_id):
            raise ConfigError(f"run {run_id} is not running", hint="`tacit run status` lists the runs")
        # before Flower ends it: the thread that follows the run may see its end first
        self._stopped.add(flower_id)
        try:
            self._control.stop_run(flower_id)
        except TransportError:
            self._stopped.discard(flower_id)
            raise
        self._coordinator.steps.abort_all("the run was stopped")
        self._finish(run_id, "stopped", _STOPPED)

    def _follow(self, run_id: str, flower_id: int) -> None:
        """A ServerApp that dies without a word still ends its run."""
        details = self._control.wait_finished(flower_id)
        self._keep_log(run_id, flower_id)
        if self._flower_ids[run_id] != flower_id:
            return  # the run was resumed meanwhile: it lives on under another of Flower's ids
        self._coordinator.steps.abort_all("the run has ended")
        if flower_id in self._stopped:
            self._finish(run_id, "stopped", _STOPPED)
        else:
            self._finish(run_id, "failed", f"the ServerApp ended early: {details}")

    def _keep_log(self, run_id: str, flower_id: int) -> None:
        """Flower keeps a ServerApp's output to itself; it belongs into the run's folder."""
        try:
            text = self._control.log_of(flower_id)
        except TransportError as error:
            _log.warning("the ServerApp's log of run %s is lost: %s", run_id, error.message)
            return
        write_atomic(self._coordinator.run_folder(run_id) / "serverapp.log", text.encode())

    def _finish(self, run_id: str, status: str, reason: str) -> None:
        if not self._coordinator.store.finished(run_id):
            self._coordinator.emit(run_id, {"event": "run-finished", "status": status, "reason": reason})


class Gateway:
    """Everything that runs in ``tacit coordinator serve``.

    Args:
        home: the coordinator's folder.

    Raises:
        CertificateError: a certificate is missing, expired or foreign.
        AgreementError: the agreement is unsigned, edited or expired.
        TransportError: the port is in use.
    """

    def __init__(self, home: CoordinatorHome) -> None:
        self._home = home
        name = check_validity(home.pki)
        if name.role is not Role.COORDINATOR:
            raise CertificateError(
                f"{home.pki} holds the certificates of {name}, expected those of a coordinator",
                hint="issue some with `tacit pki issue --role coordinator`",
            )
        agreement = self._load_agreement()
        # before the port, so that a second gateway of this folder is told what it is
        claim_socket(home.socket, "a gateway")
        self.control = FlowerControl(home.settings.superlink_port)
        self._tunnel = FleetTunnel(self.control.address, home.state)
        self._superlink = Supervisor(
            superlink_child(home.flower, self.control.port, home.logs / "superlink.log", self._child_environment())
        )
        self.coordinator = Coordinator(
            agreement, home.agreement.read_bytes(), home.runs, home.state, self._connected_sites
        )
        self.runs = FlowerRuns(self.coordinator, self.control)
        self._public = self._public_server(agreement.agreement)
        self._private = self._private_server()

    def start(self) -> None:
        """Start SuperLink, then open the private socket and the port.

        Raises:
            ProcessError: SuperLink did not come up; its log's end is in the message.
        """
        self._superlink.start()
        self._superlink.wait_ready(_SUPERLINK_READY_S)
        for run_id in self.coordinator.close_interrupted():
            _log.warning("run %s was interrupted by an earlier restart", run_id)
        self._private.start()
        os.chmod(self._home.socket, 0o600)
        self._public.start()
        _log.info("gateway is ready", extra={"listen": self._home.settings.listen})

    def check_children(self) -> None:
        """Raise the error of a SuperLink that was given up.

        Raises:
            ProcessError: with the end of its log.
        """
        if self._superlink.failure is not None:
            raise self._superlink.failure

    def stop(self) -> None:
        """Stop accepting, end open steps, stop SuperLink and everything under it."""
        self.coordinator.steps.abort_all("the gateway is stopping")
        # held pulls and status waits would keep the servers' threads
        self._tunnel.close()
        self.control.close()
        for server in (self._public, self._private):
            server.stop(_STOP_GRACE_S).wait()
        self._superlink.stop()
        self._home.socket.unlink(missing_ok=True)

    def _load_agreement(self) -> VerifiedAgreement:
        bundle = load_bundle(self._home.agreement)
        anchor = TrustAnchor.load(self._home.pki / "ca.pem")
        return verify(bundle, anchor, now=datetime.now(UTC))

    def _connected_sites(self) -> Mapping[str, int]:
        return self._tunnel.sites()

    def _child_environment(self) -> dict[str, str]:
        return {
            "TACIT_GATEWAY_SOCKET": str(self._home.socket),
            "OMP_NUM_THREADS": str(self._home.settings.torch_threads),
        }

    def _public_server(self, agreed: Agreement) -> grpc.Server:
        server = grpc.server(
            futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="public"),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MESSAGE_MAX_BYTES)],
        )
        rpc.add_GatewayServicer_to_server(
            GatewayService(self.coordinator, self._tunnel, agreed.consortium, agreed.partner_names()), server
        )
        listen = self._home.settings.listen
        try:
            bound = server.add_secure_port(listen, server_credentials(self._home.pki))
        except RuntimeError as error:
            raise _in_use(listen) from error
        if bound == 0:
            raise _in_use(listen)
        return server

    def _private_server(self) -> grpc.Server:
        path = self._home.socket
        server = grpc.server(
            futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="private"),
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        rpc.add_CoordinatorServicer_to_server(CoordinatorService(self.coordinator, self.runs, self._facts), server)
        old = os.umask(0o177)  # the socket is born with mode 0600
        try:
            server.add_insecure_port(f"unix:{path}")
        finally:
            os.umask(old)
        return server

    def _facts(self) -> dict[str, Any]:
        return {
            "agreement_path": str(self._home.agreement),
            "pki_folder": str(self._home.pki),
            "runs_folder": str(self._home.runs),
            "listen": self._home.settings.listen,
        }


def _in_use(listen: str) -> TransportError:
    return TransportError(
        f"cannot listen on {listen}: the address is in use or not this host's",
        hint="stop the other process, or change `listen` in coordinator.toml",
    )
