"""A coordinator's folder: ``coordinator.toml`` and where everything else lies."""

from __future__ import annotations

from pathlib import Path

import tomli_w
from pydantic import Field

from privacy.order import Strict
from tacit.durable import write_atomic
from tacit.errors import ConfigError
from tacit.sockets import socket_path
from tacit.toml_file import read_toml
from tacit.validation import validated

CONFIG_NAME = "coordinator.toml"


class CoordinatorSettings(Strict):
    """``coordinator.toml``."""

    #: address and port the partners reach
    listen: str = Field(pattern=r"^.+:\d+$", default="127.0.0.1:9400")
    #: threads of the ServerApp's evaluation; more than there are idle cores makes it slower, not faster
    torch_threads: int = Field(gt=0, default=1)
    #: loopback port of Flower's SuperLink; 0 picks a free one at each start
    superlink_port: int = Field(ge=0, le=65535, default=0)


class CoordinatorHome:
    """A coordinator's folder and its settings.

    Raises:
        ConfigError: the folder holds no usable ``coordinator.toml``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        path = self.folder / CONFIG_NAME
        if not path.is_file():
            raise ConfigError(
                f"{folder} is not a coordinator's folder: it holds no {CONFIG_NAME}",
                hint=f"make one with `tacit coordinator init --home {folder}`",
            )
        self.settings = validated(CoordinatorSettings, read_toml(path), source=str(path))

    @classmethod
    def create(cls, folder: Path, settings: CoordinatorSettings) -> CoordinatorHome:
        """Write ``coordinator.toml``.

        Raises:
            ConfigError: there is one already.
        """
        path = folder / CONFIG_NAME
        if path.exists():
            raise ConfigError(f"{path} exists already", hint="edit it, or choose another folder")
        write_atomic(path, tomli_w.dumps(settings.model_dump()).encode())
        return cls(folder)

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.folder / "pki"

    @property
    def agreement(self) -> Path:
        """The signed agreement."""
        return self.folder / "agreement.yaml"

    @property
    def state(self) -> Path:
        """Everything a gateway remembers."""
        return self.folder / "state"

    @property
    def runs(self) -> Path:
        """One sub-folder a run."""
        return self.state / "runs"

    @property
    def flower(self) -> Path:
        """Flower's own home (``FLWR_HOME``)."""
        return self.state / "flower"

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.folder / "logs"

    @property
    def socket(self) -> Path:
        """The private Unix socket."""
        return socket_path(self.state, "gateway.sock")
