"""A coordinator's part in the key setup of an epoch: collect adverts and ciphertexts, check them, pass them on."""

from __future__ import annotations

from collections.abc import Sequence

from privacy.secagg.descriptor import StepDescriptor
from privacy.secagg.keys import Roster, setup_hash
from privacy.secagg.messages import Encapsulated, Established, KeyAdvert, Keys
from privacy.secagg.setup import check_advert, check_encapsulated
from tacit.errors import BadSignature


class CoordinatorSetup:
    """What sites sent in the setup. Everything is checked before anything changes.

    Args:
        descriptor: of the epoch's first step.
        roster: identities of the cohort.
    """

    def __init__(self, descriptor: StepDescriptor, roster: Roster) -> None:
        #: of the adverts that were passed on; empty before
        self.hash = b""
        self._descriptor = descriptor
        self._roster = roster
        self._adverts: dict[str, bytes] = {}
        self._advertised: tuple[str, ...] = ()
        #: by sender, by recipient
        self._encapsulations: dict[str, dict[str, bytes]] = {}

    def take_advert(self, site: str, message: KeyAdvert, frame: bytes) -> None:
        """Accept a site's keys.

        Raises:
            BadSignature, DescriptorMismatch, MalformedMessage: see :func:`check_advert`, or in another's name.
        """
        if message.name != site:
            raise BadSignature(f"{site} sent a key in the name of {message.name}", peer=site)
        check_advert(self._descriptor, self._roster, message)
        self._adverts[site] = frame

    def close_adverts(self, sites: Sequence[str]) -> Keys:
        """Return the keys of ``sites``, sorted, for all of them."""
        self._advertised = tuple(sites)
        adverts = {name: self._adverts[name] for name in sites}
        ctx = self._descriptor.epoch_ctx()
        self.hash = setup_hash(ctx, adverts)
        return Keys(ctx, self._descriptor.encode_epoch(), tuple(adverts.values()))

    def take_encapsulated(self, site: str, message: Encapsulated) -> None:
        """Accept a site's ciphertexts.

        Raises:
            BadSignature, DescriptorMismatch, MalformedMessage: see :func:`check_encapsulated`.
        """
        self._encapsulations[site] = check_encapsulated(
            self._descriptor, self._roster, self.hash, self._advertised, site, message
        )

    def close_keys(self, joined: tuple[str, ...]) -> dict[str, Established]:
        """Return for each of ``joined``, sorted, who joined and the ciphertexts made for it; forget them."""
        ctx = self._descriptor.epoch_ctx()
        established = {
            name: Established(
                ctx, joined, tuple(self._encapsulations[sender][name] for sender in joined if sender < name)
            )
            for name in joined
        }
        self._adverts, self._encapsulations = {}, {}
        return established
