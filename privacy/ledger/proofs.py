"""Proofs a site hands out, and its whole log for an auditor: JSON that is checked without the ledger at hand.

A proof says no more than it must: one entry and hashes, or hashes alone. The tree head in it is signed by the site;
what is proved hangs on that signature, and on the reader having an earlier head to compare with.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from privacy.ledger import merkle
from privacy.ledger.entries import Entry, decode_entry
from privacy.ledger.head import HashHex, TreeHead, Verifier
from privacy.ledger.ledger import Ledger
from privacy.ledger.state import LedgerState
from privacy.order import Strict
from tacit.canonical import canonical_json, parse_json
from tacit.errors import InputError, LedgerCorrupt, LedgerError

_HINT = "ask the site for it again: `tacit ledger prove`, `tacit ledger export`"

Path = Annotated[
    tuple[HashHex, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    Field(max_length=128),
]


class Inclusion(Strict):
    """That ``entry`` is in the log of the proof's tree head (RFC 6962, section 2.1.1)."""

    entry: Entry
    path: Path


class Consistency(Strict):
    """That the log of ``size`` entries continues that of ``old_size``, and the tree head's log that of ``size``."""

    old_size: int = Field(ge=0)
    old_root: HashHex
    size: int = Field(ge=0)
    root: HashHex
    path: Path
    #: from ``size`` to the tree head
    path_to_head: Path


class LedgerProof(Strict):
    """One proof under one signed tree head."""

    tacit_proof: Literal[1]
    inclusion: Inclusion | None = None
    consistency: Consistency | None = None
    tree_head: TreeHead

    @model_validator(mode="after")
    def _proves_one_thing(self) -> LedgerProof:
        if (self.inclusion is None) == (self.consistency is None):
            raise ValueError("a proof is either of inclusion or of consistency")
        return self

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json", exclude_none=False))

    def verify(self, verifier: Verifier | None) -> None:
        """Check everything.

        Args:
            verifier: the site's identity; None leaves the signature unchecked.

        Raises:
            LedgerCorrupt: it proves nothing, or the head is not the site's.
        """
        head = self.tree_head
        if verifier is not None:
            head.verify(verifier)
        if self.inclusion is not None:
            entry = self.inclusion.entry
            leaf = merkle.leaf_hash(entry.encode())
            merkle.verify_inclusion(leaf, entry.index, head.size, _raw(self.inclusion.path), bytes.fromhex(head.root))
        if self.consistency is not None:
            told = self.consistency
            old_root, root = bytes.fromhex(told.old_root), bytes.fromhex(told.root)
            merkle.verify_consistency(told.old_size, told.size, old_root, root, _raw(told.path))
            merkle.verify_consistency(told.size, head.size, root, bytes.fromhex(head.root), _raw(told.path_to_head))


def prove_inclusion(ledger: Ledger, index: int) -> LedgerProof:
    """Prove that entry ``index`` is in the log as it is now.

    Raises:
        LedgerError: there is no such entry.
    """
    entries, head = ledger.entries(), ledger.tree_head()
    if not 0 <= index < head.size:
        raise LedgerError(
            f"there is no entry {index}; the ledger has {head.size} entries, numbered from 0",
            hint="`tacit ledger show` says how many there are",
        )
    path = _hex(ledger.inclusion_proof(index, head.size))
    return LedgerProof(tacit_proof=1, inclusion=Inclusion(entry=entries[index], path=path), tree_head=head)


def prove_consistency(ledger: Ledger, old_size: int, size: int | None = None) -> LedgerProof:
    """Prove that the first ``size`` entries (all, when absent) continue the first ``old_size``.

    Raises:
        LedgerError: there are no such sizes.
    """
    head = ledger.tree_head()
    whole = head.size if size is None else size
    if not 0 <= old_size <= whole <= head.size:
        raise LedgerError(
            f"no log of {whole} entries continues one of {old_size}; the ledger has {head.size} entries",
            hint="give --from SIZE --to SIZE with 0 <= from <= to <= the number of entries",
        )
    return LedgerProof(
        tacit_proof=1,
        consistency=Consistency(
            old_size=old_size,
            old_root=ledger.root(old_size).hex(),
            size=whole,
            root=ledger.root(whole).hex(),
            path=_hex(ledger.consistency_proof(old_size, whole)),
            path_to_head=_hex(ledger.consistency_proof(whole, head.size)),
        ),
        tree_head=head,
    )


def read_proof(data: bytes) -> LedgerProof:
    """Read a proof; it is not checked yet.

    Raises:
        InputError: it is none.
    """
    parse_json(data)
    try:
        return LedgerProof.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"this is no ledger proof: {where or 'it'}: {first['msg']}", hint=_HINT) from error


class _Tail(Strict):
    """The last line of an export."""

    tacit_export: Literal[1]
    tree_head: TreeHead


def export(ledger: Ledger) -> bytes:
    """Return all entries, a line of canonical JSON each: the very bytes that are hashed; then the signed tree head."""
    tail = canonical_json(_Tail(tacit_export=1, tree_head=ledger.tree_head()).model_dump(mode="json"))
    return b"".join(line + b"\n" for line in (*(entry.encode() for entry in ledger.entries()), tail))


def verify_export(data: bytes, verifier: Verifier | None) -> TreeHead:
    """Build the tree over an exported log again and check it against the head; return the head.

    Args:
        verifier: the site's identity; None leaves the signature unchecked.

    Raises:
        LedgerCorrupt: a line was changed, moved, removed or added, contradicts those before it, or the head is not the
            site's.
    """
    head = export_head(data)
    lines = data.split(b"\n")[:-2]
    state = LedgerState()
    tree: dict[tuple[int, int], bytes] = {}
    for index, line in enumerate(lines):
        try:
            state.apply(decode_entry(line, index))
        except LedgerError as error:
            raise LedgerCorrupt(f"exported entry {index} does not follow from those before it: {error}") from error
        for level, at, value in merkle.completed_nodes(index, merkle.leaf_hash(line), lambda lv, pos: tree[lv, pos]):
            tree[level, at] = value
    if head.size != len(lines) or merkle.root(len(lines), lambda level, at: tree[level, at]).hex() != head.root:
        raise LedgerCorrupt(
            f"the {len(lines)} entries do not add up to the tree head over {head.size} entries", hint=_HINT
        )
    if verifier is not None:
        head.verify(verifier)
    return head


def export_head(data: bytes) -> TreeHead:
    """Return the tree head in the last line of an export; nothing is checked.

    Raises:
        LedgerCorrupt: there is none.
    """
    last = data[:-1].rsplit(b"\n", 1)[-1]
    try:
        if not data.endswith(b"\n"):
            raise InputError("the last line has no end")
        parse_json(last)
        return _Tail.model_validate_json(last).tree_head
    except (InputError, ValueError) as error:
        raise LedgerCorrupt("this is no whole export of a ledger: its last line is no tree head", hint=_HINT) from error


def _hex(path: list[bytes]) -> tuple[str, ...]:
    return tuple(item.hex() for item in path)


def _raw(path: tuple[str, ...]) -> list[bytes]:
    return [bytes.fromhex(item) for item in path]
