"""Every model trains, is saved, resumed and evaluated by the same code; and under every strategy."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from forebrain.config import from_values
from forebrain.errors import ConfigError
from forebrain.models.registry import MODELS
from forebrain.runs.trained import TrainedModel
from forebrain.scoring.evaluate import evaluate
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.shards.windows import ShardWindows
from forebrain.training import loop
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.events import Event, Validated
from forebrain.training.loop import Trainer
from forebrain.training.run_folder import RunFolder
from forebrain.training.strategies import build_strategy
from run_events import losses_of
from worker_processes import start_workers

Make = Callable[..., PretrainConfig]
Train = Callable[[PretrainConfig], list[dict[str, Any]]]
_POCO = {"token_length": 4, "width": 16, "feed_forward_dropout": 0.0}
_HEADS = {"num_heads": 2, "head_width": 8, "branch_dropout": 0.0}
SIZES: dict[str, dict[str, Any]] = {
    "poco": {**_POCO, **_HEADS, "num_latents": 2, "film_width": 32},
    "poyo": {**_POCO, **_HEADS, "num_latents": 2},
    "uico": {"width": 16, "film_width": 32, "feed_forward_dropout": 0.0},
    "taco": {**_POCO, **_HEADS, "film_width": 32},
    "mlp": {"width": 32},
    "tsmixer": {"unit_width": 8, "dropout": 0.0},
    "filternet": {"width": 12, "hidden_width": 16},
    "moderntcn": {"width": 8, "kernel": 3, "small_kernel": 1, "unit_width": 8, "dropout": 0.0},
    "transformer": {"width": 16, "dropout": 0.0},
    "plrnn": {"width": 16, "hidden_width": 24},
    "netformer": {"unit_width": 8, "width": 16},
    "dlinear": {"kernel": 5},
}
CASES: dict[str, dict[str, Any]] = {name: {"name": name, **SIZES.get(name, {})} for name in MODELS}
CASES["linear, a map for each unit"] = {"name": "linear", "individual": True}


@pytest.fixture
def make_slot(make_config: Make) -> Make:
    """A small run of a model; `make_config` has options of POCO's."""

    def make(case: str, out: str, **changes: Any) -> PretrainConfig:
        values = dataclasses.asdict(make_config(out, **changes))
        values["model"] = {"context": 12, "horizon": 4, **CASES[case]}
        return from_values(PretrainConfig, values)

    return make


@pytest.mark.parametrize(
    ("case", "protocol"),
    [*((case, "chronological") for case in CASES), *((case, "poco") for case in ("mlp", "plrnn", "mean"))],
)
def test_every_model_trains_goes_on_and_is_loaded(
    make_slot: Make, train: Train, case: str, protocol: str
) -> None:
    training = {"steps": 3, "validate_every": 3, "checkpoint_every": 2, "warmup_steps": 0}
    config = make_slot(case, "run", protocol=protocol, training=training)
    RunFolder(config.out).claim(config)
    follows = case not in ("copy", "mean", "netformer")
    assert config.resolved_model().relative is (protocol != "poco" if follows else None)
    whole = losses_of(train(config))

    checkpoints = Path(config.out) / "checkpoints"
    (checkpoints / "00000003.json").unlink()
    assert losses_of(train(config)) == whole[2:]

    trained = TrainedModel.load(RunFolder(config.out))
    assert trained.config == config
    windows = ShardWindows(ShardSet.open(config.data), protocol, 12, 4)
    context, _, starts = windows.read(0, "test", torch.arange(3).numpy())
    forecast = trained.forecaster(windows.sessions)(0, context)
    assert forecast.shape == (len(starts), 4, windows.sessions[0].num_units)
    if case == "copy":
        assert (forecast == context[:, -1:]).all()


