"""A study's steps are done once, and its means and differences follow from its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from forebrain.adaptation.comparison import compare
from forebrain.adaptation.fit import FitConfig
from forebrain.errors import CheckpointError, ConfigError
from forebrain.models.poco import PocoConfig
from forebrain.sealed import sealed, unsealed
from forebrain.sessions.session import Session, session_key
from forebrain.shards.recordings import find_all, open_any
from forebrain.studies.kept import write_step
from forebrain.studies.leave_one_out import (
    SCORED,
    StudyConfig,
    draw,
    prepared_animals,
    study,
    summarise,
    tables_of,
    write_report,
)
from forebrain.studies.remarks import Remarks
from forebrain.training.config import PretrainConfig, TrainingConfig
from forebrain.training.run_folder import RunFolder
from forebrain_registry.storage import Folder

QUIET = Console(quiet=True)


@pytest.fixture
def config(tmp_path: Path, walk: Callable[..., Session]) -> StudyConfig:
    recordings = [str(tmp_path / f"{seed}.npz") for seed in range(3)]
    for seed, path in enumerate(recordings):
        walk(seed, num_frames=400).save(path)
    small = PocoConfig(
        context=12, horizon=4, token_length=4, width=8, num_latents=2, num_heads=1, head_width=4, film_width=8
    )
    return StudyConfig(
        recordings, str(tmp_path / "study"), seeds=1, model=small, fit=FitConfig(steps=2, batch_size=4),
        pretraining=TrainingConfig(steps=2, batch_size=4, validate_every=2),
    )  # fmt: skip


def test_each_animal_is_left_out_once_and_other_settings_are_refused(
    config: StudyConfig, walk: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = study(config, QUIET, "forebrain study leave-one-out")
    assert [row["session"] for row in result["rows"]] == [f"lab/animal{seed}/one" for seed in range(3)]
    for row in result["rows"]:
        assert all(row[name] is not None for name in SCORED)
    out = Path(config.out)
    assert "forebrain study leave-one-out" in (out / "report.md").read_text()

    with pytest.raises(ConfigError, match=r"holds study leave-one-out; .* for study minutes"):
        study(replace(config, minutes=[0.5]), QUIET)

    # Would fail if anything were done again.
    monkeypatch.setattr("forebrain.studies.leave_one_out.compare", None)
    assert study(config, QUIET) == result | {"command": ""}
    step = next((out / "scores").iterdir())
    kept = step.read_bytes()
    row = {key: value for key, value in unsealed(kept).items() if key != "code_version"}
    step.write_bytes(sealed(row))  # as an earlier version left it
    study(config, QUIET)
    assert "used as they are: scores of an earlier version" in (out / "report.md").read_text()
    step.write_bytes(kept)
    with pytest.raises(ConfigError, match="another --fit"):
        study(replace(config, fit=FitConfig(steps=3)), QUIET)
    step.write_bytes(sealed({**unsealed(kept), "weights_sha256": "another"}))
    with pytest.raises(ConfigError, match="is of another backbone"):
        study(config, QUIET)
    step.write_bytes(kept)
    with pytest.raises(ConfigError, match="expected 3 or more"):
        study(replace(config, recording=config.recording[:2]), QUIET)
    first = Path(config.recording[0])
    content = first.read_bytes()
    walk(0, num_frames=410).save(first)  # of the same name
    with pytest.raises(ConfigError, match="as they were before lab/animal0/one"):
        study(config, QUIET)
    first.write_bytes(content)
    other = Path(config.recording[0]).with_name("other.npz")
    walk(7, num_frames=400).save(other)
    with pytest.raises(ConfigError, match=r"a study of other recordings.*animal7"):
        study(replace(config, recording=[*config.recording, str(other)]), QUIET)


def test_animals_that_may_be_trained_on_all_the_same_are_named_before_and_in_the_report(
    config: StudyConfig, walk: Callable[..., Session]
) -> None:
    """A folder a day is a data set each; and arrays without names are an animal each."""
    for seed, path in enumerate(config.recording):
        replace(walk(seed, num_frames=400), dataset=f"day{seed}", subject="mouse1").save(path)
    guessed = Path(config.recording[0]).with_name("mouse9.npy")
    np.save(guessed, walk(9, num_frames=400).traces)
    guessed.with_name("mouse9.session.yaml").write_text("rate_hz: 2.5\nspecies: worm\n")
    out, remarks = Folder(config.out), Remarks(QUIET)
    prepared_animals([*config.recording, str(guessed)], None, out, remarks)
    same = [line for line in remarks.notes if "day0/mouse1/one is left out, and" in line]
    assert len(same) == 1 and "called mouse1 too, in day1" in same[0]
    assert sum("the sidecar files of all its recordings" in line for line in remarks.notes) == 1
    assert sum("names of 1 of 4 sessions are guessed" in line for line in remarks.lines()) == 1


def test_what_an_earlier_version_scored_at_another_rate_is_done_again_which_is_said(
    config: StudyConfig, walk: Callable[..., Session], capsys: pytest.CaptureFixture[str]
) -> None:
    replace(walk(0, num_frames=400), rate_hz=8.0).save(config.recording[0])
    first = study(config, QUIET)["rows"]
    assert [row["rate_hz"] for row in first] == [8.0, 2.5, 2.5]
    for step in (Path(config.out) / "scores").iterdir():
        row = {key: value for key, value in unsealed(step.read_bytes()).items() if key != "rate_hz"}
        step.write_bytes(sealed({**row, "adapted": 0.123}))
    again = study(config, Console(width=1000))["rows"]
    assert [row["adapted"] for row in again] == [first[0]["adapted"], 0.123, 0.123]
    assert capsys.readouterr().out.count("it is done again") == 1


def test_sessions_of_any_name_are_of_their_animal_and_results_among_recordings_are_none(
    config: StudyConfig, walk: Callable[..., Session], tmp_path: Path
) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    for seed in range(4):
        animal = replace(
            walk(seed, num_frames=400), subject=f"worm{seed // 2 * seed}", session=f"day {seed}/1"
        )
        animal.save(lab / f"{seed}.npz")
    config = replace(config, recording=find_all([str(lab)]), out=str(lab / "study"))
    result = study(config, QUIET)
    assert {row["session"] for row in result["rows"]} == {
        "lab/worm0/day 0/1", "lab/worm0/day 1/1", "lab/worm2/day 2/1", "lab/worm3/day 3/1",
    }  # fmt: skip
    assert len(list((lab / "study").glob("without-*"))) == 3
    assert find_all([str(lab)]) == config.recording


def test_a_recording_that_changes_under_a_study_leaves_no_score(
    config: StudyConfig, walk: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def adapt(*args: Any, **kwargs: Any) -> Any:
        walk(9, num_frames=400).save(config.recording[0])
        return compare(*args, **kwargs)

    monkeypatch.setattr("forebrain.studies.leave_one_out.compare", adapt)
    with pytest.raises(ConfigError, match=r"0\.npz changed while it was read"):
        study(config, QUIET)
    assert not (Path(config.out) / "scores").exists()


def test_a_recording_that_changes_while_all_are_opened_ends_the_study_before_any_work(
    config: StudyConfig, walk: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opening(address: str) -> list[Session]:
        found = open_any(address)
        if address == config.recording[1]:  # the first is open by now
            walk(9, num_frames=400).save(config.recording[0])
        return found

    monkeypatch.setattr("forebrain.studies.kept.open_any", opening)
    with pytest.raises(ConfigError, match=r"0\.npz changed while it was read"):
        study(config, QUIET)
    assert not (Path(config.out) / "study.json").exists()


def test_stretches_of_each_animal(config: StudyConfig) -> None:
    # 400 frames at 2.5 Hz: 240 of them, 1.6 minutes, lie before the validation part.
    result = study(replace(config, minutes=[0.5, 5]), QUIET)
    by_length = {(row["session"][10], row["minutes"]) for row in result["rows"]}
    assert by_length == {(str(seed), minutes) for seed in range(3) for minutes in (0.5, 1.6)}
    assert [each["minutes"] for each in result["means"]] == [0.5, None]
    assert (Path(config.out) / "minutes.png").read_bytes().startswith(b"\x89PNG")


def made_row(
    session: str, score: float, minutes: float | None = None, asked: float | None = None
) -> dict[str, Any]:
    return {
        "session": session, "species": "worm", "seed": 0, "minutes": minutes, "asked_minutes": asked,
        "noise_ceiling": 0.9, **dict.fromkeys(SCORED, score - 0.03),
        "adapted": score, "copy": 0.0, "era": None,
    }  # fmt: skip


def test_differences_are_within_sessions() -> None:
    (means,) = summarise([made_row("a", 0.1), made_row("b", 0.5)])["means"]
    assert means["score"]["adapted"] == pytest.approx([0.3, 0.1, 0.5])
    # Sessions differ by 0.4 and the two by 0.03, always: the difference is known far better than the scores.
    assert means["ahead_of"]["self"] == pytest.approx([0.03] * 3)
    assert means["score"]["era"] == [0, 0, 0]  # could not be trained


def test_regret_is_what_the_best_choice_on_the_test_part_would_have_gained() -> None:
    rows = [made_row("a", 0.3) | {"zero steps": 0.32}, made_row("b", 0.5) | {"ridge": 0.56}]
    result = {"rows": rows, **summarise(rows)}
    (means,) = result["means"]
    assert means["regret"] == pytest.approx({"steps": 0.01, "steps and members": 0.04})
    assert "regret of choosing" in "".join(table.to_markdown() for table in tables_of(result))


def test_a_session_that_is_shorter_counts_with_all_it_has(tmp_path: Path) -> None:
    rows = [
        made_row("a", 0.1, 1, 1), made_row("a", 0.2, 5, 5), made_row("a", 0.3, 9),
        made_row("b", 0.5, 1, 1), made_row("b", 0.7, 3),
    ]  # fmt: skip
    result = {"rows": rows, **summarise(rows)}
    assert [(each["minutes"], round(each["score"]["adapted"][0], 3)) for each in result["means"]] == [
        (1, 0.3), (5, 0.45), (None, 0.5),
    ]  # fmt: skip
    first = tables_of(result)[0].to_markdown()
    assert "minutes at most" in first and "0.450" in first
    assert draw(result, tmp_path / "minutes.png").read_bytes().startswith(b"\x89PNG")


def test_a_recording_under_two_names_is_said_before_training_and_in_the_report(
    config: StudyConfig, walk: Callable[..., Session], capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(config.recording[0]).with_name("copy.npz")
    replace(walk(0, num_frames=400), subject="copy").save(copy)
    out, remarks = Folder(config.out), Remarks(Console(width=1000))
    animals, _ = prepared_animals([*config.recording, str(copy)], None, out, remarks)
    assert len(animals) == 4
    said = "lab/copy/one: holds the same numbers as lab/animal0/one."
    assert capsys.readouterr().out.count(said) == 1
    write_report(out, "report.md", "", [], [], remarks)
    report = (Path(config.out) / "report.md").read_text()
    assert report.startswith(said) and "Left out" not in report
    assert remarks.values()["notes"] == [report.strip()]


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run may be trained."""

    def train(config: Any, console: Console) -> str:
        raise AssertionError(f"{config.out} was trained")

    monkeypatch.setattr("forebrain.studies.backbone.pretrain", train)


