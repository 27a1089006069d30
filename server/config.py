"""A coordinator's folder and ``coordinator.toml``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from client.home import Home
from privacy.order import Strict


class CoordinatorSettings(Strict):
    """``coordinator.toml``."""

    #: address and port the partners reach
    listen: str = Field(pattern=r"^.+:[0-9]+$", default="127.0.0.1:9400")
    #: threads of the ServerApp's evaluation; more than there are idle cores makes it slower, not faster
    torch_threads: int = Field(gt=0, default=1)
    #: loopback port of Flower's SuperLink; 0 picks a free one at each start
    superlink_port: int = Field(ge=0, le=65535, default=0)


class CoordinatorHome(Home[CoordinatorSettings]):
    """A coordinator's folder."""

    kind = "coordinator"
    settings_name = "coordinator.toml"
    socket_name = "gateway.sock"
    settings_type = CoordinatorSettings

    @property
    def runs(self) -> Path:
        """One sub-folder a run."""
        return self.state / "runs"
