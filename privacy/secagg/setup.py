"""Key setup of a session: adverts made, checked against the roster, and agreed from.

A site's X25519 key lives for one setup. Its advert is signed by the site's identity and names run, epoch,
site and ctx, so a coordinator can neither substitute a key nor replay one from another step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from privacy.secagg.descriptor import StepDescriptor
from privacy.secagg.keys import (
    ADVERT_CONTEXT,
    EphemeralKey,
    PairRoot,
    Roster,
    Signer,
    pair_transcript,
    verify,
)
from privacy.secagg.messages import KeyAdvert, decode
from tacit.errors import BadSignature, DescriptorMismatch, MalformedMessage

#: Any private key shows whether a public one is of small order.
_PROBE = EphemeralKey(bytes(32))


def make_advert(descriptor: StepDescriptor, name: str, public_key: bytes, signer: Signer) -> bytes:
    """Return the signed frame that advertises ``public_key``."""
    unsigned = KeyAdvert(
        ctx=descriptor.ctx(),
        run_id=bytes.fromhex(descriptor.run_id),
        epoch=descriptor.epoch,
        name=name,
        public_key=public_key,
        signature=b"",
    ).signed_part()
    return unsigned + signer.sign(ADVERT_CONTEXT, unsigned)


def check_advert(descriptor: StepDescriptor, roster: Roster, advert: KeyAdvert) -> None:
    """Accept an advert only if its site signed it for this run, epoch and step, with a usable key.

    Raises:
        DescriptorMismatch: the site is not in the cohort, or the advert was made for another step.
        BadSignature: the roster's identity did not sign it.
        MalformedMessage: a key of small order. Every error names the site.
    """
    name = advert.name
    if name not in descriptor.cohort:
        raise DescriptorMismatch(f"a key of {name} was sent, which is not in the cohort", peer=name)
    verify(roster, name, ADVERT_CONTEXT, advert.signed_part(), advert.signature)
    expected = (descriptor.ctx(), bytes.fromhex(descriptor.run_id), descriptor.epoch)
    if (advert.ctx, advert.run_id, advert.epoch) != expected:
        raise DescriptorMismatch(
            f"{name}'s key was made for another run, epoch or step",
            peer=name,
            hint=f"an old setup was replayed, or {name} was given another order",
        )
    try:
        _PROBE.agree(advert.public_key)
    except MalformedMessage as error:
        raise MalformedMessage(f"{name}: {error.message}", peer=name) from error


def check_setup(
    descriptor: StepDescriptor, roster: Roster, frames: Sequence[bytes], name: str, own_frame: bytes
) -> dict[str, bytes]:
    """Check everything a coordinator relayed; return the advert frame of each joined site.

    Args:
        frames: the relayed adverts.
        name: this site.
        own_frame: the advert this site sent for this session.

    Raises:
        MalformedMessage: not adverts, or not sorted by name.
        BadSignature: a substituted key, or this site's own is missing, old or changed.
        DescriptorMismatch: an advert of another step, or of a site outside the cohort.
    """
    adverts: dict[str, bytes] = {}
    for frame in frames:
        advert = decode(frame)
        if not isinstance(advert, KeyAdvert):
            raise MalformedMessage("the announcement relays something that is not a key advert")
        if adverts and advert.name <= max(adverts):
            raise MalformedMessage("the relayed adverts are not sorted by name, or one is repeated")
        check_advert(descriptor, roster, advert)
        adverts[advert.name] = frame
    if adverts.get(name) != own_frame:
        raise BadSignature(
            f"the setup does not relay the key {name} drew for this session: it is missing, old or changed",
            peer=name,
        )
    return adverts


def agree(key: EphemeralKey, ctx: bytes, name: str, adverts: Mapping[str, bytes]) -> dict[str, PairRoot]:
    """Return the pair root this site shares with each other one of ``adverts`` (checked), by name."""
    roots = {}
    for peer, frame in adverts.items():
        advert = decode(frame)
        if peer != name and isinstance(advert, KeyAdvert):
            roots[peer] = PairRoot(key.agree(advert.public_key), pair_transcript(ctx, adverts, name, peer))
    return roots
