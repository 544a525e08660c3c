"""Recordings elsewhere, served on this machine by a server that knows ranges and by one that does not."""

from __future__ import annotations

import hashlib
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import h5py
import numpy as np
import pytest
import zarr

from forebrain.commands import main
from forebrain.errors import RecordingError
from forebrain.sessions import remote
from forebrain.sessions.inspection import sidecar_path
from forebrain.sessions.readers import _selected, find_recordings, open_recording, reader_name
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.recordings import find_all, open_any, sha256_of


class Server:
    """Serves a folder, by ranges or not, and DANDI's API for its files; counts bytes and remembers
    requests."""

    def __init__(self, root: Path, ranges: bool) -> None:
        self.sent = 0
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                server.asked.append(unquote(parts.path))
                if parts.path.startswith("/api/"):
                    content: bytes | None = server.api(unquote(parts.path), parse_qs(parts.query))
                else:
                    file = root / unquote(parts.path).lstrip("/")
                    content = file.read_bytes() if file.is_file() else None
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if content is None:
                    self.answer(404, b"", {})
                elif asked and ranges:
                    first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
                    told = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
                    self.answer(206, content[first : last + 1], told | server.etag(content))
                else:
                    self.answer(200, content, server.etag(content))

            def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    server.sent += len(content)
                    self.wfile.write(content)

            def log_message(self, *words: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.root = root
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @staticmethod
    def etag(content: bytes) -> dict[str, str]:
        return {"ETag": f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'}

    def api(self, path: str, query: dict[str, list[str]]) -> bytes | None:
        import json

        if path == "/api/dandisets/000123/":
            return json.dumps({"most_recent_published_version": {"version": "0.1"}}).encode()
        if path == "/api/dandisets/000123/versions/0.1/assets/":
            wanted = query["path"][0]
            there = [
                str(f.relative_to(self.root)) for f in self.root.rglob("*") if not f.name.startswith(".")
            ]
            found = [name for name in there if name.startswith(wanted)]
            return json.dumps({"results": [{"path": name, "asset_id": name} for name in found]}).encode()
        if path.startswith("/api/assets/"):
            name = path.removeprefix("/api/assets/").rstrip("/")
            file = self.root / name
            metadata = {"contentUrl": [f"{self.url}/api/download", f"{self.url}/{name}"]}
            if file.is_dir():
                metadata["encodingFormat"] = "application/x-zarr"
            else:
                metadata["digest"] = {"dandi:sha2-256": hashlib.sha256(file.read_bytes()).hexdigest()}
            return json.dumps(metadata).encode()
        return None

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOREBRAIN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], Server]]:
    """Starts a server of the folder `lab`, with ranges or without."""
    started: list[Server] = []

    def serve(ranges: bool) -> Server:
        (tmp_path / "lab").mkdir(exist_ok=True)
        started.append(Server(tmp_path / "lab", ranges))
        monkeypatch.setenv("FOREBRAIN_DANDI_API", f"{started[-1].url}/api")
        return started[-1]

    yield serve
    for server in started:
        server.close()


NUM_FRAMES, NUM_UNITS = 300, 6