def test_sessions_of_events_and_others_are_scored_as_they_were_trained(
    walk: Callable[..., Session],
    tmp_path: Path,
    train: Train,
    make_slot: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "affordable_windows", lambda *_, **__: None)
    sessions = {"walk": walk(1), "events": replace(walk(2), dataset="other")}
    noise = np.random.default_rng(0).normal(size=sessions["events"].traces.shape)
    sessions["events"] = replace(sessions["events"], traces=noise.astype(np.float32))
    for name, session in sessions.items():
        session.save(tmp_path / f"{name}.npz")
    prepare(
        [str(tmp_path / f"{name}.npz") for name in sessions], str(tmp_path / "shards"), PrepareConfig(),
        open_recording=lambda path: [Session.load(path)], run_each=map_here,
    )  # fmt: skip
    training = {"steps": 3, "validate_every": 3, "checkpoint_every": 3}
    config = make_slot("poco", "run", data=str(tmp_path / "shards"), training=training)
    RunFolder(config.out).claim(config)
    (scored,) = (event for event in train(config) if isinstance(event, Validated))
    windows = ShardWindows(ShardSet.open(config.data), "chronological", 12, 4)
    assert {info.dataset: info.is_smooth for info in windows.sessions} == {"lab": True, "other": False}
    forecaster = TrainedModel.load(RunFolder(config.out)).forecaster(windows.sessions)
    again = evaluate({"model": forecaster}, windows, "validation").scores["model"]
    for name, own in again.items():
        assert own.headline()["score"] == pytest.approx(scored.by_session[name], abs=1e-4)


def _worker(rank: int, configs: dict[str, dict[str, PretrainConfig]], results: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["DS_ACCELERATOR"] = "cpu"
    dist.init_process_group("gloo", store=dist.FileStore(f"{results}/store", 2), rank=rank, world_size=2)
    found: dict[str, list[float]] = {}
    for case, of_strategy in configs.items():
        for strategy, config in of_strategy.items():
            events: list[Event] = []
            Trainer(config, WorkerGroup(), torch.device("cpu"), events.append).run()
            found[f"{case} {strategy}"] = losses_of(events)
    if rank == 0:
        torch.save(found, f"{results}/found")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # FSDP and ZeRO 3 leave threads of the group, which could race with the interpreter's end


def test_models_of_each_kind_train_the_same_under_every_strategy(
    make_slot: Make, train: Train, tmp_path: Path
) -> None:
    """Among them one with Fourier transforms, one with maps of the session's own, some split by units."""
    once = {"steps": 3, "validate_every": 100, "checkpoint_every": 100}
    cases = ("filternet", "moderntcn", "uico", "mean")
    training = {case: once if case == "moderntcn" else {**once, "split_above": 10} for case in cases}
    configs = {
        case: {
            strategy: make_slot(
                case, f"{case}-{strategy}", workers=2, training={**training[case], "strategy": strategy}
            )
            for strategy in (("zero3", "fsdp") if case != "mean" else ("ddp",))
        }
        for case in cases
    }
    start_workers(_worker, 2, configs, str(tmp_path))
    found = torch.load(tmp_path / "found")
    for case in cases:
        alone = losses_of(train(make_slot(case, f"{case}-alone", training=training[case])))
        for strategy in configs[case]:
            assert found[f"{case} {strategy}"] == pytest.approx(alone, rel=1e-5), f"{case} {strategy}"


@pytest.mark.parametrize("case", ["copy", "linear, a map for each unit"])
def test_a_backbone_without_weights_has_nothing_to_share(make_slot: Make, case: str) -> None:
    config = make_slot(case, "run", workers=2, training={"strategy": "fsdp"})
    training = config.training.resolved(config.protocol)
    with pytest.raises(ConfigError, match="fsdp"):
        build_strategy(config.resolved_model().build(), training, WorkerGroup())


def test_a_model_that_cannot_split_a_session_says_so_at_once(make_slot: Make) -> None:
    with pytest.raises(ConfigError, match=r"split_above is 10 and model tsmixer"):
        make_slot("tsmixer", "run", training={"split_above": 10})
