"""The coordinator remembers every site's last tree head and takes continuations only."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.ledger_check import check_ledger, consistency
from privacy.ledger import Ledger
from privacy.order import Order, Receipt, ReceiptStatus, SeenHead
from server.witnesses import SiteWitnesses
from tacit.errors import ConfigError, LedgerCorrupt, Refusal, RefusalReason

AGREEMENT = "sha256:" + "a" * 64
MakeOrder = Callable[..., Order]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "witnessed-heads.json"


@pytest.fixture
def ledger_file(tmp_path: Path) -> Path:
    return tmp_path / "site" / "ledger.sqlite"


class Home:
    """A coordinator's witness and one site's ledger, as they meet in every round."""

    def __init__(self, path: Path, ledger_file: Path, partners: Any, make_order: MakeOrder) -> None:
        self.path, self.ledger_file, self.make_order = path, ledger_file, make_order
        self.partners = partners
        self.identity = partners.identities["alpha"]
        self.witness = SiteWitnesses(path, partners.roster)

    def order(self) -> Order:
        return self.make_order(seen_heads=self.witness.seen())

    def receipt(self, ledger: Ledger, order: Order | None = None, **changes: Any) -> Receipt:
        """What the agent makes of an order: an entry, then the head that covers it."""
        order = order or self.order()
        ledger.record_egress("receipt", 100)
        head = ledger.tree_head()
        return Receipt(
            site="alpha",
            run_id=order.run_id,
            round=1,
            step=1,
            outcome=ReceiptStatus(status="completed"),
            tree_size=head.size,
            tree_root=head.root,
            tree_timestamp=head.timestamp,
            tree_signature=head.signature,
            tree_consistency=consistency(order, "alpha", ledger),
        ).model_copy(update=changes)

    def open(self) -> Ledger:
        return Ledger.open(self.ledger_file, self.identity)

    def rounds(self, count: int) -> None:
        with self.open() as ledger:
            for _ in range(count):
                order = self.order()
                check_ledger(order, ledger, self.identity.public)
                self.witness.observe(self.receipt(ledger, order))


@pytest.fixture
def home(path: Path, ledger_file: Path, partners: Any, make_order: MakeOrder) -> Home:
    return Home(path, ledger_file, partners, make_order)


def test_round_after_round_across_restarts_of_both(home: Home, path: Path, partners: Any) -> None:
    home.rounds(3)
    assert [seen.tree_size for seen in home.witness.seen()] == [3]
    home.witness = SiteWitnesses(path, partners.roster)
    assert [(seen.site, seen.tree_size) for seen in home.witness.seen()] == [("alpha", 3)]
    home.rounds(4)
    assert home.order().seen_head("alpha") is not None
    assert home.order().seen_head("beta") is None


def test_a_restored_backup_is_refused_at_the_next_round_by_both(home: Home, ledger_file: Path) -> None:
    home.rounds(2)
    backup = shutil.copy(ledger_file, ledger_file.with_suffix(".old"))
    home.rounds(3)
    shutil.copy(backup, ledger_file)
    seen = home.witness.seen()
    with home.open() as ledger:
        with pytest.raises(Refusal, match=r"over 5 ledger entries at .*, and its ledger has 2: an old copy") as caught:
            check_ledger(home.order(), ledger, home.identity.public)
        assert caught.value.reason is RefusalReason.LEDGER
        assert caught.value.hint is not None
        with pytest.raises(LedgerCorrupt, match="rolled back: it has 3 entries and had 5 before"):
            home.witness.observe(home.receipt(ledger))
        # Growing past the old length makes it a fork, not the old ledger.
        for _ in range(5):
            ledger.record_egress("receipt", 1)
        with pytest.raises(Refusal, match=r"first 5 entries .* are not those"):
            check_ledger(home.order(), ledger, home.identity.public)
        with pytest.raises(LedgerCorrupt, match="do not continue"):
            home.witness.observe(home.receipt(ledger))
    assert home.witness.seen() == seen


@pytest.mark.parametrize("proof", ["none", "cut", "longer", "of another head"])
def test_a_head_without_a_proof_is_refused(home: Home, proof: str) -> None:
    home.rounds(3)
    with home.open() as ledger:
        order = home.order()
        receipt = home.receipt(ledger, order)
        changed = {
            "none": (),
            "cut": receipt.tree_consistency[:-1],
            "longer": (*receipt.tree_consistency, "00" * 32),
            "of another head": tuple(item.hex() for item in ledger.consistency_proof(2)),
        }[proof]
        with pytest.raises(LedgerCorrupt, match="do not continue"):
            home.witness.observe(receipt.model_copy(update={"tree_consistency": changed}))
        home.witness.observe(receipt)


def test_a_receipt_that_was_lost_leaves_no_gap(home: Home) -> None:
    home.rounds(2)
    with home.open() as ledger:
        home.receipt(ledger)  # never arrives
        ledger.record_egress("receipt", 1)
        home.witness.observe(home.receipt(ledger))
    assert home.order().seen_head("alpha").tree_size == 5  # type: ignore[union-attr]


def test_only_the_sites_own_signature_counts(home: Home, partners: Any) -> None:
    home.rounds(1)
    with home.open() as ledger:
        receipt = home.receipt(ledger)
        for wrong in ({"site": "beta"}, {"site": "stranger"}, {"tree_root": ""}, {"tree_signature": "AAAA"}):
            with pytest.raises(LedgerCorrupt):
                home.witness.observe(receipt.model_copy(update=wrong))
        # A coordinator cannot stop a site with a head of its own making: it is no head of this site.
        forged = home.witness.seen()[0].model_copy(update={"tree_size": 900})
        check_ledger(home.make_order(seen_heads=(forged,)), ledger, home.identity.public)


def test_a_file_that_cannot_be_read_opens_nothing(home: Home, path: Path, partners: Any) -> None:
    home.rounds(1)
    for damage in (b"", b"{}", path.read_bytes()[:-5], b'{"heads":{},"tacit_witness":2}'):
        path.write_bytes(damage)
        with pytest.raises(ConfigError, match="last seen of every site's ledger"):
            SiteWitnesses(path, partners.roster)


def test_a_site_that_left_the_agreement_is_remembered_and_not_shown(home: Home, path: Path, partners: Any) -> None:
    home.rounds(1)
    others = {name: peer for name, peer in partners.roster.items() if name != "alpha"}
    assert SiteWitnesses(path, others).seen() == ()
    assert len(SiteWitnesses(path, partners.roster).seen()) == 1


def test_killed_while_it_remembers(home: Home, path: Path, partners: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each system call that writes: the old head or the new one is there, and the site can prove either."""
    home.rounds(1)
    calls = ("fchmod", "fsync", "replace")
    for name in calls:
        child = os.fork()
        if child == 0:

            def die(*_: Any, **__: Any) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            monkeypatch.setattr(f"tacit.durable.os.{name}", die)
            home.rounds(1)
            os._exit(1)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        home.witness = SiteWitnesses(path, partners.roster)
        assert home.witness.seen()[0].tree_size >= 1
        home.rounds(1)


def test_heads_in_an_order_are_one_a_site_and_sorted(make_order: MakeOrder) -> None:
    head = SeenHead(site="beta", tree_size=1, tree_root="0" * 64, tree_timestamp="t", tree_signature="s")
    other = head.model_copy(update={"site": "alpha"})
    order = Order.model_validate_json(make_order(seen_heads=(other, head)).model_dump_json())
    assert [seen.site for seen in order.seen_heads] == ["alpha", "beta"]
    assert order.digest() != make_order().digest()  # every site is shown the same ones
    for wrong in ((head, other), (head, head)):
        with pytest.raises(ValueError, match="sorted by site"):
            make_order(seen_heads=wrong)
