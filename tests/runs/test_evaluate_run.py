"""Runs, evaluated: what was held out is scored apart, and ZAPBench by its own rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from forebrain.config import from_values
from forebrain.errors import ConfigError, StorageError
from forebrain.runs import evaluate as evaluation_run
from forebrain.runs.evaluate import evaluate_run
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.training.config import PretrainConfig
from forebrain.training.data import open_windows
from forebrain.training.events import Event
from forebrain.training.run_folder import RunFolder
from forebrain.training.single import train_here
from forebrain_registry.storage import Folder

Run = Callable[..., tuple[dict[str, Any], RunFolder, list[Event]]]
QUIET = Console(quiet=True)
HELD_OUT = "lab-a/subject-two/two"


@pytest.fixture
def run(small_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Trains a small model and evaluates it: result, run folder, events. Pictures where they are asked for,
    because they take longer than all else."""

    def go(
        name: str = "run", pictures: bool = False, **changes: Any
    ) -> tuple[dict[str, Any], RunFolder, list[Event]]:
        values = {
            "data": small_shards,
            "out": str(tmp_path / name),
            "model": {"name": "mlp", "context": 12, "horizon": 4, "width": 16},
            "training": {"steps": 3, "batch_size": 8, "threads": 1},
            "evaluation": {"full": True},
        }
        config = from_values(PretrainConfig, {**values, **changes})
        if not pictures:
            monkeypatch.setattr(evaluation_run, "_report", lambda *given: {})
        events: list[Event] = []
        RunFolder(config.out).claim(config)
        train_here(config, events.append)
        folder = RunFolder(config.out)
        return evaluate_run(folder, None, False, QUIET)[0], folder, events

    return go


@pytest.mark.parametrize(
    ("model", "holdout"),
    [("mlp", {"sessions": ["*/two"]}), ("plrnn", {"subjects": ["lab-a/subject-t*"]})],
    ids=["session", "subject"],
)
def test_what_is_held_out_is_not_trained_on_and_scored_apart(
    run: Run, model: str, holdout: dict[str, list[str]]
) -> None:
    result, folder, events = run(
        pictures=model == "mlp",
        model={"name": model, "context": 12, "horizon": 4, "width": 16},
        holdout=holdout,
    )
    trained = {row.dataset: row.windows for row in events[0].mixture}
    assert trained["lab-a"] == 200 * 0.6 - 16 + 1  # those of session one alone
    assert set(result["held_out"]["by_session"]) == {HELD_OUT}
    for part in ("validation", "test"):
        assert HELD_OUT not in result[part]["by_session"]
    windows = result["held_out"]["windows"]
    assert windows["scored"] == windows["available"] == 260 * 0.2 - 16 + 1
    assert result["held_out"]["baselines"]["copy"]["score"] == 0
    assert folder.folder.exists("evaluation/held_out/report.md") == (model == "mlp")


def test_a_held_out_data_set_leaves_no_embedding_to_use(run: Run) -> None:
    result, _, _ = run(
        model={"context": 12, "horizon": 4, "token_length": 4, "width": 16, "num_heads": 2, "head_width": 8},
        holdout={"subjects": ["lab-b/*"]},
    )
    assert set(result["held_out"]["by_dataset"]) == {"lab-b"}


@pytest.mark.parametrize(
    ("holdout", "words"),
    [
        ({"sessions": ["*/seven"]}, ["holdout.sessions", "*/seven", HELD_OUT]),
        ({"subjects": ["nobody"]}, ["holdout.subjects", "nobody", "lab-a/subject-two"]),
        ({"sessions": ["*"]}, ["all 3 sessions", "some to train on"]),
        ({"conditions": ["dots"]}, ["holdout.conditions", "'dots'", "sidecar"]),
    ],
)
def test_a_holdout_that_cannot_be_is_named(
    small_shards: str, holdout: dict[str, list[str]], words: list[str]
) -> None:
    config = from_values(PretrainConfig, {"data": small_shards, "out": "run", "holdout": holdout})
    with pytest.raises(ConfigError) as caught:
        open_windows(config, small_shards)
    for word in words:
        assert word in str(caught.value)


