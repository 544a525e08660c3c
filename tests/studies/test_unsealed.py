"""What a study kept before there were seals may hold anything: it is summed up, or done again with a line."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forebrain.errors import CheckpointError
from forebrain.studies import backbone, inputs, leave_one_out, population
from forebrain.studies.ablation import REFERENCE, report_effects
from forebrain.studies.kept import read_step
from forebrain.studies.notes import NOTE, read_note, read_result, unfinished, whole_result
from forebrain.studies.report import write_hparams
from forebrain.studies.study import read_outcomes
from forebrain.studies.trials import Trial, Variant, make_trials
from forebrain.training.config import PretrainConfig
from forebrain_registry.storage import Folder

WRONG = ("text", [], {}, True, math.nan, math.inf, 10**400)


def edited(record: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The record with each of its values replaced by what is no number, or removed, in turn."""
    entries = record.items() if isinstance(record, dict) else enumerate(record)
    for key, value in list(entries):
        for wrong in (*WRONG, "REMOVED"):
            changed = copy.deepcopy(record)
            if wrong == "REMOVED":
                del changed[key]
            else:
                changed[key] = wrong
            yield f"{(*path, key)}: {wrong!r}", changed
        if isinstance(value, dict | list):
            for told, inner in edited(value, (*path, key)):
                changed = copy.deepcopy(record)
                changed[key] = inner
                yield told, changed


@pytest.fixture
def trial(base: PretrainConfig) -> Trial:
    return make_trials(base, [Variant(REFERENCE, {}), Variant("wide", {})], 1)[1]


@pytest.fixture
def result(finished: Callable[..., Any]) -> dict[str, Any]:
    made = finished("wide", 0, {"lab/a/1": 0.25, "lab/b/1": None}).result
    return {"steps": 4, **json.loads(json.dumps(made))}


def test_a_trials_result_is_reported_or_damaged(trial: Trial, result: dict[str, Any], tmp_path: Any) -> None:
    reported = damaged = 0
    for told, changed in edited(result):
        trial.run.folder.write("result.json", json.dumps(changed).encode())
        try:
            whole_result(trial)
        except CheckpointError as error:
            assert "result.json: damaged (" in str(error) and "\n" not in str(error), told
            assert read_result(trial) is None and unfinished([trial]) == [trial], told
            damaged += 1
            continue
        outcomes = read_outcomes([trial])
        for part in ("validation", "test"):
            report_effects(outcomes, "wide", part, "")
        reported += 1
    write_hparams(Folder(tmp_path / "board"), outcomes)
    assert damaged > 50 and reported > 10


def of_leave_one_out() -> tuple[Any, Any, Any]:
    scores = dict.fromkeys(leave_one_out.SCORED, 0.125)
    row = {
        "session": "lab/a/1", "species": "worm", "seed": 0, "minutes": 1.5, "asked_minutes": None, **scores,
        "noise_ceiling": None, "fit": {}, "weights_sha256": "11",
    }  # fmt: skip

    def use(row: dict[str, Any]) -> None:
        result = {"rows": [row], **leave_one_out.summarise([row])}
        json.dumps(result, allow_nan=False)
        for table in leave_one_out.tables_of(result):
            table.to_markdown()

    return row, leave_one_out._require_row, use


def of_backbone() -> tuple[Any, Any, Any]:
    scores = dict.fromkeys(backbone.SCORED, 0.125)
    row = {
        "session": "lab/a/1", "species": "worm", "seed": 0, "weights_sha256": "11", **scores,
        "left_out_because": None, "noise_ceiling": None, "rate_hz": 3.0,
    }  # fmt: skip

    def use(row: dict[str, Any]) -> None:
        metrics = list(backbone.metrics_of([row]))
        json.dumps([row, [metric.value for metric in metrics]], allow_nan=False)
        backbone.as_table(metrics).to_markdown()
        backbone._by_session([row]).to_markdown()
        _ = row["left_out_because"] or [f"{row[each]:.3f}" for each in backbone.SCORED]

    return row, backbone._require_row, use


