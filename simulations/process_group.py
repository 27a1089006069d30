"""A consortium as real processes on this machine: the gateway and the site agents, started, watched and stopped."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from server.config import CoordinatorHome
from server.link import GatewayLink
from tacit.errors import ProcessError, TacitError
from tacit.supervisor import ChildEvent, ChildSpec, Supervisor

_READY_S = 120.0
_STOP_GRACE_S = 20.0
_POLL_S = 0.2


class ProcessGroup:
    """The gateway of one coordinator's folder and the agents of several sites' folders.

    Use as a context manager: leaving it stops every process, the gateway last, whatever happened.
    """

    def __init__(self, coordinator: Path, sites: Mapping[str, Path]) -> None:
        self._coordinator = coordinator
        self._specs = {
            "gateway": _spec("gateway", ["coordinator", "serve", "--home", str(coordinator)], coordinator),
            **{
                name: _spec(f"site agent {name}", ["site", "serve", "--home", str(home)], home)
                for name, home in sites.items()
            },
        }
        self._running: dict[str, Supervisor] = {}
        self._failed = threading.Event()
        self._failure: ProcessError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # the agents together, so that each has its grace and people need not wait for the sum; the gateway last
        agents = [child for name, child in self._running.items() if name != "gateway"]
        with ThreadPoolExecutor(max_workers=max(1, len(agents)), thread_name_prefix="stop") as pool:
            list(pool.map(lambda child: child.stop(_STOP_GRACE_S), agents))
        if "gateway" in self._running:
            self._running["gateway"].stop(_STOP_GRACE_S)

    def start(self) -> None:
        """Start the gateway, wait until it answers, then start the agents.

        Raises:
            ProcessError: a process ended; its name and the end of its log are in the message.
        """
        self._start("gateway")
        self._running["gateway"].wait_ready(_READY_S)
        for name in self._specs:
            if name != "gateway":
                self._start(name)

    def check(self) -> None:
        """Raise the ProcessError of a process that has ended."""
        if self._failure is not None:
            raise self._failure

    def link(self) -> GatewayLink:
        """Return a connection to the gateway's private socket."""
        return GatewayLink(CoordinatorHome(self._coordinator).socket)

    def events(self, run_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the run's events up to ``run-finished``, watching the processes meanwhile.

        Args:
            run_id: the run.
            after: the number of the last event that is known already.

        Raises:
            ProcessError: a process ended.
        """
        link = self.link()
        seen = after
        while True:
            self.check()
            for event in link.watch(run_id, seen, follow=False):
                seen = event["seq"]
                yield event
                if event["event"] == "run-finished":
                    return
            self._failed.wait(_POLL_S)

    def kill(self, name: str) -> None:
        """Kill a process and everything under it, as a power cut would (for tests of survival)."""
        self._running.pop(name).stop(grace_s=0.0)

    def restart(self, name: str) -> None:
        """Start a process again that was killed."""
        self._start(name)

    def _start(self, name: str) -> None:
        spec = self._specs[name]
        if name == "gateway":
            spec = replace(spec, ready=self._gateway_answers)
        child = Supervisor(spec, on_event=partial(self._on_event, spec), on_failure=self._on_failure)
        self._running[name] = child
        child.start()

    def _gateway_answers(self) -> bool:
        link = self.link()
        try:
            link.status()
        except TacitError:
            return False
        finally:
            link.close()
        return True

    def _on_event(self, spec: ChildSpec, event: ChildEvent) -> None:
        # a supervisor takes code 0 for an end that was wanted, but nobody asked for this one
        if event.kind == "exited" and event.returncode == 0:
            message = f"{event.message}, while it was needed"
            self._on_failure(ProcessError(message, hint=f"the whole log is in {spec.log_path}"))

    def _on_failure(self, error: ProcessError) -> None:
        self._failure = error
        self._failed.set()


def _spec(name: str, arguments: list[str], home: Path) -> ChildSpec:
    return ChildSpec(
        name=name,
        argv=(sys.executable, "-m", "tacit", *arguments),
        log_path=home / "logs" / "console.log",
        restart=False,
    )
