from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from forebrain.commands import main
from forebrain.scoring.protocols import least_frames
from forebrain.shards.reader import ShardSet


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """One good recording with a constant unit, one that is damaged."""
    folder = tmp_path / "lab"
    folder.mkdir()
    traces = np.random.default_rng(0).normal(size=(300, 4))
    traces[:, 1] = 2.0
    np.save(folder / "good.npy", traces)
    (folder / "good.npy.session.yaml").write_text("{rate_hz: 5, species: mouse, subject: m1, session: day1}")
    (folder / "bad.npy").write_bytes((folder / "good.npy").read_bytes()[:200])
    return folder


def test_inspect_says_what_would_be_read_and_what_is_wrong(
    recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(recordings)]) == 0
    out, err = capsys.readouterr()
    (row,) = (line for line in out.splitlines() if "good.npy" in line)
    assert row.split() == ["good.npy", "lab/m1/day1", "mouse", "300", "3", "5", "1", "1"]
    assert "lab/m1/day1: format: npy" in out and all(len(line) <= 100 for line in out.splitlines()[:8])
    assert "lab/m1/day1: dropped: 1 unit that never changed (unit 1)" in out
    assert "1 sessions can be used, 1 cannot" in out
    assert err.count("cannot be used:") == 1 and "bad.npy" in err and "Traceback" not in err


