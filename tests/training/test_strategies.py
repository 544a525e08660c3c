"""Every way to train the backbone trains the same, and each goes on where another stopped."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from forebrain.config import from_values
from forebrain.errors import ConfigError
from forebrain.models.poco import Poco
from forebrain.training.checkpoints import CheckpointStore
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig, TrainingConfig
from forebrain.training.events import Event
from forebrain.training.loop import Trainer
from forebrain.training.state import from_files, joined
from forebrain.training.stopping import StopRequests
from forebrain.training.strategies.deepspeed_config import deepspeed_config
from forebrain_registry.storage import Folder
from run_events import steps_of
from worker_processes import start_workers

Make = Callable[..., PretrainConfig]
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp")
STEPS = 50
LINK = 8
# 33: weights that two workers cannot share evenly.
MODEL = {"feed_forward_dropout": 0.0, "branch_dropout": 0.0, "film_width": 33}
TRAINING = {
    "steps": STEPS, "accumulation": 2, "clip_norm": 0.3, "learning_rate": 3e-3, "amsgrad": True,
    "joint_clip": False, "validate_every": 1000, "checkpoint_every": 1000,
}  # fmt: skip
SAMPLES = Path(__file__).parents[2] / "cluster" / "deepspeed"


class StopAfter(StopRequests):
    """Asks to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def asked(self) -> str | None:
        self.left -= 1
        return "a test" if self.left <= 0 else None


def steps(config: PretrainConfig, count: int) -> list[tuple[float, float]]:
    """Goes on from the newest checkpoint for so many steps; loss and gradient norm of each, on the first
    worker."""
    events: list[Event] = []
    Trainer(config, WorkerGroup(), torch.device("cpu"), events.append, StopAfter(count)).run()
    return [(event.loss, event.gradient_norm) for event in steps_of(events)]


class MessageCounter(TorchDispatchMode):
    """Adds up what is given to every collective below Python, whoever calls it."""

    # Where an operator's arguments hold what a worker gives; the first is the output of most.
    GIVEN: ClassVar = {
        "allreduce_": 0, "reduce_": 0, "broadcast_": 0, "gather_": 1, "allgather_": 1, "_allgather_base_": 1,
        "reduce_scatter_": 1, "_reduce_scatter_base_": 1,
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    def __torch_dispatch__(self, func: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func.overloadpacket.__name__
            self.sent += sum(tensor.nbytes for tensor in tree_leaves(given[self.GIVEN[name]]))
        return func(*given, **(named or {}))


def saved_backbone(config: PretrainConfig) -> dict[str, torch.Tensor]:
    found = CheckpointStore(Folder(config.out).child("checkpoints")).newest()
    assert found is not None
    return from_files("backbone", found[1])


def _worker(rank: int, configs: dict[str, dict[str, PretrainConfig]], results: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["DS_ACCELERATOR"] = "cpu"
    store = dist.FileStore(f"{results}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for strategy in STRATEGIES:
        of_strategy = configs[strategy]
        found[f"{strategy} whole"] = steps(of_strategy["whole"], STEPS)
        found[f"{strategy} chain"] = steps(of_strategy["chain"], LINK)
        found[f"{strategy} bf16"] = steps(of_strategy["bf16"], 3)
        found[f"{strategy} single windows"] = steps(of_strategy["single windows"], 4)

        trainer = Trainer(of_strategy["whole"], WorkerGroup(), torch.device("cpu"), lambda event: None)
        others = saved_backbone(configs["ddp"]["whole"])
        trainer.learner.strategy.load(others)
        parts = trainer.group.gather(trainer.learner.strategy.export())
        exported = joined(parts[0] | parts[1])
        replica = {
            name.removeprefix("model."): each
            for name, each in trainer.learner.strategy.replica().named_parameters()
        }
        found[f"{strategy} loads"] = all(exported[name].equal(each) for name, each in others.items())
        found[f"{strategy} shares out"] = not parts[0].keys() & parts[1].keys()
        found[f"{strategy} gathers"] = all(each.equal(others[name]) for name, each in replica.items())
        with MessageCounter() as counter:
            counted = trainer.step(trainer.stream.batch(0)).bytes_given
            found[f"{strategy} counts"] = (
                counter.sent == counted > sum(each.nbytes for each in replica.values())
            )
            trainer.learner.strategy.export()
            found[f"{strategy} exports in silence"] = counter.sent == counted
        for last in (False, True):
            trainer.learner.strategy.backward(trainer.learner.error_of_nothing() * float("nan"), is_last=last)
        trainer.learner.strategy.reduce(torch.zeros(3))
        norm = trainer.learner.strategy.step(1e-3, 1.0)
        found[f"{strategy} notices"] = not bool(torch.isfinite(norm))
        trainer.learner.strategy.close()
    if rank == 0:
        Path(f"{results}/found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    # Threads of the group that are left would race with the end of the interpreter and abort it.
    left = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in left if "gloo" in name], left


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
    start_workers(_worker, 2, configs, str(results))
    found = json.loads((results / "found.json").read_text())

    alone = torch.tensor(steps(configs["alone"]["whole"], STEPS))
    weights = saved_backbone(configs["alone"]["whole"])
    assert (alone[:, 1] > TRAINING["clip_norm"]).sum() > 10
    single = torch.tensor(steps(configs["alone"]["single windows"], 4))
    rough = torch.tensor(steps(configs["alone"]["bf16"], 3))
    for strategy in STRATEGIES:
        torch.testing.assert_close(torch.tensor(found[f"{strategy} whole"]), alone, rtol=1e-5, atol=0)
        torch.testing.assert_close(
            torch.tensor(found[f"{strategy} single windows"]), single, rtol=1e-5, atol=0
        )
        in_bf16 = torch.tensor(found[f"{strategy} bf16"])
        torch.testing.assert_close(in_bf16, rough, rtol=5e-3, atol=0)
        assert not torch.allclose(in_bf16, alone[:3], rtol=2e-5), "it computed in fp32"
        exported = saved_backbone(configs[strategy]["whole"])
        assert exported.keys() == weights.keys()
        for name, weight in weights.items():
            # As a whole: Adam makes steps of full size of gradients that are nothing but rounding.
            error = (exported[name] - weight).norm() / weight.norm().clamp(min=1e-12)
            assert error < 1e-3, f"{strategy}: {name} differs by {error}"
        plain = Poco(configs[strategy]["whole"].resolved_model(), num_datasets=2)
        plain.load_state_dict({name: exported[name] for name in plain.state_dict()})
        for claim in ("loads", "shares out", "gathers", "counts", "exports in silence", "notices"):
            assert found[f"{strategy} {claim}"], f"{strategy}: {claim}"
    last = steps(configs["alone"]["chain"], LINK)
    chain = [*(each for strategy in STRATEGIES for each in found[f"{strategy} chain"]), *last]
    assert len(chain) == 6 * LINK
    torch.testing.assert_close(torch.tensor(chain), alone[: 6 * LINK], rtol=1e-5, atol=0)


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
