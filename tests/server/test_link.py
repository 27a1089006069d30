"""The ServerApp's calls over the gateway's private socket."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from client.wire import tacit_pb2_grpc as rpc
from server.link import GatewayLink
from server.services import CoordinatorService
from tacit.errors import ConfigError, InputError, LedgerCorrupt, StepBurnt, TacitError, TransportError

RUN = "00112233445566aa"


class Coordinator:
    """One open step, and who is said to have left it."""

    def __init__(self) -> None:
        self.left: list[str] = []

    def step(self, run_id: str, step: int) -> Any:
        if (run_id, step) != (RUN, 7):
            raise TacitError(f"step {step} of run {run_id} is not open here", hint="open it")
        return SimpleNamespace(left=self.left.append, done=lambda: len(self.left) > 1)


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def link(coordinator: Coordinator, tmp_path: Path) -> Iterator[GatewayLink]:
    server = grpc.server(ThreadPoolExecutor(2))
    service = CoordinatorService(coordinator, None, dict)  # type: ignore[arg-type]
    rpc.add_CoordinatorServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{tmp_path}/socket")
    server.start()
    link = GatewayLink(tmp_path / "socket")
    yield link
    link.close()
    server.stop(None)


def order(step: int) -> Any:
    return SimpleNamespace(run_id=RUN, step=step)


def test_a_site_that_takes_no_part_is_told_to_its_step(link: GatewayLink, coordinator: Coordinator) -> None:
    link.site_left(order(7), "beta")
    assert coordinator.left == ["beta"]
    assert not link.step_ended(order(7))
    link.site_left(order(7), "gamma")
    assert link.step_ended(order(7))


def test_an_error_of_the_gateway_arrives_with_its_hint(link: GatewayLink, coordinator: Coordinator) -> None:
    with pytest.raises(TacitError, match=f"step 8 of run {RUN} is not open here") as raised:
        link.site_left(order(8), "beta")
    assert raised.value.hint == "open it"
    assert coordinator.left == []


@pytest.mark.parametrize("kind", [InputError, ConfigError, StepBurnt, LedgerCorrupt])
def test_errors_that_callers_tell_apart_keep_their_kind(
    kind: type[TacitError], link: GatewayLink, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(run_id: str, step: int) -> Any:
        raise kind("so it is")

    monkeypatch.setattr(coordinator, "step", step)
    with pytest.raises(kind, match="so it is") as raised:
        link.step_ended(order(7))
    assert type(raised.value) is kind


def test_no_gateway(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="no gateway answers") as raised:
        GatewayLink(tmp_path / "none", home=tmp_path).step_ended(order(7))
    assert raised.value.hint == f"start it with `tacit coordinator serve --home {tmp_path}`"
