"""RFC 6962 trees: published vectors, a naive second implementation, and proofs that must not verify."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.ledger import merkle
from tacit.errors import LedgerCorrupt, LedgerError

# google/certificate-transparency, cpp/merkletree/merkle_tree_test.cc: kInputs, kSHA256EmptyTreeHash, kSHA256Roots,
# kSHA256Paths (leaves counted from 1 there, from 0 here) and kSHA256Proofs.
INPUTS = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
PROOFS = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


class Tree:
    """The nodes a store would keep."""

    def __init__(self, inputs: list[bytes]) -> None:
        self.size = 0
        self._nodes: dict[tuple[int, int], bytes] = {}
        for data in inputs:
            for level, position, value in merkle.completed_nodes(self.size, merkle.leaf_hash(data), self.node):
                assert (level, position) not in self._nodes
                self._nodes[level, position] = value
            self.size += 1

    def node(self, level: int, position: int) -> bytes:
        return self._nodes[level, position]

    def root(self, size: int | None = None) -> bytes:
        return merkle.root(self.size if size is None else size, self.node)


# RFC 6962, section 2.1, transcribed as it stands: recursive, over the entries themselves.


def naive_root(entries: list[bytes]) -> bytes:
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = naive_split(len(entries))
    return hashlib.sha256(b"\x01" + naive_root(entries[:k]) + naive_root(entries[k:])).digest()


def naive_split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def naive_path(m: int, entries: list[bytes]) -> list[bytes]:
    if len(entries) == 1:
        return []
    k = naive_split(len(entries))
    if m < k:
        return [*naive_path(m, entries[:k]), naive_root(entries[k:])]
    return [*naive_path(m - k, entries[k:]), naive_root(entries[:k])]


def naive_subproof(m: int, entries: list[bytes], whole: bool) -> list[bytes]:
    if m == len(entries):
        return [] if whole else [naive_root(entries)]
    k = naive_split(len(entries))
    if m <= k:
        return [*naive_subproof(m, entries[:k], whole), naive_root(entries[k:])]
    return [*naive_subproof(m - k, entries[k:], False), naive_root(entries[:k])]


def test_published_roots():
    tree = Tree(INPUTS)
    assert tree.root(0).hex() == merkle.EMPTY_ROOT.hex() == EMPTY
    assert [tree.root(size).hex() for size in range(1, 9)] == ROOTS


@pytest.mark.parametrize(("index", "size", "path"), PATHS)
def test_published_inclusion_proofs(index, size, path):
    proof = merkle.inclusion_proof(index, size, Tree(INPUTS).node)
    assert [item.hex() for item in proof] == path
    merkle.verify_inclusion(merkle.leaf_hash(INPUTS[index]), index, size, proof, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("old", "size", "path"), PROOFS)
def test_published_consistency_proofs(old, size, path):
    proof = merkle.consistency_proof(old, size, Tree(INPUTS).node)
    assert [item.hex() for item in proof] == path
    merkle.verify_consistency(old, size, bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[size - 1]), proof)


def test_every_proof_of_small_trees_equals_the_naive_one_and_verifies():
    entries = [bytes([value]) * (value % 5) for value in range(40)]
    tree = Tree(entries)
    for size in range(1, len(entries) + 1):
        root = naive_root(entries[:size])
        assert tree.root(size) == root
        for index in range(size):
            path = merkle.inclusion_proof(index, size, tree.node)
            assert path == naive_path(index, entries[:size])
            merkle.verify_inclusion(merkle.leaf_hash(entries[index]), index, size, path, root)
        for old in range(1, size + 1):
            proof = merkle.consistency_proof(old, size, tree.node)
            assert proof == naive_subproof(old, entries[:size], True)
            merkle.verify_consistency(old, size, naive_root(entries[:old]), root, proof)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_altered_inclusion_proofs_never_verify(data):
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    tree = Tree([bytes([value]) for value in range(size)])
    leaf, root = merkle.leaf_hash(bytes([index])), tree.root()
    proof = merkle.inclusion_proof(index, size, tree.node)
    wrong = [
        (leaf, index, size, [*proof, root], root),
        (leaf, index, size, [b"", *proof], root),
        (leaf, index, size, proof, merkle.EMPTY_ROOT),
        (merkle.leaf_hash(b"another"), index, size, proof, root),
        (leaf, index - 1, size, proof, root),
        (leaf, index + 1, size, proof, root),
        (leaf, index ^ 2, size, proof, root),
        (leaf, index, size * 2, proof, root),
        (leaf, index, size // 2, proof, root),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong.append((leaf, index, size, [*proof[:at], merkle.EMPTY_ROOT, *proof[at + 1 :]], root))
        wrong.append((leaf, index, size, proof[:-1], root))
        wrong.append((leaf, index, size, proof[1:], root))
    for case in wrong:
        with pytest.raises(LedgerCorrupt):
            merkle.verify_inclusion(*case)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_altered_consistency_proofs_never_verify(data):
    size = data.draw(st.integers(2, 70))
    old = data.draw(st.integers(1, size - 1))
    tree = Tree([bytes([value]) for value in range(size)])
    before, after = tree.root(old), tree.root()
    proof = merkle.consistency_proof(old, size, tree.node)
    at = data.draw(st.integers(0, len(proof) - 1))
    wrong = [
        (old - 1, size, before, after, proof),
        (old + 1, size, before, after, proof),
        (old ^ 2, size, before, after, proof),
        (old, size * 2, before, after, proof),
        (old, size // 2, before, after, proof),
        (old, size, after, before, proof),
        (old, size, merkle.EMPTY_ROOT, after, proof),
        (old, size, before, merkle.EMPTY_ROOT, proof),
        (old, size, before, after, []),
        (old, size, before, after, [*proof[:at], merkle.EMPTY_ROOT, *proof[at + 1 :]]),
        (old, size, before, after, [*proof, b""]),
        (old, size, before, after, [*proof, proof[-1]]),
        (old, size, before, after, proof[:-1]),
        (old, size, before, after, [b"", *proof]),
        (old, size, before, after, [proof[0], *proof]),
    ]
    for case in wrong:
        with pytest.raises(LedgerCorrupt):
            merkle.verify_consistency(*case)


def test_trivial_consistency():
    """After MerkleVerifierTest.VerifyConsistencyProof of the same file: nothing to prove, and time travel."""
    root = bytes.fromhex(ROOTS[0])
    merkle.verify_consistency(0, 0, merkle.EMPTY_ROOT, merkle.EMPTY_ROOT, [])
    merkle.verify_consistency(0, 1, merkle.EMPTY_ROOT, root, [])
    merkle.verify_consistency(1, 1, root, root, [])
    for wrong in (
        (1, 0, root, merkle.EMPTY_ROOT, []),
        (-1, 1, merkle.EMPTY_ROOT, root, []),
        (0, 1, root, root, []),
        (1, 1, root, merkle.EMPTY_ROOT, []),
        (1, 1, root, root, [root]),
        (0, 1, merkle.EMPTY_ROOT, root, [root]),
    ):
        with pytest.raises(LedgerCorrupt):
            merkle.verify_consistency(*wrong)


def test_a_proof_of_one_place_does_not_pass_for_another():
    """The second of two leaves is not the only leaf of a tree of one, though the hashes would come out right."""
    first, second = merkle.leaf_hash(b"first"), merkle.leaf_hash(b"second")
    root = merkle.node_hash(first, second)
    merkle.verify_inclusion(second, 1, 2, [first], root)
    with pytest.raises(LedgerCorrupt, match="wrong length"):
        merkle.verify_inclusion(second, 0, 1, [first], root)


def test_proofs_that_do_not_exist_are_not_made():
    tree = Tree(INPUTS)
    for index, size in ((8, 8), (-1, 8), (0, 0)):
        with pytest.raises(LedgerError):
            merkle.inclusion_proof(index, size, tree.node)
    for old, size in ((9, 8), (-1, 8)):
        with pytest.raises(LedgerError):
            merkle.consistency_proof(old, size, tree.node)


def test_leaves_and_nodes_are_hashed_apart():
    """Second preimages: a node's two children must not pass as an entry (RFC 6962, section 2.1)."""
    left, right = merkle.leaf_hash(b"left"), merkle.leaf_hash(b"right")
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)
