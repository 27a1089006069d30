"""The name of a peer, and its one spelling as a URI: ``tacit://<consortium>/<role>/<name>``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from tacit.errors import InputError

_SCHEME = "tacit://"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Role(StrEnum):
    """What a peer is in the consortium."""

    SITE = "site"
    COORDINATOR = "coordinator"


@dataclass(frozen=True, order=True)
class PeerName:
    """Who somebody is: consortium, role and name. ``str()`` gives the URI.

    Raises:
        InputError: a part is not lower-case letters, digits and hyphens (1 to 63), or the role is unknown.
    """

    consortium: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        check_name("consortium", self.consortium)
        object.__setattr__(self, "role", check_role(self.role))
        check_name(self.role.value, self.name)

    def __str__(self) -> str:
        return f"{_SCHEME}{self.consortium}/{self.role.value}/{self.name}"


def uri_for(consortium: str, role: str, name: str) -> str:
    """Return the URI of a peer.

    Raises:
        InputError: a part is not a valid name, or the role is unknown.
    """
    return str(PeerName(consortium, check_role(role), name))


def parse_uri(uri: str) -> PeerName:
    """Read a peer's URI; the exact inverse of ``str(PeerName)``.

    Raises:
        InputError: not a ``tacit`` URI, or one with an invalid part.
    """
    parts = uri.removeprefix(_SCHEME).split("/")
    if not uri.startswith(_SCHEME) or len(parts) != 3:
        raise InputError(f"{uri!r} is not a peer's name, expected tacit://<consortium>/<role>/<name>")
    return PeerName(parts[0], check_role(parts[1]), parts[2])


def check_name(what: str, value: str) -> None:
    """Accept 1 to 63 of ``a-z 0-9 -``, not starting with a hyphen: safe in files, URIs and logs.

    Raises:
        InputError: anything else.
    """
    if not _NAME.fullmatch(value):
        raise InputError(
            f"{value!r} is not a valid name of a {what}: expected 1 to 63 lower-case letters, digits "
            "or hyphens, not beginning with a hyphen",
            hint="for example: north-hospital",
        )


def check_role(value: str) -> Role:
    """Return the role spelled ``value``.

    Raises:
        InputError: no such role.
    """
    try:
        return Role(value)
    except ValueError as error:
        raise InputError(f"{value!r} is not a role, expected one of: {', '.join(Role)}") from error
