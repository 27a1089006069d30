"""The demo's course: make or reuse the consortium, run it as real processes, collect the results."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privacy.agreement import load_bundle
from privacy.ledger import Ledger
from server.preflight import round_event
from server.release import write_report
from server.run_spec import load_run_spec
from simulations.demo_consortium import SITES, demo_plan, write_data
from simulations.local_consortium import LocalConsortium, assign_ports, make_consortium, write_run_file
from simulations.process_group import ProcessGroup
from tacit.errors import ConfigError, ProcessError

Say = Callable[[str], None]

_RESULTS = ("adapter", "report.html", "report.json", "summary.json")


@dataclass(frozen=True)
class DemoResult:
    """What a finished demo left behind."""

    out: Path
    summary: dict[str, Any]


class Demo:
    """One demo in one folder. Use as a context manager; leaving it stops every process it started.

    Args:
        folder: the working folder.
        fresh: make a new consortium even when there is one.
        rounds: rounds of the run.
        data_seed: of the generated messages.
        say: prints one line for people.
    """

    def __init__(self, folder: Path, *, fresh: bool, rounds: int, data_seed: int, say: Say) -> None:
        self._say = say
        os.environ["HF_HUB_OFFLINE"] = "1"
        self.consortium = self._prepare(folder, fresh=fresh, rounds=rounds, data_seed=data_seed)
        sites = {site: self.consortium.site(site) for site in SITES}
        assign_ports(self.consortium, sites)
        self._group = ProcessGroup(self.consortium.coordinator, sites)

    def __enter__(self) -> Demo:
        self._group.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self._group.__exit__(*details)

    def start(self) -> str:
        """Start all processes and submit the run; return its id.

        Raises:
            ProcessError: a process ended; its name and the end of its log are in the message.
        """
        self._say("starting the gateway and its SuperLink, then one site agent and SuperNode per partner")
        self._group.start()
        link = self._group.link()
        run_id = link.submit(load_run_spec(self.consortium.run_file))
        self._say(f"run {run_id} is submitted")
        return run_id

    def events(self, run_id: str) -> Iterator[dict[str, Any]]:
        """Yield the run's events to its end, watching the processes meanwhile.

        Raises:
            ProcessError: a process ended, or the run failed.
        """
        for event in self._group.events(run_id):
            yield event
            if event["event"] == "run-finished" and event["status"] != "completed":
                raise ProcessError(
                    f"the run {event['status']}: {event['reason']}",
                    hint=f"the logs are in {self.consortium.folder}/*/logs",
                )

    def collect(self, run_id: str) -> DemoResult:
        """Copy the results to ``out/`` and return the summary."""
        run_folder = self._group.link().run_folder(run_id)
        # the ServerApp writes the same report a moment after its last event; the same facts give the same files
        write_report(run_folder)
        source = run_folder / "out"
        out = self.consortium.out
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        for name in _RESULTS:
            path = source / name
            if path.is_dir():
                shutil.copytree(path, out / name)
            else:
                shutil.copyfile(path, out / name)
        return DemoResult(out, json.loads((out / "summary.json").read_bytes()))

    def _prepare(self, folder: Path, *, fresh: bool, rounds: int, data_seed: int) -> LocalConsortium:
        demo = LocalConsortium(folder)
        if folder.exists() and any(folder.iterdir()) and not (folder / "data").is_dir():
            raise ConfigError(f"{folder} holds something that is not a demo; it is not touched", hint="use --home")
        if fresh and folder.exists():
            shutil.rmtree(folder)
        if demo.exists() and not self._affordable(demo, rounds):
            kept = folder.with_name(f"{folder.name}-spent-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
            folder.rename(kept)
            self._say(f"the sites' lifetime budgets do not allow another run: that consortium is kept in {kept}")
        if demo.exists():
            self._say(f"using the consortium in {folder}")
            write_run_file(demo, demo_plan(folder, rounds=rounds))
            return demo
        if folder.exists():
            shutil.rmtree(folder)  # an earlier start was interrupted before it was whole
        self._say(f"making a consortium of {len(SITES)} partners in {folder}")
        write_data(folder, data_seed)
        return make_consortium(folder, demo_plan(folder, rounds=rounds))

    def _affordable(self, demo: LocalConsortium, rounds: int) -> bool:
        """Return whether every site's ledger can bear the whole run once more."""
        spec = load_run_spec(demo.run_file)
        agreed = load_bundle(demo.agreement).agreement
        event = round_event(spec, agreed)
        whole = event.model_copy(update={"steps": event.steps * rounds})
        for site in SITES:
            path = demo.site(site) / "state" / "ledger.sqlite"
            if not path.exists():
                continue
            with Ledger.open_readonly(path) as ledger:
                if ledger.would_spend("main", whole, agreed.privacy.delta) > agreed.privacy.epsilon_lifetime:
                    return False
        return True
