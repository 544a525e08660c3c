"""Random recordings, written by each library's writer with random conventions, come back as they were."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject
from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries
from scipy import io
from writing import matlab73, stamped

from forebrain.sessions.readers import open_recording
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

NUM_EXAMPLES = int(os.environ.get("FOREBRAIN_EXAMPLES", 15))  # of each writer


class Recording:
    """A random recording: what it holds, and how the next writer is to write it.

    Attributes:
        values: float64 [T, N], on a grid of 0.001, so that packed numbers are exact.
        rate_hz: frames a second.
        names: of the units.
        accepted: bool [N], with at least one cell.
        rng: from which conventions are drawn.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        num_frames, num_units = int(self.rng.integers(80, 400)), int(self.rng.integers(3, 12))
        walk = self.rng.standard_normal((num_frames, num_units)).cumsum(0) * 0.05
        self.values = np.round(walk + self.rng.standard_normal((num_frames, num_units)), 3)
        self.rate_hz = float(self.rng.choice([2.5, 4.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0]))
        self.names = tuple(f"cell {number}" for number in self.rng.choice(500, num_units, replace=False))
        self.accepted = self.rng.random(num_units) < 0.7
        self.accepted[self.rng.integers(num_units)] = True

    @property
    def times_s(self) -> np.ndarray:
        return np.arange(len(self.values)) / self.rate_hz

    def coin(self) -> bool:
        return bool(self.rng.random() < 0.5)

    def one_of(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def missing(self) -> np.ndarray:
        """The values, in half of all cases with some of them missing."""
        values = self.values.copy()
        if self.coin():
            values[self.rng.random(values.shape) < 0.01] = np.nan
        return values


Written = tuple[Path, Sidecar, np.ndarray, "tuple[str, ...] | None", "float | None"]


def by_pynwb(recording: Recording, folder: Path) -> Written:
    """A series with conversion and offset, rate or times, swapped or not, with links and rejected ROIs."""
    num_units = recording.values.shape[1]
    file = NWBFile("words", "ident", datetime(2024, 1, 2, tzinfo=UTC), session_id="day 2")
    file.subject = Subject(subject_id="010", species="Mus musculus", age="P8D", sex="U")
    optical = OpticalChannel(name="c", description="d", emission_lambda=510.0)
    plane = file.create_imaging_plane(
        name="plane",
        optical_channel=optical,
        description="d",
        indicator="GCaMP6s",
        device=file.create_device("microscope"),
        excitation_lambda=488.0,
        location="cortex",
    )
    ophys = file.create_processing_module("ophys", "d")
    segmentation = ImageSegmentation()
    ophys.add(segmentation)
    table = segmentation.create_plane_segmentation("d", plane, "cells")
    ids = recording.rng.choice(900, num_units + 3, replace=False)
    for number in ids:
        table.add_roi(pixel_mask=[(0, 0, 1.0)], id=int(number))
    rows = recording.rng.permutation(num_units + 3)[:num_units]
    names, kept = tuple(f"roi{ids[row]}" for row in rows), np.ones(num_units, bool)
    if recording.coin():
        flags = np.ones(num_units + 3, bool)
        flags[rows] = recording.accepted
        column = recording.one_of("Accepted", "iscell")
        table.add_column(column, "d", data=flags.astype(float) if column == "iscell" else flags)
        kept = recording.accepted
    rois = table.create_roi_table_region("d", region=rows.tolist())
    scale, offset = recording.one_of((1.0, 0.0), (0.001, 0.0), (0.001, 3.0))
    stored = recording.values if scale == 1.0 else np.round((recording.values - offset) / scale).astype("i4")
    container = recording.one_of(DfOverF, Fluorescence)()
    ophys.add(container)
    timing = (
        {"timestamps": recording.times_s}
        if recording.coin()
        else {"rate": recording.rate_hz, "starting_time": 0.0}
    )
    # pynwb refuses to write swapped axes beside times.
    swapped = recording.coin() and stored.shape[0] != stored.shape[1] and "rate" in timing
    container.add_roi_response_series(
        RoiResponseSeries(
            name="traces",
            data=stored.T if swapped else stored,
            rois=rois,
            unit="a",
            conversion=scale,
            offset=offset,
            **timing,
        )
    )
    with NWBHDF5IO(folder / "a.nwb", "w") as writer:
        writer.write(file)
    names = tuple(name for name, keep in zip(names, kept, strict=True) if keep)
    return folder / "a.nwb", Sidecar(), recording.values[:, kept], names, recording.rate_hz


def by_hdmf_zarr_layout(recording: Recording, folder: Path) -> Written:
    """The groups, links and attributes that hdmf-zarr writes, in either format of zarr."""
    num_units = recording.values.shape[1]
    root = zarr.open_group(str(folder / "a.nwb.zarr"), mode="w", zarr_format=recording.one_of(2, 3))
    root.attrs.update({"neurodata_type": "NWBFile", "nwb_version": "2.8.0", "namespace": "core"})
    table = root.create_group("processing/ophys/ImageSegmentation/PlaneSegmentation")
    table.attrs["neurodata_type"] = "PlaneSegmentation"
    ids = recording.rng.choice(900, num_units, replace=False)
    table.create_array("id", data=ids)
    table.create_array("Accepted", data=recording.accepted)
    series = root.create_group("processing/ophys/Fluorescence/traces")
    series.attrs["neurodata_type"] = "RoiResponseSeries"
    data = series.create_array(
        "data", data=np.round((recording.values - 3) / 0.001).astype("i4"), chunks=(50, num_units)
    )
    data.attrs.update({"conversion": 0.001, "offset": 3.0})
    rois = series.create_array("rois", data=np.arange(num_units))
    path = "/processing/ophys/ImageSegmentation/PlaneSegmentation"
    rois.attrs["table"] = {"value": {"path": path, "source": "."}, "zarr_dtype": "object"}
    if recording.coin():
        other = root.create_group("processing/behavior/other")
        other.create_array("timestamps", data=recording.times_s)
        series.attrs["zarr_link"] = [
            {"name": "timestamps", "path": "/processing/behavior/other/timestamps", "source": "."}
        ]
    else:
        series.create_array("starting_time", data=np.zeros(1)).attrs["rate"] = recording.rate_hz
    names = tuple(f"roi{number}" for number in ids[recording.accepted])
    values = recording.values[:, recording.accepted]
    return folder / "a.nwb.zarr", Sidecar(), values, names, recording.rate_hz


def by_xarray(recording: Recording, folder: Path) -> Written:
    """netCDF of both kinds and zarr of both formats, packed or not, axes in either order, times in any
    unit."""
    values = recording.missing()
    unit, per_second = recording.one_of(("s", 1.0), ("milliseconds", 1e3), ("min", 1 / 60))
    axes = ("time", "cell") if recording.coin() else ("cell", "time")
    data = xarray.Dataset(
        {"dff": (axes, values if axes[0] == "time" else values.T)},
        {"time": ("time", recording.times_s * per_second, {"units": unit})},
    )
    if recording.coin():
        data["wheel_speed"] = ("time", recording.rng.random(len(values)))
    packed = {"dtype": "i4", "scale_factor": 0.001, "add_offset": 3.0, "_FillValue": -(2**31)}
    data["dff"].encoding = recording.one_of({}, {"_FillValue": -999.0}, packed, {**packed, "add_offset": 0.0})
    kind = recording.one_of("h5netcdf", "scipy", 2, 3)
    if isinstance(kind, str):
        data.to_netcdf(folder / "a.nc", engine=kind)
        return folder / "a.nc", Sidecar(), values, None, recording.rate_hz
    data.to_zarr(folder / "a.zarr", zarr_format=kind)
    return folder / "a.zarr", Sidecar(), values, None, recording.rate_hz


def by_scipy(recording: Recording, folder: Path) -> Written:
    """MATLAB of both generations: nested or not, turned or not, rate or times, other devices beside it."""
    values = recording.missing()
    turned = recording.coin() and len(values) != values.shape[1]
    timing = recording.one_of(
        {"fs": recording.rate_hz},
        {"frameTimes": recording.times_s},
        {"t_ms": recording.times_s * 1000},
        {"framePeriod_ms": 1000 / recording.rate_hz},
    )
    needs_axis = max(values.shape) < 4 * min(values.shape)
    axis = {"frames_axis": int(turned)} if needs_axis else {}
    content: dict[str, Any] = {"dff": values.T if turned else values, **timing}
    nested = recording.coin()
    content = {"imaging": content} if nested else content
    if nested:
        content["daq"] = {"fs": 2000.0, "lick": recording.rng.random(3000)}
    elif recording.coin():
        content["kinematics"] = recording.rng.random((len(values), 4))
    path = folder / "a.mat"
    if recording.coin():
        io.savemat(path, content, do_compression=recording.coin())
    else:
        with matlab73(path) as file:
            for name, value in content.items():
                for key, item in value.items() if isinstance(value, dict) else [("", value)]:
                    file[f"{name}/{key}" if key else name] = np.atleast_2d(item).T
        stamped(path)
    return path, Sidecar(**axis), values, None, recording.rate_hz


def by_suite2p(recording: Recording, folder: Path) -> Written:
    """A folder of a plane, or Fall.mat; with neuropil, curation and a stated array, or without."""
    values = recording.values.astype(np.float32)
    neuropil = recording.rng.random(values.shape).astype(np.float32)
    flags = np.stack([recording.accepted, recording.rng.random(len(recording.accepted))], axis=1)
    has_neuropil = recording.coin()
    wanted = recording.one_of(None, "F", "spks")
    arrays = {"F": values.T, "spks": values.T + 1, "iscell": flags.astype(np.float64)}
    if has_neuropil:
        arrays["Fneu"] = neuropil.T
    expected = {None: values - np.float32(0.7) * neuropil * has_neuropil, "F": values, "spks": values + 1}[
        wanted
    ]
    names = tuple(f"roi{roi}" for roi in np.flatnonzero(recording.accepted))
    if recording.coin():
        io.savemat(folder / "Fall.mat", {**arrays, "ops": {"fs": recording.rate_hz, "neucoeff": 0.7}})
        path, said = folder / "Fall.mat", {}
    else:
        path, said = folder / "fish" / "suite2p" / "plane0", {"rate_hz": recording.rate_hz}
        path.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    return path, Sidecar(variable=wanted, **said), expected[:, recording.accepted], names, recording.rate_hz


def by_caiman(recording: Recording, folder: Path) -> Written:
    """A file of CNMF.save: evaluated or not, dF/F computed or not."""
    values = recording.values
    num_units = values.shape[1]
    with h5py.File(folder / "a.hdf5", "w") as file:
        footprints = file.create_group("estimates/A")
        footprints["data"], footprints["indices"] = np.ones(num_units), np.arange(num_units)
        footprints["indptr"], footprints["shape"] = np.arange(num_units + 1), (400, num_units)
        has_dff = recording.coin()
        file["estimates/C"] = values.T + (5 if has_dff else 0)
        file["estimates/F_dff"] = values.T if has_dff else "NoneType"
        file["params/data/fr"] = recording.rate_hz
        kept = np.ones(num_units, bool)
        if recording.coin():
            kept = recording.accepted
            file["estimates/idx_components"] = np.flatnonzero(kept)
            file["estimates/idx_components_bad"] = np.flatnonzero(~kept)
        else:
            file["estimates/idx_components"] = "NoneType"
    return folder / "a.hdf5", Sidecar(), values[:, kept], None, recording.rate_hz


def by_pandas(recording: Recording, folder: Path) -> Written:
    """CSV in any dialect, Excel, Parquet and Feather: times in any unit and place, counters and behaviour."""
    values = recording.missing()
    frame = pd.DataFrame(values, columns=list(recording.names))
    time, per_second = recording.one_of(
        ("Time (s)", 1.0), ("time_ms", 1e3), ("Zeit [ms]", 1e3), ("t (min)", 1 / 60)
    )
    if recording.coin():
        frame.insert(0, "frame", np.arange(len(values)))
    frame.insert(recording.one_of(0, frame.shape[1]), time, recording.times_s * per_second)
    if recording.coin():
        frame["wheel speed"] = recording.rng.random(len(values))
    kind = recording.one_of("csv", "csv", "csv", "xlsx", "parquet", "feather")
    path = folder / f"a.{kind}"
    if kind == "xlsx":
        frame.to_excel(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "feather":
        frame.to_feather(path)
    else:
        separator, decimal = recording.one_of((",", "."), (";", ","), ("\t", "."), ("\t", ","))
        encoding = recording.one_of("utf-8", "utf-8-sig", "utf-16", "cp1252")
        text = frame.to_csv(sep=separator, decimal=decimal, index=recording.coin())
        text = f"sep={separator}\n{text}" if recording.coin() else text
        path.write_bytes(text.encode(encoding))
    return path, Sidecar(), values, recording.names, recording.rate_hz


def by_json(recording: Recording, folder: Path) -> Written:
    """Rows with a time each."""
    rows = [
        [time, row] for time, row in zip(recording.times_s.tolist(), recording.values.tolist(), strict=True)
    ]
    (folder / "a.json").write_text(json.dumps({"recording": {"traces": rows}}))
    return folder / "a.json", Sidecar(), recording.values, None, recording.rate_hz


WRITERS: list[Callable[[Recording, Path], Written]] = [
    by_pynwb,
    by_hdmf_zarr_layout,
    by_xarray,
    by_scipy,
    by_suite2p,
    by_caiman,
    by_pandas,
    by_json,
]


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
@settings(
    max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_a_library_writes_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, writer: Callable[[Recording, Path], Written], seed: int
) -> None:
    path, sidecar, values, names, rate_hz = writer(Recording(seed), tmp_path_factory.mktemp("recording"))
    (session,) = open_recording(path, sidecar)
    assert_same(session, values, names, rate_hz)


def assert_same(
    session: Session, values: np.ndarray, names: tuple[str, ...] | None, rate_hz: float | None
) -> None:
    got = session.frames(0, session.num_frames)
    np.testing.assert_allclose(got, values.astype(np.float32), rtol=1e-6, atol=1e-6)
    if names is not None:
        assert session.unit_names == names
    assert session.rate_hz == pytest.approx(rate_hz, rel=1e-6)
