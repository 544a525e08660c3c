"""Every way to train the backbone trains the same, and each goes on where another stopped."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file, save_file

from forebrain.config import from_values
from forebrain.errors import ConfigError
from forebrain.models.poco import Poco
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig, TrainingConfig
from forebrain.training.loop import Trainer
from forebrain.training.strategies.deepspeed_config import deepspeed_config

Make = Callable[..., PretrainConfig]
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp")
STEPS = 50
CHANGES = (8, 16, 24, 32, 40)
# 33: weights that two workers cannot share evenly.
MODEL = {"feed_forward_dropout": 0.0, "branch_dropout": 0.0, "film_width": 33}
TRAINING = {
    "steps": STEPS, "accumulation": 2, "clip_norm": 0.3, "learning_rate": 3e-3, "amsgrad": True,
    "joint_clip": False, "validate_every": 1000, "checkpoint_every": 1000,
}  # fmt: skip
SAMPLES = Path(__file__).parents[2] / "cluster" / "deepspeed"


def steps(trainer: Trainer, stop: int) -> list[tuple[float, float]]:
    """Goes on from the newest checkpoint, and saves one at `stop`; loss and gradient norm of each step."""
    trainer._resume()
    trainer._counted_until = 0.0
    trainer.clock.begin(trainer.steps_done)
    results = [trainer.step(trainer.stream.batch(step)) for step in range(trainer.steps_done, stop)]
    trainer._save(None)
    trainer.saver.wait()
    trainer.saver.close()
    return [(result.loss, result.gradient_norm) for result in results]


def make_trainer(config: PretrainConfig) -> Trainer:
    return Trainer(config, WorkerGroup(), torch.device("cpu"), lambda event: None)


def _worker(rank: int, configs: dict[str, dict[str, PretrainConfig]], results: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["DS_ACCELERATOR"] = "cpu"
    store = dist.FileStore(f"{results}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for stop, strategy in zip(CHANGES, STRATEGIES, strict=True):
        of_strategy = configs[strategy]
        trainer = make_trainer(of_strategy["whole"])
        found[f"{strategy} whole"] = steps(trainer, STEPS)
        exported = trainer.strategy.export()
        replica = {name: each.detach() for name, each in trainer.strategy.replica().named_parameters()}
        found[f"{strategy} replica"] = all(each.equal(exported[name]) for name, each in replica.items())
        if rank == 0:
            save_file(exported, f"{results}/{strategy}.safetensors")
        # What each strategy exported, each loads: here what the one before it left.
        others = load_file(f"{results}/ddp.safetensors") if rank == 0 else None
        shared = [others]
        dist.broadcast_object_list(shared, src=0)
        trainer.strategy.close()

        trainer = make_trainer(of_strategy["whole"])
        assert shared[0] is not None
        trainer.strategy.load(shared[0])
        again = trainer.strategy.export()
        found[f"{strategy} loaded"] = all(again[name].equal(each) for name, each in shared[0].items())
        trainer.strategy.close()

        trainer = make_trainer(of_strategy["chain"])
        found[f"{strategy} chain"] = steps(trainer, stop)
        trainer.strategy.close()

        trainer = make_trainer(of_strategy["bf16"])
        found[f"{strategy} bf16"] = steps(trainer, 3)
        trainer.strategy.close()

        trainer = make_trainer(of_strategy["single windows"])
        found[f"{strategy} single windows"] = steps(trainer, 4)
        batch = trainer.stream.batch(4)
        for last in (False, True):
            error = trainer._error_of_nothing() if not batch.groups else trainer._error(batch)
            trainer.strategy.backward(error * float("nan"), is_last=last)
        trainer.strategy.reduce(torch.zeros(3))
        norm = trainer.strategy.step(1e-3, 1.0)
        found[f"{strategy} notices"] = not bool(torch.isfinite(norm))
        trainer.strategy.close()
    if rank == 0:
        Path(f"{results}/found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    # FSDP and ZeRO 3 leave threads of the group, which could race with the interpreter's end.
    os._exit(0)


def test_every_strategy_trains_the_same_and_goes_on_where_another_stopped(
    make_config: Make, tmp_path: Path
) -> None:
    def make(out: str, strategy: str, **training: Any) -> PretrainConfig:
        return make_config(
            out,
            model=MODEL,
            workers=0 if strategy == "alone" else 2,
            training={**TRAINING, "strategy": "ddp" if strategy == "alone" else strategy, **training},
        )

    configs = {
        strategy: {
            "whole": make(f"whole-{strategy}", strategy),
            "chain": make("chain", strategy),
            "single windows": make(f"single-{strategy}", strategy, batch_size=1),
            "bf16": make(f"bf16-{strategy}", strategy, precision="bf16", accumulation=1),
        }
        for strategy in (*STRATEGIES, "alone")
    }
    results = tmp_path / "results"
    results.mkdir()
    multiprocessing.spawn(_worker, (configs, str(results)), nprocs=2)
    found = json.loads((results / "found.json").read_text())

    trainer = make_trainer(configs["alone"]["whole"])
    alone = torch.tensor(steps(trainer, STEPS))
    weights = trainer.strategy.export()
    assert (alone[:, 1] > TRAINING["clip_norm"]).sum() > 10
    single = torch.tensor(steps(make_trainer(configs["alone"]["single windows"]), 4))
    rough = torch.tensor(steps(make_trainer(configs["alone"]["bf16"]), 3))
    for strategy in STRATEGIES:
        torch.testing.assert_close(torch.tensor(found[f"{strategy} whole"]), alone, rtol=1e-5, atol=0)
        in_bf16 = torch.tensor(found[f"{strategy} bf16"])
        torch.testing.assert_close(in_bf16, rough, rtol=5e-3, atol=0)
        assert not torch.allclose(in_bf16, alone[:3], rtol=2e-5), "it computed in fp32"
        torch.testing.assert_close(
            torch.tensor(found[f"{strategy} single windows"]), single, rtol=1e-5, atol=0
        )
        exported = load_file(results / f"{strategy}.safetensors")
        assert exported.keys() == weights.keys()
        for name, weight in weights.items():
            # As a whole: Adam makes steps of full size of gradients that are nothing but rounding.
            error = (exported[name] - weight).norm() / weight.norm().clamp(min=1e-12)
            assert error < 1e-3, f"{strategy}: {name} differs by {error}"
        Poco(configs[strategy]["whole"].resolved_model(), num_datasets=2).load_state_dict(
            {name: each for name, each in exported.items() if name in trainer.strategy.replica().state_dict()}
        )
        for claim in ("replica", "loaded", "notices"):
            assert found[f"{strategy} {claim}"], f"{strategy}: {claim}"
    last = steps(make_trainer(configs["alone"]["chain"]), STEPS)
    chain = [*(each for strategy in STRATEGIES for each in found[f"{strategy} chain"]), *last]
    torch.testing.assert_close(torch.tensor(chain), alone, rtol=1e-5, atol=0)


def test_the_strategy_is_no_part_of_the_run(make_config: Make) -> None:
    plain = make_config(workers=2)
    shared = make_config(workers=2, training={"strategy": "zero2", "deepspeed": '{"steps_per_print": 5}'})
    assert plain.identity() == shared.identity()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workers": 0, "training": {"strategy": "fsdp"}}, ["workers is 0", "ddp"]),
        ({"workers": 2, "protocol": "poco", "training": {"strategy": "zero1"}}, ["jointly", "ddp or fsdp"]),
        ({"workers": 2, "training": {"deepspeed": "{}"}}, ["training.deepspeed", "ddp", "zero1"]),
    ],
)
def test_a_strategy_that_cannot_is_refused_at_the_start(
    make_config: Make, changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(**changes)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ('{"gradient_clipping": 1}', ["gradient_clipping", "training.clip_norm"]),
        ('{"zero_optimization": {"stage": 3}}', ["zero_optimization.stage", "training.strategy"]),
        ('{"bf16": {"enabled": true}}', ["bf16", "training.precision"]),
        ('{"zero_optimization": {"overlap": true}}', ["zero_optimization.overlap ", "overlap_comm"]),
        ('{"steps', ["not valid JSON"]),
        ("nowhere.json", ["nowhere.json", "cannot be read"]),
    ],
)
def test_a_wrong_deepspeed_option_is_named_with_what_to_use(given: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        deepspeed_config(TrainingConfig(strategy="zero2", deepspeed=given).resolved("chronological"))
    for word in words:
        assert word in str(caught.value)


def test_deepspeed_takes_the_platforms_settings_the_samples_and_refuses_wrong_values() -> None:
    from forebrain.training.strategies.zero import check_config

    samples = sorted(SAMPLES.glob("*.json"))
    assert samples
    for strategy in ("zero1", "zero2", "zero3"):
        for sample in [None, *map(str, samples)]:
            training = from_values(
                TrainingConfig,
                {"strategy": strategy, "deepspeed": sample, "clip_norm": 2.5, "accumulation": 3},
            ).resolved("chronological")
            config = deepspeed_config(training)
            assert config["gradient_clipping"] == 2.5 and config["gradient_accumulation_steps"] == 3
            assert config["zero_optimization"]["stage"] == int(strategy[-1])
            check_config(config)
    wrong = '{"zero_optimization": {"reduce_bucket_size": "many"}}'
    with pytest.raises(ConfigError, match="reduce_bucket_size"):
        check_config(
            deepspeed_config(TrainingConfig(strategy="zero2", deepspeed=wrong).resolved("chronological"))
        )
