"""Sessions split over workers by units: the same training, the same checkpoints, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load as load_tensors
from torch import Tensor

from forebrain.commands import main
from forebrain.config import from_values
from forebrain.errors import CheckpointError
from forebrain.models.base import Interface
from forebrain.runs.trained import TrainedModel
from forebrain.scoring.window_source import SessionInfo
from forebrain.shards.order import DataOrder, OrderedSession, dataset_weights
from forebrain.training import loop
from forebrain.training.checkpoints import CheckpointStore
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig, TrainingConfig
from forebrain.training.events import Event, Validated
from forebrain.training.loop import Trainer
from forebrain.training.run_folder import RunFolder
from forebrain.training.state import Interfaces, joined
from forebrain_registry.storage import Folder
from run_events import losses_of, steps_of
from worker_processes import start_workers

Make = Callable[..., PretrainConfig]
Train = Callable[[PretrainConfig], list[dict[str, Any]]]
NO_DROPOUT = {"feed_forward_dropout": 0.0, "branch_dropout": 0.0}


def run_workers(work: Callable[..., Any], size: int, given: list[Any], folder: Path) -> list[list[Any]]:
    """What `work(item)` returned for each given item on each worker, in one group of processes."""
    folder.mkdir()
    start_workers(_worker, size, size, work, given, str(folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


def _worker(rank: int, size: int, work: Callable[..., Any], given: list[Any], folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    Path(f"{folder}/{rank}.json").write_text(json.dumps([work(item) for item in given]))
    dist.barrier()
    dist.destroy_process_group()


def measured(events: list[Event]) -> dict[str, list[float]]:
    """Losses and gradient norms of the steps, and errors of the validations."""
    return {
        "loss": losses_of(events),
        "gradient_norm": [event.gradient_norm for event in steps_of(events)],
        "mse": [event.scores.value("mse") for event in events if isinstance(event, Validated)],
    }


def _measured(config: PretrainConfig) -> dict[str, list[float]]:
    events: list[Event] = []
    Trainer(config, WorkerGroup(), torch.device("cpu"), events.append).run()
    return measured(events)


def newest_tensors(config: PretrainConfig) -> dict[str, dict[str, Tensor]]:
    """The newest checkpoint's tensors by file."""
    found = CheckpointStore(Folder(config.out).child("checkpoints")).newest()
    assert found is not None and found[0].step == 6
    return {name: load_tensors(content) for name, content in found[1].items()}


