"""Training on shards that are damaged: stopped with a name and a byte, or skipped and counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from forebrain.config import from_values
from forebrain.errors import BadShardError, ShardError
from forebrain.runs.pretrain import pretrain
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.shards.stream import Batch
from forebrain.training.checkpoints import CheckpointStore
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.loop import Trainer
from forebrain_registry.storage import Folder

Make = Callable[..., PretrainConfig]
Train = Callable[[PretrainConfig], list[dict[str, Any]]]
NO_DROPOUT = {"feed_forward_dropout": 0.0, "branch_dropout": 0.0}
SKIP = {"mixture": {"on_bad_shard": "skip"}}
WINDOW = 16


@pytest.fixture
def shards(tmp_path: Path, walk: Callable[..., Session]) -> Path:
    """Two sessions of 400 frames and 5 units, in pages of 20 frames; training ends at frame 240."""
    recordings = []
    for seed in (1, 2):
        recordings.append(str(tmp_path / f"{seed}.npz"))
        walk(seed).save(recordings[-1])
    out = tmp_path / "data"
    prepare(recordings, str(out), PrepareConfig(page_bytes=400), lambda path: [Session.load(path)], map_here)
    return out


def tar_of(shards: Path, session: int = 0) -> Path:
    return shards / ShardSet.open(str(shards)).sessions[session].shards[0].name


def flip(shards: Path, page: int) -> range:
    """Flips a bit of a page of the first session; returns the starts of the windows that need it."""
    opened = ShardSet.open(str(shards))
    entry = opened.sessions[0]
    (stretch,) = entry.stretches
    assert entry.page_frames == 20
    path = tar_of(shards)
    data = bytearray(path.read_bytes())
    data[stretch.offset + page * 400 + 7] ^= 16
    path.write_bytes(bytes(data))
    return range(page * 20 - WINDOW + 1, page * 20 + 20)


def trainer(config: PretrainConfig) -> Trainer:
    return Trainer(config, WorkerGroup(), torch.device("cpu"), lambda event: None)


def gradients(config: PretrainConfig, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss of a batch, and the gradients of all that is trained, as the optimisers are to take them."""
    one = trainer(config)
    modules = {"backbone": one.learner.strategy.replica(), **one.learner.interfaces.of_session}
    found: dict[str, torch.Tensor] = {}
    step = one.learner.strategy.step

    def taken(*given: Any) -> torch.Tensor:
        for of, module in modules.items():
            named = {f"{of}.{name}": p.grad for name, p in module.named_parameters()}
            found.update({name: grad.clone() for name, grad in named.items() if grad is not None})
        return step(*given)

    one.learner.strategy.step = taken  # type: ignore[method-assign]
    return one.step(batch).loss, found


def test_the_gradient_of_all_other_windows_stays_as_it_was(make_config: Make, shards: Path) -> None:
    changes: dict[str, Any] = {"model": NO_DROPOUT, "training": {"clip_norm": 1e9}}
    config = make_config(data=str(shards), **changes)
    sound = trainer(config).stream.batch(0)
    for page in (2, 5, 8):
        flip(shards, page)
    skipping = make_config(data=str(shards), **changes, **SKIP)
    batch = trainer(skipping).stream.batch(0)
    (which,) = [number for number, group in enumerate(batch.groups) if group.present is not None]
    present = batch.groups[which].present
    assert present is not None and 0 < batch.windows_skipped == np.count_nonzero(~present) < len(present)
    assert batch.rows_skipped == 5 * batch.windows_skipped and batch.num_rows == sound.num_rows
    group = sound.groups[which]
    np.testing.assert_array_equal(batch.groups[which].context[present], group.context[present])
    lost = replace(
        sound, groups=[replace(group, context=group.context[~present], target=group.target[~present])]
    )

    whole_loss, whole = gradients(config, sound)
    lost_loss, of_lost = gradients(config, lost)
    loss, found = gradients(skipping, batch)
    assert {name.split(".")[0] for name in found} >= {"backbone", group.session}
    for name, gradient in found.items():
        expected = whole[name] - of_lost.get(name, torch.zeros(()))
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
    rows_read = batch.num_rows - batch.rows_skipped
    assert loss == pytest.approx((whole_loss - lost_loss) * batch.num_rows / rows_read, rel=1e-5)

    # What stands in their places does not matter, and dropout is what it was.
    dropped: dict[str, Any] = {**changes, "model": {}}
    marked = replace(sound, groups=list(sound.groups), rows_skipped=batch.rows_skipped)
    marked.groups[which] = replace(group, present=present)
    _, expected_gradients = gradients(make_config(data=str(shards), **dropped, **SKIP), marked)
    _, found = gradients(make_config(data=str(shards), **dropped, **SKIP), batch)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-7)


