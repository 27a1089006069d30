"""The honest sites of the model checker: real :class:`SiteMachine` s, addressed by what they did.

A site's condition is written down symbolically (:class:`Life`): its incarnation, its phase, the setup it is in and, in
order, what it sent. One real machine is kept for each life that was reached, and every move is made on a copy of it,
with real frames, and once: a machine is a function of its state and the frame. Two checks hold that together. A life
that is reached by two ways must be the same machine, byte for byte; and what was sent is read back from the real
frames, by the values in them.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from privacy.secagg import Ended, Keep, Ready, Send, SiteMachine, SitePhase, StepRecord, last_steps
from privacy.secagg.keys import LOCK_CONTEXT, setup_hash
from privacy.secagg.messages import (
    Announce,
    DeliveredParcel,
    Encapsulated,
    Established,
    Grant,
    KeyAdvert,
    Keys,
    Lock,
    LockRequest,
    Message,
    Offer,
    Outcome,
    Reveal,
    RevealRequest,
    Shares,
    SharesRequest,
    decode,
    lock_digest,
)
from privacy.secagg.parcels import Session
from privacy.secagg.shamir import SHARE_BYTES
from privacy.secagg.surplus import Contribution
from tacit.errors import IllegalEvent, ProtocolViolation, RepeatedStep
from tests.privacy.secagg.conftest import describe, freeze, identity

#: Symbols. A setup is whose adverts of which incarnation it holds; a session is a setup and who takes part.
Setup = frozenset[tuple[str, int]]
Sess = tuple[Setup, frozenset[str]]
#: Name and which hash: ``TRUE`` for the upload that site made in the session, or a made-up one.
Survivors = frozenset[tuple[str, str]]
Digest = tuple[Sess, Survivors]
Fact = tuple[Any, ...]
Move = tuple[Any, ...]

TRUE, FAKE, OTHER = "its upload", "a made-up hash", "another made-up hash"


class Life(NamedTuple):
    """A site, from its last start on."""

    incarnation: int
    phase: SitePhase
    setup: Setup | None
    #: what it sent, in order
    sent: tuple[Fact, ...]
    #: what it kept before it sent something: a crash cannot lose it
    kept: tuple[str, ...]
    #: dealers whose shares it holds
    rows: frozenset[str] = frozenset()

    @property
    def session(self) -> Sess | None:
        """The session of its last upload."""
        return next((fact[1] for fact in reversed(self.sent) if fact[0] == "upload"), None)

    @property
    def lock(self) -> Digest | None:
        """The lock it signed last."""
        return next((fact[1] for fact in reversed(self.sent) if fact[0] == "lock"), None)


class Sites:
    """A cohort after its setup, and everything its honest sites were ever brought to do.

    Args:
        n: sites.
        c: the last ``c`` of them, by name, are the adversary's. They come last so that they receive ciphertexts in a
            setup and make none.
        changes: of the descriptor.
    """

    def __init__(self, n: int, c: int, **changes: Any) -> None:
        self.descriptor = describe(n, collusion_bound=c, length=1, **changes)
        self.names = self.descriptor.cohort
        self.honest, self.colluders = self.names[: n - c], frozenset(self.names[n - c :])
        self.machine_runs = 0
        self._roster = {name: identity(name).public for name in self.names}
        self._machines: dict[tuple[str, Life], SiteMachine] = {}
        self._frozen: dict[tuple[str, Life], Any] = {}
        self._restarted: dict[str, Life] = {}
        self._records: dict[tuple[str, Life], list[StepRecord]] = {}
        self._results: dict[tuple[str, Life, Move], Life | None] = {}
        #: how a life was reached first
        self._ways: dict[tuple[str, Life], tuple[Life, Move]] = {}
        self._adverts: dict[tuple[str, int], bytes] = {}
        self._ciphertexts: dict[tuple[str, Setup], dict[str, bytes]] = {}
        self._offers: dict[tuple[str, Sess], Offer] = {}
        self._upload_hashes: dict[tuple[str, Sess], bytes] = {}
        self._digests: dict[Digest, bytes] = {}
        self._symbols: dict[bytes, Any] = {}
        self._drawn = 0
        self.first = self._set_up()

    # What the adversary may do to one site.

    def after(self, name: str, life: Life, move: Move) -> Life | None:
        """Return the life after a move, or None if the site is out after it, or as it was.

        A site that fails, ends its step or may not take it again sends nothing any more: it is out.
        """
        key = name, life, move
        if key not in self._results:
            self._results[key] = self._run(name, life, move)
            if self._results[key] is not None:
                self._ways.setdefault((name, self._results[key]), (life, move))
        return self._results[key]

    def rename(self, name: str, life: Life, names: Mapping[str, str]) -> Life:
        """Return what this life is when honest sites change places: a life of ``names[name]``, led when needed."""
        other = Life(*renamed(life, names))
        if (names[name], other) not in self._machines and (name, life) in self._ways:
            before, move = self._ways[name, life]
            self._ways.setdefault((names[name], other), (self.rename(name, before, names), renamed(move, names)))
        return other

    def _machine(self, name: str, life: Life) -> SiteMachine:
        if (name, life) not in self._machines:
            before, move = self._ways[name, life]
            assert self.after(name, before, move) == life, "honest sites are not interchangeable"
        return self._machines[name, life]

    def _run(self, name: str, life: Life, move: Move) -> Life | None:
        self.machine_runs += 1
        if move[0] == "restart":
            return self._restart(name, life)
        machine = self._copy(self._machine(name, life))
        try:
            effects = machine.receive(self._message(name, life, move).encode())
            setup = move[1] if move[0] == "keys" else life.setup
            if any(isinstance(effect, Ready) for effect in effects):
                effects += self._upload(name, machine, (setup, move[1]))
        except IllegalEvent:
            assert freeze(machine) == self._frozen[name, life], f"an illegal event changed {name}: {move}"
            return None
        except ProtocolViolation:
            assert machine.phase is SitePhase.FAILED
            return None
        if any(isinstance(effect, Ended) for effect in effects):
            assert not any(isinstance(effect, Send) for effect in effects)
            return None
        return self._remember(name, life, machine, effects, setup)

    def _restart(self, name: str, life: Life) -> Life | None:
        """Crash, and start again with nothing but what was kept."""
        if life.incarnation:
            return None
        try:
            machine = self._make(name, self._records[name, life])
        except RepeatedStep:
            return None
        born = Life(life.incarnation + 1, SitePhase.NEW, None, (), ())
        if (name, born) not in self._records:
            self._records[name, born] = []
            # whatever it did before, it starts the same
            self._restarted[name] = self._remember(name, born, machine, machine.start(), None)
        return self._restarted[name]

    def _upload(self, name: str, machine: SiteMachine, session: Sess) -> list[Any]:
        """Ready: train at once, be granted room at once. A coordinator that grants none gets no vector."""
        secrets = machine._step._secrets
        self._symbols[machine._step.session.hash] = session
        self._symbols[secrets.self_seed] = ("b", name, session)
        for peer, seed in secrets.pair_seeds.items():
            self._symbols[seed] = ("k", frozenset((name, peer)), session)
        effects = machine.upload(Contribution(np.ones(1, dtype=np.uint32)))
        return effects + machine.receive(Grant(self.descriptor.ctx()).encode())

    def _remember(self, name: str, life: Life, machine: SiteMachine, effects: list[Any], setup: Setup | None) -> Life:
        sent, kept, unsafe = list(life.sent), list(life.kept), []
        records = list(self._records[name, life])
        for effect in effects:
            if isinstance(effect, Keep):
                unsafe.append(effect.record)
            elif isinstance(effect, Send):
                # a record that is kept after the last frame is lost if the site crashes between the two
                records += unsafe
                kept += [record.sent for record in unsafe]
                unsafe = []
                sent += self._facts(name, life, decode(effect.frame), setup)
        locked = None if machine._step is None else machine._step._locked
        rows = frozenset(locked.rows if locked is not None else ())
        result = Life(life.incarnation, machine.phase, setup, tuple(sent), tuple(kept), rows)
        key = name, result
        frozen = freeze(machine)
        assert self._frozen.setdefault(key, frozen) == frozen, f"{result} does not tell all of {name}'s state"
        self._machines.setdefault(key, machine)
        self._records.setdefault(key, records)
        return result

    # Symbols and bytes.

    def _facts(self, name: str, life: Life, message: Message, setup: Setup | None) -> Iterable[Fact]:
        """What a frame says, in symbols, found by the values in it."""
        match message:
            case KeyAdvert():
                self._adverts[name, life.incarnation] = message.encode()
                yield ("advert", life.incarnation)
            case Encapsulated():
                frames = {decode(frame).recipient: frame for frame in message.frames}
                assert setup is not None
                self._ciphertexts[name, setup] = frames
                yield ("ciphertexts", setup)
            case Offer():
                session = self._symbols[message.session]
                assert self._offers.setdefault((name, session), message) == message
                yield ("upload", session)
            case Lock():
                assert len(message.signature) == 64
                self._roster[name].verify(LOCK_CONTEXT, message.digest, message.signature)
                yield ("lock", self._symbols[message.digest], frozenset(message.complaints))
            case Reveal():
                seeds = [message.self_seed, *(seed for _, seed in message.pair_seeds)]
                yield ("seeds", frozenset(self._symbols[seed] for seed in seeds))
            case Shares():
                (session, _) = self._symbols[message.digest]
                opened = set()
                for row in message.rows:
                    owners = [None, *sorted(session[1] - {row.dealer})]
                    for owner, entry in zip(owners, row.entries, strict=True):
                        if len(entry) == SHARE_BYTES:
                            opened.add((row.dealer, owner, session))
                yield ("shares", frozenset(opened))

    def _message(self, name: str, life: Life, move: Move) -> Message:
        descriptor, ctx = self.descriptor, self.descriptor.ctx()
        match move:
            case ("keys", setup):
                adverts = tuple(self._adverts[who] for who in sorted(setup))
                return Keys(descriptor.epoch_ctx(), descriptor.encode_epoch(), adverts)
            case ("established", setup):
                joined = tuple(sorted(who for who, _ in setup))
                lower = [who for who in joined if who < name]
                frames = tuple(self._ciphertexts[who, setup][name] for who in lower)
                return Established(descriptor.epoch_ctx(), joined, frames)
            case ("announce", participants):
                return Announce(ctx, descriptor.encode(), tuple(sorted(participants)))
            case ("lock", survivors, dealers):
                session = life.session
                assert session is not None
                self._digest((session, survivors))
                parcels = tuple(self._parcel(dealer, name, session) for dealer in sorted(dealers))
                return LockRequest(ctx, self._hashes(session, survivors), parcels)
            case ("reveal", digest, signatures):
                lock = self._digest(digest)
                signed = tuple((who, self._signature(who, kind, lock)) for who, kind in sorted(signatures))
                return RevealRequest(ctx, lock, signed)
            case ("shares", digest, dealers):
                return SharesRequest(ctx, self._digest(digest), tuple(sorted(dealers)))
            case ("outcome", survivors):
                return Outcome(ctx, tuple(sorted(survivors)), "" if survivors else "burnt, says a coordinator")
        raise AssertionError(move)

    def _hashes(self, session: Sess, survivors: Survivors) -> tuple[tuple[str, bytes], ...]:
        return tuple(
            (who, self._upload_hash(who, session) if kind == TRUE else hashlib.sha256(kind.encode()).digest())
            for who, kind in sorted(survivors)
        )

    def _digest(self, digest: Digest) -> bytes:
        session, survivors = digest
        if digest not in self._digests:
            adverts = {who: self._adverts[who, incarnation] for who, incarnation in session[0]}
            setup = setup_hash(self.descriptor.epoch_ctx(), adverts)
            hashed = Session.of(self.descriptor, setup, tuple(sorted(session[1]))).hash
            found = lock_digest(self.descriptor.ctx(), hashed, self._hashes(session, survivors))
            self._symbols[found], self._digests[digest] = digest, found
        return self._digests[digest]

    def _offer(self, name: str, session: Sess) -> Offer:
        if (name, session) not in self._offers:
            self.after(name, self.first[name], ("announce", session[1]))
        return self._offers[name, session]

    def _upload_hash(self, name: str, session: Sess) -> bytes:
        if (name, session) not in self._upload_hashes:
            self._upload_hashes[name, session] = self._offer(name, session).upload_hash()
        return self._upload_hashes[name, session]

    def _parcel(self, dealer: str, name: str, session: Sess) -> DeliveredParcel:
        (parcel,) = (parcel for parcel in self._offer(dealer, session).parcels if parcel.peer == name)
        return DeliveredParcel(dealer, parcel.row_digest, parcel.box)

    def _signature(self, who: str, kind: str, lock: bytes) -> bytes:
        """Ed25519 signatures are a function of key and message, so this is the very one the site sent."""
        if kind == "genuine":
            return identity(who).sign(LOCK_CONTEXT, lock)
        return identity(min(self.colluders)).sign(LOCK_CONTEXT, lock)

    # Machines.

    def _draw(self, size_bytes: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(f"model check {self._drawn}".encode()).digest(size_bytes)

    def _make(self, name: str, records: list[StepRecord]) -> SiteMachine:
        last = last_steps(records).get(self.descriptor.run_id, 0)
        return SiteMachine(name, identity(name), self._roster, self.descriptor, self._drawing, last_step=last)

    def _copy(self, machine: SiteMachine) -> SiteMachine:
        """Copy what can change and share the rest: :meth:`check_unchanged` tells if that is not all that can."""
        other = copy.copy(machine)
        other._chains = {peer: copy.copy(chain) for peer, chain in machine._chains.items()}
        other._chunks, other._total = machine._chunks.copy(), machine._total.copy()
        other._step, other._setup = copy.copy(machine._step), copy.copy(machine._setup)
        if other._setup is not None:
            other._setup._made = other._setup._made.copy()
        return other

    def check_unchanged(self) -> None:
        """Every machine that is kept is as it was when it was kept."""
        for key, machine in self._machines.items():
            assert freeze(machine) == self._frozen[key], f"moves on copies of {key} changed it"

    def _set_up(self) -> dict[str, Life]:
        """One honest setup of everybody: where the adversary begins."""
        self._drawing = self._draw  # one object, so that it is equal to itself in a frozen state
        setup: Setup = frozenset((name, 0) for name in self.names)
        lives: dict[str, Life] = {}
        for name in self.names:
            machine = self._make(name, [])
            born = Life(0, SitePhase.NEW, None, (), ())
            self._records[name, born] = []
            lives[name] = self._remember(name, born, machine, machine.start(), None)
        for step in ("keys", "established"):
            for name in self.names:
                life = self.after(name, lives[name], (step, setup))
                assert life is not None
                lives[name] = life
        assert all(life.phase is SitePhase.IDLE for life in lives.values())
        return {name: lives[name] for name in self.honest}


def renamed(thing: Any, names: Mapping[str, str]) -> Any:
    """Return symbols with the names in them changed."""
    if isinstance(thing, str):
        return names.get(thing, thing)
    if isinstance(thing, frozenset):
        return frozenset(renamed(one, names) for one in thing)
    if isinstance(thing, tuple):
        return tuple(renamed(one, names) for one in thing)
    return thing
