"""Key setup of an epoch: keys advertised, checked against the roster, agreed from, and turned into chains.

A site's X25519 and ML-KEM keys live for one setup. Advert and encapsulations are signed by the site's identity and
name the epoch; encapsulations also name the whole set of adverts they were made under. So a coordinator can neither
substitute a key or a ciphertext, nor replay one, nor show different sites different keys.
"""

from __future__ import annotations

from collections.abc import Sequence

from privacy.secagg.descriptor import StepDescriptor
from privacy.secagg.keys import (
    ADVERT_CONTEXT,
    ENCAPSULATION_CONTEXT,
    KEM_SEED_BYTES,
    KEY_BYTES,
    HybridKey,
    PairChain,
    Roster,
    Signer,
    encapsulate,
    pair_transcript,
    setup_hash,
    verify,
)
from privacy.secagg.messages import Encapsulated, Encapsulation, Established, KeyAdvert, decode
from tacit.errors import BadSignature, DescriptorMismatch, MalformedMessage

#: Any private key shows whether a public one is of small order.
_PROBE = HybridKey(bytes(KEY_BYTES + KEM_SEED_BYTES))


def make_advert(descriptor: StepDescriptor, name: str, key: HybridKey, signer: Signer) -> bytes:
    """Return the signed frame that advertises ``key`` for the descriptor's epoch."""
    unsigned = KeyAdvert(
        ctx=descriptor.epoch_ctx(),
        name=name,
        public_key=key.public_bytes,
        kem_public_key=key.kem_public_bytes,
        signature=b"",
    ).signed_part()
    return unsigned + signer.sign(ADVERT_CONTEXT, unsigned)


def check_advert(descriptor: StepDescriptor, roster: Roster, advert: KeyAdvert) -> None:
    """Accept an advert only if its site signed it for this epoch, with usable keys.

    Raises:
        DescriptorMismatch: the site is not in the cohort, or the advert was made for another epoch.
        BadSignature: the roster's identity did not sign it.
        MalformedMessage: an X25519 key of small order or no ML-KEM key. Every error names the site.
    """
    name = advert.name
    if name not in descriptor.cohort:
        raise DescriptorMismatch(f"a key of {name} was sent, which is not in the cohort", peer=name)
    verify(roster, name, ADVERT_CONTEXT, advert.signed_part(), advert.signature)
    if advert.ctx != descriptor.epoch_ctx():
        raise DescriptorMismatch(
            f"{name}'s key was made for another run, epoch or order",
            peer=name,
            hint=f"an old setup was replayed, or {name} was given another order",
        )
    try:
        _PROBE.agree(advert.public_key)
        encapsulate(advert.kem_public_key)
    except MalformedMessage as error:
        raise MalformedMessage(f"{name}: {error.message}", peer=name) from error


