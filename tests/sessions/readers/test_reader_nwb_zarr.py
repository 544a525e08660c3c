"""NWB in zarr, as hdmf-zarr writes it; `fixtures/README.md` says how the store was made."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from writing import assert_values, read_one

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers import find_recordings, reader_name

CELLS = [0, 2, 3, 5]


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A store of hdmf-zarr and the counts in its series `raw`, int16 [200, 6]."""
    with zipfile.ZipFile(Path(__file__).parent / "fixtures" / "hdmf_zarr.zip") as archive:
        archive.extractall(tmp_path)
    counts = np.load(tmp_path / "counts.npy")
    (tmp_path / "counts.npy").unlink()
    return tmp_path / "rec.nwb.zarr", counts


def test_a_store_is_read_with_its_conversion_times_identity_and_cells(store: tuple[Path, np.ndarray]) -> None:
    path, counts = store
    assert find_recordings([path.parent]) == [str(path)] and reader_name(path) == "nwb"
    session = read_one(path)
    assert_values(session, counts[:, CELLS] * 0.002, atol=1e-6)
    assert session.id == f"{path.parent.name}/010/day2" and session.species == "zebrafish"
    assert session.rate_hz == 7.5
    assert session.unit_names == ("roi100", "roi102", "roi103", "roi105")
    assert session.brain_regions == ("tectum",) * 4
    assert session.metadata["cells"] == "4 of 6 ROIs are cells (Accepted)"
    assert session.metadata["read_by"] == "zarr, by the types of the specification"
    raw = read_one(path, variable="raw")
    assert_values(raw, counts[:, CELLS] * 0.001 + 3, atol=1e-6)


def test_sorted_units_of_a_store_are_counted_in_bins(store: tuple[Path, np.ndarray]) -> None:
    path, _ = store
    with pytest.raises(RecordingQuestion, match="bin_s"):
        read_one(path, variable="units")
    session = read_one(path, variable="units", bin_s=0.5)
    assert session.num_units == 3 and session.signal == "spike_counts"
    assert 110 <= session.frames(0, session.num_frames).sum() <= 120


def test_a_series_folder_by_itself_keeps_its_conversion(store: tuple[Path, np.ndarray]) -> None:
    path, counts = store
    session = read_one(path / "processing" / "ophys" / "Fluorescence" / "raw")
    assert_values(session, counts * 0.001 + 3, atol=1e-6)
    assert session.rate_hz == 7.5


def test_a_lost_chunk_of_a_series_is_missing_and_counted(store: tuple[Path, np.ndarray]) -> None:
    path, counts = store
    (path / "processing/ophys/DfOverF/dff/data/1.0").unlink()
    session = read_one(path)
    expected = counts[:, CELLS] * 0.002
    expected[100:] = np.nan
    assert_values(session, expected, atol=1e-6)
    assert session.metadata["missing_chunks"].startswith("1 of 2 chunks of processing/ophys/DfOverF/dff/data")


def test_a_link_to_another_store_is_named(store: tuple[Path, np.ndarray]) -> None:
    path, _ = store
    attributes = path / "processing/ophys/DfOverF/dff/.zattrs"
    values = json.loads(attributes.read_text())
    values["zarr_link"] = [{"name": "data", "path": "/a", "source": "../other.zarr"}]
    attributes.write_text(json.dumps(values))
    for file in (path / "processing/ophys/DfOverF/dff/data").iterdir():
        file.unlink()
    (path / "processing/ophys/DfOverF/dff/data").rmdir()
    words = r"dff/data.* is a link to /a in \.\./other\.zarr, another store"
    with pytest.raises(RecordingError, match=words):
        read_one(path, variable="DfOverF/dff")
    assert re.search(words, read_one(path, variable="raw").metadata["also_in_the_file"])


def test_a_store_of_zarr_3_is_read_by_the_same_rules(tmp_path: Path, calcium: np.ndarray) -> None:
    root = zarr.open_group(
        str(tmp_path / "a.nwb.zarr"),
        mode="w",
        attributes={"neurodata_type": "NWBFile", "nwb_version": "2.8.0", "namespace": "core"},
    )
    series = root.create_group("processing/ophys/Fluorescence/raw")
    series.attrs["neurodata_type"] = "RoiResponseSeries"
    data = series.create_array("data", data=np.round((calcium - 3) / 0.001).astype("i2"))
    data.attrs.update({"conversion": 0.001, "offset": 3.0})
    series.create_array("starting_time", data=np.zeros(1)).attrs["rate"] = 12.5
    session = read_one(tmp_path / "a.nwb.zarr")
    assert_values(session, calcium, atol=6e-4)
    assert session.rate_hz == 12.5


def test_pickled_arrays_are_refused(store: tuple[Path, np.ndarray]) -> None:
    path, _ = store
    metadata = path / "session_description/.zarray"
    values = json.loads(metadata.read_text())
    values["filters"] = [{"id": "pickle"}]
    metadata.write_text(json.dumps(values))
    with pytest.raises(RecordingError, match="stored with pickle"):
        read_one(path)


def test_inputs_of_a_store_are_read_as_of_a_file(tmp_path: Path, calcium: np.ndarray) -> None:
    root = zarr.open_group(
        str(tmp_path / "a.nwb.zarr"),
        mode="w",
        attributes={"neurodata_type": "NWBFile", "nwb_version": "2.8.0", "namespace": "core"},
    )

    def put(name: str, kind: str, **arrays: np.ndarray) -> zarr.Group:
        group = root.create_group(name)
        group.attrs["neurodata_type"] = kind
        for key, values in arrays.items():
            group.create_array(key, data=values)
        return group

    traces = put(
        "processing/ophys/Fluorescence/raw", "RoiResponseSeries", data=calcium, starting_time=np.zeros(1)
    )
    traces["starting_time"].attrs["rate"] = 10.0
    light = put(
        "stimulus/presentation/light",
        "TimeSeries",
        data=np.array([0, 7, 0]),
        timestamps=np.array([0, 5.0, 6.0]),
    )
    light["data"].attrs.update({"conversion": 0.5, "unit": "lux"})
    put(
        "intervals/trials", "TimeIntervals", id=np.arange(2), start_time=np.array([2.0, 8.0]),
        stop_time=np.array([3.0, 9.0]), contrast=np.array([0.2, 0.8]),
    )  # fmt: skip
    session = read_one(tmp_path / "a.nwb.zarr")
    assert [(each.name, each.unit) for each in session.inputs] == [
        ("light", "lux"), ("trials", ""), ("trials/contrast", ""),
    ]  # fmt: skip
    assert np.flatnonzero(session.input_values(["light"])[:, 0] == 3.5).tolist() == list(range(50, 60))
    contrast = session.input_values(["trials/contrast"])[:, 0]
    np.testing.assert_allclose(contrast[[19, 20, 29, 30, 80, 90]], [0, 0.2, 0.2, 0, 0.8, 0], atol=1e-6)