def expected_skips(config: PretrainConfig, bad: set[int], steps: range) -> int:
    one = trainer(config)
    order, windows = one.order, one.windows
    (which,) = [i for i, s in enumerate(order.sessions) if s.id == windows.sessions[0].id]
    count = 0
    for step in steps:
        draws = order.batch(step, np.ones(len(order.sessions), dtype=bool))
        starts = windows.starts(0, "train", draws.window[draws.session == which])
        count += int(np.isin(starts, list(bad)).sum())
    return count


def test_damage_stops_a_run_and_skip_goes_on_from_there_and_counts_over_attempts(
    make_config: Make, train: Train, shards: Path
) -> None:
    bad = set(flip(shards, 5))
    with pytest.raises(BadShardError, match=rf"{tar_of(shards).name} is damaged: .*page 5 at byte \d+"):
        train(make_config(data=str(shards)))
    config = make_config(data=str(shards), **SKIP)  # the same run folder
    whole = make_config("whole", data=str(shards), **SKIP)
    end = train(whole)[-1].skipped
    assert end.windows == expected_skips(config, bad, range(6)) > 0
    assert end.shards == [tar_of(shards).relative_to(shards).as_posix()]
    assert train(config)[-1].skipped == end
    # Gone on after step 4, by another process as it were: what was counted before is still there.
    CheckpointStore(Folder(config.out).child("checkpoints")).folder.remove("00000006.json")
    assert train(config)[-1].skipped == end


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "missing"])
def test_a_whole_run_skips_damage_and_its_result_says_so(shards: Path, tmp_path: Path, damage: str) -> None:
    tar = tar_of(shards)
    if damage == "flipped bit":
        flip(shards, 13)  # validation: frames 240 to 320
        flip(shards, 17)  # test
        flip(shards, 5)
    elif damage == "truncated":
        tar.write_bytes(tar.read_bytes()[:5000])
    else:
        tar.unlink()
    values = {
        "data": str(shards),
        "out": str(tmp_path / "run"),
        "workers": 0,
        "model": {
            "context": 12, "horizon": 4, "token_length": 4, "width": 16, "num_latents": 2, "num_heads": 2,
            "head_width": 8, "film_width": 32,
        },
        "training": {"steps": 4, "batch_size": 8, "validate_every": 2, "threads": 1},
        "evaluation": {"full": True},
    }  # fmt: skip
    with pytest.raises(ShardError, match=tar.name):
        pretrain(from_values(PretrainConfig, values), Console(file=sys.stderr))
    uri = pretrain(from_values(PretrainConfig, {**values, **SKIP}), Console(file=sys.stderr))
    result = json.loads(Folder(uri).read("result.json"))
    name = tar.relative_to(shards).as_posix()
    assert result["skipped"]["shards"] == result["bad_shards_in_evaluation"] == [name]
    assert result["skipped"]["windows"] > 0
    available = 80 - WINDOW + 1
    for part in ("validation", "test"):
        windows = result[part]["windows"]
        lost = 20 + WINDOW - 1 if damage == "flipped bit" else available
        assert windows == {**windows, "skipped": lost, "scored": 2 * available - lost}


def test_an_index_of_another_version_and_a_damaged_entry_are_never_skipped(shards: Path) -> None:
    kept = {path: path.read_bytes() for path in [*shards.glob("sessions/*.json"), shards / "sessions.jsonl"]}
    for path, data in kept.items():
        path.write_bytes(data.replace(b'"celegans"', b'"elegansc"'))
    with pytest.raises(ShardError, match="not the entry that was indexed"):
        ShardSet.open(str(shards), "skip")
    for path, data in kept.items():
        path.write_bytes(data)
    index = shards / "index.json"
    index.write_bytes(index.read_bytes().replace(b"forebrain-shards-2", b"forebrain-shards-9", 1))
    with pytest.raises(ShardError, match="has format 'forebrain-shards-9'"):
        ShardSet.open(str(shards), "skip")


def test_a_bad_page_is_read_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = flip(shards, 5)
    opened = ShardSet.open(str(shards), "skip")
    reads: list[int] = []
    read = opened._pages.read
    monkeypatch.setattr(opened._pages, "read", lambda *given: reads.append(given[2]) or read(*given))
    for start in bad:
        with pytest.raises(BadShardError, match="page 5"):
            opened.read(0, start, start + WINDOW)
    assert len(reads) == 1
    opened.read(0, bad.start - 1, bad.start - 1 + WINDOW)
    opened.read(0, bad.stop, bad.stop + WINDOW)
