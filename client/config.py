"""A site's folder and ``site.toml``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from client.home import Home
from models.device_names import DEVICE_PATTERN, Precision
from privacy.order import Strict


class DataSettings(Strict):
    """``[data]``: the site's own records, a CSV or JSONL file. Relative paths start at the site's folder."""

    path: Path = Field(strict=False)
    text_column: str = "text"
    label_column: str = "label"
    #: says whose a record is; wanted where the agreement's privacy unit is a user, and nowhere else
    key_column: str | None = None


class SiteSettings(Strict):
    """``site.toml``."""

    #: the coordinator's address, as its certificate names it
    coordinator: str = Field(pattern=r"^.+:[0-9]+$")
    #: ``package:NAME`` or a local Hugging Face model folder
    base_model: str
    data: DataSettings
    #: threads of one training step; the result's last bits depend on it
    torch_threads: int = Field(gt=0, default=1)
    #: what the model computes on: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``
    device: str = Field(pattern=DEVICE_PATTERN, default="cpu")
    #: of the frozen weights' products; the adapter, clipping and noise are float32 or better in any case
    precision: Precision = "float32"
    #: loopback port of Flower's SuperNode; 0 picks a free one at each start
    supernode_port: int = Field(ge=0, le=65535, default=0)


class SiteHome(Home[SiteSettings]):
    """A site's folder."""

    kind = "site"
    settings_name = "site.toml"
    socket_name = "agent.sock"
    settings_type = SiteSettings

    @property
    def data_path(self) -> Path:
        """The data file."""
        return self.folder / self.settings.data.path.expanduser()

    @property
    def policy(self) -> Path:
        """The site's own, stricter limits."""
        return self.folder / "policy.yaml"

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return self.state / "ledger.sqlite"

    @property
    def journal(self) -> Path:
        """The step journal: what was sent in which step."""
        return self.state / "steps.jsonl"
