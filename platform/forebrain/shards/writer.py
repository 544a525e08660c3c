"""Writes one prepared session: tars of long stretches, the arrays of its fits, and last its entry.

Frames are read once (where stretches overlap, twice), a few MiB at a time; statistics are gathered on the
way.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy

from forebrain.errors import RecordingError
from forebrain.scoring.protocols import fit_ranges, intersect, protocols_for
from forebrain.sessions.frames import PIECE_BYTES
from forebrain.sessions.report import Finding, RecordingReport
from forebrain.sessions.session import Numbers, NumbersDigest, Range, Session
from forebrain.shards.fits import Fit, Moments, fit_components, scale_of
from forebrain.shards.index import (
    BEHAVIOUR,
    STIMULUS,
    TRACES,
    SessionEntry,
    Shard,
    Source,
    Stretch,
    arrays_name,
    entry_name,
    pages_array,
    runs_of,
    shard_name,
    to_json,
)
from forebrain.shards.options import PrepareConfig
from forebrain.shards.pages import FLOAT_BYTES, PageShape, page_shape
from forebrain.shards.tar import TarWriter
from forebrain_registry.storage import Folder

MIN_WINDOWS_PER_STRETCH = 4  # at least so many longest windows, so that at most a third is stored twice


def write_session(
    session: Session, report: RecordingReport, source: Source, storage: Folder, config: PrepareConfig
) -> SessionEntry:
    """Writes a repaired session and returns its entry.

    The entry is written last, and one that was there is removed first: a session whose entry exists is whole.

    Raises:
        RecordingError: the recording is too short, or cannot be read on the way. No entry is left.
    """
    if session.num_frames < 2:
        raise RecordingError(
            f"session {session.id}: {session.num_frames} frame remains; expected at least 2."
        )
    storage.remove(entry_name(session.key))
    entry = _write_files(session, report, source, storage, config)
    storage.write(entry.name, entry.to_bytes())
    return entry


def _write_files(
    session: Session, report: RecordingReport, source: Source, storage: Folder, config: PrepareConfig
) -> SessionEntry:
    """Writes all of a session but its entry, which is returned."""
    segments = session.segments
    fitted_on = {
        protocol: fit_ranges(protocol, session.num_frames, segments)
        for protocol in protocols_for(session.num_frames)
    }
    frames = _Frames(session, fitted_on)
    shapes = {
        name: page_shape(num_channels, config.max_window, config.page_bytes)
        for name, num_channels in _channels(session).items()
    }
    checksums: dict[str, list[int]] = {name: [] for name in shapes}
    shards: list[Shard] = []
    stretches: list[Stretch] = []
    for ranges in plan_stretches(session.num_units, segments, config):
        name = shard_name(session.key, len(shards))
        with storage.file_to_fill(name) as path:
            size, sha256, written = _write_shard(
                path, frames, ranges, shapes, checksums, len(shards), len(stretches)
            )
        shards.append(Shard(name, size, sha256))
        stretches += written

    arrays, findings = _arrays(frames, fitted_on, config.pca)
    arrays |= {pages_array(name): np.array(values, "<u4") for name, values in checksums.items()}
    arrays_bytes = safetensors.numpy.save(arrays)
    storage.write(arrays_name(session.key), arrays_bytes)
    return SessionEntry(
        id=session.id,
        key=session.key,
        dataset=session.dataset,
        subject=session.subject,
        session=session.session,
        species=session.species,
        signal=session.signal,
        rate_hz=session.rate_hz,
        num_frames=session.num_frames,
        num_units=session.num_units,
        segments=tuple(segments),
        stimulus_names=session.stimulus_names,
        behaviour_names=session.behaviour_names,
        metadata=dict(session.metadata),
        report=report.and_also(findings),
        fits={protocol: tuple(ranges) for protocol, ranges in fitted_on.items()},
        pages=shapes,
        shards=tuple(shards),
        stretches=tuple(stretches),
        arrays_sha256=hashlib.sha256(arrays_bytes).hexdigest(),
        source=source,
        options_sha256=config.sha256,
        conditions={name: tuple(ranges) for name, ranges in session.condition_ranges.items()},
        persistence={protocol: moments.persistence for protocol, moments in frames.moments.items()},
        input_kinds={each.name: each.kind for each in session.inputs},
        input_units=dict(session.input_units),
        split=runs_of(session.split),
        repetition=runs_of(session.repetition),
        arrays_size=len(arrays_bytes),
        numbers_sha256=frames.numbers.whole,
        start_sha256=frames.numbers.start,
    )


def plan_stretches(num_units: int, segments: list[Range], config: PrepareConfig) -> Iterator[list[Range]]:
    """The stretches of each tar, as frame ranges.

    A stretch overlaps the next one of its segment by max_window - 1 frames, so that every window of at
    most max_window frames lies within one stretch.
    """
    frame_bytes = 4 * num_units
    overlap = config.max_window - 1
    length = max(config.stretch_bytes // frame_bytes, MIN_WINDOWS_PER_STRETCH * config.max_window)
    planned: list[Range] = []
    for segment_start, segment_stop in segments:
        last_start = max(segment_start, segment_stop - overlap - 1)
        for start in range(segment_start, last_start + 1, length - overlap):
            stretch = (start, min(start + length, segment_stop))
            size = sum(stop - begin for begin, stop in [*planned, stretch]) * frame_bytes
            if planned and size > config.shard_bytes:
                yield planned
                planned = []
            planned.append(stretch)
    yield planned


class _Frames:
    """Reads a session's frames for writing, and gathers the statistics of those not seen before."""

    def __init__(self, session: Session, fitted_on: Mapping[str, list[Range]]) -> None:
        self.session = session
        self.moments = {protocol: Moments(session.num_units) for protocol in fitted_on}
        self._fitted_on = fitted_on
        self._num_seen = 0
        self._digest = NumbersDigest(session)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop), little-endian float32; calls come in the order of `start`."""
        frames = self.session.frames(start, stop)
        for protocol, ranges in self._fitted_on.items():
            for low, high in intersect([(max(start, self._num_seen), stop)], ranges):
                self.moments[protocol].add(frames[low - start : high - start])
        self._digest.add(frames[max(0, self._num_seen - start) :])
        self._num_seen = max(self._num_seen, stop)
        return frames.astype("<f4", copy=False)

    @property
    def numbers(self) -> Numbers:
        """Of all frames, once they were read."""
        return self._digest.numbers

    def pieces(self, name: str, start: int, stop: int, shape: PageShape) -> Iterator[np.ndarray]:
        """Frames [start, stop) of a member in pieces of whole rows of pages, a few MiB each."""
        step = shape.frames * max(1, PIECE_BYTES // (FLOAT_BYTES * shape.num_channels * shape.frames))
        for low in range(start, stop, step):
            high = min(low + step, stop)
            yield self.read(low, high) if name == TRACES else _float32(getattr(self.session, name)[low:high])


def _channels(session: Session) -> dict[str, int]:
    """Channels of each member that is read back in pages."""
    channels = {TRACES: session.num_units}
    for name, values in ((STIMULUS, session.stimulus), (BEHAVIOUR, session.behaviour)):
        if values is not None and values.shape[1]:
            channels[name] = values.shape[1]
    return channels


def _write_shard(
    path: Path,
    frames: _Frames,
    ranges: list[Range],
    shapes: Mapping[str, PageShape],
    checksums: Mapping[str, list[int]],
    shard: int,
    first_sample: int,
) -> tuple[int, str, list[Stretch]]:
    """Writes one tar and returns its size, its sha256 and its stretches; checksums of pages are appended."""
    session = frames.session
    stretches = []
    # What is written in large pieces lies in large pieces in memory, too, and is read faster from there.
    with path.open("wb", buffering=PIECE_BYTES) as stream:
        tar = TarWriter(stream)
        for number, (start, stop) in enumerate(ranges, first_sample):
            key = f"{session.key}-{number:06d}"
            header = to_json(
                {
                    "session": session.id,
                    "start": start,
                    "num_frames": stop - start,
                    "num_units": session.num_units,
                    "rate_hz": session.rate_hz,
                    "pages": {
                        name: {"frames": each.frames, "edges": each.edges} for name, each in shapes.items()
                    },
                }
            )
            tar.add(f"{key}.json", len(header), [header])
            offsets = {}
            for name, shape in shapes.items():
                pieces = frames.pieces(name, start, stop, shape)
                size = FLOAT_BYTES * shape.num_channels * (stop - start)
                offsets[name] = tar.add(
                    f"{key}.{_suffix(name, shape)}", size, _in_pages(pieces, shape, checksums[name])
                )
            if session.time_s is not None:
                data = np.ascontiguousarray(session.time_s[start:stop], "<f8").tobytes()
                tar.add(f"{key}.time.f64", len(data), [data])
            stretches.append(Stretch(shard, key, start, stop - start, offsets))
        sha256 = tar.finish()
    return tar.size, sha256, stretches


def _suffix(name: str, shape: PageShape) -> str:
    """The suffix of a member: `traces.f32` is the plain array, `traces.pages.f32` has several pages a row."""
    return f"{name}.f32" if shape.pages_a_row == 1 else f"{name}.pages.f32"


def _in_pages(pieces: Iterable[np.ndarray], shape: PageShape, crc32: list[int]) -> Iterator[memoryview]:
    """The bytes of pieces of whole rows [t, channels], page after page; their checksums are appended."""
    for piece in pieces:
        for first in range(0, len(piece), shape.frames):
            row = piece[first : first + shape.frames]
            for low, high in itertools.pairwise(shape.edges):
                page = np.ascontiguousarray(row[:, low:high])
                crc32.append(zlib.crc32(page.data))
                yield page.data.cast("B")


def _arrays(
    frames: _Frames, fitted_on: Mapping[str, list[Range]], pca: int | None
) -> tuple[dict[str, np.ndarray], list[Finding]]:
    """The arrays of the session's safetensors file, and what to report about them."""
    session = frames.session
    arrays: dict[str, np.ndarray] = {}
    findings = []
    for protocol, moments in frames.moments.items():
        fit = Fit(moments.mean.astype(np.float32), scale_of(protocol, moments.std).astype(np.float32))
        if pca is not None:
            components, spread = fit_components(session.traces, fitted_on[protocol], fit, pca)
            fit = replace(fit, components=components, component_scale=spread)
            if fit.num_outputs < pca:
                words = f"{pca} components asked for, but the frames span {fit.num_outputs} ({protocol})"
                findings.append(Finding("few_components", "kept", words, fit.num_outputs))
        arrays |= {f"{protocol}.{name}": value for name, value in vars(fit).items() if value is not None}
    if session.unit_positions is not None:
        arrays["unit_positions"] = np.ascontiguousarray(session.unit_positions, np.float32)
    for name in ("unit_names", "brain_regions"):
        if (names := getattr(session, name)) is not None:
            arrays[name] = np.frombuffer(to_json(names), np.uint8)
    return arrays, findings


def _float32(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, "<f4")
