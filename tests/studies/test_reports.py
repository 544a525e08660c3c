"""Reports: what was found, what is missing, and the command, on one page that needs nothing else."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from forebrain.config import from_values
from forebrain.studies.ablation import report_effects
from forebrain.studies.report import to_html, to_markdown, write_hparams, write_report
from forebrain.studies.scaling import ScaleConfig, curve_of, report_curve
from forebrain.studies.study import Outcome, read_outcomes
from forebrain.studies.trials import Trial
from forebrain_registry.storage import Folder

pytestmark = pytest.mark.usefixtures("fine_pictures")

COMMAND = "python jobs/ablate.py --config a.yaml"
SESSIONS = [f"lab/fish/{number}" for number in range(6)]


def ablated(finished, gain: float, noise: float) -> list[Outcome]:
    rng = np.random.default_rng(0)
    level = dict(zip(SESSIONS, rng.normal(0.2, 0.1, len(SESSIONS)), strict=True))
    outcomes = []
    for seed in range(2):
        for variant, shift in (("reference", 0.0), ("no FiLM <b>", gain)):
            scores = {name: score + shift + rng.normal(0, noise) for name, score in level.items()}
            outcomes.append(finished(variant, seed, scores))
    return outcomes


def test_the_verdict_names_what_is_clear_and_only_that(finished) -> None:
    (verdict,) = report_effects(ablated(finished, -0.1, 0.005), "reference", "test", COMMAND).verdict
    assert "Clearly different from the reference, 1 of 1 variants: no FiLM <b> -0.1" in verdict
    (verdict,) = report_effects(ablated(finished, 0.0, 0.05), "reference", "test", COMMAND).verdict
    assert verdict.startswith("No clear difference")


def test_the_page_is_whole_by_itself_and_escapes_names(finished) -> None:
    page = to_html(report_effects(ablated(finished, -0.1, 0.01), "reference", "test", COMMAND))
    assert 'src="data:image/png;base64,' in page and COMMAND in page
    assert "no FiLM &lt;b&gt;" in page and "no FiLM <b>" not in page
    for outside in ("http:", "https:", "<script", "<link"):
        assert outside not in page


def test_every_gap_is_in_the_report_and_none_is_silent(finished, base) -> None:
    outcomes = ablated(finished, -0.1, 0.01)
    trial = outcomes[1].trial
    outcomes[1] = Outcome(trial, "failed", "loss nan\nat step 3", None)
    outcomes[3] = Outcome(outcomes[3].trial, "stopped", "stopped early after step 2", None)
    outcomes.append(Outcome(Trial("gone", base), "missing", "its folder was removed", None))
    outcomes.append(finished("nan", 0, dict.fromkeys(SESSIONS)))
    report = report_effects(outcomes, "reference", "test", COMMAND)
    text = to_markdown(report)
    for words in (
        "no FiLM <b>, seed 0: failed: loss nan at step 3",
        "no FiLM <b>, seed 1: stopped: stopped early",
        "gone, seed 0: missing: its folder was removed",
        "nan, seed 0: finished, and its test score is undefined",
        f"nan, seed 0: {SESSIONS[0]} has no score",
    ):
        assert words in text
    (trials,) = [table for table in report.tables if table.name == "trials"]
    assert [row[1] for row in trials.rows] == [
        "finished", "failed", "finished", "stopped", "missing", "finished",
    ]  # fmt: skip
    assert "Nothing to say" in report.verdict[0]


def test_no_table_of_variants_is_without_the_baselines(finished) -> None:
    report = report_effects(ablated(finished, -0.1, 0.01), "reference", "test", COMMAND)
    (table,) = [table for table in report.tables if table.name == "variants"]
    assert {"copy", "mean", "linear"} <= set(table.columns)


def test_files_hold_the_numbers_in_full(finished, tmp_path: Path) -> None:
    outcomes = ablated(finished, -0.1, 0.01)
    report = report_effects(outcomes, "reference", "test", COMMAND)
    write_report(Folder(tmp_path), report)
    values = json.loads((tmp_path / "results.json").read_text())
    (effect,) = values["effects"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "effects.csv").read_text())))
    assert float(rows[0]["difference"]) == effect["difference"][0]
    assert values["trials"][0]["scores"]["model"] == outcomes[0].by_session("test")
    assert (tmp_path / "effects.png").read_bytes().startswith(b"\x89PNG")
    assert "effects.png" in (tmp_path / "report.md").read_text()


def test_hparams_hold_what_varies_and_the_scores(finished, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcomes = ablated(finished, -0.1, 0.01)
    for _ in range(2):  # a report made again replaces the one before
        write_hparams(Folder(tmp_path), outcomes)
    (events,) = (tmp_path / "tensorboard" / "reference" / "seed-1").glob("events*")
    board = EventAccumulator(str(events)).Reload()
    assert board.Scalars("score/test")[0].value == pytest.approx(outcomes[2].result["test"]["score"])
    plugin = board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"seed" in plugin and b"variant" in plugin and b"learning_rate" not in plugin


def scaled(finished, small_run, error, noise: float = 0.004) -> tuple[ScaleConfig, list[Outcome]]:
    config = from_values(
        ScaleConfig, {"pretrain": small_run, "axis": "frames", "sizes": [32, 64, 128, 256, 512]}
    )
    rng = np.random.default_rng(0)
    level = dict(zip(SESSIONS, rng.normal(0, 0.1, len(SESSIONS)), strict=True))
    outcomes = [
        finished(
            f"frames={size:g}",
            seed,
            {name: 1 - error(size) + own + rng.normal(0, noise) for name, own in level.items()},
        )
        for seed in range(2)
        for size in config.sizes
    ]
    return config, outcomes


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    from forebrain.studies import scaling

    judge = scaling.judge
    monkeypatch.setattr(scaling, "judge", lambda *given: judge(*given, num_resamples=12))


def test_a_curve_is_reported_with_its_law_and_baseline(finished, small_run) -> None:
    config, outcomes = scaled(finished, small_run, lambda size: 1 - 0.05 * np.log(size))
    report = report_curve(config, outcomes, COMMAND)
    assert report.verdict[0].startswith("A log-linear law holds")
    curve, laws, *_ = report.tables
    assert [row[0] for row in curve.rows] == ["32", "64", "128", "256", "512"]
    assert {"linear", "copy"} <= set(curve.columns)
    assert [row[0] for row in laws.rows] == ["constant", "log-linear law", "power law with floor"]
    assert report.pictures[0].data.startswith(b"\x89PNG")
    json.dumps(report.values, default=list)


def test_a_curve_compares_what_has_a_score_at_every_size(finished, small_run, base) -> None:
    config, outcomes = scaled(finished, small_run, lambda size: 0.8)
    full = curve_of(outcomes, config.variants(base), "frames", "test")
    assert len(full.cells) == 2 * len(SESSIONS) and full.scores.shape == (12, 5)
    failed = Outcome(outcomes[1].trial, "failed", "lost", None)  # size 64, seed 0
    part = curve_of([*outcomes[:1], failed, *outcomes[2:]], config.variants(base), "frames", "test")
    assert {seed for seed, _ in part.cells} == {1} and len(part.sizes) == 5
    both = [
        Outcome(each.trial, "failed", "lost", None) if each.trial.variant == "frames=64" else each
        for each in outcomes
    ]
    without = curve_of(both, config.variants(base), "frames", "test")
    assert without.sizes == [32, 128, 256, 512] and len(without.cells) == 12


def test_a_study_without_any_result_says_so(finished, small_run) -> None:
    config, outcomes = scaled(finished, small_run, lambda size: 0.8)
    nothing = [Outcome(each.trial, "missing", "not run", None) for each in outcomes]
    report = report_curve(config, nothing, COMMAND)
    assert report.verdict == ("No verdict: no seed and session has a score at every size.",)
    assert len(report.gaps) == len(outcomes) and "missing" in to_html(report)


def test_a_trial_whose_folder_was_removed_is_missing(finished) -> None:
    outcomes = ablated(finished, 0.0, 0.01)
    assert {read.status for read in read_outcomes([each.trial for each in outcomes])} == {"missing"}
