"""A picture of a recording as it would be used: all units at a glance, and some of them as traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forebrain import plotting
from forebrain.sessions.session import READER_NOTES, Session

_MAX_FRAMES = 2000
_MAX_UNITS = 400
_NUM_TRACES = 6


@plotting.style()
def draw_recording(session: Session, path: Path) -> Path:
    """Units as a heat map, each scaled by its own spread, and six of them as traces in the recording's units.

    The traces stand at even quantiles of how much a unit moves from frame to frame beside its spread: the
    smooth ones on top, noise below. Of long recordings the first 2,000 frames are shown.

    Args:
        session: after repair.
        path: a PNG file.
    """
    stop = min(session.num_frames, _MAX_FRAMES)
    units = np.unique(np.linspace(0, session.num_units - 1, min(session.num_units, _MAX_UNITS)).astype(int))
    frames = np.asarray(session.frames(0, stop), dtype=np.float64)[:, units]
    mean, spread = frames.mean(axis=0), frames.std(axis=0)
    spread = np.where(np.ptp(frames, axis=0) > 0, spread, 1)
    to_time, unit_of_time = plotting.time_scale(session.rate_hz)
    time = to_time(np.arange(stop))

    figure, grid = plotting.panels(10, 6.8, 2, 1, sharex=True, height_ratios=(3, 4))
    above, below = grid[:, 0]
    image = above.imshow(
        ((frames - mean) / spread).T,
        aspect="auto",
        cmap="RdBu_r",
        vmin=-2.5,
        vmax=2.5,
        extent=(time[0], to_time(stop), len(units), 0),
        interpolation="nearest",
    )
    above.set_yticks([])
    some = "" if len(units) == session.num_units else f"{len(units)} of "
    above.set_ylabel(f"{some}{session.num_units} units,\nin their own order")
    bar = figure.colorbar(image, ax=above, pad=0.015, extend="both")
    bar.set_label("standard deviations", fontsize=8.5)

    moves = np.abs(np.diff(frames, axis=0)).mean(axis=0) / spread
    ranked = np.argsort(-moves)
    shown = ranked[
        np.unique(np.linspace(0, len(ranked) - 1, min(_NUM_TRACES, len(ranked))).round().astype(int))
    ]
    for row, unit in enumerate(shown):
        trace = frames[:, unit]
        height = np.ptp(trace) or 1.0
        base = row - 0.4 - 0.8 * trace.min() / height
        below.plot(time, base + 0.8 * trace / height, color=plotting.INK, linewidth=0.8)
        plotting.scale_bar(below, 1.008, row - 0.4, 0.8, f"{height:.2g}")
    names = session.unit_names or [f"unit {unit}" for unit in range(session.num_units)]
    below.set_yticks(range(len(shown)), [names[units[unit]] for unit in shown])
    below.tick_params(axis="y", length=0)
    below.spines["left"].set_visible(False)
    below.set_xlim(time[0], float(to_time(stop)))
    for start, _ in session.segments[1:]:
        if start < stop:
            below.axvline(float(to_time(start)), color=plotting.MUTED, linewidth=0.7, linestyle=":")
    below.set_xlabel(f"time in the recording ({unit_of_time}); dotted: where segments begin")
    array = session.metadata.get("variable")
    told = [f"array: {array}"] if array else []
    told += [session.metadata[name] for name in READER_NOTES if name in session.metadata]
    rate = "rate unknown" if session.rate_hz is None else f"{session.rate_hz:.4g} Hz"
    plotting.title(
        above,
        f"{session.id}: {session.num_frames} frames of {session.num_units} units, {rate}",
        "; ".join([each for each in (session.species, session.signal) if each != "unknown"] + told)[:150],
    )
    below.set_title("some of them, smooth ones on top; bars: the range of each, in the recording's units")
    return plotting.save(figure, path)
