"""The site agent's process: checks everything before data is touched, then serves orders until it is stopped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc

from certs.anchor import TrustAnchor
from certs.credentials import channel_credentials, check_validity
from certs.identity import Identity
from certs.names import Role
from client.agent import SiteAgent
from client.aggregation_grpc import GrpcAggregation
from client.config import SiteHome
from client.data import LoadedData, load_private_records
from client.fleet_api import GRPC_OPTIONS
from client.step_journal import FileStepJournal
from client.supernode import AGENT_SOCKET_VARIABLE, supernode_child
from client.tunnel import FleetProxy
from client.wire import tacit_pb2 as pb
from client.wire import tacit_pb2_grpc as rpc
from client.workbench import Workbench
from models.compute import configure_compute
from privacy.agreement import VerifiedAgreement, load_bundle, verify
from privacy.ledger import Ledger
from privacy.policy import SitePolicy, load_policy
from tacit.errors import AgreementError, CertificateError, ConfigError, LedgerError, Refusal, RefusalReason
from tacit.sockets import claim_socket
from tacit.supervisor import ChildEvent, Supervisor

_log = logging.getLogger(__name__)

#: the only dataset of a site, for now; the ledger can hold several
DATASET = "main"
_STOP_GRACE_S = 5.0
_STATUS_TIMEOUT_S = 5.0
_MESSAGE_MAX_BYTES = 256 << 20

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Credentials:
    """Who the site is and what it agreed to; everything here was verified."""

    identity: Identity
    agreement: VerifiedAgreement
    policy: SitePolicy


def load_credentials(home: SiteHome) -> Credentials:
    """Verify certificates, agreement and policy. Nothing of the data or the model is touched.

    Raises:
        CertificateError, AgreementError, ConfigError: fail closed, one clear reason.
    """
    name = check_validity(home.pki)
    if name.role is not Role.SITE:
        raise CertificateError(
            f"{home.pki} holds the certificates of {name}, expected those of a site",
            hint="issue some with `tacit pki issue --role site`",
        )
    anchor = TrustAnchor.load(home.pki / "ca.pem")
    agreement = verify(load_bundle(home.agreement), anchor, now=datetime.now(UTC))
    identity = Identity.load(home.pki)
    pinned = agreement.agreement.roster().get(name.name)
    if pinned is None or pinned.public_key_bytes != identity.public_key_bytes:
        raise AgreementError(
            f"{home.agreement} does not list {name.name} with this site's identity key",
            hint="use the agreement this site signed, with the keys it signed with",
        )
    policy = load_policy(home.policy)
    if policy.site != name.name:
        raise ConfigError(
            f"{home.policy} is the policy of {policy.site}, this site is {name.name}",
            hint="put this site's own policy there",
        )
    return Credentials(identity, agreement, policy)


def create_ledger(home: SiteHome) -> None:
    """Begin the site's ledger; done once, when its folder is made.

    An agent never begins one: where a ledger is missing, it was lost, and so was the account of what was spent.

    Raises:
        CertificateError: the site's identity cannot be used.
        LedgerError, StorageFull: the file cannot be written.
    """
    Ledger.open(home.ledger, Identity.load(home.pki)).close()


def agent_status(home: SiteHome) -> dict[str, Any] | None:
    """Return what the agent on the site's private socket says of itself; None where none answers.

    ``site`` is its name, ``connected`` whether its last call to the coordinator was answered.
    """
    with grpc.insecure_channel(f"unix:{home.socket}") as channel:
        try:
            reply = rpc.AgentStub(channel).Status(pb.Empty(), timeout=_STATUS_TIMEOUT_S)
        except grpc.RpcError:
            return None
    told: dict[str, Any] = json.loads(reply.json)
    return told


def summary_of(agreement: VerifiedAgreement) -> dict[str, Any]:
    """Return what the ledger shows beside an accepted agreement: its title, its limits, who signed."""
    agreed = agreement.agreement
    return {
        "title": agreed.title,
        "valid_until": agreed.valid_until,
        "approved_by": list(agreement.approved_by),
        "unit": agreed.privacy.unit.value,
        "epsilon_per_run": agreed.privacy.epsilon_per_run,
        "epsilon_lifetime": agreed.privacy.epsilon_lifetime,
        "delta": agreed.privacy.delta,
    }


def load_site_data(home: SiteHome, agreement: VerifiedAgreement) -> LoadedData:
    """Read and de-identify the site's records.

    Raises:
        DataError: the file, a column or a label cannot be used.
        ConfigError: a key column is named and the agreement's privacy unit is no user, or the other way round.
    """
    settings = home.settings.data
    return load_private_records(
        home.data_path, settings.text_column, settings.label_column, settings.key_column, agreement.agreement
    )


class SiteService:
    """Everything that runs in ``tacit site serve``.

    Args:
        home: the site's folder.
        progress: called with one line for each thing that is ready.

    Raises:
        TacitError: certificates, agreement, policy, ledger, data or model cannot be used; checked in that order.
    """

    def __init__(self, home: SiteHome, progress: Progress) -> None:
        self._home = home
        self._progress = progress
        credentials = load_credentials(home)
        title = credentials.agreement.agreement.title
        progress(f"agreement {title!r} is signed by {', '.join(credentials.agreement.approved_by)}")
        claim_socket(home.socket, "a site agent")
        self._ledger = Ledger.open(home.ledger, credentials.identity, create=False)
        try:
            self._prepare(credentials)
        except BaseException:
            self._ledger.close()
            raise

    def _prepare(self, credentials: Credentials) -> None:
        """Everything that comes after the ledger: interrupted steps, data, model, connection."""
        home, progress = self._home, self._progress
        agreed = credentials.agreement.agreement
        for key in self._ledger.recover():
            progress(f"an interrupted step was charged: run {key.run_id}, round {key.round}")
        self._ledger.accept_agreement(credentials.agreement.digest, summary_of(credentials.agreement))
        settings = home.settings
        compute = configure_compute(settings.torch_threads, settings.device, settings.precision)
        data = load_site_data(home, credentials.agreement)
        whose = "" if data.owners is None else f" of {len(set(data.owners))} users"
        empty = f", {data.empty_texts} of them without a text" if data.empty_texts else ""
        progress(f"{len(data.texts)} records{whose} read{empty}, identifiers replaced: {_counts(data)}")
        workbench = Workbench(settings.base_model, agreed, data, compute)
        progress(
            f"base model {agreed.base_model.name} has the agreed digest and computes on {compute.device} in "
            f"{compute.precision}"
        )
        self._channel = grpc.secure_channel(settings.coordinator, channel_credentials(home.pki), options=GRPC_OPTIONS)
        self.agent = SiteAgent(
            identity=credentials.identity,
            agreement=credentials.agreement,
            policy=credentials.policy,
            ledger=self._ledger,
            journal=FileStepJournal(home.journal),
            workbench=workbench,
            dataset=DATASET,
            transport=GrpcAggregation(self._channel),
        )
        self._proxy = FleetProxy(rpc.GatewayStub(self._channel), self._on_refused_code, on_link=self._on_link)
        self._is_connected = False
        self._supernode: Supervisor | None = None
        self._server = self._private_server()

    def start(self) -> None:
        """Open the private socket, then start the fleet proxy and the SuperNode."""
        self._server.start()
        self._proxy.start()
        self._supernode = Supervisor(
            supernode_child(
                self._home.flower,
                superlink=self._proxy.address,
                log_path=self._home.logs / "supernode.log",
                env={AGENT_SOCKET_VARIABLE: str(self._home.socket)},
                port=self._home.settings.supernode_port,
                ready=lambda: self._proxy.node_id is not None,
            ),
            on_event=self._on_supernode,
        ).start()

    def check_children(self) -> None:
        """Raise the error of a SuperNode that was given up.

        Raises:
            ProcessError: with the end of its log.
        """
        if self._supernode is not None and self._supernode.failure is not None:
            raise self._supernode.failure

    def stop(self) -> None:
        """Stop the SuperNode and everything under it, then the sockets, then close the ledger."""
        self.agent.stop()
        if self._supernode is not None:
            self._supernode.stop()
        self._proxy.stop()
        # before the private socket: an order that waits for other sites ends when its session breaks
        self._channel.close()
        self._server.stop(_STOP_GRACE_S).wait()
        self.agent.close()
        self._home.socket.unlink(missing_ok=True)

    def _private_server(self) -> grpc.Server:
        server = grpc.server(
            futures.ThreadPoolExecutor(4, thread_name_prefix="agent"),
            options=[
                ("grpc.max_receive_message_length", _MESSAGE_MAX_BYTES),
                ("grpc.max_send_message_length", _MESSAGE_MAX_BYTES),
            ],
        )
        rpc.add_AgentServicer_to_server(AgentService(self.agent, lambda: self._is_connected), server)
        old = os.umask(0o177)  # the socket is born with mode 0600
        try:
            server.add_insecure_port(f"unix:{self._home.socket}")
        finally:
            os.umask(old)
        return server

    def _on_link(self, reachable: bool, message: str) -> None:
        where = self._home.settings.coordinator
        self._is_connected = reachable
        self._progress(
            f"connected to the coordinator at {where}"
            if reachable
            else f"the coordinator at {where} {message}; trying again"
        )

    def _on_supernode(self, event: ChildEvent) -> None:
        _log.info(event.message, extra={"child": event.name, "kind": event.kind})
        if event.kind == "exited":
            # a SuperNode that died cannot sign off itself, and would be kept waiting for its own heartbeat
            self._proxy.release()

    def _on_refused_code(self, message: str) -> None:
        _log.error("the coordinator sent what never runs here: %s", message)
        self.agent.record_refusal(Refusal(RefusalReason.POLICY, message))


class AgentService(rpc.AgentServicer):
    """The agent on its private Unix socket; holds no rule."""

    def __init__(self, agent: SiteAgent, is_connected: Callable[[], bool]) -> None:
        self._agent = agent
        self._is_connected = is_connected

    def Execute(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802
        """Carry out an order, return its receipt."""
        try:
            return pb.Envelope(json=self._agent.execute(request.json, request.vector))
        except LedgerError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message)
        raise AssertionError("abort returns only by raising")

    def Status(self, request: pb.Empty, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802
        """Return the site's name, and whether the coordinator answers it."""
        told = {"site": self._agent.site, "connected": self._is_connected()}
        return pb.Envelope(json=json.dumps(told).encode())


def _counts(data: LoadedData) -> str:
    found = [f"{count} {kind}" for kind, count in sorted(dict(data.deidentification).items()) if count]
    return ", ".join(found) or "none found"
