"""MATLAB files up to v7; how arrays are named and what makes traces is told in `_mat`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import check_size
from forebrain.sessions.readers._mat import Matrix, session_of
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

_BYTES_PER_VALUE = 8


def recognises(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as stream:
        return stream.read(10) == b"MATLAB 5.0" or path.suffix.lower() == ".mat"


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads a file.

    Raises:
        RecordingError: it is damaged, or which array is meant cannot be told.
    """
    return [session_of(arrays_of(path), path, sidecar)]


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a file's variables, without reading them.

    Raises:
        RecordingError: it is damaged or no MATLAB file.
    """
    from scipy import io

    try:
        return {name: shape for name, shape, _ in io.whosmat(path)}
    except Exception as error:  # scipy raises errors of many kinds on damaged files
        raise _damaged(path, error) from error


def arrays_of(path: Path) -> dict[str, list[Matrix]]:
    """All arrays of numbers in a file.

    Raises:
        RecordingError: it is damaged, no MATLAB file, or larger than memory should hold.
    """
    from scipy import io

    check_size(sum(_BYTES_PER_VALUE * int(np.prod(shape)) for shape in shapes_of(path).values()), path)
    try:
        content = io.loadmat(path)
    except Exception as error:  # as above
        raise _damaged(path, error) from error
    arrays: dict[str, list[Matrix]] = {}
    for name, value in content.items():
        if not name.startswith("__"):
            _collect(value, name, path, arrays)
    return arrays


def _collect(value: Any, name: str, path: Path, arrays: dict[str, list[Matrix]]) -> None:
    from scipy import sparse

    if sparse.issparse(value):

        def dense() -> np.ndarray:
            check_size(_BYTES_PER_VALUE * value.shape[0] * value.shape[1], path)
            return value.toarray()

        arrays.setdefault(name, []).append(Matrix.in_memory(value.shape, dense))
    elif not isinstance(value, np.ndarray):
        return
    elif value.dtype.names:
        for field in value.dtype.names:
            for item in value[field].ravel():
                _collect(item, f"{name}/{field}", path, arrays)
    elif value.dtype == object:
        for item in value.ravel(order="F"):
            _collect(item, name, path, arrays)
    elif value.dtype.kind in "fiub":
        arrays.setdefault(name, []).append(Matrix.in_memory(value.shape, lambda: value))


def _damaged(path: Path, error: Exception) -> RecordingError:
    return RecordingError(
        f"{path}: not readable as a MATLAB file ({type(error).__name__}: {error}). It is damaged or of "
        "another format; copy it again from its source."
    )
