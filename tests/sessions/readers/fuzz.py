"""Mutated recordings: each is one typed error, or is read as the format's own library reads it.

    python tests/sessions/readers/fuzz.py 10000

mutates 10,000 files, a seed each, and says what became of them. A reading is wrong if it is a traceback,
takes longer than `LIMIT_S`, ends the process, takes another array than the whole file's, or has other
numbers, as float32, than the library reads from that array.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openpyxl
import pandas as pd
import xarray
import zarr
from scipy import io

from forebrain.errors import RecordingError
from forebrain.sessions.readers import open_recording
from forebrain.sessions.sidecar import Sidecar

LIMIT_S = 20
_BATCH = 50
_NUM_FRAMES, _NUM_UNITS = 120, 5
_MAX_READ = 1 << 22  # values; what announces more is read at its ends


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        name: of the file or folder, relative to an empty folder.
        write: writes it, given its path, traces [T, N] and others of the same shape that are behaviour.
        library: gives the traces' array as the format's own library reads it, [T, N] or [N, T], by the path
            and the name that our reader says it took, which may have been mutated.
        mutable: pattern of the files in a folder that are mutated; empty for a single file.
        sidecar: what reading it needs.
    """

    name: str
    write: Callable[[Path, np.ndarray, np.ndarray], Any]
    library: Callable[[Path, str], np.ndarray]
    mutable: str = ""
    sidecar: Sidecar = Sidecar()  # noqa: RUF009 - it is frozen


