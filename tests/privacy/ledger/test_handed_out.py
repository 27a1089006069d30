"""Proofs and exports: they hold for every entry and every two sizes, and any change to them is seen."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from privacy.ledger import (
    export,
    export_head,
    merkle,
    prove_consistency,
    prove_inclusion,
    read_proof,
    verify_export,
)
from privacy.ledger.head import sign_head
from tacit.canonical import canonical_json
from tacit.errors import InputError, LedgerCorrupt, LedgerError


@pytest.fixture
def filled(ledger, words):
    words.fill(ledger, 5)
    ledger.record_egress("receipt", 512)
    return ledger


def leaves(value: Any, path: tuple[Any, ...] = ()):
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, (*path, key))
    else:
        yield path


def changed(document: Any, path: tuple[Any, ...]) -> Any:
    """The document with one value replaced by another of its type."""
    copy = json.loads(json.dumps(document))
    target = copy
    for step in path[:-1]:
        target = target[step]
    value = target[path[-1]]
    if isinstance(value, str):
        target[path[-1]] = ("0" if value[:1] != "0" else "1") + value[1:]
    elif value is not None:
        target[path[-1]] = value + 1 if not isinstance(value, bool) else not value
    return copy


def test_every_entry_can_be_shown(filled, site):
    for index in range(filled.tree_head().size):
        proof = read_proof(prove_inclusion(filled, index).encode())
        proof.verify(site)
        assert proof.inclusion.entry == filled.entries()[index]


def test_any_two_sizes_can_be_shown(filled, site):
    sizes = range(filled.tree_head().size + 1)
    for old, new in itertools.combinations_with_replacement(sizes, 2):
        proof = read_proof(prove_consistency(filled, old, new).encode())
        proof.verify(site)
        assert proof.consistency.old_root == filled.root(old).hex()


@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_a_proof_with_any_value_changed_proves_nothing(filled, site, kind):
    made = prove_inclusion(filled, 3) if kind == "inclusion" else prove_consistency(filled, 5, 9)
    document = json.loads(made.encode())
    paths = [path for path in leaves(document) if changed(document, path) != document]
    assert len(paths) > 12
    for path in paths:
        with pytest.raises((InputError, LedgerCorrupt)):
            read_proof(json.dumps(changed(document, path)).encode()).verify(site)


def test_a_proof_is_by_the_site_alone(filled, site, other_site):
    for proof in (prove_inclusion(filled, 0), prove_consistency(filled, 2)):
        proof.verify(None)
        with pytest.raises(LedgerCorrupt, match="signature"):
            proof.verify(other_site)


def test_one_proof_proves_one_thing(filled):
    inclusion, consistency = (
        json.loads(made.encode()) for made in (prove_inclusion(filled, 0), prove_consistency(filled, 2))
    )
    both = inclusion | {"consistency": consistency["consistency"]}
    neither = inclusion | {"inclusion": None}
    for wrong in (both, neither):
        with pytest.raises(InputError, match="either of inclusion or of consistency"):
            read_proof(json.dumps(wrong).encode())


def test_what_is_not_there_cannot_be_shown(filled):
    size = filled.tree_head().size
    for index in (-1, size):
        with pytest.raises(LedgerError, match=f"no entry {index}"):
            prove_inclusion(filled, index)
    for old, new in ((-1, 3), (4, 3), (2, size + 1)):
        with pytest.raises(LedgerError, match="continues one of"):
            prove_consistency(filled, old, new)


def test_an_export_is_the_log(filled, site, other_site):
    data = export(filled)
    assert verify_export(data, site) == export_head(data) == filled.tree_head()
    assert data.split(b"\n")[:-2] == [entry.encode() for entry in filled.entries()]
    with pytest.raises(LedgerCorrupt, match="signature"):
        verify_export(data, other_site)


def test_an_empty_log_is_exported_too(site):
    from privacy.ledger import Ledger

    with Ledger.in_memory(site) as empty:
        assert verify_export(export(empty), site).size == 0


def test_an_export_that_is_not_whole_is_refused(filled, site):
    data = export(filled)
    lines = data.split(b"\n")[:-1]
    spoiled = [
        b"",
        b"\n",
        data[:-1],
        data + b"\n",
        b"\n".join(lines[:-1]) + b"\n",
        *(b"\n".join([*lines[:at], *lines[at + 1 :]]) + b"\n" for at in range(len(lines) - 1)),
        *(b"\n".join([*lines[:at], lines[at], *lines[at:]]) + b"\n" for at in range(len(lines) - 1)),
        data.replace(b'"bytes_sent":101', b'"bytes_sent":102'),
        data.replace(b'{"body"', b'{ "body"', 1),
    ]
    for wrong in spoiled:
        assert wrong != data
        with pytest.raises(LedgerCorrupt):
            verify_export(wrong, site)


def test_a_site_that_signs_nonsense_is_told_so(filled, site):
    """The hashes and the signature are right; what was signed is no ledger: not an entry, or one that cannot follow."""

    def signed(lines: list[bytes]) -> bytes:
        tree: dict[tuple[int, int], bytes] = {}
        for index, line in enumerate(lines):
            for level, at, value in merkle.completed_nodes(
                index, merkle.leaf_hash(line), lambda lv, pos: tree[lv, pos]
            ):
                tree[level, at] = value
        root = merkle.root(len(lines), lambda level, at: tree[level, at])
        head = sign_head(site, len(lines), root, "2026-01-31T00:00:00Z").model_dump(mode="json")
        return b"".join(line + b"\n" for line in (*lines, canonical_json({"tacit_export": 1, "tree_head": head})))

    entries = [entry.encode() for entry in filled.entries()]
    verify_export(signed(entries), site)
    again = filled.entries()[2].model_copy(update={"index": len(entries)}).encode()  # commits entry 1 a second time
    for lines in ([*entries, b"nonsense"], [*entries, again]):
        with pytest.raises(LedgerCorrupt, match=r"cannot be read|does not follow"):
            verify_export(signed(lines), site)
