"""A run is what its record says: one config's, from the claim of its folder to its result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from forebrain import ray_runtime
from forebrain.config import from_values
from forebrain.errors import CheckpointError, ClusterError
from forebrain.runs import evaluate
from forebrain.runs.pretrain import pretrain
from forebrain.runs.trained import TrainedModel
from forebrain.training import ledger
from forebrain.training.config import PretrainConfig
from forebrain.training.events import Ended, Event
from forebrain.training.run_folder import RunFolder

QUIET = Console(quiet=True)
Make = Callable[..., PretrainConfig]


@pytest.fixture
def make_run(small_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    # Pictures take longer than all else.
    monkeypatch.setattr(evaluate, "_write_report", lambda *given: {})

    def make(**changes: Any) -> PretrainConfig:
        values = {
            "data": small_shards,
            "out": str(tmp_path / "run"),
            "workers": 0,
            "model": {"name": "mlp", "context": 12, "horizon": 4, "width": 16},
            "training": {"steps": 2, "batch_size": 8, "threads": 1},
            "evaluation": {"windows_per_session": 8},
        }
        return from_values(PretrainConfig, {**values, **changes})

    return make


def test_a_folder_is_claimed_before_ray_starts_and_given_back_if_it_does_not(
    make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = []

    def another_comes_meanwhile() -> None:
        with pytest.raises(CheckpointError, match="seed was 1 and is now 2") as caught:
            pretrain(make_run(seed=2), QUIET)
        met.append(caught.value)
        raise ClusterError("no room")

    monkeypatch.setattr(ray_runtime, "start_ray", another_comes_meanwhile)
    config = make_run(seed=1, workers=1)
    with pytest.raises(ClusterError):
        pretrain(config, QUIET)
    assert len(met) == 1 and not Path(config.out).exists()


def test_a_run_in_whose_place_another_was_put_leaves_no_result(make_run: Make) -> None:
    config = make_run(seed=1)
    run = RunFolder(config.out)

    def replace_config(event: Event) -> None:
        if isinstance(event, Ended):
            run.folder.remove("config.yaml")
            run.claim(dataclasses.replace(config, seed=2))

    with pytest.raises(CheckpointError, match="seed is 1 there and 2 in config"):
        pretrain(config, QUIET, replace_config)
    assert run.read_result() is None


def test_a_result_or_weights_of_another_run_than_config_yaml_are_not_taken_for_its_own(
    make_run: Make,
) -> None:
    mixed = RunFolder(pretrain(make_run(seed=2), QUIET))
    mixed.folder.remove("config.yaml")
    mixed.claim(make_run(seed=1))  # as two commands at once could leave it
    with pytest.raises(CheckpointError, match=r"result\.json holds .*seed was 2 and is now 1"):
        pretrain(make_run(seed=1), QUIET)
    with pytest.raises(
        CheckpointError, match=r"checkpoint of step 2 .*seed is 2 there and 1 in config\.yaml"
    ):
        TrainedModel.load(mixed)


def test_a_result_names_the_versions_of_every_attempt(
    make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCutError(Exception):
        pass

    def cut(event: Event) -> None:
        if isinstance(event, Ended):
            raise PowerCutError

    config = make_run()
    with monkeypatch.context() as patch, pytest.raises(PowerCutError):
        patch.setattr(ledger, "versions", lambda: {"python": "3.10.0", "torch": "2.0"})
        pretrain(config, QUIET, cut)
    result = json.loads((Path(pretrain(config, QUIET)) / "result.json").read_text())
    assert result["earlier_versions"] == [{"python": "3.10.0", "torch": "2.0"}]
    assert result["versions"]["torch"] != "2.0" and result["ledger"]["attempts"] == 2
