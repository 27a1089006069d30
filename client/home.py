"""A process's folder: one settings file, and where everything else lies. Sites and coordinators share the layout."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

import tomli_w

from privacy.order import Strict
from tacit.durable import write_atomic
from tacit.errors import ConfigError
from tacit.sockets import socket_path
from tacit.toml_file import read_toml
from tacit.validation import validated

Settings = TypeVar("Settings", bound=Strict)


class Home(Generic[Settings]):
    """A folder with a settings file.

    Raises:
        ConfigError: the folder holds no usable settings file.
    """

    #: what the folder belongs to, for messages: "site"
    kind: ClassVar[str]
    settings_name: ClassVar[str]
    socket_name: ClassVar[str]
    settings_type: type[Settings]

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        path = self.folder / self.settings_name
        if not path.is_file():
            raise ConfigError(
                f"{folder} is not a {self.kind}'s folder: it holds no {self.settings_name}",
                hint=f"make one with `tacit {self.kind} init --home {folder}`",
            )
        self.settings: Settings = validated(self.settings_type, read_toml(path), source=str(path))

    @classmethod
    def create(cls, folder: Path, settings: Settings) -> Self:
        """Write the settings file.

        Raises:
            ConfigError: there is one already.
        """
        path = folder / cls.settings_name
        if path.exists():
            raise ConfigError(f"{path} exists already", hint="edit it, or choose another folder")
        write_atomic(path, tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)).encode())
        return cls(folder)

    def change_settings(self, **changes: object) -> None:
        """Write the settings file again with some values changed."""
        self.settings = self.settings.model_copy(update=changes)
        write_atomic(
            self.folder / self.settings_name,
            tomli_w.dumps(self.settings.model_dump(mode="json", exclude_none=True)).encode(),
        )

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
        """Everything the process remembers."""
        return self.folder / "state"

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
        return socket_path(self.state, self.socket_name)
