"""suite2p: a folder with F.npy or spks.npy, and with Fneu.npy and iscell.npy where they were kept; or
Fall.mat.

Units are the ROIs called cells, and the signal is F - 0.7 Fneu, suite2p's own correction, or what the
sidecar's `variable` names of F, Fneu and spks. ops.npy and stat.npy are pickles, which can run code, and are
never opened; so the rate comes from a sidecar file. Fall.mat holds the same arrays, its settings `ops` in
plain numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._common import make_session
from forebrain.sessions.readers._content import Content, accepted_of
from forebrain.sessions.readers._selected import SelectedFrames, loaded_if_small
from forebrain.sessions.readers._time import chosen_rate, rates_for
from forebrain.sessions.readers.npy import NpyFrames
from forebrain.sessions.session import FrameSource, Session
from forebrain.sessions.sidecar import Sidecar

NEUROPIL_FACTOR = 0.7  # suite2p's default `neucoeff`
_TRACES = ("F", "Fneu", "spks", "F_chan2", "Fneu_chan2")
_COMPANIONS = ("iscell.npy", "stat.npy", "ops.npy", "Fneu.npy", "redcell.npy")


def recognises(path: Path) -> bool:
    if not path.is_dir():
        return False
    return (path / "F.npy").is_file() or (
        (path / "spks.npy").is_file() and any((path / name).is_file() for name in _COMPANIONS)
    )


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads one plane.

    Raises:
        RecordingError: the arrays do not fit each other, or no ROI is a cell.
        RecordingQuestion: the sidecar's `variable` is none of the folder's traces.
    """
    there = [name for name in _TRACES if (path / f"{name}.npy").is_file()]
    wanted = _wanted(path, there, sidecar)
    array = _matrix(path / f"{wanted}.npy")
    is_corrected = sidecar.variable is None and wanted == "F" and "Fneu" in there
    if is_corrected and _matrix(path / "Fneu.npy").shape != array.shape:
        raise RecordingError(
            f"{path}: F.npy has shape {array.shape} but Fneu.npy {_matrix(path / 'Fneu.npy').shape}; "
            "expected the same. Export both from one run."
        )
    is_cell = _is_cell(path)
    frames_axis = _frames_axis(path, wanted, array.shape, is_cell, sidecar)
    num_rois = array.shape[1 - frames_axis]
    rois = np.arange(num_rois) if is_cell is None else np.flatnonzero(is_cell)
    notes = {"variable": wanted, "axis_from": "the layout of suite2p: [ROIs, frames]"}
    if wanted == "F" and not is_corrected:
        notes["neuropil"] = (
            "not subtracted: the sidecar names F" if "Fneu" in there else "no Fneu.npy: not subtracted"
        )
    elif "F" not in there:
        notes["traces"] = f"there is no F.npy: {wanted}.npy is read, {_MEANINGS.get(wanted, wanted)}"
    if is_cell is None:
        notes["cells"] = "no iscell.npy: every ROI is taken for a cell"
    elif rois.size == 0:
        raise RecordingError(
            f"{path}: iscell.npy calls none of {num_rois} ROIs a cell. Curate the folder in suite2p."
        )
    else:
        notes["cells"] = f"{rois.size} of {num_rois} ROIs are cells (iscell.npy)"

    def frames_of(name: str) -> FrameSource:
        shape = (array.shape[frames_axis], num_rois)
        return SelectedFrames(NpyFrames(path / f"{name}.npy", frames_axis, shape), rois)

    traces = frames_of(wanted)
    if is_corrected:
        traces = CorrectedFrames(traces, frames_of("Fneu"))
    named, plane = _named_folder(path)
    session = make_session(
        named,
        sidecar,
        loaded_if_small(traces),
        signal="F-0.7*Fneu (suite2p)" if is_corrected else f"{wanted} (suite2p)",
        unit_names=tuple(f"roi{roi}" for roi in rois),
        metadata=notes,
    )
    return [session if sidecar.subject or not plane else replace(session, subject=plane)]


_MEANINGS = {"spks": "the deconvolved activity", "Fneu": "the neuropil"}


def _wanted(path: Path, there: list[str], sidecar: Sidecar) -> str:
    if sidecar.variable is None:
        return there[0] if "F" in there else "spks"
    name = sidecar.variable.removesuffix(".npy")
    if name not in there:
        raise RecordingQuestion(
            f"{path}: holds no {name}.npy of traces (the sidecar's variable); it has {', '.join(there)}.",
            {"variable": there},
        )
    return name


def named_by(path: Path) -> Path:
    """The path whose name is the recording's: of the folder that suite2p worked in, and the plane."""
    return _named_folder(path)[0]


