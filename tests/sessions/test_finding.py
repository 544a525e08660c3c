"""Folders are walked as they are found: links, loops, what cannot be read, and what forebrain wrote there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions import finding
from forebrain.sessions.readers import find_recordings, open_recording, reader_name
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.recordings import sha256_of


@pytest.fixture
def save(tmp_path: Path):
    """Saves a small recording under the temporary folder and returns its path."""

    def saved(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:  # under any suffix
            np.save(stream, np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
        return path

    return saved


def found(*folders: Path) -> list[str]:
    return find_recordings(list(folders))


def test_links_to_folders_above_end_and_each_file_is_found_once(tmp_path: Path, save) -> None:
    first, second = save("d/one/a.npy"), save("d/two/b.npy")
    for name in ("one", "two"):
        (tmp_path / "d" / name / "all").symlink_to("..")
    (tmp_path / "d" / "two" / "same.npy").symlink_to(first)
    assert found(tmp_path / "d") == [str(first), str(second)]
    assert found(tmp_path / "d", tmp_path / "d" / "one", first) == [str(first), str(second)]


def test_data_behind_a_link_are_found_by_the_link(tmp_path: Path, save) -> None:
    save("volume/day/a.npy")
    (tmp_path / "home").symlink_to("volume")
    assert found(tmp_path / "home") == [str(tmp_path / "home" / "day" / "a.npy")]
    (tmp_path / "picked").mkdir()
    (tmp_path / "picked" / "mine.npy").symlink_to(tmp_path / "volume" / "day" / "a.npy")
    assert found(tmp_path / "picked") == [str(tmp_path / "picked" / "mine.npy")]


def test_a_folder_that_cannot_be_read_is_named_and_the_others_go_on(
    tmp_path: Path, save, monkeypatch: pytest.MonkeyPatch
) -> None:
    readable, closed = save("d/a.npy"), save("d/closed/b.npy").parent
    # Permissions do not stop the administrator, as who tests may run.
    for module, name in ((os, "scandir"), (os, "listdir")):
        plain = getattr(module, name)

        def refusing(path: str = ".", plain=plain) -> object:
            if Path(path) == closed:
                raise PermissionError(13, "Permission denied", str(path))
            return plain(path)

        monkeypatch.setattr(module, name, refusing)
    assert found(tmp_path / "d") == [str(readable), str(closed)]
    with pytest.raises(RecordingError, match=r"closed: cannot be read \(Permission denied\)"):
        reader_name(closed)
    with pytest.raises(RecordingError, match="closed: cannot be read"):
        open_recording(closed)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG])
def test_an_entry_that_cannot_be_looked_at_hides_no_other(
    tmp_path: Path, save, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A link into a colleague's folder, a stale handle of a network's disk."""
    recording, refused = save("d/a.npy"), save("d/b.npy")
    stat = Path.stat

    def refusing(path: Path, **given: bool) -> os.stat_result:
        if path == refused:
            raise OSError(number, os.strerror(number), str(path))
        return stat(path, **given)

    monkeypatch.setattr(Path, "stat", refusing)
    assert found(tmp_path / "d") == [str(recording), str(refused)]
    for look in (open_recording, reader_name):
        with pytest.raises(RecordingError, match=r"b\.npy: cannot be read"):
            look(refused)


def test_a_link_that_leads_nowhere_is_named_and_a_pipe_is_not_opened(tmp_path: Path, save, caplog) -> None:
    recording = save("d/a.npy")
    (tmp_path / "d" / "gone.npy").symlink_to(tmp_path / "unmounted" / "x.npy")
    (tmp_path / "d" / "itself.npy").symlink_to("itself.npy")
    pipe = tmp_path / "d" / "pipe.csv"
    os.mkfifo(pipe)
    os.mkfifo(tmp_path / "d" / ".hidden")
    links = [str(tmp_path / "d" / name) for name in ("gone.npy", "itself.npy")]
    assert found(tmp_path / "d") == [str(recording), *links]
    assert [record.getMessage() for record in caplog.records] == [f"{pipe} is a pipe and is passed over."]


@pytest.mark.parametrize(
    "name",
    ["b.npy.part", "b.npy.crdownload", "b.npy.filepart", "b.npy.bak", "b.npy~", "#b.npy#",
     "b (Ann's conflicted copy 2026-01-01).npy", "b.sync-conflict-20260101-010101-ABC.npy"],
)  # fmt: skip
def test_what_other_programs_leave_beside_a_recording_is_passed_over_with_a_line(
    tmp_path: Path, save, caplog, name: str
) -> None:
    recording, left = save("d/a.npy"), save(f"d/{name}")
    assert found(tmp_path / "d") == [str(recording)]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{left} is a") and line.endswith("and is passed over.")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.npy", r"gone\.npy: is a link to .*/unmounted/x\.npy, where nothing is;"),
        ("chain.npy", r"chain\.npy: is a link to .*/unmounted/x\.npy, where nothing is;"),
        ("itself.npy", r"itself\.npy: is a link to itself\.npy, which leads in a circle;"),
        ("first.npy", r"first\.npy: is a link to second\.npy, which leads in a circle;"),
        ("volume/day/a.npy", r"a\.npy: .*/volume is a link to .*/unmounted, where nothing is;"),
        ("missing.npy", r"missing\.npy: nothing is there;"),
        ("pipe.npy", r"pipe\.npy: is a pipe;"),
        ("a_link_to_it.npy", r"a_link_to_it\.npy: is a pipe;"),
    ],
)
def test_what_is_no_recording_is_told_by_what_it_is(tmp_path: Path, name: str, message: str) -> None:
    for link, target in {
        "gone.npy": tmp_path / "unmounted" / "x.npy", "chain.npy": "gone.npy", "itself.npy": "itself.npy",
        "first.npy": "second.npy", "second.npy": "first.npy", "volume": "unmounted",
        "a_link_to_it.npy": "pipe.npy",
    }.items():  # fmt: skip
        (tmp_path / link).symlink_to(target)
    os.mkfifo(tmp_path / "pipe.npy")
    path = tmp_path / name
    for look in (open_recording, reader_name, sha256_of, lambda given: found(Path(given))):
        with pytest.raises(RecordingError, match=message):
            look(str(path))


