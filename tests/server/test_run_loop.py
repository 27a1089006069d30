"""What a run believes of the receipts it is sent."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from certs.identity import Identity
from certs.names import PeerName, Role
from privacy.ledger.head import sign_head
from privacy.order import Receipt, ReceiptStatus
from server.run_loop import RunLoop
from tacit.errors import LedgerCorrupt


class Link:
    """The process that holds the port, as far as receipts go."""

    def __init__(self, *sites: Identity) -> None:
        self.emitted: list[dict[str, Any]] = []
        self.witnessed: list[str] = []
        self.refuses: LedgerCorrupt | None = None
        roster = {site.name.name: site.public for site in sites}
        self._agreement = SimpleNamespace(agreement=SimpleNamespace(roster=lambda: roster))

    def agreement(self) -> Any:
        return self._agreement

    def witness(self, receipt: Receipt) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.witnessed.append(receipt.site)

    def emit(self, _run_id: str, event: dict[str, Any]) -> None:
        self.emitted.append(event)


def identity(name: str) -> Identity:
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    return Identity(PeerName("tests", Role.SITE, name), b"", key)


def signed_receipt(site: Identity) -> Receipt:
    head = sign_head(site, 4, bytes(32), "2026-06-01T12:00:00Z")
    return Receipt(
        site=site.name.name,
        run_id="00112233445566ff",
        round=1,
        step=1,
        outcome=ReceiptStatus(status="completed"),
        tree_size=head.size,
        tree_root=head.root,
        tree_timestamp=head.timestamp,
        tree_signature=head.signature,
    )


def loop(link: Link) -> RunLoop:
    return RunLoop("00112233445566ff", None, link, None)  # type: ignore[arg-type]


def test_a_signed_receipt_is_recorded() -> None:
    alpha = identity("alpha")
    link = Link(alpha)
    loop(link)._on_receipt(signed_receipt(alpha))
    assert [event["event"] for event in link.emitted] == ["site-receipt"]
    assert link.witnessed == ["alpha"]


def test_a_site_that_could_not_read_the_order_need_not_prove_anything_yet() -> None:
    alpha = identity("alpha")
    link = Link(alpha)
    link.refuses = LedgerCorrupt("no proof")
    refused = ReceiptStatus(status="refused", reason="order-malformed")
    loop(link)._on_receipt(signed_receipt(alpha).model_copy(update={"round": 0, "outcome": refused}))
    loop(link)._on_receipt(signed_receipt(alpha).model_copy(update={"round": 0}))
    loop(link)._on_receipt(signed_receipt(alpha).model_copy(update={"outcome": refused}))
    assert [event["event"] for event in link.emitted] == ["site-receipt", "ledger-refused", "ledger-refused"]


def test_a_ledger_that_does_not_continue_is_said_so_and_the_run_goes_on() -> None:
    alpha = identity("alpha")
    link = Link(alpha)
    link.refuses = LedgerCorrupt("the ledger was rolled back", hint="bring back the newest ledger")
    loop(link)._on_receipt(signed_receipt(alpha))
    assert link.emitted == [
        {
            "event": "ledger-refused",
            "round": 1,
            "step": 1,
            "site": "alpha",
            "reason": "the ledger was rolled back",
            "hint": "bring back the newest ledger",
        }
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"tree_size": 5},
        {"tree_size": 2**60},
        {"tree_root": ""},
        {"tree_root": "x"},
        {"tree_timestamp": "2026-06-01T12:00:01Z"},
        {"tree_signature": ""},
        {"tree_signature": "é"},
        {"site": "beta"},
        {"site": "stranger"},
    ],
)
def test_any_other_receipt_is_dropped_and_the_run_goes_on(changes: dict[str, Any]) -> None:
    alpha = identity("alpha")
    link = Link(alpha, identity("beta"))
    loop(link)._on_receipt(signed_receipt(alpha).model_copy(update=changes))
    assert link.emitted == []
    assert link.witnessed == []
