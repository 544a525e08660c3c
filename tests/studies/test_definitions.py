"""The committed studies: whole, possible, and small enough to be run on two cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebrain.config import parse
from forebrain.models.poco import PocoConfig
from forebrain.studies.ablation import AblateConfig
from forebrain.studies.scaling import ScaleConfig

DEFINITIONS = sorted((Path(__file__).parents[2] / "jobs" / "studies").glob("*.yaml"))
# Of the study of inputs, which trains nothing; see test_input_study.py.
DEFINITIONS = [path for path in DEFINITIONS if path.stem != "inputs"]


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_a_definition_says_how_it_is_run_and_how_much_that_is(path: Path) -> None:
    text = path.read_text()
    job = "ablate" if "variants:" in text else "scale"
    assert f"forebrain study {job} --config {path.stem} --pretrain.data URI" in text
    given = ["--config", str(path), "--pretrain.data", "shards", "--pretrain.out", "study"]
    if path.stem == "relatives":
        scale = parse(ScaleConfig, given)
        num_runs = scale.num_targets * (1 + 2 * len(scale.sizes)) * scale.num_seeds
    else:
        config = parse(AblateConfig if job == "ablate" else ScaleConfig, given)
        trials = config.trials(config.pretrain)
        num_runs = len(trials)
        widths = {trial.config.model.width for trial in trials if isinstance(trial.config.model, PocoConfig)}
        assert max(widths) <= 256
    assert f"{num_runs} runs." in text
    assert num_runs <= 40


def test_axes_can_be_given_on_the_command_line() -> None:
    given = ["--pretrain.data", "shards", "--pretrain.out", "study", "--axes", '{"model.width": [32, 64]}']
    assert parse(AblateConfig, given).axes == {"model.width": [32, 64]}
