"""A folder of MATLAB files, one for each unit, that all hold the same vectors [frames].

Of vectors that differ from unit to unit, one is the traces. Those that are the same in every file were
recorded once beside all units: inputs, where their names say so or they are whole numbers. What is called
like something that the animal does, or that follows from it (licks, rewards), cannot be planned.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers import matlab
from forebrain.sessions.readers._common import MIN_FRAMES, make_session
from forebrain.sessions.readers._content import Content, StoredArray, choose
from forebrain.sessions.readers._inputs import Channel, with_channels
from forebrain.sessions.readers._names import depends_on_animal, is_stimulus, role_of
from forebrain.sessions.readers._time import is_ramp
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar, named_input_files


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
    unit_names = _without_common_end([file.stem for file in files])
    session = make_session(
        path,
        sidecar,
        stacked[name],
        signal=name,
        unit_names=unit_names,
        metadata={"variable": name, "axis_from": "a file for each unit"},
    )
    inputs = {name: values for name, values in shared.items() if _is_input(name, values)}
    channels = [
        Channel(name, values.astype(np.float32), not depends_on_animal(name), origin="the same in every file")
        for name, values in inputs.items()
    ]
    left_out = [f"{name} (the same in every file)" for name in shared if name not in inputs]
    return [with_channels(session, channels, left_out)]


def _is_input(name: str, values: np.ndarray) -> bool:
    """Whether a vector is stimulus or behaviour: no clock or counter by its name or values, and called so or
    of whole numbers."""
    role = role_of(name)
    is_told = role == "behaviour" or is_stimulus(name) or bool((values % 1 == 0).all())
    return is_told and role not in ("clock", "counter", "helper") and not is_ramp(values)


def _files(folder: Path) -> list[Path]:
    """The folder's MATLAB files, by the numbers in their names; none if it holds anything else."""
    entries = [
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.suffix not in (".yaml", ".yml", ".json", ".md", ".txt")
    ]
    inputs = named_input_files(folder.iterdir())
    entries = [entry for entry in entries if str(entry) not in inputs]
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
