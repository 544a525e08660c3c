"""The commands `forebrain adapt` and `forebrain forecast`, as a lab uses them."""

from __future__ import annotations

import csv
import functools
import io
import json
import sys
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.comparison import Comparison
from forebrain.commands import adapt, main
from forebrain.sessions.session import Session
from forebrain_registry import Registry

SIDECAR = "{rate_hz: %s, species: celegans, subject: %s, session: day1, dataset: lab}"
QUICK = ["--steps", "6", "--batch_size", "4"]


@pytest.fixture
def recording(walk: Callable[..., Session], tmp_path: Path) -> Callable[..., str]:
    """Saves a recording of five units, the third of them useless; returns its path."""

    def make(
        name: str = "worm9", rate_hz: object = 2.5, frames: slice = slice(None), subject: str = "w9"
    ) -> str:
        traces = walk(9, num_frames=300).frames(0, 300)
        traces[:, 2] = 1.0
        np.save(tmp_path / f"{name}.npy", traces[frames])
        (tmp_path / f"{name}.npy.session.yaml").write_text(SIDECAR % (rate_hz, subject))
        return str(tmp_path / f"{name}.npy")

    return make


@pytest.fixture
def command(
    registry: Registry, publish_backbone: Callable[..., str], tmp_path: Path, recording: Callable[..., str]
) -> Callable[..., list[str]]:
    """The command line of an adaptation to the recording, with options replaced or added."""
    reference = publish_backbone()

    def make(**changes: str) -> list[str]:
        values = {
            "model": reference, "recording": changes.pop("recording", None) or recording(),
            "out": str(tmp_path / "out"), "registry": registry.uri, **changes,
        }  # fmt: skip
        return ["adapt", *QUICK, *(word for name, value in values.items() for word in (f"--{name}", value))]

    return make


def test_a_recording_elsewhere_is_adapted_to_by_its_address(
    command: Callable[..., list[str]],
    walk: Callable[..., Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    served = tmp_path / "served"
    served.mkdir()
    walk(9, num_frames=300).save(served / "worm9.npz")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert main(command(recording=f"http://127.0.0.1:{server.server_port}/worm9.npz")) == 0
        finally:
            server.shutdown()
    assert Adapted.load(tmp_path / "out").num_units == 5


def test_adapting_leaves_a_report_and_forecasts_again_later(
    command: Callable[..., list[str]],
    recording: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command()) == 0
    shown = capsys.readouterr().out
    assert "1 unit that never changed" in shown and "Report and pictures" in shown

    out = tmp_path / "out"
    result = json.loads((out / "result.json").read_text())
    assert set(result["baselines"]) == {"copy", "mean", "linear", "ridge", "era", "self"}
    assert result["baselines"]["copy"] == 0 and None not in result["baselines"].values()
    assert set(result["others"]) == {"backbone alone", "from scratch", "not adapted"}
    assert [point["step"] for point in result["score_by_step"]] == [0, 1, 5, 6]
    assert [point["step"] for point in result["others_by_step"]["from scratch"]] == [0, 1, 5, 6]
    assert result["score"] == result["test"]["score"] and result["seconds"] > 0
    assert result["interval"][0] < result["score"] < result["interval"][1]
    assert result["leak"] is False and result["verdict"] in shown
    report = (out / "report.md").read_text()
    assert result["verdict"] in report and "linear" in report
    for picture in out.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG") and f"({picture.name})" in report
    assert len(list(out.glob("*.png"))) == 4

    # A later recording of the animal, longer by a night; its end is forecast.
    later = recording("later")
    assert main(["forecast", "--adapted", str(out), "--recording", later]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["frames_ahead", "seconds_ahead", "unit 0", "unit 1", "unit 3", "unit 4"]
    assert [row[:2] for row in rows[1:]] == [["1", "0.4"], ["2", "0.8"], ["3", "1.2"], ["4", "1.6"]]
    expected = Adapted.load(out).forecast(np.load(later)[-12:])
    np.testing.assert_allclose(np.array(rows[1:], float)[:, 2:], expected, rtol=1e-4, atol=1e-5)

    table = tmp_path / "ahead.csv"
    assert main(["forecast", "--adapted", str(out), "--recording", later, "--out", str(table)]) == 0
    assert len(table.read_text().splitlines()) == 5


def test_an_animal_that_the_backbone_has_seen_raises_a_flag(
    command: Callable[..., list[str]],
    recording: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = recording("again", subject="animal1")
    assert main(command(recording=seen, mode="none")) == 0
    assert "LEAK: the backbone was trained on other sessions of this animal" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["leak"] is True and "lab/animal1" in result["leak_note"]
    assert "**Leak: " in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "words", "status"),
    [
        ({"model": "wurms"}, "Did you mean 'worms'?", 1),
        ({"model": "worms@4"}, "no version 4; the nearest is worms@1", 1),
        ({"model": "./nowhere"}, "holds no run", 1),
        ({"recording": "nothing.npy"}, "nothing is there", 1),
        ({"steps": "-3"}, "steps is -3", 2),
        ({"registry": "", "model": "worms"}, "which registry", 1),
    ],
)
def test_what_is_not_there_is_one_clear_error_and_leaves_nothing(
    changes: dict[str, str],
    words: str,
    status: int,
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("FOREBRAIN_REGISTRY", raising=False)
    assert main(command(**changes)) == status
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and "Traceback" not in error
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))


def test_a_recording_that_does_not_fit_leaves_nothing(
    command: Callable[..., list[str]],
    recording: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(recording=recording("short", frames=slice(40)))) == 1
    assert "too short" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_recording_of_another_rate_is_taken_as_it_is_or_resampled(
    command: Callable[..., list[str]],
    recording: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fast = recording("fast", rate_hz=5)
    for ending, more, rate_hz in (("own", [], 5.0), ("brought", ["--resample"], 2.5)):
        out = tmp_path / ending
        assert main([*command(recording=fast, out=str(out), mode="none"), *more]) == 0
        assert Adapted.load(out).rate_hz == rate_hz
        shown = " ".join(capsys.readouterr().out.split())
        assert ("count the recording's own frames" in shown) == (not more)
        assert "Another rate" in (out / "report.md").read_text()


def test_a_full_disk_and_a_folder_that_is_there_are_refused(
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", full)
        assert main(command(mode="none")) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))
    assert not list((tmp_path / "temporary").iterdir())

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    assert main(command(mode="none")) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine").read_text() == "precious"


@pytest.mark.parametrize("held", [0, 1 << 30])
@pytest.mark.parametrize("how", ["written over", "replaced", "removed", "left"])
def test_a_recording_that_changes_while_it_is_read_all_along_is_not_adapted_to(
    how: str,
    held: int,
    command: Callable[..., list[str]],
    recording: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = Path(recording())
    other = Path(recording("other", frames=slice(None, None, -1)))
    given = command(recording=str(path), mode="none")
    compare = adapt.compare

    def then_changes(*arguments: Any, **given: Any) -> Comparison:
        comparison = compare(*arguments, **given)
        if how == "written over":
            path.write_bytes(other.read_bytes())
        if how == "replaced":
            other.replace(path)
        if how == "removed":
            path.unlink()
        return comparison

    monkeypatch.setattr(adapt, "compare", then_changes)
    monkeypatch.setattr("forebrain.adaptation.windows.HELD_BYTES", held)
    if held or how == "left":  # what is in memory may still grow on the disk, or go
        assert main(given) == 0
        return
    assert main(given) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "worm9.npy: changed, or is gone, since it began to be read" in error
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))


