"""Packed numbers in netCDF and zarr: what xarray wrote is what is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
import xarray
import zarr
from writing import assert_values, read_one

from forebrain.errors import RecordingError

PACKED = {"dtype": "i2", "scale_factor": 0.001, "add_offset": 3.0, "_FillValue": -32768}
Writer = Callable[[xarray.Dataset, Path], Any]
WRITERS: dict[str, tuple[str, Writer]] = {
    "netcdf4": ("a.nc", lambda data, path: data.to_netcdf(path, engine="h5netcdf")),
    "netcdf3": ("a.nc", lambda data, path: data.to_netcdf(path, engine="scipy")),
    "zarr2": ("a.zarr", lambda data, path: data.to_zarr(path, zarr_format=2)),
    "zarr3": ("a.zarr", lambda data, path: data.to_zarr(path, zarr_format=3)),
}


@pytest.mark.parametrize("format_name", WRITERS)
@pytest.mark.parametrize(
    "packing", [PACKED, {"_FillValue": -1.0}, {"dtype": "f4"}], ids=["int16", "fill", "plain"]
)
def test_what_xarray_packs_is_read_as_it_was(
    tmp_path: Path, calcium: np.ndarray, format_name: str, packing: dict[str, Any]
) -> None:
    values = calcium.copy()
    if "_FillValue" in packing:
        values[50:54, 2] = np.nan
    times = {"time": ("time", np.arange(200) * 100.0, {"units": "milliseconds"})}
    data = xarray.Dataset({"dff": (("unit_id", "time"), values.T)}, times)
    data["dff"].encoding = packing
    name, write = WRITERS[format_name]
    write(data, tmp_path / name)
    session = read_one(tmp_path / name)
    assert_values(session, values, atol=6e-4)
    assert session.rate_hz == 10.0
    assert session.metadata["axis_from"] == "the names of the axes: unit_id, time"


def test_packed_numbers_are_read_by_slices_from_large_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("dff", (100_000, 400), "i2", chunks=(1000, 400), fillvalue=7)
        data.attrs["scale_factor"], data.attrs["add_offset"] = 0.5, 1.0
        data[99_999] = np.arange(400)
    session = read_one(tmp_path / "a.h5")
    assert not isinstance(session.traces, np.ndarray)
    np.testing.assert_array_equal(session.frames(99_998, 100_000), [[4.5] * 400, np.arange(400) * 0.5 + 1])


def chunked(path: Path, values: np.ndarray, **options: Any) -> zarr.Array:
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    array = root.create_array("dff", shape=values.shape, dtype="f4", chunks=(6, 200), **options)
    array[:] = values
    return array


def test_an_absent_chunk_is_missing_where_the_fill_value_says_so(tmp_path: Path, calcium: np.ndarray) -> None:
    values = np.tile(calcium, (5, 1)).T
    chunked(tmp_path / "a.zarr", values, fill_value=np.nan)
    (tmp_path / "a.zarr/dff/0.3").unlink()
    session = read_one(tmp_path / "a.zarr")
    expected = values.T.copy()
    expected[600:800] = np.nan
    assert_values(session, expected)
    assert session.metadata["missing_chunks"].startswith("1 of 5 chunks of dff are not in the store")


def test_an_absent_chunk_of_dense_values_is_missing_though_its_fill_value_is_zero(
    tmp_path: Path, calcium: np.ndarray
) -> None:
    values = np.tile(calcium, (5, 1)).T
    chunked(tmp_path / "a.zarr", values, fill_value=0)
    (tmp_path / "a.zarr/dff/0.3").unlink()
    expected = values.T.copy()
    expected[600:800] = np.nan
    assert_values(read_one(tmp_path / "a.zarr"), expected)
    expected[600:800] = 0
    session = read_one(tmp_path / "a.zarr", absent_chunks="zeros")
    assert_values(session, expected)
    assert "the sidecar says so" in session.metadata["missing_chunks"]


def test_an_absent_chunk_among_sparse_ones_is_zeros_and_counted(tmp_path: Path, calcium: np.ndarray) -> None:
    values = np.tile(np.where(calcium > 2.5, calcium, 0), (5, 1)).T
    values[:, 600:800] = 0
    chunked(tmp_path / "a.zarr", values, fill_value=0, config={"write_empty_chunks": False})
    assert not (tmp_path / "a.zarr/dff/0.3").exists()
    session = read_one(tmp_path / "a.zarr")
    assert_values(session, values.T)
    assert "count as zeros" in session.metadata["missing_chunks"]
    expected = values.T.copy()
    expected[600:800] = np.nan
    assert_values(read_one(tmp_path / "a.zarr", absent_chunks="missing"), expected)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_chunk_that_is_cut_off_is_refused_before_it_is_decoded(
    tmp_path: Path, calcium: np.ndarray, zarr_format: Any
) -> None:
    from zarr.codecs import BloscCodec

    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=zarr_format)
    blosc = numcodecs.Blosc() if zarr_format == 2 else BloscCodec()
    root.create_array("dff", data=calcium, chunks=(100, 6), compressors=blosc)
    assert_values(read_one(tmp_path / "a.zarr"), calcium)
    chunk = tmp_path / "a.zarr/dff" / ("1.0" if zarr_format == 2 else "c/1/0")
    chunk.write_bytes(chunk.read_bytes()[:-200])
    with pytest.raises(RecordingError, match="it is cut off"):
        read_one(tmp_path / "a.zarr")


def test_a_store_without_any_chunk_is_refused(tmp_path: Path, calcium: np.ndarray) -> None:
    chunked(tmp_path / "a.zarr", np.zeros((6, 1000)), fill_value=0, config={"write_empty_chunks": False})
    with pytest.raises(RecordingError, match="none of the 5 chunks of dff is there"):
        read_one(tmp_path / "a.zarr")


def test_one_array_that_cannot_be_opened_leaves_the_others_readable(
    tmp_path: Path, calcium: np.ndarray
) -> None:
    import json

    chunked(tmp_path / "a.zarr", np.tile(calcium, (5, 1)).T, fill_value=0)
    (tmp_path / "a.zarr/other").mkdir()
    metadata = json.loads((tmp_path / "a.zarr/dff/.zarray").read_text())
    metadata["compressor"] = {"id": "imagecodecs_jpeg2k"}
    (tmp_path / "a.zarr/other/.zarray").write_text(json.dumps(metadata))
    assert read_one(tmp_path / "a.zarr").num_units == 6
    with pytest.raises(RecordingError, match=r"other .*imagecodecs_jpeg2k.*not installed"):
        read_one(tmp_path / "a.zarr", variable="other")


def test_plain_numbers_are_not_touched_by_the_conventions(tmp_path: Path, calcium: np.ndarray) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dff"] = calcium
        file["dff"].attrs["note"] = "raw"
    assert_values(read_one(tmp_path / "a.h5"), calcium)
