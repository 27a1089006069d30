"""Reading a whole log back and believing none of it: hashes, order, canonical form, tree, head, step keys."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from privacy.ledger import merkle
from privacy.ledger.entries import Entry, Reserve, decode_entry
from privacy.ledger.head import TreeHead
from privacy.ledger.state import LedgerState, StepKey
from privacy.ledger.store import LedgerStore
from tacit.errors import LedgerCorrupt, LedgerError

_RESTORE = "restore the newest copy of the ledger; what witnesses hold says how long it must be"


@dataclass(frozen=True)
class Replay:
    """A log that adds up: its entries, what they amount to, and the stored head (not yet its signature)."""

    entries: tuple[Entry, ...]
    state: LedgerState
    head: TreeHead


def replay(store: LedgerStore) -> Replay:
    """Check everything about a stored log except its head's signature.

    Raises:
        LedgerCorrupt: names the first entry that is wrong, or what does not add up.
    """
    with store.snapshot():
        head = stored_head(store)
        nodes = store.nodes()
        steps = store.step_rows()
        rows = list(store.contents())
    state = LedgerState()
    entries: list[Entry] = []
    tree: dict[tuple[int, int], bytes] = {}
    for expected, (position, content) in enumerate(rows):
        if position != expected:
            raise LedgerCorrupt(f"ledger entry {expected} is missing", hint=_RESTORE)
        leaf = merkle.leaf_hash(content if isinstance(content, bytes) else b"")
        for level, index, value in merkle.completed_nodes(expected, leaf, lambda lv, at: tree[lv, at]):
            tree[level, index] = value
            if nodes.get((level, index)) != value:
                raise LedgerCorrupt(
                    f"ledger entry {expected} was changed or moved"
                    if level == 0
                    else f"the tree over ledger entries {index << level} to {expected} was changed",
                    hint=_RESTORE,
                )
        entry = decode_entry(content, expected)
        try:
            state.apply(entry)
        except LedgerError as error:
            raise LedgerCorrupt(f"ledger entry {expected} contradicts the ones before it: {error}") from error
        entries.append(entry)
    _check_tree(head, len(rows), tree, nodes)
    _check_steps(entries, steps)
    return Replay(tuple(entries), state, head)


def stored_head(store: LedgerStore) -> TreeHead:
    """Read the newest tree head.

    Raises:
        LedgerCorrupt: there is none, or it is malformed.
    """
    row = store.head_row()
    if row is None:
        raise LedgerCorrupt(f"{store.name} has no tree head", hint=_RESTORE)
    try:
        return TreeHead.model_validate(dict(zip(("size", "root", "timestamp", "signature"), row, strict=True)))
    except ValidationError as error:
        raise LedgerCorrupt(f"the tree head in {store.name} is malformed", hint=_RESTORE) from error


def _check_tree(
    head: TreeHead, size: int, tree: dict[tuple[int, int], bytes], nodes: dict[tuple[int, int], object]
) -> None:
    if head.size > size:
        raise LedgerCorrupt(f"ledger entry {size} is missing: the tree head covers {head.size} entries", hint=_RESTORE)
    if head.size < size:
        raise LedgerCorrupt(f"ledger entry {head.size} is not covered by the tree head", hint=_RESTORE)
    if len(nodes) != len(tree):
        raise LedgerCorrupt("the ledger holds tree nodes that no entry accounts for", hint=_RESTORE)
    if merkle.root(size, lambda level, at: tree[level, at]).hex() != head.root:
        raise LedgerCorrupt(
            f"the {size} ledger entries do not add up to the tree head's root: "
            "at least one was changed together with the tree",
            hint=_RESTORE,
        )


def _check_steps(entries: list[Entry], steps: dict[StepKey, int]) -> None:
    expected = {
        StepKey(entry.body.run_id, entry.body.round, entry.body.step): entry.index
        for entry in entries
        if isinstance(entry.body, Reserve)
    }
    if steps != expected:
        wrong = sorted({*expected.items()} ^ {*steps.items()}, key=lambda item: item[1])
        raise LedgerCorrupt(f"the step guard of ledger entry {wrong[0][1]} was changed", hint=_RESTORE)
