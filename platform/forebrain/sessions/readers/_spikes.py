"""Spike times: counted in bins of a width that the sidecar states, never guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._common import check_size, make_session
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

_CHOICES_S = [0.01, 0.02, 0.05, 0.1]


def ask_bin(path: Path, name: str, num_units: int) -> NoReturn:
    """Raises the question in which bins spike times are to be counted."""
    raise RecordingQuestion(
        f"{path}: holds no matrix, but {num_units} vectors of different lengths in {name}, like spike times. "
        f"State "
        "bin_s, a bin's width in seconds, in the sidecar to count them.",
        {"bin_s": _CHOICES_S},
    )


def binned(
    path: Path,
    sidecar: Sidecar,
    times_s: Sequence[np.ndarray],
    *,
    start_s: float | None = None,
    metadata: Mapping[str, str] | None = None,
    **fields: Any,
) -> Session:
    """Counts of events in bins from the first event, or `start_s`, on; a last, incomplete bin is left out.

    Args:
        times_s: of each unit.

    Raises:
        RecordingQuestion: no width of the bins is stated.
        RecordingError: there is no event, less than a bin of them, or more bins than memory should hold.
    """
    bin_s = sidecar.spike_bin_s
    if bin_s is None:
        raise RecordingQuestion(
            f"{path}: holds spike times of {len(times_s)} units. State bin_s, a bin's width in seconds, or "
            f"rate_hz, "
            "bins a second, in the sidecar to count them.",
            {"bin_s": _CHOICES_S},
        )
    filled = [times for times in times_s if len(times)]
    if not filled:
        raise RecordingError(f"{path}: holds spike times of {len(times_s)} units, but not one spike.")
    if not all(np.isfinite(times).all() for times in filled):
        raise RecordingError(f"{path}: spike times are not finite. Export them again.")
    first = min(float(times.min()) for times in filled) if start_s is None else start_s
    last = max(float(times.max()) for times in filled)
    num_bins = int(np.floor((last - first) / bin_s + 1e-9))
    check_size(4 * num_bins * len(times_s), path)
    if num_bins < 1:
        raise RecordingError(
            f"{path}: the spikes span {last - first:.4g} s, less than one bin of {bin_s:g} s."
        )
    edges = first + bin_s * np.arange(num_bins + 1)
    counts = np.zeros((num_bins, len(times_s)), np.float32)
    for unit, times in enumerate(times_s):
        counts[:, unit] = np.histogram(times[times < edges[-1]], edges)[0]
    notes = {"bins_note": f"events counted in bins of {bin_s:g} s", "rate_from": f"bins of {bin_s:g} s"}
    return make_session(
        path,
        sidecar,
        counts,
        rate_hz=1 / bin_s,
        signal="spike_counts",
        time_s=edges[:-1],
        metadata={**(metadata or {}), **notes},
        **fields,
    )