def test_a_held_out_condition_is_in_no_window_and_no_statistic_of_training(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = np.sin(np.arange(600)[:, None] * rng.uniform(0.1, 0.4, 5)) + 0.1 * rng.normal(size=(600, 5))
    frames[100:200] += 50.0  # what the statistics would notice
    conditions = np.repeat([-1, 0, 1, 0], [100, 100, 300, 100]).astype(np.int32)
    session = Session(
        frames.astype(np.float32), 5.0, "fish", "a", "one", "lab",
        conditions=conditions, condition_names=("dots", "dark"),
    )  # fmt: skip
    session.save(tmp_path / "one.npz")
    shards = str(tmp_path / "shards")
    prepare(
        [str(tmp_path / "one.npz")],
        shards,
        PrepareConfig(),
        open_recording=lambda path: [Session.load(path)],
        run_each=map_here,
    )
    result, folder, _ = run(data=shards, holdout={"conditions": ["dots"]})
    config = from_values(PretrainConfig, folder.read_config() or {})
    windows = open_windows(config, shards)
    trained_on = np.r_[0:100, 200:360]
    expected = frames[trained_on].astype(np.float32)
    np.testing.assert_allclose(windows.shards.fit(0, "chronological").mean, expected.mean(0), rtol=1e-4)
    for part, allowed in (
        ("train", trained_on), ("validation", np.r_[360:480]), ("test", np.r_[480:500]),
        ("held_out", np.r_[100:200, 500:600]),
    ):  # fmt: skip
        starts = windows.read(0, part, np.arange(windows.num_windows(0, part)))[2]
        assert len(starts) and np.isin(starts[:, None] + np.arange(16), allowed).all()
    assert windows.num_windows(0, "held_out") == 2 * (100 - 16 + 1)
    assert result["held_out"]["windows"]["scored"] == 2 * (100 - 16 + 1)
    assert result["test"]["windows"]["available"] == 20 - 16 + 1


def test_zapbench_is_trained_and_scored_by_its_own_protocol(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rhythms = np.sin(np.arange(7879)[:, None] * rng.uniform(0.05, 0.2, 4))
    frames = (0.05 * (rhythms + 0.2 * rng.normal(size=rhythms.shape))).astype(np.float32)
    Session(frames, 1.09, "zebrafish", "zap", "one", "zapbench").save(tmp_path / "zap.npz")
    shards = str(tmp_path / "shards")
    prepare(
        [str(tmp_path / "zap.npz")],
        shards,
        PrepareConfig(),
        open_recording=lambda path: [Session.load(path)],
        run_each=map_here,
    )
    model = {"name": "mlp", "context": 4, "horizon": 32, "width": 16}
    result, folder, _ = run(data=shards, protocol="zapbench", model=model)
    scores = result["zapbench"]
    assert {"MLP", "copy", "mean", "linear"} == set(scores)
    for one in scores.values():
        assert one["num_windows"] == 1557
        assert len(one["mean"]) == len(one["held_out"]) == 32
        assert len(one["by_condition"]) == 9
    of_mean = np.array(scores["mean"]["mean"])
    assert of_mean == pytest.approx(np.abs(frames - frames.mean(0)).mean(), rel=0.1)  # in its own units
    assert "taxis 32" in folder.folder.read("evaluation/zapbench.csv").decode()


def test_a_run_says_how_right_its_intervals_are_beside_the_baselines(run: Run) -> None:
    result, folder, _ = run()
    block = result["uncertainty"]
    assert set(block["coverage"]) == set(block["width"]) == {"0.5", "0.8", "0.9"}
    assert 0.5 < block["coverage"]["0.8"] < 1 and block["crps"] > 0 and block["mwql"] > 0
    assert block["calibrated_on"] == "validation part"
    assert set(block["baselines"]) == {"normal", "ar_valql"}
    assert set(block["by_session"]) == set(result["test"]["by_session"])
    table = folder.folder.read("evaluation/test/intervals.csv").decode()
    assert [line.split(",")[0] for line in table.splitlines()[1:]] == ["MLP", "normal", "ar_valql"]


def test_intervals_of_very_many_sessions_are_scored_of_some_of_each_data_set(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_run, "INTERVAL_SESSIONS", 1)
    result, _, _ = run(evaluation={"windows_per_session": 8})
    scored, datasets = result["uncertainty"]["by_session"], result["test"]["by_dataset"]
    assert len(scored) == len(datasets) < len(result["test"]["by_session"])
    assert set(result["uncertainty"]["by_dataset"]) == set(datasets)
    every, _, _ = run("full")
    assert set(every["uncertainty"]["by_session"]) == set(every["test"]["by_session"])


def test_a_brief_evaluation_has_the_same_scores_and_neither_intervals_nor_pictures(run: Run) -> None:
    brief, folder, _ = run("brief", pictures=True, evaluation={"full": True, "brief": True})
    whole, _, _ = run()
    assert brief["uncertainty"] is None and whole["uncertainty"] is not None
    assert brief["test"] == whole["test"] and brief["validation"] == whole["validation"]
    names = {name.rsplit("/", 1)[1] for name in folder.folder.files("evaluation")}
    assert "overview.csv" in names and all(name.endswith(".csv") for name in names)
    # It is the same run, however it is scored.
    config = from_values(PretrainConfig, folder.read_config())
    assert "brief" not in config.identity()["evaluation"]


def test_a_run_folder_that_cannot_be_written_is_said_before_it_is_scored(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, _ = run()

    def refuse(folder: Folder) -> None:
        raise StorageError(folder.uri)

    monkeypatch.setattr(Folder, "require_writable", refuse)
    monkeypatch.setattr(evaluation_run, "score_parts", lambda *given: pytest.fail("it was scored"))
    with pytest.raises(StorageError, match=folder.uri):
        evaluate_run(folder, None, False, QUIET)


def test_what_a_killed_evaluation_left_is_removed_by_the_next_and_a_report_is_written_behind_what_it_shows(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_report(folder: Path, *given: Any) -> None:
        for name in ("report.md", "z.csv", "a.csv"):
            (folder / name).write_text(name)

    monkeypatch.setattr(evaluation_run, "write_report", write_report)
    _, folder, _ = run(pictures=True)
    before = folder.folder.files("evaluation").keys()
    assert {"evaluation/test/report.md", "evaluation/test/z.csv"} <= before
    write, written = Folder.write, []

    def killed(folder: Folder, name: str, data: bytes) -> None:
        if name == "evaluation/test/report.md":
            folder.local_path(f"{name}.0123abcd.partial").write_bytes(data[:3])
            raise KeyboardInterrupt
        written.append(name)
        write(folder, name, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Folder, "write", killed)
        evaluate_run(folder, None, False, QUIET)
    assert {"evaluation/test/z.csv", "evaluation/test/a.csv"} <= set(written)
    assert folder.folder.files("evaluation").keys() - before == {"evaluation/test/report.md.0123abcd.partial"}
    evaluate_run(folder, None, False, QUIET)
    assert folder.folder.files("evaluation").keys() == before