def test_what_forebrain_wrote_among_the_recordings_is_no_recording(tmp_path: Path, save, caplog) -> None:
    recording = save("lab/a.npy")
    for name, text in {
        "run/config.yaml": "data: /lab\nout: /lab/run\nworkers: 0\nmodel:\n  name: poco\n",
        "study/study.yaml": "pretrain:\n  data: /lab\n",
        "adapted/adaptation.json": '{"format": "forebrain-adaptation-1"}',
        "rivals/study.json": '{\n "study": "rivals",\n "sessions": {}\n}',
    }.items():
        path = tmp_path / "lab" / name
        path.parent.mkdir()
        path.write_text(text)
        (path.parent / "by_horizon.csv").write_text("a,b\n" + "1,2\n" * 50)
    Session(np.random.default_rng(1).normal(size=(400, 3)), 2.0, "worm", "w", "one", "lab").save(
        tmp_path / "saved.npz"
    )
    config, opened = PrepareConfig(max_window=16), (lambda path: [Session.load(path)])
    prepare([str(tmp_path / "saved.npz")], str(tmp_path / "lab" / "set"), config, opened, map_here)
    prepare([str(tmp_path / "saved.npz")], str(tmp_path / "lab" / "unfinished"), config, opened, map_here)
    (tmp_path / "lab" / "unfinished" / "index.json").unlink()
    assert found(tmp_path / "lab") == [str(recording)]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 6 and all("written by forebrain and is not searched" in text for text in said)


def test_a_run_in_the_very_folder_of_its_recordings_finds_them_and_nothing_of_its_own(
    tmp_path: Path, save
) -> None:
    recording = save("lab/a.npy")
    (tmp_path / "lab" / "config.yaml").write_text("data: /lab\nout: /lab\nworkers: 0\nmodel:\n  name: poco\n")
    save("lab/evaluation/by_horizon.npy")
    (tmp_path / "lab" / "held-3.json").write_text('{"process": [[1, 2], [3, 4]]}')
    (tmp_path / "lab" / "result.json").write_text('{"steps": [[1, 2], [3, 4]]}')
    assert found(tmp_path / "lab") == [str(recording)]


def test_tables_of_many_adaptations_in_the_folder_of_their_recordings_are_none(tmp_path: Path, save) -> None:
    recording = save("lab/a.npy")
    (tmp_path / "lab" / "table.csv").write_text("session,score\na,0.1\n")
    assert found(tmp_path / "lab") == [str(recording), str(tmp_path / "lab" / "table.csv")]
    (tmp_path / "lab" / "adaptations.yaml").write_text("weights: ab\nmode: none\n")
    for name in ("population/a-0.json", "population.json", "results.json", "left-out.json"):
        save(f"lab/{name}.npy").rename(tmp_path / "lab" / name)
    assert found(tmp_path / "lab") == [str(recording)]


@pytest.mark.parametrize(
    "folders", [("blobs/sha256", "models"), ("references", "versions", "locks")], ids=["registry", "pulled"]
)
def test_a_registry_among_recordings_is_none(tmp_path: Path, save, caplog, folders: tuple[str, ...]) -> None:
    recording = save("lab/a.npy")
    for folder in folders:
        save(f"lab/kept/{folder}/b.npy")
    assert found(tmp_path / "lab") == [str(recording)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'lab' / 'kept'} was written by forebrain and is not searched for recordings."
    ]
    mine = save("lab/kept/mine.npy")
    assert found(tmp_path / "lab" / "kept") == [str(mine)]


def test_a_lab_s_own_files_of_such_names_hide_nothing(tmp_path: Path, save) -> None:
    recording = save("lab/rig/a.npy")
    (recording.parent / "config.yaml").write_text("laser: 488\nmodel: zeiss\n")
    (recording.parent / "study.yaml").write_text("name: odours\n")
    (recording.parent / "index.json").write_text('{"format": "our own"}')
    assert str(recording) in found(tmp_path / "lab")


def test_a_path_of_any_bytes_can_be_printed(tmp_path: Path) -> None:
    path = os.fsdecode(b"/lab/w\xf6rm.npz")
    assert finding.printable(path).encode() == rb"/lab/w\xf6rm.npz"
    assert finding.printable("/lab/würm.npz") == "/lab/würm.npz"