def of_population() -> tuple[Any, Any, Any]:
    row = {
        "session": "lab/a/1", "species": "worm", "seed": 0, "num_units": 3,
        **dict.fromkeys(population.SCORED, 0.125), "by_units": {"1": 0.1, "all": 0.125},
        "worth": [0.1, None, None], "settings": {}, "weights_sha256": [],
    }  # fmt: skip

    def use(row: dict[str, Any]) -> None:
        result = {"rows": [row], **population.summarise([row])}
        json.dumps(result["means"], allow_nan=False)
        for table in population.tables_of(result):
            table.to_markdown()

    return row, population._require_row, use


def of_inputs() -> tuple[Any, Any, Any]:
    scores = dict.fromkeys((*inputs.INFORMED, *inputs.RIVALS), 0.125)
    found = {
        "session": "lab/a/1", "units": 3, "frames": 100, "windows": {"train": 5, "validation": 3, "test": 3},
        "scores": scores, "evoked": scores, "quiet": {**scores, "plan": None}, "num_evoked": 2,
        "response": {"encoding": "level", "memory_s": 3.0, "num_features": 4}, "uses": "plan", "seconds": 1.0,
        "simulated": {"pairs": 3, "median_r": 0.5, "signs": 1.0, "regret": None},
    }  # fmt: skip
    row = inputs.RowConfig("*.npz", subsets={"all": ["*"]})

    def use(found: dict[str, Any]) -> None:
        group = {"row": [found] * inputs.LEAST_SESSIONS}
        for table in (
            inputs.overview({"row": row}, group, 0), inputs.apart(group), inputs.by_session(group),
            inputs.of_simulated(group),
        ):  # fmt: skip
            table.to_markdown()

    return found, inputs._require_scored, use


@pytest.mark.parametrize("of_study", [of_leave_one_out, of_backbone, of_population, of_inputs])
def test_a_step_is_summed_up_or_done_again_with_a_line(
    tmp_path: Any, of_study: Callable[[], tuple[Any, Any, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    step, require, use = of_study()
    folder, num_damaged = Folder(tmp_path), 0
    of = {name: step[name] for name in ("session", "species", "seed", "asked_minutes") if name in step}
    folder.write("a.json", json.dumps(step).encode())
    assert read_step(folder, "a.json", require, of) == step
    for told, changed in edited(step):
        folder.write("a.json", json.dumps(changed).encode())
        caplog.clear()
        read = read_step(folder, "a.json", require, of)
        if read is None:
            num_damaged += 1
            (record,) = caplog.records
            assert "a.json: damaged (" in record.getMessage() and "\n" not in record.getMessage(), told
        else:
            use(read)
    assert num_damaged > 30


@pytest.mark.parametrize(
    ("of_study", "score"), [(of_leave_one_out, "adapted"), (of_backbone, "self"), (of_population, "with it")]
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_formed_again(
    tmp_path: Any,
    of_study: Callable[[], tuple[Any, Any, Any]],
    score: str,
    value: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    step, require, _ = of_study()
    Folder(tmp_path).write("a.json", json.dumps({**step, score: value}).encode())
    assert read_step(Folder(tmp_path), "a.json", require) is None
    assert f"its {score} is {value}; expected a number" in caplog.text


@pytest.mark.parametrize("status", ["failed", "stopped", "finished", 3, None])
@pytest.mark.parametrize("text", ["why", 3, None, [], {}])
def test_a_note_is_read_whole_or_passed_over(trial: Trial, status: Any, text: Any) -> None:
    trial.run.folder.write(NOTE, json.dumps({"status": status, "text": text}).encode())
    note = read_note(trial)
    assert (note is not None) == (status in ("failed", "stopped") and text == "why")
    if note is not None:
        assert note.reason == "why"
