"""Making the folder of a site or a coordinator: everything is checked first, and the folder appears whole or not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.errors import AgreementError, CertificateError, ConfigError

if TYPE_CHECKING:
    from certs.names import PeerName, Role
    from privacy.agreement import VerifiedAgreement

_AGREEMENT = "agreement.yaml"


def check_credentials(pki: Path, agreement: Path, role: Role) -> tuple[PeerName, VerifiedAgreement]:
    """Check the certificates and the agreement that a new folder is to hold.

    Returns:
        Whose certificates they are, and the verified agreement.

    Raises:
        ConfigError: a path does not exist.
        CertificateError: expired, foreign, incomplete, or of another role.
        AgreementError: unsigned, edited, expired, or between others.
    """
    from certs.anchor import TrustAnchor
    from certs.credentials import check_validity
    from certs.names import Role
    from privacy.agreement import load_bundle, verify

    for path, what in ((pki, "certificate folder"), (agreement, "agreement")):
        if not path.exists():
            raise ConfigError(f"the {what} {path} does not exist", hint="check the path")
    name = check_validity(pki)
    if name.role is not role:
        raise CertificateError(
            f"{pki} holds the certificates of {name}, expected those of a {role.value}",
            hint=f"issue some with `tacit pki issue --role {role.value}`",
        )
    verified = verify(load_bundle(agreement), TrustAnchor.load(pki / "ca.pem"), now=datetime.now(UTC))
    agreed = verified.agreement
    expected = (agreed.coordinator.name,) if role is Role.COORDINATOR else agreed.partner_names()
    if name.name not in expected:
        raise AgreementError(
            f"{agreement} does not name {name}, expected one of: {', '.join(expected)}",
            hint="use the agreement that names this peer, or this peer's own certificates",
        )
    return name, verified


def refuse_existing(home: Path) -> None:
    """Refuse a ``home`` that is a site's or a coordinator's folder already, before any longer work.

    Raises:
        ConfigError: it holds certificates or an agreement.
    """
    _refuse_existing(home, ("pki", _AGREEMENT))


@contextmanager
def new_home(home: Path, pki: Path, agreement: Path) -> Iterator[Path]:
    """Give a folder to make things in, holding certificates and agreement; it becomes ``home`` when all went well.

    Nothing that is in ``home`` already is overwritten, and a failure leaves nothing behind.

    Raises:
        ConfigError: ``home`` holds such files already, or cannot be made.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=home, prefix=".new-"))
    except OSError as error:
        raise ConfigError(f"cannot make {home}: {error.strerror}", hint="choose another folder") from error
    try:
        refuse_existing(home)
        shutil.copytree(pki, made / "pki")
        (made / "pki").chmod(0o700)
        shutil.copyfile(agreement, made / _AGREEMENT)
        yield made
        parts = sorted(path.name for path in made.iterdir())
        _refuse_existing(home, parts)
        for part in parts:
            (made / part).rename(home / part)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if not any(home.iterdir()):
            home.rmdir()


def _refuse_existing(home: Path, names: tuple[str, ...] | list[str]) -> None:
    for name in names:
        if (home / name).exists() or (home / name).is_symlink():
            raise ConfigError(f"{home / name} exists already", hint="choose another folder, or edit this one by hand")