@pytest.mark.usefixtures("untrained")
def test_minutes_that_cannot_be_counted_are_refused_before_training(
    config: StudyConfig, walk: Callable[..., Session], tmp_path: Path
) -> None:
    for seed, path in enumerate(config.recording):
        replace(walk(seed, num_frames=400), rate_hz=None).save(path)
    config = replace(config, minutes=[0.5, 1.0])
    with pytest.raises(ConfigError, match=r"nothing was trained.*lab/animal0/one: has no rate.*sidecar"):
        study(config, QUIET)


@pytest.mark.usefixtures("untrained")
def test_what_ends_a_study_is_found_before_its_first_run(
    config: StudyConfig, walk: Callable[..., Session]
) -> None:
    last = Folder(config.out).child(f"without-{session_key('lab/animal2')}/run-0")
    other = PretrainConfig("elsewhere", last.uri, workers=0)
    RunFolder(last.uri).claim(other)
    with pytest.raises(CheckpointError, match=r"animal2.*run-0 holds a run of another config"):
        study(config, QUIET)
    last.remove("config.yaml")
    name = f"{session_key('lab/animal2/one')}-0.json"
    row = made_row("lab/animal2/one", 0.3) | {"species": "celegans", "fit": {}}
    write_step(Folder(config.out).child("scores"), name, row)
    with pytest.raises(ConfigError, match="is of another --fit"):
        study(config, QUIET)