class Setup:
    """One site's view of the keys of an epoch, checked.

    Args:
        descriptor: of the epoch's first step.
        roster: every site of the cohort and its pinned identity.
        frames: the adverts a coordinator relayed.
        name: this site.
        own_frame: the advert this site sent for this setup.

    Raises:
        MalformedMessage: not adverts, or not sorted by name.
        BadSignature: a substituted key, or this site's own is missing, old or changed.
        DescriptorMismatch: an advert of another epoch, or of a site outside the cohort.
    """

    def __init__(
        self, descriptor: StepDescriptor, roster: Roster, frames: Sequence[bytes], name: str, own_frame: bytes
    ) -> None:
        self.adverts: dict[str, bytes] = {}
        self._parsed: dict[str, KeyAdvert] = {}
        for frame in frames:
            advert = decode(frame)
            if not isinstance(advert, KeyAdvert):
                raise MalformedMessage("the coordinator relays something that is not a key advert")
            if self.adverts and advert.name <= max(self.adverts):
                raise MalformedMessage("the relayed adverts are not sorted by name, or one is repeated")
            check_advert(descriptor, roster, advert)
            self.adverts[advert.name] = frame
            self._parsed[advert.name] = advert
        if self.adverts.get(name) != own_frame:
            raise BadSignature(
                f"the setup does not relay the key {name} drew for this session: it is missing, old or changed",
                peer=name,
            )
        self._descriptor = descriptor
        self._roster = roster
        self._name = name
        self._epoch_ctx = descriptor.epoch_ctx()
        self.hash = setup_hash(self._epoch_ctx, self.adverts)
        self._made: dict[str, tuple[bytes, bytes]] = {}

    def encapsulated(self, signer: Signer) -> bytes:
        """Make a secret for every peer behind this site in the order of names; return the frame that carries them."""
        for recipient, advert in self._parsed.items():
            if recipient > self._name:
                secret, ciphertext = encapsulate(advert.kem_public_key)
                unsigned = Encapsulation(
                    self._epoch_ctx, self.hash, self._name, recipient, ciphertext, b""
                ).signed_part()
                self._made[recipient] = secret, unsigned + signer.sign(ENCAPSULATION_CONTEXT, unsigned)
        return Encapsulated(self._epoch_ctx, tuple(frame for _, frame in self._made.values())).encode()

    def chains(self, key: HybridKey, established: Established) -> dict[str, PairChain]:
        """Check what the coordinator relayed and return the chain this site shares with each other one that joined.

        Raises:
            DescriptorMismatch: sites that advertised no key, or a ciphertext for another site or setup.
            MalformedMessage: other ciphertexts than one from each site before this one.
            BadSignature: a ciphertext that its sender did not sign.
        """
        strangers = [name for name in established.joined if name not in self.adverts]
        if strangers or self._name not in established.joined:
            raise DescriptorMismatch(
                f"the setup was closed with {', '.join(established.joined)}; {self._name} was shown the keys of "
                f"{', '.join(self.adverts)}",
                peer=strangers[0] if strangers else None,
            )
        received = self._received(established)
        chains = {}
        for peer in established.joined:
            if peer == self._name:
                continue
            if peer > self._name:
                kem_secret, frame = self._made[peer]
            else:
                encapsulation, frame = received[peer]
                kem_secret = key.decapsulate(encapsulation.ciphertext)
            secret = key.agree(self._parsed[peer].public_key) + kem_secret
            transcript = pair_transcript(self._epoch_ctx, self.adverts, self._name, peer, frame)
            chains[peer] = PairChain(secret, transcript, self._descriptor.first_step)
        self._made.clear()
        return chains

    def _received(self, established: Established) -> dict[str, tuple[Encapsulation, bytes]]:
        expected = [name for name in established.joined if name < self._name]
        if len(established.encapsulations) != len(expected):
            raise MalformedMessage(
                f"{len(established.encapsulations)} ciphertexts were relayed; expected one from each of "
                f"{len(expected)} sites"
            )
        received = {}
        for sender, frame in zip(expected, established.encapsulations, strict=True):
            found = check_encapsulation(self._descriptor, self._roster, sender, frame)
            if found.recipient != self._name or found.setup != self.hash:
                raise DescriptorMismatch(
                    f"{sender}'s ciphertext was made for another site or under other keys",
                    peer=sender,
                    hint="the coordinator showed sites different keys, or mixed two setups",
                )
            received[sender] = found, frame
        return received


def check_encapsulation(descriptor: StepDescriptor, roster: Roster, sender: str, frame: bytes) -> Encapsulation:
    """Accept a ciphertext only if ``sender`` signed it for this epoch.

    Raises:
        MalformedMessage: not an encapsulation.
        BadSignature: the roster's identity did not sign it, or it names another sender.
        DescriptorMismatch: it was made for another epoch. Every error names the sender.
    """
    try:
        found = decode(frame)
    except MalformedMessage as error:
        raise MalformedMessage(f"{sender}: {error.message}", peer=sender) from error
    if not isinstance(found, Encapsulation):
        raise MalformedMessage(f"{sender} sent something that is not an encapsulation", peer=sender)
    if found.sender != sender:
        raise BadSignature(f"{sender} sent a ciphertext in the name of {found.sender}", peer=sender)
    verify(roster, sender, ENCAPSULATION_CONTEXT, found.signed_part(), found.signature)
    if found.ctx != descriptor.epoch_ctx():
        raise DescriptorMismatch(f"{sender}'s ciphertext was made for another epoch", peer=sender)
    return found


def check_encapsulated(
    descriptor: StepDescriptor, roster: Roster, setup: bytes, advertised: Sequence[str], sender: str, sent: Encapsulated
) -> dict[str, bytes]:
    """At the coordinator: return the frames ``sender`` made, by recipient.

    Args:
        setup: :func:`privacy.secagg.keys.setup_hash` of the adverts that were relayed.
        advertised: the sites whose adverts were relayed, sorted.

    Raises:
        MalformedMessage: not one for each site behind the sender, in the order of names.
        BadSignature, DescriptorMismatch: as :func:`check_encapsulation`, or made under other keys.
    """
    recipients = [name for name in advertised if name > sender]
    if len(sent.frames) != len(recipients):
        raise MalformedMessage(
            f"{sender} sent {len(sent.frames)} ciphertexts; expected one for each of {len(recipients)} sites",
            peer=sender,
        )
    frames = {}
    for recipient, frame in zip(recipients, sent.frames, strict=True):
        found = check_encapsulation(descriptor, roster, sender, frame)
        if found.recipient != recipient or found.setup != setup:
            raise DescriptorMismatch(f"{sender} made a ciphertext for another site or under other keys", peer=sender)
        frames[recipient] = frame
    return frames