def arrays_as_folder(content: Content, path: Path, sidecar: Sidecar) -> list[Session]:
    """The session of a file that holds a suite2p folder's arrays, as Fall.mat does; none if it does not.

    It is read as the folder would be: cells only, less their neuropil by the factor the file states.

    Raises:
        RecordingError: the arrays do not fit each other, or no ROI is a cell.
    """
    group = next(
        (
            name.removesuffix("iscell")
            for name in content.arrays
            if name.rpartition("/")[2] == "iscell" and f"{name.removesuffix('iscell')}F" in content.arrays
        ),
        None,
    )
    if group is None:
        return []
    wanted = "F" if sidecar.variable is None else sidecar.variable.strip("/").replace(".", "/")
    wanted = wanted.removeprefix(group)
    names = {name: f"{group}{name}" for name in _TRACES if f"{group}{name}" in content.arrays}
    if wanted not in names:
        return []
    parts = {name: content.arrays[at][0] for name, at in names.items()}
    if any(part.shape != parts["F"].shape for part in parts.values()):
        listed = ", ".join(f"{name} {part.shape}" for name, part in parts.items())
        raise RecordingError(
            f"{path}: the arrays of suite2p do not fit each other: {listed}. Export them again."
        )
    shape = parts["F"].shape
    num_flags = max(content.arrays[f"{group}iscell"][0].shape)
    axis = 1 if sidecar.frames_axis is None else sidecar.frames_axis
    if sidecar.frames_axis is None and num_flags != shape[0] and num_flags == shape[1]:
        axis = 0
    num_rois = shape[1 - axis]
    notes = {"variable": names[wanted], "axis_from": "the layout of suite2p: [ROIs, frames]"}
    accepted = accepted_of(content, names[wanted], num_rois, notes)
    if accepted is None or not accepted.any():
        raise RecordingError(
            f"{path}: {notes.get('cells', 'iscell does not fit F')}; expected cells among {num_rois} ROIs. "
            f"Curate the "
            "recording in suite2p."
        )
    rois = np.flatnonzero(accepted)
    traces: FrameSource = SelectedFrames(parts[wanted].frames(axis), rois)
    factor = content.numbers.get(f"{group}ops/neucoeff", np.nan)
    factor = factor if np.isfinite(factor) else NEUROPIL_FACTOR
    is_corrected = sidecar.variable is None and "Fneu" in parts
    if is_corrected:
        traces = CorrectedFrames(traces, SelectedFrames(parts["Fneu"].frames(axis), rois), factor)
    elif wanted == "F":
        notes["neuropil"] = (
            "not subtracted: the sidecar names F" if "Fneu" in parts else "no Fneu: not subtracted"
        )
    stated = None if sidecar.rate_hz else chosen_rate(rates_for(content.numbers, names[wanted]), path)
    if stated is not None:
        notes["rate_from"] = stated.where
    return [
        make_session(
            path,
            sidecar,
            loaded_if_small(traces),
            rate_hz=stated.rate_hz if stated else None,
            signal=f"F-{factor:g}*Fneu (suite2p)" if is_corrected else f"{wanted} (suite2p)",
            unit_names=tuple(f"roi{roi}" for roi in rois),
            metadata=notes,
        )
    ]


@dataclass(frozen=True, eq=False)
class CorrectedFrames:
    """Fluorescence less its neuropil [T, N].

    Attributes:
        fluorescence, neuropil: [T, N].
        factor: of the neuropil.
    """

    fluorescence: FrameSource
    neuropil: FrameSource
    factor: float = NEUROPIL_FACTOR

    @property
    def shape(self) -> tuple[int, ...]:
        return self.fluorescence.shape

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        fluorescence = np.asarray(self.fluorescence[frames], np.float32)
        return fluorescence - np.float32(self.factor) * np.asarray(self.neuropil[frames], np.float32)


def _matrix(path: Path) -> np.ndarray:
    """The array of a .npy file as a memory map.

    Raises:
        RecordingError: it is damaged, a pickle, or not a matrix of numbers.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RecordingError(f"{path}: not a readable .npy array ({error}). Export it again.") from error
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise RecordingError(
            f"{path}: holds {array.dtype} of shape {array.shape}; expected numbers [ROIs, frames]."
        )
    return array


def _is_cell(path: Path) -> np.ndarray | None:
    """bool [ROIs] by iscell.npy, whose first column is 1 for cells; None without the file."""
    if not (path / "iscell.npy").is_file():
        return None
    try:
        array = np.load(path / "iscell.npy", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RecordingError(
            f"{path / 'iscell.npy'}: not a readable .npy array ({error}). Remove it to read every ROI."
        ) from error
    if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind not in "biuf":
        raise RecordingError(
            f"{path / 'iscell.npy'}: holds {array.dtype} of shape {array.shape}; expected a row for each ROI."
        )
    return (array if array.ndim == 1 else array[:, 0]) > 0.5


def _frames_axis(
    path: Path, name: str, shape: tuple[int, ...], is_cell: np.ndarray | None, sidecar: Sidecar
) -> int:
    """suite2p writes [ROIs, frames]; iscell.npy tells where someone has transposed it."""
    frames_axis = 1 if sidecar.frames_axis is None else sidecar.frames_axis
    if is_cell is None or shape[1 - frames_axis] == len(is_cell):
        return frames_axis
    if sidecar.frames_axis is None and shape[1] == len(is_cell):
        return 0
    raise RecordingError(
        f"{path}: iscell.npy has {len(is_cell)} rows but {name}.npy has shape {shape}; expected a row for "
        f"each "
        "ROI. Export both from one run."
    )


def _named_folder(path: Path) -> tuple[Path, str]:
    """A path whose name tells the recording, and of a plane the animal's: `day1_plane0`, `day1`.

    The planes of `day1/suite2p/plane0`, `plane1`, ... are of one animal.
    """
    resolved = path.resolve()
    plane = resolved.name if re.fullmatch(r"plane\d+|combined", resolved.name) else ""
    folder = resolved.parent if plane else resolved
    if folder.name == "suite2p":
        folder = folder.parent
    if not plane or not folder.name:
        return folder, ""
    return folder.with_name(f"{folder.name}_{plane}"), folder.name


def planes_in(folder: Path) -> list[Path]:
    """The planes of a folder that suite2p wrote, but for `combined`, which holds the same ROIs again."""
    return [
        entry
        for entry in sorted(folder.iterdir())
        if re.fullmatch(r"plane\d+", entry.name) and recognises(entry)
    ]
