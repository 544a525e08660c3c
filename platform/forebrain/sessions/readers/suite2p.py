"""suite2p: a folder with F.npy, and with Fneu.npy and iscell.npy where they were kept.

Units are the ROIs called cells, and the signal is F - 0.7 Fneu, suite2p's own correction. ops.npy and
stat.npy are pickles, which can run code, and are never opened; so the rate comes from a sidecar file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import make_session
from forebrain.sessions.readers._selected import SelectedFrames, loaded_if_small
from forebrain.sessions.readers.npy import NpyFrames
from forebrain.sessions.session import FrameSource, Session
from forebrain.sessions.sidecar import Sidecar

NEUROPIL_FACTOR = 0.7  # suite2p's default `neucoeff`


def recognises(path: Path) -> bool:
    return path.is_dir() and (path / "F.npy").is_file()


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads one plane.

    Raises:
        RecordingError: the arrays do not fit each other, or no ROI is a cell.
    """
    fluorescence = _matrix(path / "F.npy")
    has_neuropil = (path / "Fneu.npy").is_file()
    if has_neuropil and _matrix(path / "Fneu.npy").shape != fluorescence.shape:
        raise RecordingError(
            f"{path}: F.npy has shape {fluorescence.shape} but Fneu.npy {_matrix(path / 'Fneu.npy').shape}; "
            "expected the same. Export both from one run."
        )
    is_cell = _is_cell(path)
    frames_axis = _frames_axis(path, fluorescence.shape, is_cell, sidecar)
    num_rois = fluorescence.shape[1 - frames_axis]
    rois = np.arange(num_rois) if is_cell is None else np.flatnonzero(is_cell)
    notes = {} if has_neuropil else {"neuropil": "no Fneu.npy: not subtracted"}
    if is_cell is None:
        notes["cells"] = "no iscell.npy: every ROI is taken for a cell"
    elif rois.size == 0:
        raise RecordingError(
            f"{path}: iscell.npy calls none of {num_rois} ROIs a cell. Curate the folder in suite2p."
        )
    else:
        notes["cells"] = f"{rois.size} of {num_rois} ROIs are cells (iscell.npy)"

    def frames_of(name: str) -> FrameSource:
        shape = (fluorescence.shape[frames_axis], num_rois)
        return SelectedFrames(NpyFrames(path / name, frames_axis, shape), rois)

    traces = frames_of("F.npy")
    if has_neuropil:
        traces = CorrectedFrames(traces, frames_of("Fneu.npy"))
    return [
        make_session(
            _named_folder(path),
            sidecar,
            loaded_if_small(traces),
            signal="F-0.7*Fneu (suite2p)" if has_neuropil else "F (suite2p)",
            unit_names=tuple(f"roi{roi}" for roi in rois),
            metadata=notes,
        )
    ]


@dataclass(frozen=True, eq=False)
class CorrectedFrames:
    """Fluorescence less its neuropil [T, N].

    Attributes:
        fluorescence, neuropil: [T, N].
    """

    fluorescence: FrameSource
    neuropil: FrameSource

    @property
    def shape(self) -> tuple[int, ...]:
        return self.fluorescence.shape

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        fluorescence = np.asarray(self.fluorescence[frames], np.float32)
        return fluorescence - np.float32(NEUROPIL_FACTOR) * np.asarray(self.neuropil[frames], np.float32)


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


def _frames_axis(path: Path, shape: tuple[int, ...], is_cell: np.ndarray | None, sidecar: Sidecar) -> int:
    """suite2p writes [ROIs, frames]; iscell.npy tells where someone has transposed it."""
    frames_axis = 1 if sidecar.frames_axis is None else sidecar.frames_axis
    if is_cell is None or shape[1 - frames_axis] == len(is_cell):
        return frames_axis
    if sidecar.frames_axis is None and shape[1] == len(is_cell):
        return 0
    raise RecordingError(
        f"{path}: iscell.npy has {len(is_cell)} rows but F.npy has shape {shape}; expected a row for each "
        "ROI. Export both from one run."
    )


def _named_folder(path: Path) -> Path:
    """A path whose name tells the recording: `day1/suite2p/plane0` is named `day1_plane0`."""
    resolved = path.resolve()
    plane = resolved.name if re.fullmatch(r"plane\d+|combined", resolved.name) else ""
    folder = resolved.parent if plane else resolved
    if folder.name == "suite2p":
        folder = folder.parent
    return folder.with_name(f"{folder.name}_{plane}") if plane and folder.name else folder
