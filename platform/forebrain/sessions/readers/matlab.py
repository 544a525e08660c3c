"""MATLAB files up to v7; how arrays are named and what makes traces is told in `_content`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import check_size
from forebrain.sessions.readers._content import Content, StoredArray, sessions_of
from forebrain.sessions.readers.suite2p import arrays_as_folder
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

_BYTES_PER_VALUE = 8
_MAX_PACKED = 20  # times that a file may unpack to, where its variables cannot be listed first
_OBJECT = (
    "is a MATLAB object of class {}, whose content only MATLAB can read; save what it holds as plain arrays "
    "there, "
    "for example `traces = neuron.C; save('traces.mat', 'traces')`"
)


def recognises(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as stream:
        return stream.read(10) == b"MATLAB 5.0" or path.suffix.lower() == ".mat"


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads a file.

    Raises:
        RecordingError: it is damaged, or no array could be traces.
        RecordingQuestion: which array is meant, or what its axes count, cannot be told.
    """
    content = content_of(path)
    return arrays_as_folder(content, path, sidecar) or sessions_of(content, path, sidecar)


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a file's variables, without reading them.

    Raises:
        RecordingError: it is damaged or no MATLAB file.
    """
    from scipy import io

    try:
        return {name: shape for name, shape, _ in io.whosmat(path)}
    except TypeError:  # it holds an object, which scipy reads but cannot list
        check_size(_MAX_PACKED * path.stat().st_size, path)
        return {name: np.shape(value) for name, value in _variables(path).items()}
    except Exception as error:  # scipy raises errors of many kinds on damaged files
        raise _damaged(path, error) from error


def _variables(path: Path) -> dict[str, Any]:
    from scipy import io

    try:
        found: dict[str, Any] = io.loadmat(path)
    except Exception as error:  # as above
        raise _damaged(path, error) from error
    return {name: value for name, value in found.items() if not name.startswith("__")}


def content_of(path: Path) -> Content:
    """All arrays of numbers in a file.

    Raises:
        RecordingError: it is damaged, no MATLAB file, or larger than memory should hold.
    """
    check_size(sum(_BYTES_PER_VALUE * int(np.prod(shape)) for shape in shapes_of(path).values()), path)
    content = Content()
    for name, value in _variables(path).items():
        _collect(value, name, path, content)
    return content


def _collect(value: Any, name: str, path: Path, content: Content) -> None:
    from scipy import sparse
    from scipy.io import matlab

    if sparse.issparse(value):

        def dense() -> np.ndarray:
            check_size(_BYTES_PER_VALUE * value.shape[0] * value.shape[1], path)
            return value.toarray()

        content.add(name, StoredArray.in_memory(value.shape, dense))
    elif isinstance(value, matlab.MatlabOpaque):
        content.unreadable[name] = _OBJECT.format(_class_of(value))
    elif isinstance(value, matlab.MatlabFunction) or not isinstance(value, np.ndarray):
        return
    elif value.dtype.names:
        for name_of_field in value.dtype.names:
            for item in value[name_of_field].ravel():
                _collect(item, f"{name}/{name_of_field}", path, content)
    elif value.dtype == object:
        if value.ndim == 2 and min(value.shape) > 1:
            content.cells[name] = value.shape
        for item in value.ravel(order="F"):
            _collect(item, name, path, content)
        if len(content.arrays.get(name, ())) != value.size:
            content.cells.pop(name, None)  # cells of cells, or of text
        if value.size > 1 and all(_is_text(item) for item in value.flat):
            content.texts[name] = tuple(str(item.ravel()[0]) for item in value.ravel(order="F"))
    elif value.dtype.kind == "c":
        content.unreadable[name] = "holds complex numbers; save their real part or magnitude"
    elif value.dtype.kind in "fiub":
        if value.size == 1:
            content.numbers.setdefault(name, float(value.ravel()[0]))
        content.add(name, StoredArray.in_memory(value.shape, lambda: value))


def _is_text(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "U" and value.size == 1


def _class_of(value: Any) -> str:
    for field in ("s2", "s1", "s0"):
        if field in (value.dtype.names or ()):
            text = value[field].ravel()[0]
            return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return "unknown"


def _damaged(path: Path, error: Exception) -> RecordingError:
    return RecordingError(
        f"{path}: not readable as a MATLAB file ({type(error).__name__}: {error}). It is damaged or of "
        "another format; copy it again from its source."
    )
