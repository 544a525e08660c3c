"""Inputs through shards: what is known of them survives, and the stream gives them beside the windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import ShardError
from forebrain.sessions.inputs import Input
from forebrain.sessions.session import Session
from forebrain.shards.index import SessionEntry, runs_of, values_of
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.shards.stream import MixtureConfig, Stream, build_order
from forebrain.shards.windows import ShardWindows
from forebrain.training.batch_parts import parts_of

CONFIG = PrepareConfig(max_window=32, shard_bytes=20_000, stretch_bytes=1)
NAMES = ("tap", "light", "speed", "tone")


@pytest.fixture
def sessions(make_session) -> list[Session]:
    rng = np.random.default_rng(0)
    tap = (np.arange(400) % 37 == 0).astype(np.float32)
    one = make_session(
        session="one",
        stimulus=np.stack([tap, rng.random(400, np.float32)], axis=1),
        stimulus_names=("tap", "light"),
        behaviour=rng.random((400, 1), np.float32),
        behaviour_names=("speed",),
        input_units={"light": "lux"},
        split=np.repeat([-1, 0, 1, 2], 100),
        repetition=np.repeat([0, 1], 200),
    )
    two = make_session(session="two", stimulus=rng.random((400, 1), np.float32), stimulus_names=("tone",))
    return [one, two, make_session(session="three")]


def prepared(sessions: list[Session], folder: Path, config: PrepareConfig = CONFIG) -> ShardSet:
    folder.mkdir()
    for session in sessions:
        session.save(folder / f"{session.session}.npz")
    paths = sorted(str(path) for path in folder.glob("*.npz"))
    prepare(paths, str(folder / "set"), config, lambda path: [Session.load(path)], map_here)
    return ShardSet.open(str(folder / "set"))


def test_kind_unit_split_and_repetition_survive(sessions: list[Session], tmp_path: Path) -> None:
    shards = prepared(sessions, tmp_path / "a")
    entry = next(entry for entry in shards.sessions if entry.session == "one")
    assert (
        entry.inputs
        == sessions[0].inputs
        == (
            Input("tap", "event"),
            Input("light", "level", "lux"),
            Input("speed", "level", can_be_planned=False),
        )
    )
    np.testing.assert_array_equal(values_of(entry.split), sessions[0].split)
    np.testing.assert_array_equal(values_of(entry.repetition), sessions[0].repetition)


def test_events_are_kept_where_frames_are_summed(sessions: list[Session], tmp_path: Path) -> None:
    shards = prepared(sessions[:1], tmp_path / "a", replace(CONFIG, resample_hz=2.5))
    entry = shards.sessions[0]
    assert [each.kind for each in entry.inputs] == ["event", "level", "level"]
    taps = np.concatenate([shards.read_inputs(0, "stimulus", at, at + 20)[:, 0] for at in range(0, 100, 20)])
    assert taps.sum() == sessions[0].stimulus[:, 0].sum() == 11
    assert values_of(entry.split).tolist() == np.repeat([-1, 0, 1, 2], 25).tolist()


def test_a_changed_word_about_inputs_is_found(sessions: list[Session], tmp_path: Path) -> None:
    shards = prepared(sessions[:1], tmp_path / "a")
    lines = tmp_path / "a" / "set" / "sessions.jsonl"
    lines.write_bytes(lines.read_bytes().replace(b'"lux"', b'"lum"'))
    file = tmp_path / "a" / "set" / shards.sessions[0].name
    file.write_bytes(file.read_bytes().replace(b'"lux"', b'"lum"'))
    with pytest.raises(ShardError):
        _ = ShardSet.open(str(tmp_path / "a" / "set")).sessions[0].inputs


def test_an_entry_that_was_written_before_has_levels_and_the_same_bytes(
    sessions: list[Session], tmp_path: Path
) -> None:
    shards = prepared(sessions, tmp_path / "a")
    by_name = {entry.session: entry for entry in shards.sessions}
    data = by_name["three"].to_bytes()
    assert not any(key in data for key in (b"input_kinds", b"input_units", b"split", b"repetition"))
    before = replace(by_name["one"], input_kinds={}, input_units={}, split=(), repetition=())
    again = SessionEntry.from_bytes(before.to_bytes(), "an entry")
    assert [each.kind for each in again.inputs] == ["level", "level", "level"]
    assert values_of(again.split) is None


def test_runs_stand_for_values() -> None:
    values = np.array([3, 3, -1, 0, 0, 0])
    assert runs_of(values) == ((0, 2, 3), (2, 3, -1), (3, 6, 0))
    np.testing.assert_array_equal(values_of(runs_of(values)), values)
    assert runs_of(None) == () and values_of(()) is None


@pytest.fixture
def windows(sessions: list[Session], tmp_path: Path) -> ShardWindows:
    return ShardWindows(prepared(sessions, tmp_path / "all"), "chronological", 24, 8)


def stream(windows: ShardWindows, inputs: tuple[str, ...] = ()) -> Stream:
    order = build_order(windows, 16, 0, MixtureConfig(exponent=1.0, largest_share=1.0))
    return Stream(windows, order, inputs=inputs)


def test_sessions_of_other_or_no_inputs_share_a_batch(sessions: list[Session], windows: ShardWindows) -> None:
    by_id = {session.id: session for session in sessions}
    seen = set()
    for step in range(4):
        for group in stream(windows, NAMES).batch(step).groups:
            session = by_id[group.session]
            seen.add(session.session)
            there = {each.name: each for each in session.inputs}
            assert group.inputs.shape == (len(group.context), 32, 4) and group.inputs.dtype == np.float32
            for place, name in enumerate(NAMES):
                known = group.known[:, place]
                assert known[:24].all() == (name in there)
                assert known[24:].all() == (name in there and there[name].can_be_planned)
                assert not group.inputs[:, ~known, place].any()
            if session.session == "one":
                number = next(
                    start for start in range(368)
                    if np.array_equal(session.stimulus[start : start + 32, 1], group.inputs[0, :, 1])
                )  # fmt: skip
                frames = slice(number, number + 24)
                np.testing.assert_array_equal(group.inputs[0, :24, 2], session.behaviour[frames, 0])
    assert seen == {"one", "two", "three"}


def test_windows_have_the_same_bits_with_and_without_inputs_in_the_batch(
    sessions: list[Session], windows: ShardWindows, tmp_path: Path
) -> None:
    for step in range(4):
        plain, with_inputs = stream(windows).batch(step), stream(windows, NAMES).batch(step)
        assert plain.groups[0].inputs is None
        for one, other in zip(plain.groups, with_inputs.groups, strict=True):
            assert one.session == other.session
            assert one.context.tobytes() == other.context.tobytes()
            assert one.target.tobytes() == other.target.tobytes()
    alone = ShardWindows(prepared(sessions[2:], tmp_path / "alone"), "chronological", 24, 8)
    position = next(at for at, info in enumerate(windows.sessions) if info.id.endswith("three"))
    numbers = np.arange(alone.num_windows(0, "train"))
    for one, other in zip(
        alone.read(0, "train", numbers), windows.read(position, "train", numbers), strict=True
    ):
        assert one.tobytes() == other.tobytes()


def test_parts_of_a_batch_keep_the_inputs_of_their_windows(windows: ShardWindows) -> None:
    batch = stream(windows, NAMES).batch(0)
    whole = np.concatenate([group.inputs for group in batch.groups])
    parts = [part for part in parts_of(batch, 3) if part is not None]
    np.testing.assert_array_equal(
        np.concatenate([group.inputs for part in parts for group in part.groups]), whole
    )
