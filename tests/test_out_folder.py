"""No command writes over work of another kind: every kind of folder, against every command that fills one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from forebrain.commands import adapt, evaluate, prepare
from forebrain.errors import ConfigError, ForebrainError
from forebrain.out_folder import KINDS, RUN, SET, STUDY, require_own
from forebrain.runs.pretrain import check_possible, pretrain
from forebrain.studies import (
    ablation,
    backbone,
    embeddings,
    inputs,
    intervals,
    leave_one_out,
    population,
    rivals,
    scaling,
)
from forebrain.studies.kept import claim, claim_for_run
from forebrain.training.config import PretrainConfig
from forebrain_registry.storage import Folder

OF = {
    "index.json": json.dumps({"format": "forebrain-shards-2"}),
    "config.yaml": "data: d\nout: o\nworkers: 0\nmodel: {}\n",
    "study.yaml": "pretrain:\n  data: d\n",
    "study.json": json.dumps({"study": "another", "sessions": {}}),
    "adaptations.yaml": "weights: 12\n",
    "adaptation.json": json.dumps({"format": "forebrain-adaptation-2"}),
    "comparison.json": json.dumps({"part": "test", "runs": {}}, indent=1),
}
QUIET = Console(quiet=True)


def _adapt_each(out: str, recording: str) -> Any:
    config = adapt.Config([recording], out, model="./nowhere", each=True, workers=0)
    return adapt.run(config, QUIET)


def _embeddings(out: str, recording: str) -> Any:  # with a run before its folder is looked at
    return claim_for_run(Folder(out), "run", [], "embeddings", False)


def _base(out: str, recording: str) -> PretrainConfig:
    return PretrainConfig(recording, out, workers=0)


# Each with the kind of work that it goes on with.
COMMANDS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "prepare": ("index.json", lambda out, of: prepare.run(prepare.Config([of], out, workers=0), QUIET)),
    "pretrain": ("config.yaml", lambda out, of: pretrain(_base(out, of), QUIET)),
    "a run of a study": ("config.yaml", lambda out, of: check_possible(_base(out, of))),
    "evaluate": ("comparison.json", lambda out, of: evaluate.run(evaluate.Config([of, of], out=out), QUIET)),
    "adapt": ("", lambda out, of: adapt.run(adapt.Config([of], out), QUIET)),
    "adapt to many": ("adaptations.yaml", _adapt_each),
    "ablate": (
        "study.yaml",
        lambda out, of: ablation.ablate(
            ablation.AblateConfig(_base(out, of), axes={"seed": [1]}), QUIET, "typed"
        ),
    ),
    "scale": (
        "study.yaml",
        lambda out, of: scaling.scale(scaling.ScaleConfig(_base(out, of), "frames", [1]), QUIET, "typed"),
    ),
    "backbone": ("", lambda out, of: claim(Folder(out), {"a": "1"}, "backbone")),
    "leave-one-out": ("", lambda out, of: claim(Folder(out), {"a": "1"}, "leave-one-out")),
    "rivals": ("", lambda out, of: rivals.study(rivals.RivalsConfig([of], out), QUIET)),
    "intervals": ("", lambda out, of: intervals.study(intervals.IntervalsConfig([of], out), QUIET)),
    "inputs": (
        "",
        lambda out, of: inputs.study(
            inputs.InputsConfig(out, {"a": {"recordings": Path(of).name}}, str(Path(of).parent)), QUIET
        ),
    ),
    "embeddings": ("", _embeddings),
}


def test_every_study_claims_its_folder() -> None:
    """Those whose folder is looked at above by what they call before any work."""
    for study in (backbone.study, leave_one_out.prepared_animals, embeddings.analyse_embeddings):
        named = study.__wrapped__ if hasattr(study, "__wrapped__") else study
        assert {"claim", "claim_for_run"} & set(named.__code__.co_names), study
    assert "prepared_animals" in population.study.__wrapped__.__code__.co_names


@pytest.mark.parametrize(
    ("command", "kind"),
    [(command, kind) for command in COMMANDS for kind in KINDS if kind != COMMANDS[command][0]],
)
def test_work_of_another_kind_stays_as_it_is(
    command: str, kind: str, walk: Callable[..., Any], tmp_path: Path
) -> None:
    _, run = COMMANDS[command]
    recording, out = tmp_path / "one.npz", tmp_path / "out"
    walk(1).save(recording)
    out.mkdir()
    for name in (kind, "result.json", "report.md", "table.csv"):
        (out / name).write_text(OF.get(name, "scores"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ForebrainError, match=r"holds |exists already"):
        run(str(out), str(recording))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_lab_s_own_file_of_such_a_name_is_no_work(kind: str, tmp_path: Path) -> None:
    (tmp_path / kind).write_text('{"laser": 488}' if kind.endswith("json") else "- laser\n")
    require_own(Folder(tmp_path), "")
    (tmp_path / kind).write_text(OF[kind])
    require_own(Folder(tmp_path), kind)
    with pytest.raises(ConfigError, match=f"holds {KINDS[kind][1]} "):
        require_own(Folder(tmp_path), "")


def test_a_run_and_its_data_that_were_let_lie_together_go_on(tmp_path: Path) -> None:
    for kind in (SET, RUN):
        (tmp_path / kind).write_text(OF[kind])
    for kind in (SET, RUN):
        require_own(Folder(tmp_path), kind)
    with pytest.raises(ConfigError, match="holds a"):
        require_own(Folder(tmp_path), STUDY)