def test_a_silent_part_is_found_before_training_and_others_are_trained(
    config: StudyConfig, walk: Callable[..., Session]
) -> None:
    for seed, (first, stop) in enumerate(((322, 400), (0, 240))):
        traces = np.array(walk(seed, num_frames=400).traces)
        traces[first:stop] = traces[first]
        replace(walk(seed, num_frames=400), traces=traces).save(config.recording[seed])
    result = study(config, QUIET)
    assert result["left_out"] == [
        "session lab/animal0/one: nothing moves in its test part.",
        "session lab/animal1/one: nothing moves in its training part.",
    ]
    assert [path.name for path in Path(config.out).glob("without-*")] == [
        f"without-{session_key('lab/animal2')}"
    ]
    assert [row["session"] for row in result["rows"]] == ["lab/animal2/one"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"minutes": [0.5, 0.0]}, "minutes holds 0; expected positive"),
        ({"minutes": [-1.0]}, "minutes holds -1"),
        ({"minutes": [float("nan")]}, "minutes holds nan"),
        ({"minutes": [float("inf")]}, "minutes holds inf"),
        ({"minutes": [0.5, 0.5000001]}, "expected each length once"),
        ({"seeds": 0}, "seeds is 0; expected 1 or more"),
        ({"species": ["celegans", "wurm"]}, "species holds 'wurm'; the recordings are of celegans"),
    ],
)
def test_what_could_score_nothing_is_refused_before_any_work(
    config: StudyConfig, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        study(replace(config, **given), QUIET)
    assert not Path(config.out).exists() or not list(Path(config.out).glob("*/"))


def test_a_recording_that_cannot_be_scored_ends_no_study(
    config: StudyConfig, walk: Callable[..., Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moving = np.array(walk(0, num_frames=400).traces)
    recordings = list(config.recording)
    for name, frames, value in (
        ("unseen", slice(90, 240), np.nan),  # repair drops all that is fitted to
        ("still", slice(100, 400), 1.0),
        ("useless", slice(0, 400), np.nan),
    ):
        traces = moving.copy()
        traces[frames] = value
        recordings.append(str(tmp_path / f"{name}.npz"))
        replace(walk(0, num_frames=400), traces=traces, subject=name).save(recordings[-1])
    config = replace(config, recording=recordings, minutes=[0.5])
    result = study(config, Console(width=1000))
    scored = {row["session"] for row in result["rows"] if row["asked_minutes"] == 0.5}
    assert scored == {f"lab/animal{seed}/one" for seed in range(3)}
    said = capsys.readouterr().out
    assert "left out: session lab/unseen/one: no frame is usable of the 0.5 minutes" in said
    assert "left out: session lab/still/one: nothing usable remains" in said
    assert "useless.npz: session lab/useless/one: nothing usable" in said
    assert not list(Path(config.out).glob("without-lab-useless*"))
    report = (Path(config.out) / "report.md").read_text()
    for reason in ("lab/unseen/one: no frame", "lab/still/one: nothing usable", "lab/useless/one: nothing"):
        assert reason in report and report.count(reason) == said.count(reason)

    with pytest.raises(ConfigError, match="2 animals can be used; expected 3"):
        study(replace(config, recording=[*recordings[:2], recordings[-1]], out=str(tmp_path / "few")), QUIET)
