"""Heads, proofs and witnesses of a real log."""

from __future__ import annotations

import shutil
import time

import pytest

from privacy.ledger import TREE_HEAD_CONTEXT, Ledger, TreeHead, Witness, verify_consistency, verify_inclusion
from privacy.ledger.merkle import EMPTY_ROOT, leaf_hash
from tacit.canonical import canonical_json
from tacit.errors import LedgerCorrupt, LedgerError


def roots(ledger: Ledger, sizes: list[int]) -> dict[int, bytes]:
    from privacy.ledger import merkle

    return {size: merkle.root(size, ledger._store.node) for size in sizes}


def test_the_empty_log_has_a_signed_head(site):
    head = Ledger.in_memory(site).tree_head()
    assert (head.size, head.root) == (0, EMPTY_ROOT.hex())
    head.verify(site)


def test_heads_are_signed_over_canonical_json(ledger, site, words):
    words.reserve(ledger, 1)
    head = ledger.tree_head()
    message = canonical_json({"size": head.size, "root": head.root, "timestamp": head.timestamp})
    site.verify(TREE_HEAD_CONTEXT, message, head.signature_bytes())
    assert TREE_HEAD_CONTEXT == "tacit/tree-head/v1"


@pytest.mark.parametrize(
    "change",
    [
        {"size": 7},
        {"root": "0" * 64},
        {"timestamp": "2020-01-01T00:00:00Z"},
        {"signature": "AAAA"},
        {"signature": "not base64!"},
    ],
)
def test_a_changed_head_does_not_verify(ledger, site, change):
    head = TreeHead.model_validate(ledger.tree_head().model_dump() | change)
    with pytest.raises(LedgerCorrupt):
        head.verify(site)


def test_a_head_is_the_sites_own(ledger, site, other_site):
    ledger.tree_head().verify(site)
    with pytest.raises(LedgerCorrupt):
        ledger.tree_head().verify(other_site)
    with pytest.raises(LedgerCorrupt):
        ledger.verify(other_site)


def test_inclusion_of_every_entry(ledger, words):
    words.fill(ledger, 6)
    head = ledger.tree_head()
    for entry in ledger.entries():
        proof = ledger.inclusion_proof(entry.index)
        leaf = leaf_hash(entry.encode())
        assert leaf == ledger.leaf_hash(entry.index)
        verify_inclusion(leaf, entry.index, head.size, proof, bytes.fromhex(head.root))
    with pytest.raises(LedgerError):
        ledger.inclusion_proof(head.size)
    with pytest.raises(LedgerError):
        ledger.leaf_hash(head.size)
    with pytest.raises(LedgerError):
        ledger.inclusion_proof(0, head.size + 1)


def test_consistency_between_any_two_heads(ledger, words):
    heads = [ledger.tree_head()]
    for step in range(1, 9):
        words.reserve(ledger, step)
        heads.append(ledger.tree_head())
    for older in heads:
        for newer in heads:
            if older.size <= newer.size:
                proof = ledger.consistency_proof(older.size, newer.size)
                verify_consistency(older.size, newer.size, bytes.fromhex(older.root), bytes.fromhex(newer.root), proof)
    with pytest.raises(LedgerError):
        ledger.consistency_proof(heads[-1].size + 1)


def test_a_witness_follows_a_growing_log(ledger, site, words):
    witness = Witness(site)
    for step in range(1, 6):
        words.reserve(ledger, step)
        last = witness.head.size if witness.head else 0
        witness.observe(ledger.tree_head(), ledger.consistency_proof(last))
        assert witness.head == ledger.tree_head()
    witness.observe(ledger.tree_head(), [])  # seeing the same head again is no news


def test_a_witness_takes_up_where_it_left_off(ledger, site, words):
    words.reserve(ledger, 1)
    remembered = ledger.tree_head().model_dump_json()
    words.reserve(ledger, 2)
    witness = Witness(site, TreeHead.model_validate_json(remembered))
    witness.observe(ledger.tree_head(), ledger.consistency_proof(witness.head.size))


def test_a_witness_refuses_a_restored_backup(path, site, words):
    witness = Witness(site)
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, 2)
    backup = shutil.copy(path, path.with_suffix(".backup"))
    with Ledger.open(path, site) as ledger:
        words.reserve(ledger, 3)
        witness.observe(ledger.tree_head(), [])
    shutil.copy(backup, path)
    with Ledger.open(path, site) as ledger:
        ledger.verify(site)  # by itself, the backup is in order
        with pytest.raises(LedgerCorrupt, match="rolled back"):
            witness.observe(ledger.tree_head(), ledger.consistency_proof(0))
        # Growing past the old length does not help: it is a fork.
        words.reserve(ledger, 4)
        words.reserve(ledger, 5)
        with pytest.raises(LedgerCorrupt, match="do not continue"):
            witness.observe(ledger.tree_head(), ledger.consistency_proof(witness.head.size))
    assert witness.head.size == 6


def test_a_witness_refuses_a_fork_of_equal_length(site, words):
    logs = [Ledger.in_memory(site), Ledger.in_memory(site)]
    for ledger in logs:
        words.fill(ledger, 2)
    witness = Witness(site)
    witness.observe(logs[0].tree_head(), [])
    with pytest.raises(LedgerCorrupt, match="do not continue"):
        witness.observe(logs[1].tree_head(), [])


def test_a_witness_wants_the_right_signature_and_proof(ledger, site, other_site, words):
    with pytest.raises(LedgerCorrupt):
        Witness(other_site).observe(ledger.tree_head(), [])
    witness = Witness(site)
    witness.observe(ledger.tree_head(), [])
    before = witness.head
    words.reserve(ledger, 1)
    words.reserve(ledger, 2)
    for proof in ([], ledger.consistency_proof(2), [*ledger.consistency_proof(before.size), b"\0" * 32]):
        with pytest.raises(LedgerCorrupt):
            witness.observe(ledger.tree_head(), proof)
    assert witness.head == before


def test_a_witness_refuses_an_impossible_first_head(site):
    from privacy.ledger.head import sign_head

    with pytest.raises(LedgerCorrupt, match="empty tree"):
        Witness(site).observe(sign_head(site, 0, b"\1" * 32, "2026-01-01T00:00:00Z"), [])


def test_ten_thousand_entries_stay_quick(site, words):
    """Proofs and appends touch log(n) nodes, not n entries: counted, so that a slow machine cannot fail it."""
    ledger = Ledger.in_memory(site)
    ledger.accept_agreement(words.AGREEMENT, {})
    for number in range(9_999):
        ledger.record_egress("receipt", number)
    assert ledger.tree_head().size == 10_000
    reads = 0
    original = ledger._store.node

    def counted(level: int, position: int) -> bytes:
        nonlocal reads
        reads += 1
        return original(level, position)

    ledger._store.node = counted
    started = time.perf_counter()
    for index in (0, 4_999, 9_999):
        ledger.inclusion_proof(index)
        ledger.consistency_proof(index)
    ledger.record_egress("receipt", 0)
    assert time.perf_counter() - started < 0.5
    assert reads < 7 * 60