def all_of(files: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return joined({key: tensor for content in files.values() for key, tensor in content.items()})


CASES: dict[str, dict[str, Any]] = {
    "accumulated": {"model": {"latent_session_embedding": True}, "training": {"accumulation": 3}},
    "poco": {"protocol": "poco", "training": {"clip_norm": 0.01}},
    "some units": {"training": {"units_per_window": 4, "clip_norm": 0.01}},
}


def test_split_sessions_train_what_whole_ones_train(make_config: Make, train: Train, tmp_path: Path) -> None:
    def make(name: str, split: bool) -> PretrainConfig:
        case = CASES[name]
        training = {**case["training"], "split_above": 0} if split else case["training"]
        model = {**NO_DROPOUT, **case.get("model", {})}
        return make_config(f"{name}-{split}", **{**case, "model": model, "training": training})

    split = [make(name, True) for name in CASES]
    first, second = run_workers(_measured, 2, split, tmp_path / "results")
    assert second == [measured([])] * 3  # only the first worker reports
    for name, config, found_here in zip(CASES, split, first, strict=True):
        whole = make(name, False)
        alone = measured(train(whole))
        for what, tolerance in (("loss", 1e-5), ("gradient_norm", 1e-4), ("mse", 1e-5)):
            assert found_here[what] == pytest.approx(alone[what], rel=tolerance)
        files = newest_tensors(config)
        expected, found = all_of(newest_tensors(whole)), all_of(files)
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            error = (found[key] - tensor).norm() / tensor.norm().clamp(min=1e-12)
            assert error < 1e-3, f"{name}: {key} differs by {error}"
        # The pieces are there, and whoever loads the run meets whole sessions.
        pieces = [content for file, content in files.items() if file.startswith("interfaces-")]
        assert [any(key.endswith("]") for key in content) for content in pieces] == [True, True]
        RunFolder(config.out).claim(config)
        trained = TrainedModel.load(RunFolder(config.out))
        sizes = sorted(len(interface.unit) for interface in trained.interfaces.values())
        assert sizes == [5, 9, 14]

    # One worker goes on from what two wrote, and two from what one wrote.
    config = split[0]
    checkpoints = CheckpointStore(Folder(config.out).child("checkpoints")).folder
    expected_losses = first[0]["loss"][4:]
    checkpoints.remove("00000006.json")
    assert losses_of(train(config)) == pytest.approx(expected_losses, rel=1e-5)
    checkpoints.remove("00000006.json")
    ((again,), _) = run_workers(_measured, 2, [config], tmp_path / "again")
    assert again["loss"] == pytest.approx(expected_losses, rel=1e-5)


def new_interface(width: int, num_units: int, generator: torch.Generator) -> Interface:
    return Interface(num_units, width, generator)


def interfaces_of(sessions: list[OrderedSession], num_workers: int, width: int = 12) -> list[Interfaces]:
    order = DataOrder(sessions, 4, 0, dataset_weights(sessions))
    config = TrainingConfig(amsgrad=True).resolved("chronological")
    return [
        Interfaces(
            order.owned(worker, num_workers, 10),
            partial(new_interface, width),
            config,
            0,
            torch.device("cpu"),
        )
        for worker in range(num_workers)
    ]


def test_interfaces_load_whole_what_was_split_and_split_what_was_whole() -> None:
    # One with as many units as an embedding is wide, so that its vector could be taken for its units.
    sessions = [
        OrderedSession("lab/a/[0:3]", "lab", 9, 13),
        OrderedSession("lab/b/1", "lab", 9, 5),
        OrderedSession("lab/c/1", "lab", 9, 12),
    ]

    def exported(workers: list[Interfaces]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for worker in workers:
            part = worker.export()
            shared = part.keys() & tensors.keys()
            assert all(":session" in name and part[name].equal(tensors[name]) for name in shared)
            tensors |= part
        return tensors

    three, one, two = (interfaces_of(sessions, count) for count in (3, 1, 2))
    initial = exported(one)
    assert all(tensor.equal(initial[name]) for name, tensor in joined(exported(three)).items())
    for worker in three:
        for interface in worker.of_session.values():
            interface.unit.grad = torch.randn_like(interface.unit)
            interface.session.grad = torch.ones_like(interface.session)
        worker.step(0.1)
    first = exported(three)
    one[0].load(first)
    whole = exported(one)
    assert not any(name.endswith("]") for name in whole) and any(name.endswith("]") for name in first)
    for worker in two:
        worker.load(whole)
    back = joined(exported(two))
    assert whole.keys() == back.keys() == joined(first).keys()
    assert {"lab/a/[0:3]:unit.max_exp_avg_sq", "lab/a/[0:3]:session.step"} < whole.keys()
    for name, tensor in whole.items():
        assert tensor.equal(back[name]) and tensor.equal(joined(first)[name]), name
    lost = {name: tensor for name, tensor in first.items() if not name.endswith("[4:8]")}
    with pytest.raises(CheckpointError, match="0 to 4, 8 to 13; expected all of 0 to 13"):
        joined(lost)
    # Each of two owns one end, and needs no more than what holds it.
    short = {name: tensor for name, tensor in first.items() if not name.endswith("[8:13]")}
    two[0].load(short)
    with pytest.raises(CheckpointError, match="0 to 4, 4 to 8; expected all of 6 to 13"):
        two[1].load(short)
    other = interfaces_of([OrderedSession("lab/a/[0:3]", "lab", 9, 14), sessions[1]], 2)
    for worker, stored in ((other[1], first), (other[0], whole)):
        with pytest.raises(CheckpointError, match="another model or data set"):
            worker.load(stored)


def test_the_embeddings_of_a_worker_shrink_as_workers_are_added() -> None:
    sizes = [70_000, 20_000, 9_000, *(100 + 13 * i for i in range(60))]
    sessions = [OrderedSession(f"lab/{i}/1", "lab", 500, size) for i, size in enumerate(sizes)]
    order = DataOrder(sessions, 64, 0, dataset_weights(sessions))
    config = TrainingConfig().resolved("chronological")
    total = sum(sizes) + len(sizes)
    for num_workers in (1, 2, 4, 8):
        largest = 0
        for worker in range(num_workers):
            owned = order.owned(worker, num_workers)
            own = Interfaces(owned, partial(new_interface, 2), config, 0, torch.device("cpu"))
            own.fill_gradients()
            vectors = sum(gradient.numel() for gradient in own.gradients()) // 2
            largest = max(largest, vectors)
        assert largest <= 1.06 * total / num_workers


class Made:
    """Windows of as many sessions and units as wanted, without shards."""

    def __init__(self, num_sessions: int, num_units: int) -> None:
        self.sessions = [
            SessionInfo(f"lab/{i:05d}/1", "fish", "lab", num_units // num_sessions)
            for i in range(num_sessions)
        ]
        self.context, self.horizon, self.protocol = 4, 2, "chronological"
        self.shards = SimpleNamespace(fingerprint="", fetcher=None)

    def num_windows(self, session: int, part: str) -> int:
        return 4

    def read_expected(
        self, session: int, part: str, numbers: np.ndarray, units: slice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(session)
        num_units = len(range(self.sessions[session].num_units)[units])
        frames = rng.standard_normal((len(numbers), 6, num_units), dtype=np.float32)
        return frames[:, :4], frames[:, 4:], numbers


def _bytes_each_step(given: tuple[dict[str, Any], int, int]) -> list[int]:
    values, num_sessions, num_units = given
    made = Made(num_sessions, num_units)
    with mock.patch.object(loop, "open_windows", lambda config, shards, index=None: made):
        config = from_values(PretrainConfig, values)
        trainer = Trainer(config, WorkerGroup(), torch.device("cpu"), lambda event: None)
    return [trainer.step(trainer.stream.batch(step)).bytes_given for step in range(2)]


def test_bytes_sent_a_step_depend_neither_on_sessions_nor_on_units(tmp_path: Path) -> None:
    width, latents, head = 4, 2, 4
    model = {
        "context": 4, "horizon": 2, "token_length": 2, "width": width, "num_latents": latents,
        "num_heads": 1, "head_width": head, "film_width": 4,
    }  # fmt: skip
    sizes = [(10, 60), (10_000, 60_000), (2, 1_000), (2, 1_000_000)]

    def given(num_sessions: int, num_units: int, split_above: int) -> tuple[dict[str, Any], int, int]:
        batch_size = 4 if num_sessions > 2 else 2
        training = {"batch_size": batch_size, "split_above": split_above, "steps": 10}
        values = {"data": "made", "out": str(tmp_path / "run"), "model": model, "training": training}
        return values, num_sessions, num_units

    cases = [given(*size, split_above) for split_above in (10**9, 0) for size in sizes]
    for worker in run_workers(_bytes_each_step, 2, cases, tmp_path / "results"):
        whole, split = np.array(worker[:4]), np.array(worker[4:])
        assert len(np.unique(whole)) == 1 and whole.min() > 4000  # the backbone's gradients
        # Of each window of a split session: the largest scores, sums and their gradients, and the
        # gradient of the session's vector.
        each = 4 * (latents + 2 * latents * (head + 1) + width)
        assert (split - whole == each * np.array([[4], [4], [2], [2]])).all()


@pytest.mark.slow
def test_a_step_on_71721_units_stays_within_the_stated_memory(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    assert main(["benchmark", "--what", "large-session", "--json", str(out)]) == 0
    *trained, fitted = json.loads(out.read_text())
    assert fitted["what"] == "fit" and fitted["peak_bytes"] < 950e6
    rows = {(row["workers"], row["units_forecast"]): row for row in trained}
    peak = {key: row["peak_bytes"] for key, row in rows.items()}
    assert peak[1, 2048] < 850e6 and peak[1, 71_721] < 950e6
    assert peak[2, 2048] < 0.8 * peak[1, 2048] and peak[2, 71_721] < 0.85 * peak[1, 71_721]
    for units in (2048, 71_721):
        assert rows[2, units]["loss"] == pytest.approx(rows[1, units]["loss"], rel=1e-3)
