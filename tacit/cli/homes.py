"""Making the folder of a site or a coordinator."""

from __future__ import annotations

import shutil
from pathlib import Path

from tacit.errors import ConfigError


def copy_credentials(home: Path, pki: Path, agreement: Path) -> None:
    """Copy certificates and agreement into a new folder; nothing that is there is overwritten."""
    for path, what in ((pki, "certificate folder"), (agreement, "agreement")):
        if not path.exists():
            raise ConfigError(f"the {what} {path} does not exist", hint="check the path")
    for target in (home / "pki", home / "agreement.yaml"):
        if target.exists():
            raise ConfigError(f"{target} exists already", hint="choose another folder, or edit this one by hand")
    home.mkdir(parents=True, exist_ok=True)
    shutil.copytree(pki, home / "pki")
    (home / "pki").chmod(0o700)
    shutil.copyfile(agreement, home / "agreement.yaml")
