from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

from file_server import Server
from forebrain.errors import RecordingError
from forebrain.sessions import catalogue
from forebrain.sessions.catalogue import Entry
from forebrain.sessions.readers import open_recording

ORIGINALS = {
    "zebrafish-cilva-zf1": ("txt_cilva", "zebrafish__triplett2020_cilva__zf1"),
    "celegans-kato2015-worm1": ("npz_kato2015", "celegans__kato2015__worm1"),
    "celegans-dag2023-2022-07-26-31": ("h5_flavell_dag2023", "celegans__dag2023__2022-07-26-31"),
    "macaque-quartz-2022-12-01": (
        "inscopix_csv_macaque",
        "macaque__rhesus_SMA_M1_thebrisklab__Quartz_L_2022_12_01",
    ),
    "mouse-neuronsxnets-day1": (
        "suite2p_folder_neuronsxnets",
        "mouse__neuronsxnets_passive__day1_spontaneous",
    ),
    "celegans-atanas2023-2022-08-02-01": (
        "json_worm_machine",
        "celegans__atanas2023_wormmachine__2022-08-02-01",
    ),
    "zebrafinch-seqnmf": ("mat_seqnmf", "zebrafinch__mackevicius2019_seqnmf__isolate_bird"),
    "rat-nelpy-linear-track": ("spikes_mat_nelpy", "rat__nelpy_hippocampus_spikes__linear-track"),
}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOREBRAIN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def entry_for(server: Server, tmp_path: Path, path: str = "/folder/day%201.npy") -> Entry:
    """An entry whose file the server has."""
    np.save(tmp_path / "served.npy", np.random.default_rng(0).normal(size=(50, 4)))
    content = (tmp_path / "served.npy").read_bytes()
    server.files[path] = content
    return Entry(
        url=server.url + path,
        sha256=hashlib.sha256(content).hexdigest(),
        licence="CC0",
        citation="Nobody 2024",
        sidecar={"rate_hz": 4.0, "species": "mouse", "subject": "m1", "session": "day1", "dataset": "lab"},
    )


def test_a_recording_comes_with_what_is_needed_to_read_it(server: Server, tmp_path: Path, home: Path) -> None:
    catalogue.add("mine", entry_for(server, tmp_path))
    path = catalogue.get("mine")
    assert path == home / "data" / "mine" / "day 1.npy"
    (session,) = open_recording(path)
    assert (session.id, session.rate_hz, session.species) == ("lab/m1/day1", 4.0, "mouse")
    assert (session.metadata["licence"], session.metadata["citation"]) == ("CC0", "Nobody 2024")


def test_a_recording_that_is_a_folder_comes_with_all_its_files(
    server: Server, tmp_path: Path, home: Path
) -> None:
    rng = np.random.default_rng(0)
    arrays = {"F": rng.normal(9, 1, (4, 60)), "Fneu": rng.normal(size=(4, 60)), "iscell": np.eye(4)[:, :2]}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        server.files[f"/suite2p/plane%200/{name}.npy"] = (tmp_path / f"{name}.npy").read_bytes()
    sha256 = {
        path.rpartition("/")[2]: hashlib.sha256(content).hexdigest() for path, content in server.files.items()
    }
    url = f"{server.url}/suite2p/plane%200/F.npy"
    beside = {name: sha256[name] for name in ("Fneu.npy", "iscell.npy")}
    catalogue.add("mine", Entry(url, sha256["F.npy"], "CC0", sidecar={"rate_hz": 6.0}, beside=beside))
    path = catalogue.get("mine")
    assert path == home / "data" / "mine"
    (session,) = open_recording(path)
    assert (session.num_units, session.rate_hz, session.metadata["licence"]) == (1, 6.0, "CC0")
    np.testing.assert_allclose(session.traces[:, 0], arrays["F"][0] - 0.7 * arrays["Fneu"][0], rtol=1e-5)
    server.files.pop("/suite2p/plane%200/Fneu.npy")
    (path / "Fneu.npy").unlink()
    with pytest.raises(RecordingError, match=r"mine: .*Fneu.npy cannot be downloaded"):
        catalogue.get("mine")


def test_what_was_downloaded_is_not_downloaded_again_unless_it_is_damaged(
    server: Server, tmp_path: Path
) -> None:
    catalogue.add("mine", entry_for(server, tmp_path))
    path = catalogue.get("mine")
    content = path.read_bytes()
    assert catalogue.get("mine") == path
    assert server.num_requests == 1
    path.write_bytes(content[:-1])
    assert catalogue.get("mine").read_bytes() == content
    assert server.num_requests == 2


def test_other_bytes_than_expected_are_not_kept(server: Server, tmp_path: Path, home: Path) -> None:
    catalogue.add("mine", entry_for(server, tmp_path))
    server.files["/folder/day%201.npy"] = b"something else"
    with pytest.raises(RecordingError, match=r"mine: .*other bytes than expected"):
        catalogue.get("mine")
    assert not (home / "data" / "mine").exists()


def test_an_address_that_does_not_answer_is_one_clear_error(
    server: Server, tmp_path: Path, home: Path
) -> None:
    catalogue.add("mine", entry_for(server, tmp_path))
    server.files.clear()
    with pytest.raises(RecordingError, match=r"mine: .*404"):
        catalogue.get("mine")
    server.close()
    with pytest.raises(RecordingError, match="cannot be downloaded"):
        catalogue.get("mine")
    assert not (home / "data" / "mine").exists()


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(RecordingError, match=r"nothing: not in the catalogue; it has .*zebrafish-cilva-zf1"):
        catalogue.get("nothing")


