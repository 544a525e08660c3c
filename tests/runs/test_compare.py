"""Several runs beside one another: on the same windows, with the baselines, whatever they were trained on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebrain.commands import main
from forebrain.config import from_values
from forebrain.errors import ConfigError
from forebrain.evaluation.tables import Table
from forebrain.runs import compare_report
from forebrain.runs.compare import Comparison, compare, open_runs
from forebrain.runs.compare_report import write_comparison
from forebrain.training.config import PretrainConfig
from forebrain.training.run_folder import RunFolder
from forebrain.training.single import train_here
from forebrain_registry.storage import Folder

Train = Callable[..., RunFolder]
MLP = {"name": "mlp", "context": 12, "horizon": 4, "width": 16}


@pytest.fixture(scope="module")
def trained(small_shards: str, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a small model; the same call gives the same run."""
    folder = tmp_path_factory.mktemp("runs")

    def train(name: str, **changes: Any) -> RunFolder:
        values = {
            "data": small_shards,
            "out": str(folder / name),
            "model": MLP,
            "training": {"steps": 3, "batch_size": 8, "threads": 1},
        }
        config = from_values(PretrainConfig, {**values, **changes})
        run = RunFolder(config.out)
        run.claim(config)
        train_here(config, lambda event: None)
        return run

    return train


@pytest.fixture(scope="module")
def comparison(trained: Train) -> Comparison:
    return compare(
        open_runs(
            [
                trained("mlp"),
                trained("short", model={"name": "nlinear", "context": 6, "horizon": 4}),
                trained("part", subset={"include": ["lab-a/*"]}, model={**MLP, "name": "plrnn"}),
            ]
        ),
        windows_per_session=None,
    )


def test_runs_are_named_by_their_models_and_data_sets_stand_apart(comparison: Comparison) -> None:
    assert comparison.labels == ["MLP", "NLinear", "PLRNN", "copy", "mean", "linear"]
    assert list(comparison.by_dataset) == ["lab-a", "lab-b"]
    assert {info.id for info in comparison.by_dataset["lab-a"].sessions} == {
        "lab-a/subject-one/one", "lab-a/subject-two/two",
    }  # fmt: skip
    assert "PLRNN" not in comparison.by_dataset["lab-b"].scores  # it was trained on lab-a alone


def test_a_model_of_a_shorter_context_is_scored_on_the_same_windows(comparison: Comparison) -> None:
    for evaluation in comparison.by_dataset.values():
        windows = {
            name: [scores.num_windows for scores in sessions.values()]
            for name, sessions in evaluation.scores.items()
        }
        assert len({tuple(counts) for counts in windows.values()}) == 1


def test_of_two_comparisons_into_one_folder_one_is_refused(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, statuses = tmp_path / "out", []
    short = trained("short", model={"name": "nlinear", "context": 6, "horizon": 4})
    asked = ["evaluate", "--run", trained("mlp").uri, short.uri, "--full", "--out", str(out)]

    def beside(comparison: Comparison, folder: Folder) -> list[Table]:
        statuses.append(main([*asked, "--overwrite"]))
        return write_comparison(comparison, folder)

    monkeypatch.setattr(compare_report, "write_comparison", beside)
    assert (main(asked), statuses) == (0, [1])
    assert "another command works there" in capsys.readouterr().err and (out / "report.md").exists()
    assert not list(out.glob("held-*"))


def test_what_is_written_holds_every_number_and_the_baselines(comparison: Comparison, tmp_path: Path) -> None:
    tables = {table.name: table for table in write_comparison(comparison, Folder(str(tmp_path)))}
    names = {"report.md", "comparison.json", "comparison.png", *(f"{name}.csv" for name in tables)}
    assert {path.name for path in tmp_path.iterdir()} == names

    rows = list(csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text())))
    assert [row["forecaster"] for row in rows if row["dataset"] == "lab-b"] == [
        "MLP", "NLinear", "copy", "mean", "linear",
    ]  # fmt: skip
    found = json.loads((tmp_path / "comparison.json").read_text())
    for row in rows:
        block = found["by_dataset"][row["dataset"]]["forecasters"][row["forecaster"]]
        assert float(row["score"]) == block["score"] and float(row["MAE"]) == block["mae"]
        assert len(block["by_horizon"]["score"]["value"]) == 4
    pairs = {(row["dataset"], row["one"], row["other"]): row for row in found["differences"]}
    assert len(pairs) == (3 + 3 * 3) + (1 + 2 * 3)
    of_pair = pairs["lab-a", "MLP", "linear"]
    scores = comparison.by_dataset["lab-a"].scores
    expected = np.mean(
        [one.value("score") - scores["linear"][name].value("score") for name, one in scores["MLP"].items()]
    )
    assert of_pair["difference"] == pytest.approx(expected)
    assert of_pair["num_sessions"] == 2 and of_pair["interval"][0] <= expected <= of_pair["interval"][1]
    assert pairs["lab-b", "MLP", "copy"]["interval"] == [None, None]  # of one session

    report = (tmp_path / "report.md").read_text()
    assert "| PLRNN " in report and "| linear " in report and "–" in report


def test_runs_of_one_model_are_told_apart_by_their_folders(trained: Train) -> None:
    training = {"steps": 4, "batch_size": 8, "threads": 1}
    runs = [trained("mlp"), trained("a/longer", training=training)]
    with pytest.raises(ConfigError, match=r"different settings are called MLP \(longer\)"):
        open_runs([trained("b/longer"), runs[1]])
    assert [run.label for run in open_runs(runs)] == ["MLP (mlp)", "MLP (longer)"]
    with pytest.raises(ConfigError, match="same seed and data are called MLP"):
        open_runs([runs[0], runs[0]])


def test_seeds_share_a_row_whose_scores_are_their_means(trained: Train) -> None:
    runs = [trained("mlp"), trained("mlp-1", seed=1)]
    single = [compare(open_runs([run])) for run in runs]
    together = compare(open_runs(runs))
    assert together.labels == ["MLP", "copy", "mean", "linear"]
    assert [config["seed"] for config in together.runs["MLP"]] == [0, 1]
    for dataset, evaluation in together.by_dataset.items():
        for session, scores in evaluation.scores["MLP"].items():
            of_seeds = [one.by_dataset[dataset].scores["MLP"][session].values for one in single]
            assert not np.array_equal(*of_seeds)
            np.testing.assert_allclose(scores.values, np.mean(of_seeds, axis=0))


def test_runs_under_different_protocols_are_not_mixed(trained: Train) -> None:
    found = compare(open_runs([trained("mlp"), trained("published", protocol="poco")]))
    assert list(found.by_dataset) == [
        f"{name}, setting {number}" for name in ("lab-a", "lab-b") for number in (1, 2)
    ]
    for evaluation in found.by_dataset.values():
        assert len(evaluation.models) == 1


def test_nothing_to_score_is_an_error(trained: Train) -> None:
    with pytest.raises(ConfigError, match="held_out"):
        compare(open_runs([trained("mlp")]), "held_out")


def test_held_out_sessions_are_compared_too(trained: Train) -> None:
    holdout = {"sessions": ["*/two"]}
    runs = [
        trained("held", holdout=holdout),
        trained("held-linear", holdout=holdout, model={**MLP, "name": "plrnn"}),
    ]
    found = compare(open_runs(runs), "held_out")
    assert [info.id for info in found.by_dataset["lab-a"].sessions] == ["lab-a/subject-two/two"]
    assert set(found.by_dataset["lab-a"].models) == {"MLP", "PLRNN"}