def write_nwb(path: Path, ballast: int = 0) -> np.ndarray:
    """An NWB file with traces, and behind them as many bytes of other data."""
    values = np.random.default_rng(0).standard_normal((NUM_FRAMES, NUM_UNITS)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"], file.attrs["neurodata_type"] = "2.8.0", "NWBFile"
        group = file.create_group("processing/ophys/DfOverF")
        group.attrs["neurodata_type"] = "DfOverF"
        series = group.create_group("dff")
        series.attrs["neurodata_type"] = "RoiResponseSeries"
        series["data"] = values
        series["starting_time"] = 0.0
        series["starting_time"].attrs["rate"] = 12.5
        if ballast:
            file["acquisition/movie"] = np.random.default_rng(1).integers(0, 256, ballast).astype(np.uint8)
    return values


def values_of(address: str) -> np.ndarray:
    (session,) = open_recording(address)
    return session.frames(0, session.num_frames)


def test_a_file_is_read_in_pieces_and_only_those_are_fetched(serve: Callable[[bool], Server]) -> None:
    server = serve(True)
    values = write_nwb(server.root / "day1" / "a.nwb", ballast=20 << 20)
    address = f"{server.url}/day1/a.nwb"
    assert reader_name(address) == "nwb"
    (session,) = open_recording(address)
    np.testing.assert_array_equal(session.frames(0, NUM_FRAMES), values)
    assert session.rate_hz == 12.5 and session.id == "day1/a/a"
    assert 0 < server.sent < 8 << 20
    sent = server.sent
    np.testing.assert_array_equal(values_of(address), values)
    assert server.sent - sent <= remote.BLOCK_BYTES  # the first block, which says that the file is the same


def test_large_recordings_travel_between_processes_and_are_read_by_slices(
    serve: Callable[[bool], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selected, "MAX_LOADED_BYTES", 0)
    server = serve(True)
    values = write_nwb(server.root / "a.nwb")
    (session,) = open_recording(f"{server.url}/a.nwb")
    sent = pickle.dumps(session)
    assert len(sent) < 3000
    np.testing.assert_array_equal(pickle.loads(sent).frames(100, 120), values[100:120])


def test_a_server_without_ranges_gives_the_whole_file_once(serve: Callable[[bool], Server]) -> None:
    server = serve(False)
    values = write_nwb(server.root / "day1" / "a.nwb")
    size = (server.root / "day1" / "a.nwb").stat().st_size
    address = f"{server.url}/day1/a.nwb"
    (session,) = open_recording(address)
    np.testing.assert_array_equal(session.frames(0, NUM_FRAMES), values)
    assert session.id == "day1/a/a"
    assert (
        len([file for file in remote._folder_of(address).rglob("a.nwb") if file.stat().st_size == size]) == 1
    )


@pytest.mark.parametrize("ranges", [True, False])
def test_other_formats_are_fetched_whole(serve: Callable[[bool], Server], ranges: bool) -> None:
    server = serve(ranges)
    values = np.random.default_rng(0).standard_normal((300_000, 4))
    (server.root / "lab2").mkdir(parents=True)
    np.save(server.root / "lab2" / "dff.npy", values)
    np.testing.assert_array_equal(values_of(f"{server.url}/lab2/dff.npy"), values.astype(np.float32))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_is_read_chunk_by_chunk(
    serve: Callable[[bool], Server], monkeypatch: pytest.MonkeyPatch, zarr_format: int
) -> None:
    monkeypatch.setattr(_selected, "MAX_LOADED_BYTES", 0)
    server = serve(False)
    values = np.random.default_rng(0).standard_normal((10_000, 6)).astype(np.float32)
    root = zarr.open_group(str(server.root / "a.zarr"), mode="w", zarr_format=zarr_format)
    root.create_array("dff", data=values, chunks=(100, 6))
    root.create_array("movie", data=np.zeros((50, 20, 20)))
    zarr.consolidate_metadata(str(server.root / "a.zarr"))
    address = f"{server.url}/a.zarr"
    (session,) = open_recording(address)
    server.asked.clear()
    np.testing.assert_array_equal(session.frames(8250, 8260), values[8250:8260])
    assert len([path for path in server.asked if "/dff/" in path]) == 1
    server.asked.clear()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(session)).frames(8250, 8260), values[8250:8260])
    assert not [path for path in server.asked if "/dff/" in path]


def test_a_chunk_that_the_store_elsewhere_leaves_out_is_counted(serve: Callable[[bool], Server]) -> None:
    server = serve(True)
    values = np.random.default_rng(0).standard_normal((1000, 6)).astype(np.float32)
    root = zarr.open_group(str(server.root / "a.zarr"), mode="w", zarr_format=2)
    root.create_array("dff", data=values, chunks=(100, 6), fill_value=0)
    zarr.consolidate_metadata(str(server.root / "a.zarr"))
    (server.root / "a.zarr/dff/3.0").unlink()
    (session,) = open_recording(f"{server.url}/a.zarr")
    assert session.metadata["missing_chunks"].startswith("1 of 10 chunks of dff are not in the store")
    values[300:400] = np.nan
    np.testing.assert_array_equal(session.frames(0, 1000), values)


def test_a_store_without_consolidated_metadata_is_one_clear_error(serve: Callable[[bool], Server]) -> None:
    server = serve(True)
    zarr.open_group(str(server.root / "a.zarr"), mode="w", zarr_format=2).create_array(
        "dff", data=np.ones((100, 6))
    )
    with pytest.raises(RecordingError, match="consolidate_metadata"):
        open_recording(f"{server.url}/a.zarr")


def test_a_recording_of_dandi_is_found_by_its_path(serve: Callable[[bool], Server]) -> None:
    server = serve(True)
    values = write_nwb(server.root / "sub-1" / "sub-1_ses-2.nwb")
    for address in ("dandi:000123/sub-1/sub-1_ses-2.nwb", "dandi:000123@0.1/sub-1/sub-1_ses-2.nwb"):
        (session,) = open_recording(address)
        np.testing.assert_array_equal(session.frames(0, NUM_FRAMES), values)
        assert session.dataset == "dandi-000123"
    with pytest.raises(RecordingError, match=r"no such file; it has sub-1/sub-1_ses-2\.nwb"):
        open_recording("dandi:000123/sub-1/sub-1_ses-2")
    with pytest.raises(RecordingError, match="expected dandi:000NNN/PATH"):
        open_recording("dandi:12/a.nwb")


