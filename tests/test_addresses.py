"""Names that other parsers take characters of for their own: each works, or is one line before any work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from forebrain.adaptation.artifact import begun, new_folder
from forebrain.adaptation.origin import registry_address
from forebrain.adaptation.plan_file import read_plan
from forebrain.commands import main, parse_command
from forebrain.commands.live.serve import untrained
from forebrain.errors import ConfigError, RecordingError, StorageError
from forebrain.models.poco import PocoConfig
from forebrain.realtime import LiveConfig
from forebrain.realtime.recorder import Recorder
from forebrain.sessions.readers import find_recordings, open_recording
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.training.run_folder import ray_uri_in
from forebrain_registry import Registry, pull
from forebrain_registry.lines import one_line
from forebrain_registry.pulling import default_cache
from forebrain_registry.storage import Folder, file_at, path_here

NAMES = [
    "a::b", "simplecache::a", "a\\b", "a b", " a", "a ", "a.", "...", "Müller", "脳🧠", "a%20b", "100%",
    "a?b", "a#b", "a&b=c", "a+b", "[x]", "a[0-9]*", "{y}", "$HOME", "`a`", "'a'", '"a"', "-a", "--out", "~a~",
    "a;b", "a|b", "a<b>",
    "a:b", "a@b", "a,b", "a=b", "!a", "null", "010", "1_000", "a\nb", "a\tb", "x" * 200,
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"),
    [("disk", name) for name in NAMES] + [("s3", name) for name in NAMES if "\\" not in name],
)
def test_a_folder_of_any_name_keeps_its_files_and_no_others(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, name: str
) -> None:
    root = str(tmp_path) if kind == "disk" else f"{request.getfixturevalue('s3_bucket')}/names"
    folder = Folder(f"{root}/{name}/run")
    beside = Folder(root).names()
    folder.write("a", b"12345")
    folder.create(f"{name}/b", b"2")
    with pytest.raises(FileExistsError):
        folder.create(f"{name}/b", b"3")
    assert folder.read("a") == b"12345" and folder.read_range("a", 1, 3) == b"23"
    assert folder.read_all(["a", f"{name}/b"]) == {"a": b"12345", f"{name}/b": b"2"}
    assert folder.names() == sorted(["a", name]) and folder.sizes(name) == {f"{name}/b": 1}
    assert set(folder.files()) == {"a", f"{name}/b"}
    assert folder.exists("a") and folder.stat(f"{name}/b") is not None
    assert Folder(folder.uri).uri == folder.uri and folder.child(name).read("b") == b"2"
    with folder.file_to_fill("c") as path:
        path.write_bytes(b"c")
    assert folder.read("c") == b"c"
    for each in ("a", "c", name):
        folder.remove(each)
    assert folder.files() == {} and set(Folder(root).names()) <= {*beside, name}


@pytest.mark.parametrize("name", NAMES)
def test_arrow_by_which_ray_writes_finds_a_run_of_any_name(s3_bucket: str, tmp_path: Path, name: str) -> None:
    fs = pytest.importorskip("pyarrow.fs")
    for root in [str(tmp_path), f"{s3_bucket}/arrow"][: 1 if "\\" in name else 2]:
        run = Folder(f"{root}/{name}")
        files, path = fs.FileSystem.from_uri(ray_uri_in(run))
        files.create_dir(path)
        with files.open_output_stream(f"{path}/state") as stream:
            stream.write(b"of Ray")
        assert run.read("ray/state") == b"of Ray"


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/a?versionId=3", "s3://bucket/a\\b", "s3://bucket/\udcf6", "/tmp/\udcf6", "w\udcf6rm"],
)
def test_a_name_that_cannot_be_kept_is_one_line(address: str) -> None:
    with pytest.raises(StorageError) as raised:
        Folder(address)
    assert "\n" not in str(raised.value) and str(raised.value).encode()


def test_a_path_with_a_colon_and_slashes_is_a_path(tmp_path: Path) -> None:
    assert Folder(f"{tmp_path}/a://b").uri == f"{tmp_path}/a:/b"


@pytest.mark.parametrize("name", [name for name in NAMES if name[0] not in ".x"])
def test_recordings_and_sets_of_any_name_are_prepared_and_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    traces = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    np.savez(folder / f"{name}.npz", traces=traces, fs=5.0, species="worm")
    recordings = find_recordings([folder])
    assert recordings == [str(folder / f"{name}.npz")]
    result = prepare(recordings, str(folder / "set"), PrepareConfig(max_window=16), run_each=map_here)
    assert not result.failures and result.sessions[0].session.strip()
    np.testing.assert_allclose(ShardSet.open(str(folder / "set")).read(0, 0, 16), traces[:16])


def test_nothing_is_made_where_a_link_to_another_disk_leads_nowhere(tmp_path: Path) -> None:
    """What is written there would be hidden once that disk is mounted."""
    (tmp_path / "runs").symlink_to(tmp_path / "nas" / "runs")
    for path in (tmp_path / "runs", tmp_path / "runs" / "set"):
        for address in (str(path), f"file://{path}"):
            with pytest.raises(StorageError, match=r"runs is a link to .*nas/runs, which is not there"):
                Folder(address)
            with pytest.raises(StorageError, match=r"runs is a link to .*nas/runs, which is not there"):
                begun(address).__enter__()
    assert not (tmp_path / "nas").exists()


@pytest.mark.parametrize("address", ["s3://bucket/mine", "gs://bucket/mine", "https://host/mine"])
def test_where_only_a_path_will_do_an_address_elsewhere_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="expected a path on this machine"):
        begun(address).__enter__()
    serve = ["live", "serve", "--untrained_units", "3", "--threads", "1"]
    (tmp_path / "kept").mkdir()
    np.save(tmp_path / "kept" / "a.npy", np.random.default_rng(0).normal(size=(60, 3)))
    for words in (
        [*serve, "--state", address],
        [*serve, "--record", address],
        ["inspect", "kept/a.npy", "--picture", address],
        ["parity", address],
    ):
        assert main(words) == 1
        assert "expected a path on this machine" in capsys.readouterr().err
    with pytest.raises(StorageError, match="expected a path on this machine"):
        Session.from_array(np.zeros((9, 2)), 5.0).save(address)
    with pytest.raises(StorageError, match="expected a path on this machine"):
        pull(Registry(f"{tmp_path}/kept"), "worms", offline=True, cache=address)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "x" * 238 + "é", "脳" * 85])
def test_a_name_as_long_as_the_disk_takes_it_works(tmp_path: Path, name: str) -> None:
    with new_folder(tmp_path / name) as folder:
        (folder / "a").write_text("1")
    (tmp_path / "files").mkdir()
    Folder(tmp_path / "files").write(name, b"12")
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        name, f"{name}/a", "files", f"files/{name}",
    }  # fmt: skip


def test_a_name_that_is_longer_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="File name too long"):
        begun(tmp_path / ("x" * 256)).__enter__()


def test_a_recording_of_the_longest_name_is_saved_read_and_prepared(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".npz")
    traces = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    Session(traces, 5.0, "worm", "w", "one", "lab").save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert open_recording(path)[0].id == "lab/w/one"
    np.savez(path, traces=traces, fs=5.0, species="worm")  # the name of the session is the file's
    result = prepare([str(path)], str(tmp_path / "set"), PrepareConfig(max_window=16), run_each=map_here)
    assert len(result.sessions) == 1


def test_a_path_may_be_given_as_a_uri_or_from_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    uris = (f"file://{tmp_path}/a", f"FILE://localhost{tmp_path}/a", "file://~/a")
    for given in (*uris, "~/a", tmp_path / "a"):
        assert path_here(given) == tmp_path / "a"
    for slip in ("file://data/a", "file://otherhost/a", "file://localhost", "file://."):
        with pytest.raises(StorageError, match=f"^{re.escape(slip)}: expected file:///folder"):
            path_here(slip)
    with pytest.raises(StorageError, match="for a file or folder here"):
        path_here("~no-such-user/a")


def test_what_is_written_here_may_be_named_from_the_home_or_as_a_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (tmp_path / "work").mkdir()
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "work")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(60, 3)))
    for number, folder in enumerate(("~", f"file://{home}", "file://~")):
        Session.from_array(np.zeros((9, 2)), 5.0).save(f"{folder}/{number}.npz")
        assert Session.load(f"{folder}/{number}.npz").num_frames == 9
        with pytest.raises(ConfigError, match="are one file"):
            parse_command("live serve", ["--adapted=a", f"--state={folder}/run", f"--record={home}/run"])
        Recorder(f"{folder}/{number}.nc", untrained(2, PocoConfig(), LiveConfig(), 1), {}).close()
        assert main(["inspect", str(tmp_path / "a.npy"), f"--picture={folder}/{number}.png"]) == 0
        (home / "plan.csv").write_text("flash\n1\n0\n")
        assert read_plan(f"{folder}/plan.csv", None)
        (home / "asked.yaml").write_text("out: there\n")
        asked = parse_command("prepare", [f"--config={folder}/asked.yaml", "--recording=a"])
        assert asked.out == "there"
    assert {path.suffix for path in home.iterdir()} >= {".npz", ".nc", ".png"}
    assert not list((tmp_path / "work").iterdir())


def test_a_file_is_written_by_its_path_or_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, uri in (
        ("table.csv", tmp_path),
        ("new/table.csv", tmp_path / "new"),
        (f"file://{tmp_path}/x/table.csv", tmp_path / "x"),
        ("/table.csv", Path("/")),
        ("memory://bucket/a/table.csv", "memory:///bucket/a"),
    ):
        folder, name = file_at(given)
        assert (folder.uri, name) == (str(uri), "table.csv")
    for given in ("a/", "a/..", "."):
        with pytest.raises(StorageError, match="names no file"):
            file_at(given)


def test_a_recording_in_an_object_store_is_refused_with_what_to_do() -> None:
    with pytest.raises(RecordingError, match="copy them to a disk"):
        find_recordings(["s3://bucket/recordings"])


def test_an_option_may_begin_with_a_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-lab").mkdir()
    np.save("-lab/-a.npy", np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32))
    Path("-lab/session.yaml").write_text("rate_hz: 5\nspecies: worm\n")
    for words in (["-lab"], ["--", "-lab/-a.npy"]):
        assert main(["inspect", *words]) == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "null"])  # which means none
def test_an_option_is_what_was_given(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()  # else [x] is a list
    given = parse_command("prepare", [f"--recording={name}", f"--out={name}"])
    assert (given.recording, given.out) == ([name], name)
    many = parse_command("prepare", ["--recording", f"./{name}", "b", "--out", "c"])
    assert many.recording == [f"./{name}", "b"]


@pytest.mark.parametrize("name", ["#1", "~", "Null", "&a", "# b/c"])
def test_of_what_yaml_takes_for_nothing_only_the_word_null_is_that(name: str) -> None:
    for given in (["--out", name], [f"--out={name}"]):
        assert parse_command("forecast", ["--adapted=a", "--recording=b", *given]).out == name
    assert parse_command("forecast", ["--adapted=a", "--recording=b", "--out=null"]).out is None


@pytest.mark.parametrize("address", ["s3:/lab/models", "file:/lab/models", "~nobody-of-that-name/models"])
def test_the_address_of_a_registry_is_no_folder_by_mistake(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=f"^{re.escape(address)}: "):
        registry_address(address)
    assert main(["page", "registry", address, "--out=page"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {address}: ")


@pytest.mark.parametrize("variable", ["FOREBRAIN_CACHE", "FOREBRAIN_HOME"])
def test_a_cache_may_be_named_from_the_home(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FOREBRAIN_CACHE", raising=False)
    monkeypatch.setenv(variable, "~/mine")
    assert default_cache() == tmp_path / "home" / "mine" / "registry"


def test_a_user_without_a_home_is_told_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("FOREBRAIN_CACHE", "FOREBRAIN_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert main(["registry", "pull", "m", "--registry", str(tmp_path), "--offline"]) == 1
    assert "Set FOREBRAIN_CACHE" in capsys.readouterr().err
    assert main(["data", "list"]) == 1
    assert "Set FOREBRAIN_HOME" in capsys.readouterr().err
    recording = tmp_path / "large.npy"
    np.save(recording, np.random.default_rng(0).normal(size=(2000, 600)))
    assert main(["inspect", str(recording)]) == 0  # whose hash is not remembered


@pytest.mark.parametrize("closed", [False, True])
def test_names_of_any_letters_are_printed_on_a_terminal_of_few_or_none(tmp_path: Path, closed: bool) -> None:
    recording = tmp_path / "Müller 🧠.npy"
    np.save(recording, np.random.default_rng(0).normal(size=(60, 3)))
    code = "import sys; from forebrain.commands import main; "
    code += "sys.stdout = sys.stderr = None; " * closed + "sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(recording)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert closed or r"M\xfcller \U0001f9e0" in done.stdout


def test_a_name_that_the_terminals_encoding_does_not_have_is_one_line(tmp_path: Path) -> None:
    Path(tmp_path, "asked.yaml").write_text("recording: [Müller.npy]\n", encoding="utf-8")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-m", "forebrain", "inspect", "--config", "asked.yaml"],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(r"error: M\xfcller.npy: ") and "PYTHONUTF8=1" in done.stderr
    assert done.stderr.count("\n") == 1


ACTING = ["a\nb", "a\tb", "a\rb", "\x1b[31mred", "\u202emp3"]


def acts(text: str) -> set[str]:
    """Characters that do something in place of being shown, besides ends of lines."""
    return {letter for letter in text.replace("\n", "") if one_line(letter) != letter}


def test_all_that_is_printed_and_reported_of_names_that_act_is_lines_of_letters(
    tmp_path: Path,
) -> None:
    lab = tmp_path / "l\nab"
    lab.mkdir()
    rng = np.random.default_rng(0)
    for name in ACTING:
        traces = np.cumsum(rng.normal(size=(400, 3)), axis=0).astype(np.float32)
        units = np.array([f"u\n{name}{unit}" for unit in range(3)])
        np.savez(lab / f"{name}.npz", traces=traces, fs=2.5, species=f"w\n{name}", unit_names=units)
    (lab / "bad\n.npz").write_bytes(b"PK\x03\x04")
    (lab / "gone\n.npz").symlink_to("no\nwhere")
    os.mkfifo(lab / "pipe\n.npz")

    def run(*words: str, status: int = 0) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "forebrain", *words], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert not acts(done.stdout + done.stderr)
        return [*done.stdout.splitlines(), *done.stderr.splitlines()]

    out = f"{tmp_path}/o\nut"
    shown = one_line(str(lab))
    for lines in (
        run("inspect", str(lab)),
        run("prepare", "--recording", str(lab), "--out", f"{out}/set", "--workers", "0"),
    ):
        assert [line[: line.index(":", 16)] for line in lines if line.startswith("cannot be used: ")] == [
            f"cannot be used: {shown}/bad\\n.npz", f"cannot be used: {shown}/gone\\n.npz",
        ]  # fmt: skip
        assert f"{shown}/pipe\\n.npz is a pipe and is passed over." in lines
    recording = str(lab / "a\nb.npz")
    small = ["--model", "none", "--context", "12", "--horizon", "4"]
    run("adapt", "--recording", recording, "--out", f"{out}/adapted", *small)
    (error,) = run("adapt", "--recording", recording, "--out", f"{out}/adapted", *small, status=1)
    assert error.startswith(f"error: {one_line(out)}/adapted: exists already")
    run("study", "rivals", "--recording", recording, "--out", f"{out}/rivals", *small[2:])
    run("page", "adapted", f"{out}/adapted", "--out", f"{out}/page")
    *_, usage = run("prepare", "--recording", recording, "--ou\nt", "x", status=2)
    assert usage == "`forebrain prepare --help` shows the options."
    reports = [path for path in Path(out).rglob("*") if path.suffix in (".md", ".html")]
    assert len(reports) >= 3
    for path in reports:
        text = path.read_text()
        assert not acts(text), path
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert all(row.endswith("|") for row in rows), path