def test_what_is_adapted_to_a_part_of_a_folder_may_lie_in_it(
    command: Callable[..., list[str]],
    walk: Callable[..., Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("forebrain.adaptation.windows.HELD_BYTES", 0)
    folder = tmp_path / "plane0"
    folder.mkdir()
    np.save(folder / "F.npy", walk(9, num_frames=300).frames(0, 300).T)
    (folder / "session.yaml").write_text(SIDECAR % (2.5, "w9"))
    assert main(command(recording=str(folder), out=str(folder / "out"), mode="none")) == 0


@pytest.mark.parametrize("how", ["working folder moved", "moved", "unmounted", "filled", "moved in saving"])
def test_an_adaptation_is_not_lost_where_its_folder_is_gone_or_full_after_the_work(
    how: str,
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = command(mode="none", out="runs/out")
    lab, other, kept = tmp_path / "lab", tmp_path / "other", tmp_path / "kept"
    (lab / "runs").mkdir(parents=True)
    kept.mkdir()
    monkeypatch.chdir(lab)
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    compare, savefig = adapt.compare, Figure.savefig

    def full(figure: Figure, path: Path, **given: Any) -> None:
        if not path.is_relative_to(kept):
            raise OSError(28, "No space left on device")
        savefig(figure, path, **given)

    def then_moved(figure: Figure, path: Path, **given: Any) -> None:
        savefig(figure, path, **given)
        if path.name == "forecast_traces.png" and Path("runs").exists():
            Path("runs").rename(other)

    def then_goes(*arguments: Any, **given: Any) -> Comparison:
        comparison = compare(*arguments, **given)
        if how == "working folder moved":
            lab.rename(other)
        if how in ("moved", "unmounted"):
            Path("runs").rename(other)
        if how == "unmounted":
            Path("runs").mkdir()
        if how == "filled":
            monkeypatch.setattr(Figure, "savefig", full)
        if how == "moved in saving":
            monkeypatch.setattr(Figure, "savefig", then_moved)
        return comparison

    monkeypatch.setattr(adapt, "compare", then_goes)
    if how == "working folder moved":
        assert main(given) == 0
        Adapted.load(other / "runs" / "out")
        return
    assert main(given) == 1
    (found,) = kept.glob("*/out")
    error = " ".join(capsys.readouterr().err.split())
    assert "error: runs/out: could not be made (" in error and f"The adaptation is in {found}, whole" in error
    assert Adapted.load(found).identity.subject == "w9" and (found / "report.md").exists()
    assert not list(lab.rglob("runs/*"))


def test_several_recordings_get_a_folder_each_and_a_table(
    command: Callable[..., list[str]],
    recording: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "lab").mkdir()
    for name in ("a", "b"):
        for made in (recording(name, subject=name), f"{tmp_path}/{name}.npy.session.yaml"):
            Path(made).rename(tmp_path / "lab" / Path(made).name)
    several = [*command(mode="none", recording=str(tmp_path / "lab")), "--workers", "0"]
    assert main(several) == 0
    assert "2 adapted, 0 failed" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["adapted", "adapted"]
    assert main(several) == 0  # the same command goes on
    assert "finished" in capsys.readouterr().out
    for name, given in (("session", "day1"), ("protocol", "poco"), ("inputs", "light"), ("horizon", "4")):
        assert main([*several, f"--{name}", given]) == 2
        assert f"{name} is " in (told := capsys.readouterr().err) and "with several recordings" in told
    none = several.index("--model") + 1
    assert main([*several[:none], "none", *several[none + 1 :]]) == 2
    assert "model is none; expected a backbone with several recordings" in capsys.readouterr().err


def test_a_single_recording_gets_a_table_where_that_is_asked_for(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert main([*command(mode="none"), "--each", "--serial"]) == 0
    assert (tmp_path / "out" / "table.csv").exists() and not (tmp_path / "out" / "result.json").exists()


def test_a_forecast_needs_the_units_that_were_adapted_to(
    command: Callable[..., list[str]],
    recording: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(mode="none")) == 0
    forecast = ["forecast", "--adapted", str(tmp_path / "out"), "--recording"]
    np.save(tmp_path / "other.npy", np.zeros((300, 7)))
    for made, words in (
        (str(tmp_path / "other.npy"), "has 7 units"),
        (recording("fast", rate_hz=20), "20 frames a second"),
        (recording("short", frames=slice(10)), "has 10 frames"),
    ):
        assert main([*forecast, made]) == 1
        assert words in capsys.readouterr().err
    assert main(["forecast", "--adapted", str(tmp_path), "--recording", recording()]) == 1
    assert "no adaptation here" in capsys.readouterr().err


def test_a_forecast_needs_units_of_the_same_names_and_tells_of_another_animal(
    command: Callable[..., list[str]],
    walk: Callable[..., Session],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def save(name: str, names: str, subject: str = "w9") -> str:
        traces = walk(9, num_frames=300).frames(0, 300)
        known = {"fs": 2.5, "species": "celegans", "subject": subject, "session": name, "source": "lab"}
        np.savez(tmp_path / f"{name}.npz", traces=traces, unit_names=list(names), **known)
        return str(tmp_path / f"{name}.npz")

    assert main(command(recording=save("day1", "ABCDE"), mode="none")) == 0
    capsys.readouterr()
    forecast = ["forecast", "--adapted", str(tmp_path / "out"), "--recording"]
    assert main([*forecast, save("day2", "ABCDE")]) == 0
    assert capsys.readouterr().err == ""
    for names, words in {
        "EBCDA": "other units in another order than the recording that was adapted to: number 0 is called E, "
        "and was A (2 of 5 differ)",
        "ABXDE": "other units than the recording that was adapted to: number 2 is called X, and was C (1 of",
    }.items():
        assert main([*forecast, save("day3", names)]) == 1
        told = capsys.readouterr()
        assert words in told.err and told.out == ""
    assert main([*forecast, save("day4", "ABCDE", subject="w8")]) == 0
    assert "The recording is of lab/w8, and lab/w9 was adapted to" in capsys.readouterr().err


def test_a_forecast_of_a_rate_that_is_another_or_not_known_says_at_which_seconds_are_counted(
    command: Callable[..., list[str]],
    recording: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(mode="none")) == 0
    capsys.readouterr()
    contradicted = str(tmp_path / "contradicted.npz")
    np.savez(contradicted, traces=np.load(recording("later")), time=np.arange(300) / 8, fs=2.5)
    for later, words in (
        (recording("near", rate_hz=2.55), ""),
        (recording("other", rate_hz=2.1), "has 2.1 frames a second and 2.5 were adapted to"),
        (
            recording("unknown", rate_hz="null"),
            "its rate is not known; its frames are taken to come at 2.5 Hz",
        ),
        (contradicted, "the stated rate is 2.5 Hz but the frame times say 8 Hz; the stated one counts"),
    ):
        assert main(["forecast", "--adapted", str(tmp_path / "out"), "--recording", later]) == 0
        told = capsys.readouterr()
        assert told.out.startswith("frames_ahead") and words in told.err
        assert sum("Hz" in line for line in told.err.splitlines()) == bool(words)
