"""jobs/pretrain.py and jobs/evaluate.py in one process: whole runs, resumed runs, and every bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from job_runs import ROOT, TINY, pretrain, recording, run_here

from forebrain.sessions.session import Session


def test_a_run_in_one_plain_process_needs_no_ray(tmp_path: Path) -> None:
    from forebrain.shards.options import PrepareConfig
    from forebrain.shards.prepare import prepare

    files = [str(recording(tmp_path / "recordings", name, 400)) for name in ("a", "b")]
    prepare(
        files, str(tmp_path / "shards"), PrepareConfig(), open_recording=lambda path: [Session.load(path)],
        run_each=lambda function, items: [function(item) for item in items],
    )  # fmt: skip
    code = (
        "import sys, runpy; sys.modules['ray'] = None;"
        f"sys.argv = ['pretrain', '--data', '{tmp_path / 'shards'}', '--out', '{tmp_path / 'run'}',"
        f" '--workers', '0', *{TINY!r}];"
        f"runpy.run_path('{ROOT / 'jobs' / 'pretrain.py'}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["num_workers"] == 1


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("empty folder", ["no recording"]),
        ("missing folder", ["nothing-here"]),
        ("too short", ["no session has a window", "model.context"]),
        ("unknown key", ["--training.stepz", "--training.steps"]),
        ("index without shards", [".tar", "prepare"]),
        ("not a run", ["another config"]),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing_half_written(
    case: str, words: list[str], tmp_path: Path, small_shards: str
) -> None:
    data, out, more = tmp_path / "data", tmp_path / "run", ["--workers", "0"]
    data.mkdir()
    if case == "missing folder":
        data = tmp_path / "nothing-here"
    elif case == "too short":
        recording(data, "short", 80)
    elif case == "unknown key":
        more += ["--training.stepz", "3"]
    elif case == "index without shards":
        data = tmp_path / "damaged"
        shutil.copytree(small_shards, data)
        next((data / "shards").rglob("*.tar")).unlink()
    elif case == "not a run":
        recording(data, "good", 400)
        out.mkdir()
        (out / "config.yaml").write_text("seed: 7\n")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = pretrain(data, out, *more)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    left = {
        path: path.read_bytes() for path in out.rglob("*") if path.is_file() and "shards" not in path.parts
    }
    assert left == before


def test_a_session_too_short_to_train_on_is_named_and_the_others_are_scored(tmp_path: Path) -> None:
    for name, num_frames in (("a", 400), ("b", 400), ("short", 80)):
        recording(tmp_path / "data", name, num_frames)
    done = pretrain(tmp_path / "data", tmp_path / "run", "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert "train window in: lab/short/short" in done.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["test"]["by_session"]) == {"lab/a/a", "lab/b/b"}
    assert result["sessions_not_trained"] == ["lab/short/short"]


def test_principal_components_train_in_place_of_units(tmp_path: Path) -> None:
    recording(tmp_path / "data", "a", 400)
    done = pretrain(tmp_path / "data", tmp_path / "run", "--workers", "0", "--prepare.pca", "3")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 6


def test_what_was_repaired_is_said_while_pretraining(tmp_path: Path) -> None:
    session = Session.load(recording(tmp_path / "made", "a", 400))
    traces = np.array(session.traces)
    traces[:, 2] = 1.0
    (tmp_path / "data").mkdir()
    Session(traces, 5.0, "fish", "a", "a", "lab").save(tmp_path / "data" / "a.npz")
    done = pretrain(tmp_path / "data", tmp_path / "run", "--workers", "0")
    assert "1 unit that never changed" in done.stdout


@pytest.mark.parametrize("finished_first", [True, False])
def test_other_data_at_the_same_place_is_refused_and_harms_nothing(
    tmp_path: Path, finished_first: bool
) -> None:
    recording(tmp_path / "mine", "a", 400)
    recording(tmp_path / "yours", "b", 400)
    out = tmp_path / "run"
    assert pretrain(tmp_path / "mine", out, "--workers", "0").returncode == 0
    if not finished_first:
        (out / "result.json").unlink()
    index = (out / "shards" / "index.json").read_bytes()
    other = pretrain(tmp_path / "yours", out, "--workers", "0")
    assert other.returncode != 0 and "data was" in other.stderr
    assert (out / "shards" / "index.json").read_bytes() == index
    assert pretrain(tmp_path / "mine", out, "--workers", "0").returncode == 0


def test_brackets_in_names_are_names(tmp_path: Path) -> None:
    recording(tmp_path / "data[/red]", "a", 400)
    out = tmp_path / "run_[bold]x"
    done = pretrain(tmp_path / "data[/red]", out, "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout.splitlines()[-1]


def test_more_workers_than_cores_is_an_error_and_not_a_wait(
    tmp_path: Path, small_shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebrain.ray_runtime.start_ray", lambda: None)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    done = pretrain(small_shards, tmp_path / "run", "--workers", "999")
    assert done.returncode == 2 and "workers is 999 and there are 2 cores" in done.stderr


@pytest.mark.parametrize(
    ("name", "content"), [("config.yaml", "- a list"), ("config.yaml", "{ unclosed"), ("result.json", "{")]
)
def test_a_damaged_run_folder_is_one_clear_error(tmp_path: Path, name: str, content: str) -> None:
    recording(tmp_path / "data", "a", 400)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text(content)
    done = pretrain(tmp_path / "data", tmp_path / "run", "--workers", "0")
    assert done.returncode == 1 and name in done.stderr and "Traceback" not in done.stderr


def test_an_out_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    recording(tmp_path / "data", "a", 400)
    (tmp_path / "file").write_text("in the way")
    done = pretrain(tmp_path / "data", tmp_path / "file", "--workers", "0")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "in the way"


SIXTY = ["--training.steps", "60", "--training.validate_every", "60", "--training.checkpoint_every", "60"]


@pytest.fixture(scope="module")
def sixty_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that no signal disturbed; its data are beside it."""
    folder = tmp_path_factory.mktemp("sixty")
    recording(folder / "data", "a", 400)
    assert pretrain(folder / "data", folder / "run", "--workers", "0", *SIXTY).returncode == 0
    return folder / "run"


