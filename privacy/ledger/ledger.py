"""The ledger: reserve before noise, commit after; whatever was reserved stays spent.

An append-only Merkle log (RFC 6962) whose entries are canonical JSON (RFC 8785), one writer, every entry durable
before the call returns, every new tree head signed by the site.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self

from privacy.accounting import epsilon
from privacy.events import DpEvent
from privacy.ledger import entries as kinds
from privacy.ledger import merkle
from privacy.ledger.entries import Body, Entry, build, rfc3339
from privacy.ledger.head import TREE_HEAD_CONTEXT, Signer, TreeHead, Verifier, sign_head
from privacy.ledger.state import Budget, LedgerState, Reservation, StepKey
from privacy.ledger.store import LedgerStore
from privacy.ledger.verification import replay
from tacit.canonical import canonical_json, parse_json
from tacit.errors import BudgetExceeded, LedgerError, RefusalReason

Clock = Callable[[], datetime]

_NONCE_BYTES = 16


def _now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """One site's ledger. Open with :meth:`open`, :meth:`open_readonly` or :meth:`in_memory`. Thread-safe."""

    def __init__(self, store: LedgerStore, signer: Signer | None, clock: Clock) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._mutex = RLock()
        if signer is not None and store.head_row() is None and not any(store.contents()):
            head = sign_head(signer, 0, merkle.EMPTY_ROOT, rfc3339(clock()))
            with store.transaction():
                store.put_head(head)
        log = replay(store)
        self._state: LedgerState = log.state
        self._entries: list[Entry] = list(log.entries)
        self._head = log.head

    @classmethod
    def open(
        cls,
        path: Path,
        identity: Signer,
        *,
        create: bool = True,
        previous: Verifier | None = None,
        clock: Clock = _now,
    ) -> Self:
        """Open for writing, verifying the whole log first.

        Args:
            path: the SQLite file; ``<path>.lock`` beside it keeps a second writer out.
            identity: signs tree heads, deterministically (``certs.identity.Identity``).
            create: False refuses a missing file: for a site that has been at work before, an absent ledger is a
                lost one, not a fresh one.
            previous: the old identity, after its key was rotated; the rotation is recorded.
            clock: returns the time, with time zone.

        Raises:
            LedgerError: another process writes it, it is missing, or it belongs to another identity.
            LedgerCorrupt: the log does not verify; names the entry.
            StorageFull: no room to create it.
        """
        store = LedgerStore.create_or_open(path, create=create)
        try:
            ledger = cls(store, identity, clock)
            ledger._check_signer(identity, previous)
        except BaseException:
            store.close()
            raise
        return ledger

    @classmethod
    def open_readonly(cls, path: Path) -> Self:
        """Open a snapshot for reading; a site agent may be writing meanwhile.

        Raises:
            LedgerError: there is no ledger.
            LedgerCorrupt: the log does not verify; names the entry.
        """
        store = LedgerStore.open_readonly(path)
        try:
            return cls(store, None, _now)
        except BaseException:
            store.close()
            raise

    @classmethod
    def in_memory(cls, identity: Signer, *, clock: Clock = _now) -> Self:
        """A ledger that is lost on close, with the same rules; for simulations and tests."""
        return cls(LedgerStore.in_memory(), identity, clock)

    def close(self) -> None:
        """Close the file and let another writer in."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Spending

    def reserve(
        self,
        key: StepKey,
        dataset: str,
        agreement_digest: str,
        event: DpEvent,
        budget: Budget,
        *,
        noise_secret: bool,
    ) -> Reservation:
        """Set privacy aside for one step, before its noise is drawn.

        Composes the run, and the whole lifetime of the dataset (committed, forfeited and open reservations of all
        runs and agreements), both with ``event`` added and at ``budget.delta``; writes only if both fit.

        Args:
            noise_secret: False when the noise comes from a test seed; reports then claim no privacy.

        Raises:
            BudgetExceeded: it does not fit; nothing was written.
            StepAlreadySpent: the step was reserved before; nothing was written.
            StorageFull: the disk refused; nothing was written.
            LedgerError: the agreement is not in force here, or no accountant understands the event.
        """
        with self._mutex:
            run = self.would_spend(dataset, event, budget.delta, run_id=key.run_id)
            lifetime = self.would_spend(dataset, event, budget.delta)
            body = build(
                kinds.Reserve,
                run_id=key.run_id,
                round=key.round,
                step=key.step,
                dataset=dataset,
                agreement_digest=agreement_digest,
                event=event,
                noise_secret=noise_secret,
                delta=budget.delta,
                epsilon_per_run=budget.epsilon_per_run,
                epsilon_lifetime=budget.epsilon_lifetime,
                epsilon_run_after=run,
                epsilon_lifetime_after=lifetime,
            )
            self._state.check(body)
            _check_fits(key, run, budget.epsilon_per_run, budget.delta, f"run {key.run_id}")
            _check_fits(key, lifetime, budget.epsilon_lifetime, budget.delta, f"the lifetime of dataset {dataset!r}")
            entry = self._append(body)
            return Reservation(entry.index, key, dataset, event, noise_secret, run, lifetime, budget.delta)

    def commit(self, reservation: Reservation, *, ctx: bytes | str, bytes_sent: int) -> Entry:
        """Record that the reserved step was carried out.

        Args:
            ctx: hash of the step's descriptor, raw or hex.
            bytes_sent: what left the site for this step.

        Raises:
            LedgerError: the reservation is not open.
            StorageFull: the disk refused; the reservation stays open, and spent.
        """
        text = ctx.hex() if isinstance(ctx, bytes) else ctx
        return self._append(build(kinds.Commit, reservation=reservation.index, ctx=text, bytes_sent=bytes_sent))

    def forfeit(self, reservation: Reservation, reason: str) -> Entry:
        """Record that the reserved step failed. What was reserved stays spent.

        Raises:
            LedgerError: the reservation is not open.
            StorageFull: the disk refused; the reservation stays open, and spent.
        """
        return self._append(build(kinds.Forfeit, reservation=reservation.index, reason=reason))

    def recover(self) -> list[StepKey]:
        """Forfeit what a crashed process left open; call once at start. Returns the steps, oldest first.

        Raises:
            StorageFull: the disk refused; what is still open stays open, and spent.
        """
        with self._mutex:
            recovered = []
            for index, reserve in sorted(self._state.open_reservations.items()):
                self._append(build(kinds.Forfeit, reservation=index, reason="the process ended before the step did"))
                recovered.append(StepKey(reserve.run_id, reserve.round, reserve.step))
            return recovered

    def spent(self, dataset: str, delta: float, run_id: str | None = None) -> float:
        """Return the epsilon at ``delta`` of everything ever reserved on ``dataset``, or of one run's part."""
        with self._mutex:
            return epsilon(self._state.events(dataset, run_id), delta)

    def would_spend(self, dataset: str, event: DpEvent, delta: float, *, run_id: str | None = None) -> float:
        """Return what :meth:`spent` would be after ``event``. Writes nothing."""
        with self._mutex:
            return epsilon((*self._state.events(dataset, run_id), event), delta)

    # Everything else a site keeps account of

    def accept_agreement(self, digest: str, summary: Mapping[str, Any], *, after_withdrawal: bool = False) -> None:
        """Record that the site accepts an agreement; already in force with the same summary, it is not repeated.

        Args:
            digest: the agreement's digest, ``sha256:...``.
            summary: public facts to show beside it (title, limits): JSON values.
            after_withdrawal: True takes a withdrawal back, which a person must want: restarting must not.

        Raises:
            LedgerError: the site withdrew from this agreement.
            InputError: the digest is malformed, or the summary is not JSON.
        """
        # Through canonical JSON, so that what is compared and kept is what can be read back.
        facts = parse_json(canonical_json(dict(summary)))
        body = build(kinds.AgreementAccepted, agreement_digest=digest, summary=facts)
        with self._mutex:
            known = {accepted.agreement_digest: (accepted, in_force) for accepted, in_force in self._state.agreements()}
            accepted, in_force = known.get(digest, (None, True))
            if not in_force and not after_withdrawal:
                raise LedgerError(
                    f"this site withdrew from agreement {digest}",
                    hint="remove it from the site's folder; coming back is a decision of the data steward",
                )
            if accepted != body or not in_force:
                self._append(body)

    def withdraw(self, agreement_digest: str, reason: str) -> Entry:
        """Record that the site left an agreement: nothing can be reserved under it any more."""
        return self._append(build(kinds.Withdrawal, agreement_digest=agreement_digest, reason=reason))

    def record_refusal(self, order_digest: str, reason: RefusalReason, message: str) -> Entry:
        """Record that the gate refused an order (empty digest: the order could not be read)."""
        return self._append(build(kinds.RefusalRecorded, order_digest=order_digest, reason=reason, message=message))

    def record_egress(
        self, what: str, size_bytes: int, *, recipient: str = "coordinator", key: StepKey | None = None
    ) -> Entry:
        """Record that ``size_bytes`` bytes of ``what`` left the site, for the step ``key`` if for one."""
        return self._append(
            build(
                kinds.Egress,
                what=what,
                size_bytes=size_bytes,
                recipient=recipient,
                run_id=key.run_id if key else None,
                round=key.round if key else None,
                step=key.step if key else None,
            )
        )

    def record_release(self, run_id: str, scope: str, artifact_digest: str) -> Entry:
        """Record that a run's result was handed on to ``scope`` ("partners", "public")."""
        return self._append(build(kinds.Release, run_id=run_id, scope=scope, artifact_digest=artifact_digest))

    def record_audit(self, auditor: str, finding: str) -> Entry:
        """Record what somebody who checked found."""
        return self._append(build(kinds.Audit, auditor=auditor, finding=finding))

    # Reading and proving

    @property
    def state(self) -> LedgerState:
        """What the entries add up to. Read only."""
        return self._state

    def claims_privacy(self, dataset: str) -> bool:
        """False as soon as any noise ever used on the dataset came from a test seed."""
        account = self._state.datasets.get(dataset)
        return account is None or account.noise_secret

    def entries(self) -> tuple[Entry, ...]:
        """Every entry, oldest first."""
        with self._mutex:
            return tuple(self._entries)

    def tree_head(self) -> TreeHead:
        """The newest signed tree head."""
        return self._head

    def leaf_hash(self, index: int) -> bytes:
        """The RFC 6962 leaf hash of an entry."""
        with self._mutex:
            if not 0 <= index < self._head.size:
                raise LedgerError(
                    f"there is no entry {index}; the ledger has {self._head.size} entries, numbered from 0",
                    hint="`tacit ledger show` says how many there are",
                )
            return self._store.node(0, index)

    def root(self, size: int | None = None) -> bytes:
        """The RFC 6962 root over the first ``size`` entries (all, when absent)."""
        with self._mutex:
            return merkle.root(self._checked_size(size), self._store.node)

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Prove that entry ``index`` is in the log's first ``size`` entries (all, when absent)."""
        with self._mutex:
            return merkle.inclusion_proof(index, self._checked_size(size), self._store.node)

    def consistency_proof(self, old_size: int, size: int | None = None) -> list[bytes]:
        """Prove that the first ``size`` entries (all, when absent) continue the first ``old_size``."""
        with self._mutex:
            return merkle.consistency_proof(old_size, self._checked_size(size), self._store.node)

    def verify(self, verifier: Verifier | None) -> TreeHead:
        """Read the whole log again from the disk and check it; return its head.

        Args:
            verifier: the site's identity; None leaves the head's signature unchecked.

        Raises:
            LedgerCorrupt: names the first entry that is wrong, or what does not add up.
        """
        with self._mutex:
            head = replay(self._store).head
            if verifier is not None:
                head.verify(verifier)
            return head

    def _checked_size(self, size: int | None) -> int:
        if size is None:
            return self._head.size
        if not 0 <= size <= self._head.size:
            raise LedgerError(f"there is no tree of {size} entries; the ledger has {self._head.size}")
        return size

    def _append(self, body: Body) -> Entry:
        signer = self._signer
        if signer is None:
            raise LedgerError("this ledger was opened for reading only")
        with self._mutex:
            self._state.check(body)
            moment = rfc3339(self._clock())
            size = self._head.size
            entry = Entry(index=size, time=moment, nonce=os.urandom(_NONCE_BYTES).hex(), body=body)
            content = entry.encode()
            nodes = merkle.completed_nodes(size, merkle.leaf_hash(content), self._store.node)
            fresh = {(level, position): value for level, position, value in nodes}
            root = merkle.root(
                size + 1,
                lambda level, at: fresh[level, at] if (level, at) in fresh else self._store.node(level, at),
            )
            head = sign_head(signer, size + 1, root, moment)
            key = StepKey(body.run_id, body.round, body.step) if isinstance(body, kinds.Reserve) else None
            with self._store.transaction():
                row = self._store.head_row()
                if row is None or row[:2] != (size, self._head.root):
                    raise LedgerError(
                        f"{self._store.name} was changed by another program while it was open",
                        hint="stop everything that uses it and run `tacit ledger verify`",
                    )
                self._store.append(size, content, nodes, head, key)
            self._state.apply(entry)
            self._entries.append(entry)
            self._head = head
            return entry

    def _check_signer(self, signer: Signer, previous: Verifier | None) -> None:
        head = self._head
        own = base64.b64encode(signer.sign(TREE_HEAD_CONTEXT, head.message())).decode()
        if own == head.signature:
            return
        if previous is None:
            raise LedgerError(
                f"the tree head of {self._store.name} was not signed by this site's identity",
                hint="use the identity it was made with; after a key rotation, give the previous certificate once",
            )
        head.verify(previous)
        self._append(
            kinds.KeyRotation(
                size=head.size,
                root=head.root,
                timestamp=head.timestamp,
                previous_signature=head.signature,
                new_signature=own,
            )
        )


def _check_fits(key: StepKey, value: float, limit: float, delta: float, what: str) -> None:
    if value > limit:
        raise BudgetExceeded(
            f"{key} would bring {what} to epsilon {value:.4g}; the limit is {limit:.4g} at delta {delta:g}",
            hint="use more noise, fewer steps or a smaller sample rate; a budget is raised by a new agreement only",
        )
