"""Whether adapting was worth it, in a few plain sentences: how large a difference is, not only how sure.

First comes what makes all else doubtful: a backbone of another species or rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from forebrain.adaptation.score import Lead
from forebrain.sessions.preprocessing import rates_agree

# Of a score; no experiment notices a smaller difference.
MATTERS = 0.01


def judge(lead: Lead, own: float, other: float, what: str, instead: str, is_simpler: bool) -> str:
    """A sentence on whether something was worth it.

    Args:
        lead: of it over the best of all else.
        own, other: the two scores.
        what: it is, such as "Adapting".
        instead: how to have the other.
        is_simpler: whether the other takes less.
    """
    figures = f"it scores {own:.3f} on the test part; the best of all else, {lead.over}, {other:.3f}"
    if not math.isfinite(lead.low):
        if lead.score <= 0:
            return f"{what} was not worth it: {figures}. Use {instead}."
        return f"{what} helped, though there are too few windows to be sure: {figures}."
    ahead = "ahead" if lead.score >= 0 else "behind"
    told = f"{abs(lead.score):.3f} {ahead}, 95 % interval {lead.low:.3f} to {lead.high:.3f}"
    if abs(lead.score) < MATTERS:
        simpler = f" What is simpler does as well: {instead}." if is_simpler else ""
        return f"{what} made no difference that matters: {figures} ({told}).{simpler}"
    if lead.score < 0:
        sure = "was not worth it" if lead.high <= 0 else "does not seem worth it"
        return f"{what} {sure}: {figures} ({told}). Use {instead}."
    if lead.low <= 0:
        return f"{what} helped, though chance may have done it: {figures} ({told})."
    size = "a little" if lead.score < 3 * MATTERS else ""
    return f"{what} was worth it{f', {size}' if size else ''}: {figures} ({told})."


def beside_linear(backbone: float, linear: float) -> str:
    """A sentence where a backbone does no better than one linear map; empty where it does.

    Args:
        backbone, linear: scores.
    """
    if not math.isfinite(backbone) or backbone - linear >= MATTERS:
        return ""
    does = "does worse than" if backbone - linear <= -MATTERS else "hardly beats"
    return f"The backbone by itself {does} linear, which needs none ({backbone:.3f} and {linear:.3f})."


def how_far(
    species: str, rate_hz: float | None, known_species: Sequence[str], known_rates_hz: Sequence[float]
) -> str:
    """Sentences on a recording of another species or rate than a backbone was trained on; empty for none.

    Args:
        species, rate_hz: of the recording as it was recorded.
        known_species, known_rates_hz: of the backbone's own recordings.
    """
    return " ".join(_differences(species, rate_hz, known_species, known_rates_hz))


def _differences(
    species: str, rate_hz: float | None, known_species: Sequence[str], known_rates_hz: Sequence[float]
) -> Iterator[str]:
    if known_species and species != "unknown" and species not in known_species:
        yield (
            f"Another species: the backbone was trained on {', '.join(sorted(known_species))}, this "
            f"recording is of {species}."
        )
    if rate_hz is None or not known_rates_hz or any(rates_agree(rate_hz, rate) for rate in known_rates_hz):
        return
    low, high = f"{min(known_rates_hz):.3g}", f"{max(known_rates_hz):.3g}"
    at = low if low == high else f"{low} to {high}"
    yield f"Another rate: the backbone was trained at {at} Hz, this recording has {rate_hz:.3g} Hz."
