"""The Merkle tree of RFC 6962, section 2.1, over nodes that are kept: root and proofs cost O(log n) look-ups.

Pure functions. A node ``(level, position)`` is the root of the complete subtree over leaves
``[position * 2^level, (position + 1) * 2^level)``; such a node never changes once its leaves are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from tacit.errors import LedgerCorrupt, LedgerError

HASH_BYTES = 32
#: Root of the tree without leaves: SHA-256 of the empty string.
EMPTY_ROOT = hashlib.sha256(b"").digest()

#: Returns the stored hash of the complete subtree ``(level, position)``.
NodeReader = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """Return ``SHA-256(0x00 || entry)``."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return ``SHA-256(0x01 || left || right)``."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def completed_nodes(size: int, leaf: bytes, node: NodeReader) -> list[tuple[int, int, bytes]]:
    """Return the ``(level, position, hash)`` that appending ``leaf`` to a tree of ``size`` leaves completes.

    The leaf's own node comes first. On average two nodes per leaf.
    """
    level, position, current = 0, size, leaf
    nodes = [(level, position, current)]
    while position % 2 == 1:
        current = node_hash(node(level, position - 1), current)
        level, position = level + 1, position // 2
        nodes.append((level, position, current))
    return nodes


def root(size: int, node: NodeReader) -> bytes:
    """Return the Merkle tree hash of the first ``size`` leaves."""
    return EMPTY_ROOT if size == 0 else _range_hash(0, size, node)


def inclusion_proof(index: int, size: int, node: NodeReader) -> list[bytes]:
    """Return the audit path of leaf ``index`` in the tree of the first ``size`` leaves (RFC 6962, 2.1.1).

    Raises:
        LedgerError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise LedgerError(f"entry {index} is not among the first {size} entries")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_hash(middle, end, node))
            end = middle
        else:
            path.append(_range_hash(start, middle, node))
            start = middle
    path.reverse()
    return path


def consistency_proof(old_size: int, size: int, node: NodeReader) -> list[bytes]:
    """Return the proof that the first ``old_size`` of ``size`` leaves are unchanged (RFC 6962, 2.1.2).

    Empty when ``old_size`` is zero or equals ``size``: there is nothing to prove.

    Raises:
        LedgerError: ``old_size`` is negative or larger than ``size``.
    """
    if not 0 <= old_size <= size:
        raise LedgerError(f"no consistency proof from size {old_size} to size {size}; the old one must not be larger")
    if old_size in (0, size):
        return []
    path: list[bytes] = []
    start, end, whole = 0, size, True
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(_range_hash(middle, end, node))
            end = middle
        else:
            path.append(_range_hash(start, middle, node))
            start, whole = middle, False
    if not whole:
        path.append(_range_hash(start, end, node))
    path.reverse()
    return path


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes) -> None:
    """Check an audit path (RFC 9162, section 2.1.3.2).

    Raises:
        LedgerCorrupt: the proof does not show that ``leaf`` is entry ``index`` of the tree.
    """
    if not 0 <= index < size:
        raise LedgerCorrupt(f"entry {index} cannot be in a log of {size} entries")
    position, last, current = index, size - 1, leaf
    for sibling in proof:
        if last == 0 or len(sibling) != HASH_BYTES:
            raise LedgerCorrupt(f"the inclusion proof of entry {index} has the wrong length")
        if position % 2 == 1 or position == last:
            current = node_hash(sibling, current)
            while position % 2 == 0 and position != 0:
                position, last = position // 2, last // 2
        else:
            current = node_hash(current, sibling)
        position, last = position // 2, last // 2
    if last != 0:
        raise LedgerCorrupt(f"the inclusion proof of entry {index} has the wrong length")
    if current != expected_root:
        raise LedgerCorrupt(f"the inclusion proof of entry {index} does not lead to the tree head's root")


def verify_consistency(old_size: int, size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check a consistency proof (RFC 9162, section 2.1.4.2).

    Raises:
        LedgerCorrupt: the proof does not show that the old tree is a prefix of the new one.
    """
    problem = f"the log of {size} entries is not a continuation of the log of {old_size} entries"
    if not 0 <= old_size <= size:
        raise LedgerCorrupt(problem)
    if old_size in (0, size):
        matches = old_root == (EMPTY_ROOT if old_size == 0 else new_root)
        if proof or not matches:
            raise LedgerCorrupt(problem)
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path or any(len(item) != HASH_BYTES for item in path):
        raise LedgerCorrupt(problem)
    position, last = old_size - 1, size - 1
    while position % 2 == 1:
        position, last = position // 2, last // 2
    old_hash = new_hash = path[0]
    for item in path[1:]:
        if last == 0:
            raise LedgerCorrupt(problem)
        if position % 2 == 1 or position == last:
            old_hash, new_hash = node_hash(item, old_hash), node_hash(item, new_hash)
            while position % 2 == 0 and position != 0:
                position, last = position // 2, last // 2
        else:
            new_hash = node_hash(new_hash, item)
        position, last = position // 2, last // 2
    if last != 0 or old_hash != old_root or new_hash != new_root:
        raise LedgerCorrupt(problem)


def _split(length: int) -> int:
    """The largest power of two smaller than ``length`` (k in RFC 6962)."""
    return 1 << (length - 1).bit_length() - 1


def _range_hash(start: int, end: int, node: NodeReader) -> bytes:
    """Merkle tree hash of leaves ``[start, end)``, a range that RFC 6962's splits can produce."""
    length = end - start
    if length & (length - 1) == 0:
        level = length.bit_length() - 1
        return node(level, start >> level)
    middle = start + _split(length)
    return node_hash(_range_hash(start, middle, node), _range_hash(middle, end, node))
