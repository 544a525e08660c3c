"""Which published backbone suits a recording: one of its species and rate, else the nearest, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from forebrain.adaptation.origin import newest_published
from forebrain.errors import AdaptationError
from forebrain.sessions.preprocessing import rates_agree
from forebrain.sessions.session import Session
from forebrain_registry import Version


@dataclass(frozen=True)
class Choice:
    """A backbone for a recording.

    Attributes:
        version: the one that was chosen.
        registry: the address of the registry that it is in, see `open_registry`.
        why: it was chosen, a sentence.
    """

    version: Version = field(repr=False)
    registry: str
    why: str

    @property
    def reference(self) -> str:
        """`name@sha256:...`, which is this very version, whatever has its name elsewhere."""
        return f"{self.version.name}@sha256:{self.version.digest}"


def choose_model(session: Session, registry: str | os.PathLike[str] | None = None) -> Choice:
    """The published backbone that is nearest to a recording.

    One that was trained on the species is preferred to others, then one that was trained at the rate, then
    one of fewer species (of more, where none knows the species), then one of the given registry to those that
    come with the package.

    Args:
        session: as it was recorded.
        registry: see `places_to_look`.

    Raises:
        AdaptationError: nothing is published, there is no registry at the address that is given, or it cannot
            be read.
    """
    found = newest_published(registry)
    if not found:
        raise AdaptationError(
            "no backbone is known to choose from. Give --model, or the registry that has some (--registry "
            "URI)."
        )
    chosen, address = min(found, key=lambda each: _distance(each[0], session))
    return Choice(chosen, address, _why(chosen, address, session))


def _distance(version: Version, session: Session) -> tuple[bool, bool, int]:
    species = version.metadata.species
    is_known = session.species in species
    return not is_known, not _at_rate(version, session), len(species) if is_known else -len(species)


def _at_rate(version: Version, session: Session) -> bool:
    rates_hz = version.metadata.rates_hz
    return not rates_hz or any(rates_agree(session.rate_hz, rate) for rate in rates_hz)


def _why(version: Version, address: str, session: Session) -> str:
    metadata = version.metadata
    known = ", ".join(metadata.species) or "unknown species"
    rates = ", ".join(dict.fromkeys(f"{rate:.4g}" for rate in metadata.rates_hz)) or "unknown"
    own = "of unknown rate" if session.rate_hz is None else f"at {session.rate_hz:.4g} Hz"
    why = f"it was trained on {known} at {rates} Hz, the recording is {own}"
    if session.species in metadata.species:
        return f"{version} of {address} was chosen: {why}."
    unknown = f"though no backbone of {session.species} is known, so expect less of it"
    return f"{version} of {address} was chosen, {unknown}: {why}."