def test_a_file_that_dandi_states_other_bytes_of_is_not_kept(
    serve: Callable[[bool], Server], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    server = serve(False)
    write_nwb(server.root / "a.nwb")
    api = server.api

    def wrong(path: str, query: dict[str, list[str]]) -> bytes | None:
        return re.sub(
            rb'"dandi:sha2-256": "[0-9a-f]+"',
            b'"dandi:sha2-256": "' + b"0" * 64 + b'"',
            api(path, query) or b"",
        )

    monkeypatch.setattr(server, "api", wrong)
    with pytest.raises(RecordingError, match="other bytes came than the archive states"):
        open_recording("dandi:000123/a.nwb")
    assert not [path for path in home.rglob("*.nwb*") if path.is_file()]


def test_bytes_that_changed_in_the_cache_are_fetched_again(
    serve: Callable[[bool], Server], home: Path
) -> None:
    server = serve(True)
    values = write_nwb(server.root / "a.nwb", ballast=3 << 20)
    address = f"{server.url}/a.nwb"
    values_of(address)
    for file in home.rglob("0000000*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))
    np.testing.assert_array_equal(values_of(address), values)


def test_a_file_that_changed_at_its_address_is_another_one(serve: Callable[[bool], Server]) -> None:
    server = serve(True)
    write_nwb(server.root / "a.nwb")
    address = f"{server.url}/a.nwb"
    before = sha256_of(address)
    values_of(address)
    with h5py.File(server.root / "a.nwb", "r+") as file:
        file["processing/ophys/DfOverF/dff/data"][...] = 7 + np.random.default_rng(3).random(
            (NUM_FRAMES, NUM_UNITS)
        )
    assert (values_of(address) >= 7).all()
    assert sha256_of(address) != before


@pytest.mark.parametrize("ranges", [True, False])
def test_of_a_server_that_tells_no_versions_apart_nothing_is_used_again(
    serve: Callable[[bool], Server], monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    monkeypatch.setattr(Server, "etag", staticmethod(lambda content: {}))
    monkeypatch.setattr(_selected, "MAX_LOADED_BYTES", 0)
    server = serve(ranges)
    address = f"{server.url}/a.nwb"
    first = write_nwb(server.root / "a.nwb", ballast=3 << 20)
    before = sha256_of(address)
    (session,) = open_recording(address)
    with h5py.File(server.root / "a.nwb", "r+") as file:  # as long as it was
        file["processing/ophys/DfOverF/dff/data"][...] = first + 7
    assert sha256_of(address) != before
    np.testing.assert_array_equal(values_of(address), first + 7)
    np.testing.assert_array_equal(session.frames(0, NUM_FRAMES), first)  # whose file is still what was opened


@pytest.mark.parametrize("ranges", [True, False])
def test_what_is_not_there_is_one_clear_error(serve: Callable[[bool], Server], ranges: bool) -> None:
    server = serve(ranges)
    for address in (f"{server.url}/a.nwb", f"{server.url}/a.zarr"):
        with pytest.raises(RecordingError) as caught:
            open_recording(address)
        assert address in str(caught.value)
    server.close()
    with pytest.raises(RecordingError, match="Check the connection"):
        open_recording(f"{server.url}/b.nwb")


def test_a_sidecar_on_this_machine_speaks_of_a_recording_elsewhere(serve: Callable[[bool], Server]) -> None:
    server = serve(True)
    (server.root).mkdir(exist_ok=True)
    np.savez(server.root / "a.npz", one=np.random.rand(100, 5), two=np.random.rand(100, 6))
    address = f"{server.url}/a.npz"
    with pytest.raises(RecordingError, match="several arrays"):
        open_recording(address)
    said = sidecar_path(address)
    said.parent.mkdir(parents=True, exist_ok=True)
    said.write_text("variable: two\nsubject: 010\n")
    (session,) = open_recording(address)
    assert session.num_units == 6 and session.subject == "010"


def test_commands_take_addresses(
    serve: Callable[[bool], Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(True)
    write_nwb(server.root / "sub-1" / "a.nwb")
    assert main(["data", "get", "dandi:000123/sub-1/a.nwb"]) == 0
    assert "300 frames x 6 units" in capsys.readouterr().out
    assert main(["inspect", "dandi:000123/sub-1/a.nwb"]) == 0
    assert "1 sessions can be used" in capsys.readouterr().out
    addresses = [f"{server.url}/sub-1/a.nwb", "dandi:000123/sub-1/a.nwb"]
    assert find_all(addresses) == sorted(addresses) and find_recordings(addresses) == sorted(addresses)
    assert open_any(addresses[0])[0].num_frames == NUM_FRAMES
    first = prepare(addresses, str(tmp_path / "set"), PrepareConfig(), run_each=map_here)
    assert len(first.sessions) == 2 and not first.failures
    again = prepare(addresses, str(tmp_path / "set"), PrepareConfig(), run_each=map_here)
    assert again.num_skipped == 2


@pytest.mark.parametrize(
    "path", ["/..%2F..%2Fa.nwb", "/x/%2e%2e/a.nwb", "/..", "/a%5C..%5Cb.nwb", "/%00.nwb"]
)
def test_an_address_leads_to_no_other_folder_of_this_machine(path: str, home: Path) -> None:
    address = f"https://host{path}"
    file = remote.RemotePath(address, address, 1, "")._whole_file
    assert home.resolve() in file.resolve().parents
    assert file.parent.parent == file.resolve().parent.parent and file.name not in ("", ".", "..")


def test_a_block_that_the_disk_has_no_room_for_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        remote._write(tmp_path / "00000001", b"block")
    assert not list(tmp_path.iterdir())
