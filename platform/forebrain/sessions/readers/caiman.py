"""CaImAn: an HDF5 file with `estimates`, as CNMF.save writes it.

F_dff [units, frames] is read where it was computed, else C, the denoised calcium. Where components were
evaluated but not yet selected (`idx_components`), the accepted ones are the units.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import choose_frames_axis, make_session
from forebrain.sessions.readers._hdf5 import Hdf5Frames, holds, is_matrix, linked_files, number_of, open_hdf5
from forebrain.sessions.readers._selected import SelectedFrames, loaded_if_small
from forebrain.sessions.session import FrameSource, Session
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import h5py
    import scipy.sparse

_SIGNALS = {
    "F_dff": "dff (CaImAn F_dff)",
    "C": "denoised C (CaImAn CNMF)",
}
_RATE = "params/data/fr"

further_files = linked_files


def recognises(path: Path) -> bool:
    return holds(path, lambda file: any(f"estimates/{name}" in file for name in _SIGNALS))


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads the traces of one analysis.

    Raises:
        RecordingError: there are no traces, or they do not fit the footprints.
    """
    with open_hdf5(path) as file:
        name = _chosen(file, path, sidecar)
        notes = {"variable": name}
        traces = _traces(file, name, path, sidecar, notes)
        units = _accepted(file, traces.shape[1], path)
        if units is not None:
            notes["cells"] = f"{len(units)} of {traces.shape[1]} components were accepted (idx_components)"
            traces = SelectedFrames(traces, units)
        rate_hz = number_of(file, _RATE)
        if rate_hz is not None:
            notes["rate_from"] = _RATE
    if name == "estimates/C" and sidecar.variable is None:
        notes["traces"] = "estimates/F_dff was not computed: the denoised C is read"
    signal = _SIGNALS.get(name.removeprefix("estimates/"), f"{name} (CaImAn)")
    return [
        make_session(path, sidecar, loaded_if_small(traces), rate_hz=rate_hz, signal=signal, metadata=notes)
    ]


@dataclass(frozen=True, eq=False)
class SparseFrames:
    """Frames [T, N] of a sparse matrix [N, T], made dense a slice at a time."""

    by_unit: scipy.sparse.csc_array

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, units)."""
        num_units, num_frames = self.by_unit.shape
        return num_frames, num_units

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        return self.by_unit[:, frames].toarray().T


def _chosen(file: h5py.File, path: Path, sidecar: Sidecar) -> str:
    """The array to read: the sidecar's `variable` (its path, or name in `estimates`), else F_dff, else C."""
    estimates = file["estimates"]
    candidates = [f"estimates/{name}" for name in estimates if _is_traces(estimates[name])]
    if sidecar.variable is None:
        wanted = [f"estimates/{name}" for name in _SIGNALS]
    else:
        wanted = [sidecar.variable.strip("/"), f"estimates/{sidecar.variable}"]
    for name in wanted:
        if name in candidates:
            return name
    raise RecordingError(
        f"{path}: {' and '.join(wanted)} hold no matrix [units, frames]; it has "
        f"{', '.join(candidates) or 'none at all'}. Name one as variable in the sidecar."
    )


def _is_traces(item: Any) -> bool:
    return is_matrix(item) or _is_sparse(item)


def _is_sparse(item: Any) -> bool:
    return all(name in getattr(item, "keys", tuple)() for name in ("data", "indices", "indptr", "shape"))


def _traces(file: h5py.File, name: str, path: Path, sidecar: Sidecar, notes: dict[str, str]) -> FrameSource:
    """The traces of every component."""
    item = file[name]
    if _is_sparse(item):
        notes["axis_from"] = "the layout of CaImAn: [components, frames]"
        return SparseFrames(_sparse(item, path))
    num_components = _num_footprints(file)
    if sidecar.frames_axis is None and num_components in item.shape and item.shape[0] != item.shape[1]:
        frames_axis = 1 - item.shape.index(num_components)
        notes["axis_from"] = "the number of footprints (estimates/A)"
    else:
        frames_axis = choose_frames_axis(item.shape, path, sidecar, notes)
    return Hdf5Frames.of(path, item, frames_axis)


def _sparse(group: h5py.Group, path: Path) -> scipy.sparse.csc_array:
    import scipy.sparse

    shape = tuple(int(length) for length in group["shape"][()])
    parts = (group["data"][()], group["indices"][()], group["indptr"][()])
    kind = scipy.sparse.csr_array if len(parts[2]) == shape[0] + 1 else scipy.sparse.csc_array
    matrix = kind(parts, shape=shape)
    matrix.check_format(full_check=True)  # indices beyond the shape would read foreign memory
    return matrix.tocsc()


def _num_footprints(file: h5py.File) -> int | None:
    """How many components there are by the footprints A [pixels, components]."""
    footprints = file.get("estimates/A")
    if _is_sparse(footprints):
        return int(footprints["shape"][1])
    return footprints.shape[1] if is_matrix(footprints) else None


def _accepted(file: h5py.File, num_components: int, path: Path) -> np.ndarray | None:
    """int [N], the components that were accepted; None where they were not evaluated.

    Raises:
        RecordingError: all were rejected, or they are others than there are.
    """
    item = file.get("estimates/idx_components")
    if getattr(item, "shape", None) in (None, ()):  # CaImAn writes the text NoneType before it evaluates
        return None
    if item.size == 0:
        raise RecordingError(
            f"{path}: none of {num_components} components was accepted (estimates/idx_components is empty). "
            f"Evaluate "
            "them with other thresholds, or remove idx_components to read all."
        )
    listed = item[()].ravel()
    if listed.dtype.kind == "b" and len(listed) == num_components:
        listed = np.flatnonzero(listed)
    if listed.dtype.kind not in "iuf" or (listed % 1 != 0).any():
        raise RecordingError(
            f"{path}: estimates/idx_components holds {item.dtype} of shape {item.shape}; expected numbers of "
            f"accepted ones of {num_components} components. Save the analysis again, or remove it to read "
            "all."
        )
    outside = listed[(listed < 0) | (listed >= num_components)]
    if outside.size:
        raise RecordingError(
            f"{path}: estimates/idx_components names component {outside[0]:g}, but there are "
            f"{num_components}. Save the analysis again."
        )
    return np.unique(listed).astype(int)
