"""A study goes on with the recordings that it began with, and with the steps that are whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml
from rich.console import Console

from forebrain.errors import CheckpointError, ConfigError
from forebrain.sessions.session import Session
from forebrain.shards.recordings import open_any
from forebrain.studies import embeddings
from forebrain.studies.ablation import AblateConfig
from forebrain.studies.kept import (
    ASKED,
    claim,
    contents_of,
    read_step,
    require_unchanged,
    write_step,
)
from forebrain.studies.remarks import Remarks
from forebrain.studies.scaling import ScaleConfig
from forebrain.studies.study import _claim, conduct
from forebrain.training.config import PretrainConfig
from forebrain.training.versions import code_version, versions
from forebrain_registry.storage import Folder

CONTENTS = {"lab/a/1": "11", "lab/b/1": "22"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**CONTENTS, "lab/b/1": "23"}, "as they were before lab/b/1"),
        ({**CONTENTS, "lab/c/1": "33"}, r"of other recordings \(lab/c/1\)"),
        ({"lab/a/1": "11"}, r"of other recordings \(lab/b/1\)"),
    ],
)
def test_other_recordings_or_others_of_the_same_names_are_refused(
    tmp_path: Path, given: dict[str, str], message: str
) -> None:
    folder = Folder(tmp_path)
    claim(folder, CONTENTS, "minutes")
    claim(folder, dict(reversed(CONTENTS.items())), "minutes")
    with pytest.raises(ConfigError, match=message):
        claim(folder, given, "minutes")


def test_another_study_is_refused(tmp_path: Path) -> None:
    claim(Folder(tmp_path), CONTENTS, "minutes")
    with pytest.raises(ConfigError, match="holds study minutes; give another --out for study rivals"):
        claim(Folder(tmp_path), CONTENTS, "rivals")


def test_results_of_other_settings_are_not_written_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, settings = Folder(tmp_path), {"context": 16, "horizon": 4}
    claim(folder, CONTENTS, "rivals", settings)
    claim(folder, CONTENTS, "rivals", dict(reversed(settings.items())))
    with pytest.raises(ConfigError, match=r"holds study rivals with other settings \(horizon was 4\)"):
        claim(folder, CONTENTS, "rivals", {**settings, "horizon": 8})
    folder.write(ASKED, json.dumps({"study": "rivals", "sessions": CONTENTS}).encode())
    folder.write("result.json", b"{}")
    claim(
        folder, CONTENTS, "rivals", settings
    )  # as an earlier version left it: taken at its word, with a line
    assert "did not keep its settings; they are taken to have been context 16, horizon 4." in caplog.text
    with pytest.raises(ConfigError, match=r"horizon was 4"):
        claim(folder, CONTENTS, "rivals", {**settings, "horizon": 8})


def test_studies_of_runs_do_not_take_one_another_s_folder(base: PretrainConfig, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    ablation = AblateConfig(base, variants={"wide": {"model.width": 32}})
    scaling = [ScaleConfig(base, axis, [2]) for axis in ("frames", "units")]
    assert _claim(folder, scaling[0], base, yaml.safe_dump(asdict(scaling[0])).encode())
    assert not _claim(folder, replace(scaling[0], sizes=[2, 3]), base, b"")
    for other, called in ((ablation, "study ablate"), (scaling[1], "study scale of units")):
        with pytest.raises(ConfigError, match=f"holds study scale of frames; .* for {called}"):
            _claim(folder, other, base, b"")


def test_no_report_is_written_over_that_of_another_study(
    base: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    claim(Folder(out), CONTENTS, "leave-one-out")
    (out / "report.md").write_text("scores")
    for name in ("RunFolder", "TrainedModel", "open_windows", "units_of", "check_labels"):
        monkeypatch.setattr(embeddings, name, MagicMock())
    monkeypatch.setattr(embeddings, "run_id", lambda trained: "a-b-step4")
    with pytest.raises(ConfigError, match="holds study leave-one-out; give another --out for study emb"):
        embeddings.analyse_embeddings("run", str(out), "typed")
    ablation = AblateConfig(base, variants={"wide": {"model.width": 32}})
    with pytest.raises(ConfigError, match="holds a study"):
        conduct(ablation, Console(quiet=True))
    assert sorted(path.name for path in out.iterdir()) == ["report.md", "study.json"]


def test_recordings_of_one_name_are_refused_and_one_that_changes_is_seen(
    tmp_path: Path, walk: Callable[..., Session]
) -> None:
    paths = [str(tmp_path / f"{number}.npz") for number in range(2)]
    for path in paths:
        walk(1).save(path)
    read = [(session, path) for path in paths for session in open_any(path)]
    with pytest.raises(ConfigError, match=r"0\.npz and .*1\.npz are both session lab/animal1/one"):
        contents_of(read)
    (sha256,) = contents_of(read[:1]).values()
    require_unchanged(paths[0], sha256)
    walk(2).save(paths[0])
    with pytest.raises(ConfigError, match="changed while it was read"):
        require_unchanged(paths[0], sha256)


def test_a_study_of_an_earlier_version_is_taken_at_its_word_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write(ASKED, json.dumps({"sessions": list(CONTENTS)}).encode())
    claim(folder, CONTENTS, "minutes")
    with pytest.raises(ConfigError, match="as they were"):
        claim(folder, {**CONTENTS, "lab/a/1": "12"}, "minutes")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sessions": 3}', b"{}", b"[" * 100_000])
def test_a_damaged_claim_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ASKED).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{ASKED}: damaged"):
        claim(Folder(tmp_path), CONTENTS, "minutes")


OF = {"session": "lab/a/1", "seed": 0}


@pytest.mark.parametrize(
    "content",
    [b"", b'{"score": 0.', b"[1]", b"{}", b"[" * 100_000, b"\xff", b'{"session": "lab/a/1", "seed": 1}'],
)
def test_a_damaged_step_is_done_again_which_is_said(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(tmp_path)
    assert read_step(folder, "a.json", dict, OF) is None and not caplog.records
    folder.write("a.json", json.dumps({**OF, "score": 1}).encode())  # of an earlier version
    assert read_step(folder, "a.json", dict, OF) == {**OF, "score": 1}
    folder.write("a.json", content)
    assert read_step(folder, "a.json", dict, OF) is None
    assert "a.json: damaged" in caplog.text


def test_a_digit_that_changed_in_a_step_or_another_steps_file_is_no_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(tmp_path)
    step = {**OF, "score": 0.125}
    assert write_step(folder, "a.json", step) == read_step(folder, "a.json", dict, OF)
    assert read_step(folder, "a.json", dict, {**OF, "session": "lab/b/1"}) is None
    assert "its session is 'lab/a/1'; expected 'lab/b/1'" in caplog.text
    folder.write("a.json", folder.read("a.json").replace(b"0.125", b"0.625"))
    assert read_step(folder, "a.json", dict, OF) is None
    assert "has changed since it was written" in caplog.text


def test_steps_of_another_version_are_used_which_is_said_once_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, remarks = Folder(tmp_path), Remarks(Console(width=1000))
    own = write_step(folder, "own.json", {"score": 0.1})
    assert own["code_version"] == code_version()
    of_its_commit = {"code_version": f"{own['code_version'].partition(', commit')[0]}, commit 123"}
    for step in (own, of_its_commit):
        remarks.step(step)
    assert remarks.lines() == [] and capsys.readouterr().out == ""

    other = "forebrain 0.1.0, code 0123456789ab, commit 456"
    for version in (other, other, None):
        remarks.step({"score": 0.1} if version is None else {"score": 0.1, "code_version": version})
    remarks.run({"versions": versions()})
    remarks.run({"versions": {**versions(), "code": "cba"}, "earlier_versions": [{"forebrain": "0.1.0"}]})
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4 and f"scores of {other} are used as they are; this is {code_version()}." in said
    told = "\n".join(remarks.lines())
    assert f"scores of {other} (2)" in told and "scores of an earlier version, which did not say" in told
    assert "code cba (1)" in told and "backbones of an earlier version" in told
    assert code_version() in told and len(remarks.values()["of_other_versions"]) == 4


def test_a_score_that_is_no_number_is_kept_as_undefined_and_read_so_from_an_earlier_version(
    tmp_path: Path,
) -> None:
    folder = Folder(tmp_path)
    step = {"score": float("nan"), "more": {"of": [np.float32("inf"), 1.5]}}
    kept = write_step(folder, "a.json", step)
    assert kept["score"] is None and kept["more"] == {"of": [None, 1.5]}
    folder.write("b.json", json.dumps({"score": float("nan")}).encode())
    assert read_step(folder, "b.json", dict) == {"score": None}
