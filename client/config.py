"""A site's folder: ``site.toml`` and where everything else lies."""

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

CONFIG_NAME = "site.toml"


class DataSettings(Strict):
    """``[data]``: the site's own records, a CSV or JSONL file. Relative paths start at the site's folder."""

    path: Path = Field(strict=False)
    text_column: str = "text"
    label_column: str = "label"


class SiteSettings(Strict):
    """``site.toml``."""

    #: the coordinator's address, as its certificate names it
    coordinator: str = Field(pattern=r"^.+:\d+$")
    #: ``package:NAME`` or a local Hugging Face model folder
    base_model: str
    data: DataSettings
    #: threads of one training step; the result's last bits depend on it
    torch_threads: int = Field(gt=0, default=1)
    #: loopback port of Flower's SuperNode; 0 picks a free one at each start
    supernode_port: int = Field(ge=0, le=65535, default=0)


class SiteHome:
    """A site's folder and its settings.

    Raises:
        ConfigError: the folder holds no usable ``site.toml``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        path = self.folder / CONFIG_NAME
        if not path.is_file():
            raise ConfigError(
                f"{folder} is not a site's folder: it holds no {CONFIG_NAME}",
                hint=f"make one with `tacit site init --home {folder}`",
            )
        self.settings = validated(SiteSettings, read_toml(path), source=str(path))

    @classmethod
    def create(cls, folder: Path, settings: SiteSettings) -> SiteHome:
        """Write ``site.toml``.

        Raises:
            ConfigError: there is one already.
        """
        path = folder / CONFIG_NAME
        if path.exists():
            raise ConfigError(f"{path} exists already", hint="edit it, or choose another folder")
        write_atomic(path, tomli_w.dumps(settings.model_dump(mode="json")).encode())
        return cls(folder)

    @property
    def data_path(self) -> Path:
        """The data file."""
        return self.folder / self.settings.data.path.expanduser()

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.folder / "pki"

    @property
    def agreement(self) -> Path:
        """The signed agreement."""
        return self.folder / "agreement.yaml"

    @property
    def policy(self) -> Path:
        """The site's own, stricter limits."""
        return self.folder / "policy.yaml"

    @property
    def state(self) -> Path:
        """Everything an agent remembers."""
        return self.folder / "state"

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return self.state / "ledger.sqlite"

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
        return socket_path(self.state, "agent.sock")
