"""A folder of MATLAB files, one for each unit, that all hold the same vectors [frames].

Of vectors that differ from unit to unit, one is the traces. Those that are the same in every file were
recorded once beside all units: behaviour, where the name says so, and stimulus, where they are whole numbers.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers import matlab
from forebrain.sessions.readers._common import MIN_FRAMES, make_session
from forebrain.sessions.readers._content import Content, StoredArray, choose
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

_BEHAVIOUR = re.compile("lick|run|speed|veloc|wheel|pupil|whisk|pos|behav|motion|accel|lever", re.IGNORECASE)


def recognises(path: Path) -> bool:
    if not path.is_dir():
        return False
    files = _files(path)
    if len(files) < 2 or not all(matlab.recognises(file) for file in files):
        return False
    try:
        vectors = [_vectors(file) for file in files]
    except RecordingError:
        return False  # each file tells by itself what is wrong with it
    return bool(vectors[0]) and all(other == vectors[0] for other in vectors)


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads all files of a folder as one session.

    Raises:
        RecordingError: a file is damaged, or which vector is meant cannot be told.
    """
    files = _files(path)
    contents = [matlab.content_of(file) for file in files]
    stacked = {
        name: np.stack([content.arrays[name][0].load().ravel() for content in contents], axis=1)
        for name in _vectors(files[0])
    }
    is_shared = {name: bool((values == values[:, :1]).all()) for name, values in stacked.items()}
    found = Content()
    for name, values in stacked.items():
        if not is_shared[name]:
            found.add(name, StoredArray.in_memory(values.shape, partial(np.asarray, values)))
    name = choose(found, path, sidecar)
    shared = {name: values[:, 0] for name, values in stacked.items() if is_shared[name]}
    behaviour = {name: values for name, values in shared.items() if _BEHAVIOUR.search(name)}
    stimulus = {
        name: values for name, values in shared.items() if name not in behaviour and (values % 1 == 0).all()
    }
    fields: dict[str, Any] = {}
    for kind, channels in (("stimulus", stimulus), ("behaviour", behaviour)):
        if channels:
            fields[kind] = np.stack(list(channels.values()), axis=1).astype(np.float32)
            fields[f"{kind}_names"] = tuple(channels)
    unit_names = _without_common_end([file.stem for file in files])
    return [
        make_session(
            path,
            sidecar,
            stacked[name],
            signal=name,
            unit_names=unit_names,
            metadata={"variable": name, "axis_from": "a file for each unit"},
            **fields,
        )
    ]


def _files(folder: Path) -> list[Path]:
    """The folder's MATLAB files, by the numbers in their names; none if it holds anything else."""
    entries = [
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.suffix not in (".yaml", ".yml", ".json", ".md", ".txt")
    ]
    if any(entry.suffix.lower() != ".mat" or not entry.is_file() for entry in entries):
        return []
    return sorted(entries, key=lambda entry: _natural(entry.stem))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """A key by which `unit_2` comes before `unit_10`."""
    parts = re.findall(r"\d+|\D+", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _vectors(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the variables that are vectors as long as recordings."""
    shapes = matlab.shapes_of(file)
    return {
        name: shape
        for name, shape in shapes.items()
        if len(shape) == 2 and min(shape) == 1 and max(shape) >= MIN_FRAMES
    }


def _without_common_end(names: list[str]) -> tuple[str, ...]:
    """Names without the part after a separator that all end in."""
    ends = [match.start() for match in re.finditer(r"[_\-. ]", names[0])]
    for end in (names[0][start:] for start in ends):  # the longest first
        if all(name.endswith(end) and name != end for name in names):
            return tuple(name.removesuffix(end) for name in names)
    return tuple(names)
