"""Whom a run file wants simulated. Read without torch: what is missing is said at once, not after all is loaded."""

from __future__ import annotations

from privacy.agreement import Agreement, load_bundle
from server.run_spec import RunSpec, SimulationSection
from tacit.errors import ConfigError


def section_of(spec: RunSpec) -> SimulationSection:
    """Return the run file's ``[simulation]`` section.

    Raises:
        ConfigError: there is none, it names no agreement, or fewer than two sites.
    """
    section = spec.simulation
    if section is None or section.agreement is None or len(section.sites) < 2:
        raise ConfigError(
            "the run file names no simulated consortium",
            hint='add [simulation] with agreement = "..." and two or more [[simulation.sites]] with name and data',
        )
    return section


def draft_of(section: SimulationSection) -> Agreement:
    """Read the (draft) agreement that the section names.

    Raises:
        AgreementError: it cannot be read.
        ConfigError: its partners are not the section's sites.
    """
    assert section.agreement is not None
    draft = load_bundle(section.agreement).agreement
    named, agreed = {site.name for site in section.sites}, set(draft.partner_names())
    if named != agreed:
        raise ConfigError(
            f"[[simulation.sites]] names {', '.join(sorted(named))}, "
            f"the agreement's partners are {', '.join(sorted(agreed))}",
            hint="name each partner of the agreement once",
        )
    return draft
