"""A session's windows without shards are those that shards would give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forebrain.adaptation import windows as module
from forebrain.adaptation.windows import SessionWindows
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.shards.windows import ShardWindows


@pytest.mark.parametrize("protocol", ["chronological", "poco"])
@pytest.mark.parametrize("held", [True, False])
def test_windows_and_normalisation_are_those_of_shards(
    protocol: str, held: bool, walk: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_BYTES", 1 << 30 if held else 0)
    session = replace(walk(3, num_frames=500), segment_ids=np.repeat([0, 1], [310, 190]).astype(np.int32))
    session.frames(0, 1)
    session.save(tmp_path / "one.npz")
    prepare(
        [str(tmp_path / "one.npz")], str(tmp_path / "shards"), PrepareConfig(),
        open_recording=lambda path: [Session.load(path)], run_each=map_here,
    )  # fmt: skip
    expected = ShardWindows(ShardSet.open(str(tmp_path / "shards")), protocol, 12, 4)
    found = SessionWindows(session, protocol, 12, 4)
    assert found.sessions == list(expected.sessions)
    np.testing.assert_allclose(found.training_mean(0), expected.training_mean(0), atol=1e-6)
    counts = SessionWindows.counts(session, protocol, 12, 4)
    for part in ("train", "validation", "test"):
        assert found.num_windows(0, part) == expected.num_windows(0, part) == counts[part] > 0
        some = np.array([0, counts[part] // 2, counts[part] - 1])
        for ours, theirs in zip(found.read(0, part, some), expected.read(0, part, some), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_nothing_after_the_training_part_moves_the_normalisation(walk: Callable[..., Session]) -> None:
    session = walk(4, num_frames=500)
    traces = session.frames(0, 500)
    traces[300:] += 100
    before, after = (
        SessionWindows(each, "chronological", 12, 4) for each in (session, replace(session, traces=traces))
    )
    np.testing.assert_array_equal(before.preprocessing.mean, after.preprocessing.mean)
    np.testing.assert_array_equal(before.preprocessing.scale, after.preprocessing.scale)
    assert before.preprocessing.fitted_on == ((0, 300),)
