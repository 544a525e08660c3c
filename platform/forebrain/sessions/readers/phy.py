"""Kilosort and phy: a folder with spike_times.npy and spike_clusters.npy (or spike_templates.npy).

Spike times count samples, whose rate `params.py` states in plain text, which is read and never run, or the
sidecar's `sampling_rate_hz`. Units are the clusters that a person called good (`cluster_group.tsv`,
`cluster_info.tsv`), else those that Kilosort did (`cluster_KSLabel.tsv`), else all. Their spikes are counted
in bins of `bin_s`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._spikes import binned
from forebrain.sessions.readers.nwb import accepted_labels
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

_CLUSTERS = ("spike_clusters.npy", "spike_templates.npy")
_LABELS = {"cluster_group.tsv": "group", "cluster_info.tsv": "group", "cluster_KSLabel.tsv": "KSLabel"}


def recognises(path: Path) -> bool:
    return (
        path.is_dir()
        and (path / "spike_times.npy").is_file()
        and any((path / name).is_file() for name in _CLUSTERS)
    )


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads the sorted units of one recording.

    Raises:
        RecordingError: files are damaged or do not fit each other, or no cluster is good.
        RecordingQuestion: the rate of the samples, or the width of the bins, is not stated.
    """
    clusters_file = next(name for name in _CLUSTERS if (path / name).is_file())
    samples, clusters = _vector(path / "spike_times.npy"), _vector(path / clusters_file)
    if len(samples) != len(clusters):
        raise RecordingError(
            f"{path}: spike_times.npy has {len(samples)} spikes, {clusters_file} {len(clusters)}; expected "
            f"as many. "
            "Export both from one run."
        )
    ids = np.unique(clusters)
    rate_hz, where = _sampling_rate(path, sidecar)
    if rate_hz is None or sidecar.spike_bin_s is None:
        choices: dict[str, list[float]] = {} if rate_hz else {"sampling_rate_hz": [30000.0]}
        raise RecordingQuestion(
            f"{path}: holds spike times of {len(ids)} units"
            f"{'' if rate_hz else ', in samples of a rate that no params.py states'}. State "
            f"{'' if rate_hz else 'sampling_rate_hz and '}bin_s, the width in seconds of the bins that "
            f"spikes are "
            "counted in, in the sidecar.",
            {**choices, "bin_s": [0.01, 0.02, 0.05, 0.1]},
        )
    notes = {"variable": clusters_file.removesuffix(".npy"), "sampling_rate_from": where}
    kept = _kept(path, ids, notes)
    order = np.argsort(clusters, kind="stable")
    edges = np.searchsorted(clusters[order], ids, side="left").tolist()
    times = np.split(samples[order].astype(np.float64) / rate_hz, edges[1:])
    wanted = set(kept.tolist())
    units = {unit: spikes for unit, spikes in zip(ids.tolist(), times, strict=True) if unit in wanted}
    return [
        binned(
            path,
            sidecar,
            list(units.values()),
            start_s=0.0,
            metadata=notes,
            unit_names=tuple(f"cluster{unit}" for unit in units),
        )
    ]


def _vector(path: Path) -> np.ndarray:
    """The numbers of a .npy file of one axis.

    Raises:
        RecordingError: it is damaged, or something else.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RecordingError(f"{path}: not a readable .npy array ({error}). Export it again.") from error
    if array.dtype.kind not in "iuf" or array.size != max(array.shape, default=0) or not array.size:
        raise RecordingError(
            f"{path}: holds {array.dtype} of shape {array.shape}; expected a number for each spike."
        )
    return np.array(array).ravel()


def _sampling_rate(path: Path, sidecar: Sidecar) -> tuple[float | None, str]:
    """Samples a second and where that is stated; None where nothing does."""
    if sidecar.sampling_rate_hz is not None:
        return sidecar.sampling_rate_hz, "the sidecar"
    params = path / "params.py"
    if params.is_file():
        text = params.read_text(encoding="utf-8", errors="replace")
        match = re.search(r"^\s*sample_rate\s*=\s*([0-9.eE+]+)", text, re.MULTILINE)
        try:
            rate_hz = float(match[1]) if match else 0.0
        except ValueError:
            rate_hz = 0.0
        if 0 < rate_hz < float("inf"):
            return rate_hz, "params.py"
    return None, ""


def _kept(path: Path, ids: np.ndarray, notes: dict[str, str]) -> np.ndarray:
    """The clusters that are units, by the labels of a person, else of Kilosort."""
    import pandas as pd

    for name, column in _LABELS.items():
        if not (path / name).is_file():
            continue
        try:
            table = pd.read_csv(path / name, sep="\t")
            labels = dict(zip(table.iloc[:, 0].astype(int), table[column].astype(str), strict=True))
        except (ValueError, KeyError, IndexError, OSError) as error:  # pandas' own are ValueErrors
            raise RecordingError(
                f"{path / name}: no table of clusters with a column {column} ({error}). Mend or remove it."
            ) from error
        accepted = accepted_labels([labels.get(int(unit), "") for unit in ids])
        if accepted is None or not any(
            label.strip().lower() in ("good", "mua", "noise") for label in labels.values()
        ):
            continue
        notes["cells"] = f"{int(accepted.sum())} of {len(ids)} clusters are good ({name})"
        if not accepted.any():
            raise RecordingError(f"{path}: {notes['cells']}. Curate the clusters in phy.")
        return ids[accepted]
    return ids