def test_inspect_tells_in_advance_what_is_too_short(
    recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(recordings / "good.npy")
    assert main(["inspect", good]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "too short" in line)
    assert "its validation and test part" in line and "At least 318 unbroken frames (63.6 s)" in line
    assert main(["inspect", good, "--context", "40"]) == 0
    assert "too short" not in capsys.readouterr().out
    assert least_frames(40, 16) == 278 and least_frames(48, 16) == 318


@pytest.mark.usefixtures("fine_pictures")
def test_inspect_takes_what_a_recording_does_not_state_and_draws_what_it_took(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    np.savez(recordings / "two.npz", dff=rng.random((300, 5)), deconvolved=rng.random((300, 7)))
    picture = tmp_path / "two.png"
    given = ["--variable", "deconvolved", "--rate_hz", "4", "--species", "fly", "--subject", "f7"]
    assert main(["inspect", str(recordings / "two.npz"), *given, "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "lab/f7/two" in out and "read: deconvolved" in out and "rate: 4 Hz, from the command line" in out
    assert picture.stat().st_size > 30_000 and f"Picture: {picture}" in out
    again = ["inspect", str(recordings / "two.npz"), *given, "--picture", str(picture)]
    assert main(again) == 2
    assert f"picture is {picture}, which exists. Give --overwrite" in capsys.readouterr().err
    assert main([*again, "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(recordings / "two.npz"), "--rate_hz", "-3"]) == 1
    assert "the command line: rate_hz is -3.0; expected a positive number." in capsys.readouterr().err


def test_inspect_fails_where_nothing_can_be_used(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(recordings / "bad.npy")]) == 1
    assert main(["inspect", str(tmp_path / "missing")]) == 1
    assert "error: " in capsys.readouterr().err


def test_inspect_reads_simulated_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "sim://default?seed=0"]) == 0
    assert "simulated" in capsys.readouterr().out


def test_inspect_writes_what_is_open_into_a_sidecar_to_fill_in(
    recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(recordings / "odd.npy", np.random.default_rng(0).random((40, 30)))
    main(["inspect", str(recordings / "odd.npy"), "--write-sidecar"])
    assert "questions written to" in capsys.readouterr().out
    sidecar = recordings / "odd.npy.session.yaml"
    assert "\nframes_axis:\n" in sidecar.read_text()
    sidecar.write_text("frames_axis: 0\n")
    assert main(["inspect", str(recordings / "odd.npy")]) == 0


def test_inspect_asks_in_a_terminal(
    recordings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(recordings / "odd.npy", np.random.default_rng(0).random((40, 30)))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "1")
    assert main(["inspect", str(recordings / "odd.npy"), "--write-sidecar"]) == 0
    assert "1 sessions can be used" in capsys.readouterr().out


def test_inspect_says_where_the_identity_is_guessed(
    recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recordings / "good.npy.session.yaml").unlink()
    assert main(["inspect", str(recordings / "good.npy")]) == 0
    assert "lab/good/good: identity guessed from the file name" in capsys.readouterr().out


def test_recordings_are_prepared_in_this_process_without_ray(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    out = str(tmp_path / "shards")
    given = ["prepare", "--recording", str(recordings), "--out", out]
    assert main([*given, "--workers", "0"]) == 0
    shown, wrong = capsys.readouterr()
    assert shown.splitlines()[-1] == out and "1 sessions, 0 of them prepared before, 1 cannot" in shown
    assert "bad.npy" in wrong
    assert [session.id for session in ShardSet.open(out).sessions] == ["lab/m1/day1"]
    (recordings / "new.npy").write_bytes((recordings / "good.npy").read_bytes())
    assert main(given) == 1
    assert "this needs the package ray" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "prepare"])
def test_what_cannot_be_used_is_named_and_the_exit_status_is_1_only_where_nothing_can_be(
    command: str, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--out", str(tmp_path / "shards"), "--workers", "0"] if command == "prepare" else []
    for given, status in ((recordings, 0), (recordings / "bad.npy", 1)):
        assert main([command, "--recording", str(given), *more]) == status
        assert str(recordings / "bad.npy") in capsys.readouterr().err
    assert main([command, "--help"]) == 0
    assert "exit status is 1 if none can be used" in " ".join(capsys.readouterr().out.split())


def test_data_lists_adds_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOREBRAIN_HOME", str(tmp_path / "home"))
    (tmp_path / "said.yaml").write_text("rate_hz: 5")
    given = ["--url", "https://host/a.npy", "--sha256", "A" * 64, "--licence", "CC0"]
    assert main(["data", "add", "mine", *given, "--sidecar", str(tmp_path / "said.yaml")]) == 0
    kept = yaml.safe_load((tmp_path / "home" / "catalogue.yaml").read_text())["mine"]
    assert kept["sha256"] == "a" * 64 and kept["sidecar"] == {"rate_hz": 5}
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert "mine" in out and "zebrafish-cilva-zf1" in out

    assert main(["data", "get", "nothing"]) == 1
    assert main(["data", "add", "mine", *given[:-4], "--sha256", "12", "--licence", "CC0"]) == 1
    assert main(["data", "add", "mine", *given, "--sidecar", str(tmp_path / "missing.yaml")]) == 1
    assert capsys.readouterr().err.count("error: ") == 3


def test_parity_prints_a_line_for_each_fixture_and_fails_if_one_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(folder: str, device: str) -> list[dict]:
        assert (folder, device) == ("fixtures", "cpu")
        return results

    monkeypatch.setattr("forebrain.commands.parity.check_folder", check)
    for passed in (True, False):
        results = [{"fixture": "a", "passed": True}, {"fixture": "b", "passed": passed}]
        assert main(["parity", "fixtures"]) == (0 if passed else 1)
        assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == results


def test_parity_without_fixtures_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parity", str(tmp_path)]) == 1
    assert "no fixture found" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["study", "rivals", "--recording", "nowhere", "--out"],
        ["study", "intervals", "--recording", "nowhere", "--out"],
        ["study", "inputs", "--config", "inputs", "--out"],
        ["evaluate", "--run", "no-run", "another", "--out"],
        ["leaks", "--recording", "nowhere", "--out"],
    ],
    ids=" ".join,
)
def test_an_out_that_cannot_be_written_is_said_before_anything_is_read(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert main([*words, str(tmp_path / "file" / "out")]) == 1
    said = "".join(capsys.readouterr()).replace("\n", "")
    assert "nothing can be written there" in said and "nowhere" not in said and "no-run" not in said


def test_a_command_that_makes_no_sense_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: forebrain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (
            PermissionError(13, "Permission denied", "a.npy"),
            1,
            "error: [Errno 13] Permission denied: 'a.npy'",
        ),
        (KeyboardInterrupt(), 130, "stopped"),
        (SystemExit(15), 143, "stopped"),  # as Ray takes SIGTERM
    ],
)
def test_what_a_file_system_refuses_and_ctrl_c_are_one_line(
    raised: BaseException, status: int, words: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*given: object) -> None:
        raise raised

    monkeypatch.setattr("forebrain.commands.inspect.inspect", fail)
    assert main(["inspect", "a.npy"]) == status
    assert capsys.readouterr().err == f"{words}\n"