def test_own_entries_stand_beside_the_public_ones(server: Server, tmp_path: Path) -> None:
    public = set(catalogue.catalogue())
    catalogue.add("mine", entry_for(server, tmp_path))
    catalogue.add("other", entry_for(server, tmp_path))
    assert set(catalogue.catalogue()) == public | {"mine", "other"}
    assert catalogue.catalogue()["mine"] == entry_for(server, tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("../mine", {}, "not a name"),
        ("mine", {"sha256": "abc"}, "64 hexadecimal digits"),
        ("mine", {"url": "file:///etc/passwd"}, "http or https"),
        ("mine", {"url": "https://host/folder/"}, "a file at its end"),
        ("mine", {"url": "https://host/a%2F..%2F.."}, "a file at its end"),
        ("mine", {"sidecar": {"rate": 3}}, "unknown key rate"),
        ("mine", {"beside": ["Fneu.npy"]}, "names of files with a sha256"),
        ("mine", {"beside": {"../F.npy": "0" * 64}}, "names of files"),
        ("mine", {"beside": {"F.npy": "0"}}, "64 hexadecimal digits"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused_and_nothing_changes(
    server: Server, tmp_path: Path, home: Path, name: str, change: dict, words: str
) -> None:
    good = entry_for(server, tmp_path)
    with pytest.raises(RecordingError, match=words):
        catalogue.add(name, Entry(**{**vars(good), **change}))
    assert not home.exists()


def test_a_damaged_user_catalogue_is_named(home: Path) -> None:
    home.mkdir()
    for text, words in {
        "a: [": "not valid YAML",
        "- a": "expected entries by name",
        "a: {x: 1}": "url",
        "a: {x: 1}\na: {y: 1}": "'a' twice",
    }.items():
        (home / "catalogue.yaml").write_text(text)
        with pytest.raises(RecordingError, match=f"catalogue.yaml.*{words}"):
            catalogue.catalogue()


def test_an_entry_is_text_as_it_is_written(home: Path) -> None:
    home.mkdir()
    text = f"1e3: {{url: https://host/a.npz, sha256: {'0' * 63}1, licence: 010, sidecar: {{rate_hz: 2.5}}}}"
    (home / "catalogue.yaml").write_text(text)
    entry = catalogue.catalogue()["1e3"]
    assert (entry.sha256, entry.licence) == ("0" * 63 + "1", "010") and entry.sidecar == {"rate_hz": 2.5}


def test_without_a_home_of_its_own_the_user_folders_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FOREBRAIN_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert catalogue.user_catalogue() == tmp_path / "config" / "forebrain" / "catalogue.yaml"
    assert catalogue.data_folder() == tmp_path / "cache" / "forebrain" / "data"


def test_every_public_address_is_fixed_to_a_commit() -> None:
    for name, entry in catalogue.catalogue().items():
        parts = entry.url.split("/")
        assert parts[2] == "raw.githubusercontent.com", name
        assert len(parts[5]) == 40 and int(parts[5], 16), name
        assert entry.licence and entry.citation and entry.description, name
    assert set(ORIGINALS) <= set(catalogue.catalogue())


@pytest.mark.parametrize("name", ORIGINALS)
def test_public_entries_fit_the_files_and_their_normalized_twins(
    data_dir: Path, tmp_path: Path, name: str
) -> None:
    folder, twin = ORIGINALS[name]
    entry = catalogue.catalogue()[name]
    folder_of_original = data_dir / "original" / folder
    for file_name, (_, sha256) in entry.files.items():
        assert hashlib.sha256((folder_of_original / file_name).read_bytes()).hexdigest() == sha256
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file_name).symlink_to(folder_of_original / file_name)
    path = tmp_path / name if entry.beside else tmp_path / name / entry.file_name
    path.with_name(f"{path.name}.session.yaml").write_text(yaml.safe_dump(dict(entry.sidecar)))
    (session,) = open_recording(path)
    with np.load(data_dir / "normalized" / f"{twin}.npz") as expected:
        num_frames, num_units = expected["traces"].shape
        assert session.num_frames == num_frames
        assert session.num_units >= num_units  # the twin of the rat lacks two units of few spikes
        assert session.id == f"{expected['source']}/{expected['subject']}/{expected['session']}"
        assert session.species == str(expected["species"])
        assert session.rate_hz == pytest.approx(float(expected["fs"]), rel=1e-3)


def test_a_sidecar_that_was_edited_stays_as_it_is_which_is_said(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue.add("mine", entry_for(server, tmp_path))
    path = catalogue.get("mine")
    sidecar = path.with_name(f"{path.name}.session.yaml")
    text = sidecar.read_text()
    assert catalogue.get("mine") == path and not caplog.records
    sidecar.write_text(text.replace("m1", "mouse-of-ours"))
    catalogue.get("mine")
    assert "mouse-of-ours" in sidecar.read_text()
    assert "day 1.npy.session.yaml: is not what the catalogue says" in caplog.text
    sidecar.unlink()
    catalogue.get("mine")
    assert sidecar.read_text() == text


def test_what_several_add_at_once_is_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    write = catalogue._write

    def write_late(path: Path, text: str) -> None:
        time.sleep(0.02)
        write(path, text)

    monkeypatch.setattr(catalogue, "_write", write_late)
    names = [f"mine{number}" for number in range(6)]
    entry = Entry("https://host/a.npy", "0" * 64, "CC0")
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: catalogue.add(name, entry), names))
    assert set(names) <= set(catalogue.catalogue())