def _write_h5(path: Path, traces: np.ndarray, speed: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["dff"], file["speed"], file["fs"] = traces, speed, 10.0


def _read_h5(path: Path, name: str) -> np.ndarray:
    with h5py.File(path, "r") as file:
        return file[name][()]


def _write_mat73(path: Path, traces: np.ndarray, speed: np.ndarray) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file["dff"], file["speed"], file["fs"] = traces.T, speed.T, [[10.0]]
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def _write_packed(path: Path, traces: np.ndarray, speed: np.ndarray, **options: Any) -> None:
    data = xarray.Dataset({"dff": (("frame", "unit"), traces), "speed": (("frame", "unit"), speed)})
    data["dff"].encoding = {"dtype": "i2", "scale_factor": 0.001, "add_offset": 1.0, "_FillValue": -32768}
    data.to_netcdf(path, **options)


def _write_csv(path: Path, traces: np.ndarray, speed: np.ndarray) -> None:
    pd.DataFrame(traces, columns=list("abcde")).to_csv(path, index=False)


def _read_csv(path: Path, name: str) -> np.ndarray:
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    rows = [row for row in rows if row]
    return np.array([[float(field) if field.strip() else np.nan for field in row] for row in rows[1:]])


def _write_json(path: Path, traces: np.ndarray, speed: np.ndarray) -> None:
    path.write_text(json.dumps({"dff": traces.tolist(), "speed": speed.tolist(), "fs": 10.0}))


def _write_excel(path: Path, traces: np.ndarray, speed: np.ndarray) -> None:
    pd.DataFrame(traces, columns=list("abcde")).to_excel(path, index=False)


def _read_excel(path: Path, name: str) -> np.ndarray:
    sheet = openpyxl.load_workbook(path, data_only=True).worksheets[0]
    rows = list(sheet.iter_rows(values_only=True))[1:]
    return np.array([[np.nan if cell is None else float(cell) for cell in row] for row in rows])


def _write_zarr(zarr_format: Any) -> Callable[[Path, np.ndarray, np.ndarray], None]:
    def write(path: Path, traces: np.ndarray, speed: np.ndarray) -> None:
        root = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
        root.create_array("dff", data=traces, chunks=(60, 5))
        root.create_array("speed", data=speed)

    return write


def _write_nwb(path: Path, traces: np.ndarray, speed: np.ndarray) -> None:
    from writing import bare_nwb, put_series

    with bare_nwb(path) as file:
        put_series(file.require_group("processing/ophys/DfOverF"), "dff", traces, "RoiResponseSeries", 10.0)
        put_series(file.require_group("processing/behavior"), "speed", speed, "TimeSeries", 10.0)


def _read_nwb(path: Path, name: str) -> np.ndarray:
    with h5py.File(path, "r") as file:
        data = file[f"{name}/data"]
        scale = float(data.attrs.get("conversion", 1.0))
        scale = scale if np.isfinite(scale) and scale else 1.0
        return (data[()] * scale + float(data.attrs.get("offset", 0.0))).astype(np.float32)


def _write_caiman(path: Path, traces: np.ndarray, speed: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["estimates/C"], file["estimates/F_dff"], file["params/data/fr"] = speed.T, traces.T, 10.0


def _write_suite2p(path: Path, traces: np.ndarray, speed: np.ndarray) -> None:
    path.mkdir()
    np.save(path / "F.npy", traces.T.astype(np.float32))
    np.save(path / "iscell.npy", np.ones((traces.shape[1], 2)))


FORMATS = {
    "npy": Format(
        "dff.npy", lambda path, traces, speed: np.save(path, traces), lambda path, name: np.load(path)
    ),
    "npz": Format(
        "a.npz",
        lambda path, traces, speed: np.savez(path, dff=traces, speed=speed, fs=10.0),
        lambda path, name: np.load(path)[name],
    ),
    "layout": Format(
        "a.npz",
        lambda path, traces, speed: np.savez_compressed(
            path, traces=traces, behaviour=speed[:, :1], behaviour_names=["v"]
        ),
        lambda path, name: np.load(path)["traces"],
    ),
    "mat": Format(
        "a.mat",
        lambda path, traces, speed: io.savemat(path, {"dff": traces, "speed": speed, "fs": 10.0}),
        lambda path, name: io.loadmat(path)[name],
    ),
    "mat compressed": Format(
        "a.mat",
        lambda path, traces, speed: io.savemat(path, {"dff": traces, "speed": speed}, do_compression=True),
        lambda path, name: io.loadmat(path)[name],
    ),
    "mat73": Format("a.mat", _write_mat73, _read_h5),
    "h5": Format("a.h5", _write_h5, _read_h5),
    "nwb": Format("a.nwb", _write_nwb, _read_nwb),
    "caiman": Format("a.hdf5", _write_caiman, _read_h5),
    "netcdf4": Format(
        "a.nc",
        lambda *what: _write_packed(*what, engine="h5netcdf"),
        lambda path, name: xarray.open_dataset(path, engine="h5netcdf", decode_times=False)[name].values,
    ),
    "netcdf3": Format(
        "a.nc",
        lambda *what: _write_packed(*what, engine="scipy"),
        lambda path, name: xarray.open_dataset(path, engine="scipy", decode_times=False)[name].values,
    ),
    "zarr 2": Format(
        "a.zarr", _write_zarr(2), lambda path, name: zarr.open_group(path, mode="r")[name][...], "dff/*"
    ),
    "zarr 3": Format(
        "a.zarr", _write_zarr(3), lambda path, name: zarr.open_group(path, mode="r")[name][...], "dff/**/*"
    ),
    "suite2p": Format("plane0", _write_suite2p, lambda path, name: np.load(path / "F.npy"), "F.npy"),
    "csv": Format("a.csv", _write_csv, _read_csv),
    "json": Format(
        "a.json", _write_json, lambda path, name: np.array(json.loads(path.read_text())[name], np.float64)
    ),
    "excel": Format("a.xlsx", _write_excel, _read_excel),
    "parquet": Format(
        "a.parquet",
        lambda path, traces, speed: pd.DataFrame(traces, columns=list("abcde")).to_parquet(path),
        lambda path, name: pd.read_parquet(path).to_numpy(),
    ),
    "feather": Format(
        "a.feather",
        lambda path, traces, speed: pd.DataFrame(traces, columns=list("abcde")).to_feather(path),
        lambda path, name: pd.read_feather(path).to_numpy(),
    ),
}


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with a few bytes changed, cut off, left out, doubled or put in."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        if not data:
            break
        # Headers are small beside the numbers, and what they say matters more.
        at = int(rng.integers(len(data)) if rng.random() < 0.5 else min(len(data) - 1, rng.integers(2048)))
        length = int(rng.integers(1, 17))
        kind = rng.choice(6, p=[0.35, 0.35, 0.06, 0.06, 0.06, 0.12])
        if kind == 0:
            data[at] = int(rng.integers(256))
        elif kind == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = rng.bytes(length)
        else:
            data[at : at + length] = bytes([int(rng.choice([0, 255, 48, 44]))]) * length
    return bytes(data)


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_one(seed: int) -> tuple[str, str, str]:
    """The format, `read`, `refused` or `wrong`, and what was wrong, of one mutated recording."""
    rng = np.random.default_rng(seed)
    name = list(FORMATS)[seed % len(FORMATS)]
    kind = FORMATS[name]
    traces = np.round(rng.standard_normal((_NUM_FRAMES, _NUM_UNITS)).cumsum(0) * 0.1, 3)
    speed = np.round(rng.random((_NUM_FRAMES, _NUM_UNITS)), 3)
    folder = Path(tempfile.mkdtemp())
    path = folder / kind.name
    try:
        with warnings.catch_warnings(), _limited(LIMIT_S):
            warnings.simplefilter("ignore")
            kind.write(path, traces, speed)
            before = dict(open_recording(path, kind.sidecar)[0].metadata).get("variable")
            targets = [path] if path.is_file() else sorted(f for f in path.glob(kind.mutable) if f.is_file())
            target = targets[int(rng.integers(len(targets)))]
            target.write_bytes(mutated(target.read_bytes(), rng))
            return name, *_judged(path, kind, before, traces)
    except Exception as error:
        return name, "wrong", f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _judged(path: Path, kind: Format, before: str | None, traces: np.ndarray) -> tuple[str, str]:
    try:
        sessions = open_recording(path, kind.sidecar)
        got = [_frames(session) for session in sessions]
    except RecordingError as error:
        return ("refused", "") if str(path) in str(error) else ("wrong", f"does not name the file: {error}")
    except OSError as error:  # frames of a lazy source, which repair names
        return "refused", str(error)
    (session,), (values,) = sessions, got
    after = dict(session.metadata).get("variable")
    wanted = traces.astype(np.float32)
    if values.shape == wanted.shape and np.allclose(values, wanted, atol=6e-4, equal_nan=True):
        return "read", "as it was"
    try:
        library = np.asarray(kind.library(path, after or ""))
    except Exception as error:
        return (
            "wrong",
            f"read {values.shape} as {after} where the library fails: {type(error).__name__}: {error}",
        )
    if after != before and (after or "").rpartition("/")[2] in ("speed", "C", "fs"):
        return "wrong", f"{after} was taken in place of {before}"
    with np.errstate(over="ignore", invalid="ignore"):
        library = library.astype(np.float32)
    if library.size > _MAX_READ:
        return "read", "large"
    return (
        ("read", "") if _fits(values, library) else ("wrong", f"{values.shape} is not what the library reads")
    )


def _frames(session: Any) -> np.ndarray:
    if session.num_frames * session.num_units <= _MAX_READ:
        return session.frames(0, session.num_frames)
    session.frames(0, 1)
    return session.frames(session.num_frames - 1, session.num_frames)


def _fits(values: np.ndarray, library: np.ndarray) -> bool:
    """Whether values [T, N] are the library's, or those of its columns that are no clocks."""
    for array in (library, library.T):
        if array.ndim != 2 or array.shape[0] != values.shape[0]:
            continue
        columns = iter(array.T)
        if all(any(np.array_equal(column, own, equal_nan=True) for own in columns) for column in values.T):
            return True
    return False


def _try_many(seeds: list[int], results: Any) -> None:
    for seed in seeds:
        results.put((seed, None))
        results.put((seed, try_one(seed)))


def run(seeds: Iterable[int]) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Counts of what became of mutated recordings, by format, and what was wrong; in processes of their
    own."""
    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    context = multiprocessing.get_context("fork")
    seeds = list(seeds)
    while seeds:
        batch, seeds = seeds[:_BATCH], seeds[_BATCH:]
        results = context.SimpleQueue()
        worker = context.Process(target=_try_many, args=(batch, results), daemon=True)
        worker.start()
        begun = None
        done: set[int] = set()
        while len(done) < len(batch):
            while results.empty() and worker.is_alive():
                worker.join(0.005)
            if results.empty():
                break
            seed, result = results.get()
            begun = seed
            if result is not None:
                done.add(seed)
                counts[result[:2]] += 1
                if result[1] == "wrong":
                    wrong.append(f"seed {seed}: {result[0]}: {result[2]}")
        worker.join(1)
        if len(done) < len(batch):
            name = list(FORMATS)[(begun or 0) % len(FORMATS)]
            counts[name, "wrong"] += 1
            wrong.append(f"seed {begun}: {name}: ended the process with {worker.exitcode}")
            seeds = [seed for seed in batch if seed not in done and seed != begun] + seeds
    return counts, wrong


def main() -> int:
    counts, wrong = run(
        range(int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else range(int(sys.argv[1]))
    )
    print(f"{'format':16}{'read':>8}{'refused':>9}{'wrong':>7}")
    for name in FORMATS:
        print(
            f"{name:16}"
            + "".join(
                f"{counts[name, what]:{width}}" for what, width in (("read", 8), ("refused", 9), ("wrong", 7))
            )
        )
    print(*wrong[:60], sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
