"""Signed tree heads: what a site commits to, and what witnesses and auditors check."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Protocol

from pydantic import Field

from privacy.order import Strict
from tacit.canonical import canonical_json
from tacit.errors import BadSignature, LedgerCorrupt

TREE_HEAD_CONTEXT = "tacit/tree-head/v1"

HashHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Signer(Protocol):
    """Signs in a context; ``certs.identity.Identity`` does. Must be deterministic, as Ed25519 is (RFC 8032)."""

    def sign(self, context: str, message: bytes) -> bytes:
        """Return the signature of ``message`` in ``context``."""
        ...


class Verifier(Protocol):
    """Verifies in a context; ``certs.identity.PeerIdentity`` does."""

    def verify(self, context: str, message: bytes, signature: bytes) -> None:
        """Raise :class:`tacit.errors.BadSignature` unless the signature is right."""
        ...


class TreeHead(Strict):
    """The state of a log: its number of entries and its RFC 6962 root, signed with the time it was made.

    ``root`` is lower-case hex of 32 bytes, ``timestamp`` RFC 3339 UTC, ``signature`` base64.
    """

    size: int = Field(ge=0)
    root: HashHex
    timestamp: str
    signature: str

    def message(self) -> bytes:
        """The bytes that are signed: canonical JSON of size, root and timestamp."""
        return _message(self.size, self.root, self.timestamp)

    def signature_bytes(self) -> bytes:
        """The decoded signature.

        Raises:
            LedgerCorrupt: it is not base64.
        """
        try:
            return base64.b64decode(self.signature, validate=True)
        except (binascii.Error, ValueError) as error:
            raise LedgerCorrupt("the tree head's signature is not base64") from error

    def verify(self, verifier: Verifier) -> None:
        """Check the signature.

        Raises:
            LedgerCorrupt: the signature is not the verifier's over this head.
        """
        try:
            verifier.verify(TREE_HEAD_CONTEXT, self.message(), self.signature_bytes())
        except BadSignature as error:
            raise LedgerCorrupt(
                f"the signature of the tree head over {self.size} entries does not verify",
                hint="check that it is this site's certificate; if it is, the log was replaced or edited",
            ) from error


def sign_head(signer: Signer, size: int, root: bytes, timestamp: str) -> TreeHead:
    """Sign the tree of ``size`` entries with ``root`` (32 bytes) at ``timestamp`` (RFC 3339 UTC)."""
    signature = signer.sign(TREE_HEAD_CONTEXT, _message(size, root.hex(), timestamp))
    return TreeHead(size=size, root=root.hex(), timestamp=timestamp, signature=base64.b64encode(signature).decode())


def _message(size: int, root_hex: str, timestamp: str) -> bytes:
    return canonical_json({"root": root_hex, "size": size, "timestamp": timestamp})
