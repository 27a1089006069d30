"""The privacy ledger of one site: what was spent, provably, and what is left.

:class:`Ledger` reserves, commits and proves; :class:`Witness` catches a log that was rolled back or rewritten.
"""

from privacy.ledger.entries import Entry, EntryKind
from privacy.ledger.head import TREE_HEAD_CONTEXT, Signer, TreeHead, Verifier
from privacy.ledger.ledger import Ledger
from privacy.ledger.merkle import verify_consistency, verify_inclusion
from privacy.ledger.proofs import (
    LedgerProof,
    export,
    export_head,
    prove_consistency,
    prove_inclusion,
    read_proof,
    verify_export,
)
from privacy.ledger.state import Budget, LedgerState, Reservation, StepKey
from privacy.ledger.statement import LedgerStatement, statement
from privacy.ledger.witness import Witness

__all__ = [
    "TREE_HEAD_CONTEXT",
    "Budget",
    "Entry",
    "EntryKind",
    "Ledger",
    "LedgerProof",
    "LedgerState",
    "LedgerStatement",
    "Reservation",
    "Signer",
    "StepKey",
    "TreeHead",
    "Verifier",
    "Witness",
    "export",
    "export_head",
    "prove_consistency",
    "prove_inclusion",
    "read_proof",
    "statement",
    "verify_consistency",
    "verify_export",
    "verify_inclusion",
]
