"""A whole run in one process: the same ServerApp, strategy, ClientApp, agents and protocol; no network, no Ray.

A simulation has its own throw-away CA and identities, so it can run before anybody signs anything: an unsigned draft
agreement is signed by all simulated partners. What comes out says nothing about consent, everything about training.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Context, RecordDict

import client.app
import server.app
from certs.authority import ConsortiumAuthority
from certs.identity import Identity, PeerIdentity
from client.agent import SiteAgent
from client.data import load_private_records
from client.service import summary_of
from client.step_journal import FileStepJournal
from client.workbench import Workbench
from models.base import base_model_digest, resolve_model_folder
from models.compute import configure_compute
from privacy.agreement import (
    Agreement,
    AgreementBundle,
    VerifiedAgreement,
    dump_bundle,
    party_from,
    sign,
    verify,
)
from privacy.ledger import Ledger
from privacy.policy import SitePolicy
from server.coordinator import Coordinator
from server.run_spec import RunSpec, SimulatedSite
from simulations.grid import InProcessGrid
from simulations.memory_transport import MemoryAggregation
from simulations.section import draft_of, section_of
from tacit.errors import ConfigError

#: Flower node ids of the simulated sites start here; 1 is the SuperLink's own
_FIRST_NODE_ID = 1000
DATASET = "main"


class SimulatedConsortium:
    """A consortium in one process.

    Args:
        spec: the run file; its ``[simulation]`` section names sites and their data.
        folder: working folder; ``pki``, ``sites`` and ``runs`` are made in it.

    Raises:
        ConfigError: the run file has no usable ``[simulation]`` section.
        ConfigError, DataError, ModelError, AgreementError: as at a real site.
    """

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        self._spec = spec
        self._folder = folder
        section = section_of(spec)
        # threads as a site's own default: the same run deployed gives the same bits
        self._compute = configure_compute(1, section.device, section.precision)
        authority_folder = folder / "ca"
        draft = draft_of(section)
        self._authority = ConsortiumAuthority.create(authority_folder, draft.consortium)
        self._identities = {
            site.name: self._issue("site", site.name) for site in sorted(section.sites, key=lambda site: site.name)
        }
        self._coordinator_identity = self._issue("coordinator", draft.coordinator.name)
        self._bundle = self._signed(draft)
        agreement = verify(self._bundle, self._authority.anchor, now=datetime.now(UTC))
        self._nodes = {name: _FIRST_NODE_ID + index for index, name in enumerate(self._identities)}
        self.coordinator = Coordinator(
            agreement, dump_bundle(self._bundle), folder / "runs", folder / "state", lambda: dict(self._nodes)
        )
        self.agents = {site.name: self._agent(site, agreement) for site in section.sites}

    def submit(self) -> str:
        """Check the run against the agreement and create it; return its id.

        Raises:
            Refusal: the agreement does not allow the run.
        """
        digest = base_model_digest(resolve_model_folder(self._spec.model.base))
        return self.coordinator.submit(self._spec, base_model_digest=digest)

    def run(self, run_id: str) -> Path:
        """Carry out a submitted run to its end; return its folder.

        Raises:
            TacitError: as a deployed run fails.
        """
        grid = InProcessGrid(client.app.app, self._nodes.values())
        with ExitStack() as stack:
            stack.callback(grid.close)
            server.app.register_local_coordinator(run_id, self.coordinator)
            stack.callback(server.app.forget_local_coordinator, run_id)
            for name, agent in self.agents.items():
                client.app.register_local_agent(self._nodes[name], agent.execute)
                stack.callback(client.app.forget_local_agent, self._nodes[name])
            context = Context(
                run_id=1,
                node_id=1,
                node_config={},
                state=RecordDict(),
                run_config={"run-spec": json.dumps({"run_id": run_id})},
            )
            server.app.app(grid, context)
        return self.coordinator.run_folder(run_id)

    def _issue(self, role: str, name: str) -> Identity:
        folder = self._folder / "pki" / name
        self._authority.issue(role, name, folder)
        return Identity.load(folder)

    def _signed(self, draft: Agreement) -> AgreementBundle:
        """Put the simulated keys in the draft's place and let every partner sign."""
        parties = {
            name: party_from(PeerIdentity.from_public_key(identity.name, identity.public_key_bytes))
            for name, identity in self._identities.items()
        }
        hub = self._coordinator_identity
        terms = draft.model_dump(mode="json")
        terms["ca_fingerprint"] = self._authority.anchor.fingerprint
        terms["partners"] = [parties[name] for name in sorted(parties)]
        terms["coordinator"] = party_from(PeerIdentity.from_public_key(hub.name, hub.public_key_bytes))
        terms["testing"] = draft.testing or self._spec.testing is not None
        bundle = AgreementBundle(agreement=Agreement.model_validate(terms), signatures=())
        now = datetime.now(UTC)
        for identity in self._identities.values():
            bundle = sign(bundle, identity, now)
        return bundle

    def _agent(self, site: SimulatedSite, agreement: VerifiedAgreement) -> SiteAgent:
        agreed = agreement.agreement
        data = load_private_records(site.data, site.text_column, site.label_column, site.key_column, agreed)
        identity = self._identities[site.name]
        ledger = Ledger.open(self._folder / "sites" / site.name / "ledger.sqlite", identity)
        ledger.accept_agreement(agreement.digest, summary_of(agreement))
        return SiteAgent(
            identity=identity,
            agreement=agreement,
            policy=SitePolicy.draft(
                agreed,
                site.name,
                accept_runs=True,
                allow_testing=True,
                max_rounds_per_run=self._spec.run.rounds,
                weight=site.weight,
            ),
            ledger=ledger,
            journal=FileStepJournal(self._folder / "sites" / site.name / "steps.jsonl"),
            workbench=Workbench(self._spec.model.base, agreed, data, self._compute),
            dataset=DATASET,
            transport=MemoryAggregation(self.coordinator, site.name),
        )

    def close(self) -> None:
        """Close the ledgers."""
        for agent in self.agents.values():
            agent.close()


@contextmanager
def prepare(spec: RunSpec, folder: Path, *, fresh: bool = False) -> Iterator[SimulatedConsortium]:
    """Set up a simulated consortium in ``folder``, which is emptied first when ``fresh``.

    Raises:
        ConfigError: the folder holds something and ``fresh`` is false, or holds no simulation.
    """
    if folder.exists() and any(folder.iterdir()):
        if not fresh:
            raise ConfigError(f"{folder} is not empty", hint="give another folder with --out, or --fresh to replace it")
        if not (folder / "ca").is_dir():
            raise ConfigError(f"{folder} holds something that is not a simulation; it is not removed")
        shutil.rmtree(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    consortium = SimulatedConsortium(spec, folder)
    try:
        yield consortium
    finally:
        consortium.close()
