"""Any other HDF5 file, netCDF among them: one array of it is the traces; `variable` names it among several.

Packed numbers, names of axes and external links are read as the netCDF and HDF5 conventions have them.
"""

from __future__ import annotations

from pathlib import Path

from forebrain.sessions.readers._content import sessions_of
from forebrain.sessions.readers._hdf5 import content_of, has_hdf5_signature, linked_files, open_hdf5
from forebrain.sessions.readers.suite2p import arrays_as_folder
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

further_files = linked_files


def recognises(path: Path) -> bool:
    return has_hdf5_signature(path)


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads one array of the file.

    Raises:
        RecordingError: the file is damaged, or no array could be traces.
        RecordingQuestion: the sidecar must choose one, or tell its axes or rate.
    """
    with open_hdf5(path) as file:
        content = content_of(file, path)
        return arrays_as_folder(content, path, sidecar) or sessions_of(content, path, sidecar)