def test_evaluate_scores_every_window_when_asked(sixty_steps: Path) -> None:
    def windows() -> dict[str, int]:
        return json.loads((sixty_steps / "result.json").read_text())["test"]["windows"]

    assert windows()["scored"] < windows()["available"]
    done = run_here("evaluate.py", "--run", str(sixty_steps), "--full")
    assert done.returncode == 0, done.stderr
    assert windows()["scored"] == windows()["available"]
    assert "linear" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_the_same_command_goes_on_bit_for_bit(
    tmp_path: Path, sixty_steps: Path, number: signal.Signals
) -> None:
    data, out = sixty_steps.with_name("data"), tmp_path / "run"
    process = subprocess.Popen(
        [
            sys.executable, str(ROOT / "jobs" / "pretrain.py"), "--data", str(data), "--out", str(out), *TINY,
            "--workers", "0", *SIXTY,
        ],
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'registry'}"},
    )  # fmt: skip
    while not list(out.glob("attempts/*.json")):  # written as the loop begins
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert stderr.startswith(f"stopped by {number.name} after step "), stderr
    stopped_at = int(stderr.split("after step ")[1].split(";")[0])
    assert 1 <= stopped_at < 60
    assert [path.name for path in out.glob("checkpoints/*.json")] == [f"{stopped_at:08d}.json"]
    assert pretrain(data, out, "--workers", "0", *SIXTY).returncode == 0
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (sixty_steps, out)
    ]
    expected, found = ([row["loss"] for row in run if row["kind"] == "step"] for run in rows)
    assert len(found) == 60 and found == expected
