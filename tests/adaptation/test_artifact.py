"""An adaptation's folder: comes back as it was, whole or not at all, and only with its own backbone."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from forebrain.adaptation import artifact
from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.artifact import (
    BACKBONE,
    EVALUATION,
    INTERFACE,
    RECORD,
    RESULT,
    STACK,
    begun,
    new_folder,
)
from forebrain.adaptation.backbone import Backbone
from forebrain.errors import AdaptationError, RecordingError, StorageError
from forebrain.realtime.forecaster import LiveConfig
from forebrain.realtime.server import describe
from forebrain.scoring.baselines import LinearBaseline
from forebrain.scoring.ridge import Features, Head
from forebrain.scoring.stack import Stack
from forebrain.sealed import SEAL, sealed, unsealed
from forebrain.sessions.session import Session
from forebrain_registry import Registry


def window(num_units: int = 5, num_frames: int = 12) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(num_frames, num_units)).astype(np.float32)


@pytest.fixture
def backbone(registry: Registry, publish_backbone: Callable[..., str]) -> Backbone:
    return Backbone.from_registry(publish_backbone(), registry.uri)


@pytest.fixture
def saved(backbone: Backbone, make_adapted: Callable[..., Adapted], tmp_path: Path) -> Path:
    return make_adapted(backbone).save(tmp_path / "worm9")


def test_a_later_load_forecasts_the_same_and_knows_the_same(
    backbone: Backbone, make_adapted: Callable[..., Adapted], saved: Path
) -> None:
    before, after = make_adapted(backbone), Adapted.load(saved)
    np.testing.assert_array_equal(after.forecast(window()), before.forecast(window()))
    for name in ("mode", "origin", "identity"):
        assert getattr(after, name) == getattr(before, name), name
    for item in fields(before.preprocessing):
        np.testing.assert_equal(
            getattr(after.preprocessing, item.name), getattr(before.preprocessing, item.name), item.name
        )
    assert after.description.protocol == "chronological"
    assert sorted(path.name for path in saved.iterdir()) == [RECORD, INTERFACE]


@pytest.mark.parametrize("name", ["poco", "nlinear"])
def test_folders_written_before_load_forecast_and_save_as_they_did(name: str, tmp_path: Path) -> None:
    before = Path(__file__).parent / "written_before"
    adapted = Adapted.load(before / name)
    # On the processor that wrote them these are equal to the bit; others may sum in another order.
    expected = np.load(before / f"{name}.npy")
    np.testing.assert_allclose(adapted.forecast(window(6)), expected, rtol=1e-5, atol=1e-6)
    preprocessing = adapted.preprocessing
    assert (preprocessing.rate_hz, preprocessing.recorded_rate_hz) == (2.5, 10)
    assert preprocessing.resample_hz == 2.5 and preprocessing.event_rate_hz is None
    assert preprocessing.fitted_on == ((0, 240), (300, 310)) and adapted.identity.id == "lab/worm9/day1"
    assert adapted.score is None
    again = adapted.save(tmp_path / name)
    for file in (before / name).iterdir():
        found, data = (again / file.name).read_bytes(), file.read_bytes()
        assert unsealed(found) == unsealed(data) if file.suffix == ".json" else found == data


def stacked(adapted: Adapted, model: bool = True) -> Adapted:
    """The same with a stack of random weights, for the five units."""
    rng = np.random.default_rng(3)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(scale=0.2, size=shape).astype(np.float32)

    features = Features(drawn(5, 2), *(np.full(5, bound, np.float32) for bound in (-9, 9, 9)))
    head = Head(features, drawn(12, 4), drawn(12, 4, 5), {"population": drawn(10, 4, 5)})
    stack = Stack(LinearBaseline(drawn(12, 4)), drawn(4), drawn(4) if model else None, head)
    return replace(adapted, stack=stack)


@pytest.mark.parametrize("model", [True, False])
def test_a_stack_is_saved_streamed_and_forecast_to_the_bit(
    model: bool, backbone: Backbone, make_adapted: Callable[..., Adapted], tmp_path: Path
) -> None:
    plain = make_adapted(backbone)
    adapted = stacked(plain, model)
    expected = adapted.forecast(window())
    assert np.abs(expected - plain.forecast(window())).max() > 0.01
    folder = adapted.save(tmp_path / "stacked")
    assert json.loads((folder / RECORD).read_text())["format"] == "forebrain-adaptation-2"
    opened = Adapted.load(folder)
    np.testing.assert_array_equal(opened.forecast(window()), expected)
    live = opened.stream()
    for frame in window():
        live.step(frame)
    np.testing.assert_array_equal(live.answer, expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(adapted)).forecast(window()), expected)

    (folder / STACK).write_bytes(b"garbage")
    with pytest.raises(AdaptationError, match=r"stack.safetensors: is not the file"):
        Adapted.load(folder)


def test_a_stream_knows_all_that_the_adaptation_knows(
    backbone: Backbone, make_adapted: Callable[..., Adapted]
) -> None:
    made = make_adapted(backbone)
    adapted = replace(made, preprocessing=replace(made.preprocessing, event_rate_hz=2.5))
    live = adapted.stream(LiveConfig(memory=10))
    assert live.preprocessing is adapted.preprocessing and live.arrivals.rate_hz == 2.5
    assert live.config.memory == 10
    told = describe(live)
    assert told["unit_names"] == adapted.preprocessing.unit_names and told["num_recorded"] == 6
    assert (told["rate_hz"], told["event_rate_hz"]) == (2.5, 2.5)
    identity = adapted.identity
    assert told["model"] == str(adapted.origin) and told["species"] == identity.species
    assert f"{told['dataset']}/{told['subject']}/{told['session']}" == identity.id
    frames = window(num_units=6)
    shuffled = [4, 2, 0, 1, 3]
    names = [adapted.preprocessing.unit_names[unit] for unit in shuffled]
    by_name = adapted.stream()
    for frame in frames:
        live.step(frame)
        by_name.step(frame[adapted.preprocessing.columns][shuffled], units=names)
    np.testing.assert_array_equal(live.answer, adapted.forecast(frames))
    np.testing.assert_array_equal(by_name.answer, adapted.forecast(frames))


def test_a_forecast_is_in_the_recordings_own_units(
    backbone: Backbone, make_adapted: Callable[..., Adapted]
) -> None:
    adapted = make_adapted(backbone)
    frames = window()
    scale = adapted.preprocessing.scale
    shifted = adapted.forecast(frames + 3 * scale)  # a relative model moves with its window
    np.testing.assert_allclose(shifted, adapted.forecast(frames) + 3 * scale, atol=1e-4)
    assert shifted.shape == (4, 5)


def test_threads_and_other_processes_may_forecast_with_it(
    backbone: Backbone, make_adapted: Callable[..., Adapted]
) -> None:
    adapted = make_adapted(backbone)
    windows = [window() + number for number in range(200)]
    expected = [adapted.forecast(each) for each in windows]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(adapted.forecast, windows))
    np.testing.assert_array_equal(found, expected)
    copied = pickle.loads(pickle.dumps(adapted))
    np.testing.assert_array_equal(copied.forecast(windows[0]), expected[0])


def test_a_window_may_be_longer_and_may_hold_all_recorded_units(
    backbone: Backbone, make_adapted: Callable[..., Adapted]
) -> None:
    adapted = make_adapted(backbone)
    recorded = window(num_units=6, num_frames=30)
    expected = adapted.forecast(recorded[-12:][:, [0, 1, 2, 4, 5]])
    np.testing.assert_array_equal(adapted.forecast(recorded), expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (window(num_frames=11), "11 frames"),
        (window(num_units=4), r"5 \(or all 6 recorded\) units"),
        (np.zeros(12), "shape"),
        (np.where(np.arange(5) == 2, np.nan, window()), "RIM"),
    ],
)
def test_a_window_that_does_not_fit_is_one_clear_error(
    given: np.ndarray, words: str, backbone: Backbone, make_adapted: Callable[..., Adapted]
) -> None:
    with pytest.raises(AdaptationError, match=words):
        make_adapted(backbone).forecast(given)


def test_it_loads_offline_once_the_backbone_is_in_the_cache(saved: Path, registry: Registry) -> None:
    expected = Adapted.load(saved).forecast(window())
    shutil.rmtree(registry.uri)
    np.testing.assert_array_equal(Adapted.load(saved).forecast(window()), expected)


def test_it_loads_from_a_copy_of_its_registry(saved: Path, registry: Registry, tmp_path: Path) -> None:
    moved = shutil.move(registry.uri, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(AdaptationError, match="no model 'worms'"):
        Adapted.load(saved)
    Adapted.load(saved, registry=moved)


def test_another_backbone_of_the_same_name_is_refused(
    saved: Path, registry: Registry, publish_backbone: Callable[..., str]
) -> None:
    shutil.rmtree(registry.uri)
    shutil.rmtree(Path(registry.uri).with_name("cache"))
    assert publish_backbone(seed=5) == "worms@1"
    with pytest.raises(AdaptationError, match="no version with the digest"):
        Adapted.load(saved)

    other = Backbone.from_registry("worms@1", registry.uri)
    record = json.loads((saved / RECORD).read_text())
    del record[SEAL]
    record["model"]["digest"] = other.origin.digest
    (saved / RECORD).write_text(json.dumps(record))
    with pytest.raises(AdaptationError, match="means nothing to another backbone"):
        Adapted.load(saved)


def test_a_changed_backbone_lies_in_the_folder(
    backbone: Backbone, make_adapted: Callable[..., Adapted], tmp_path: Path, registry: Registry
) -> None:
    changed = make_adapted(backbone, mode="full")
    folder = changed.save(tmp_path / "own")
    shutil.rmtree(registry.uri)
    shutil.rmtree(tmp_path / "cache")
    np.testing.assert_array_equal(Adapted.load(folder).forecast(window()), changed.forecast(window()))
    (folder / BACKBONE).unlink()
    with pytest.raises(AdaptationError, match=BACKBONE):
        Adapted.load(folder)


@pytest.mark.parametrize(
    ("before", "after"), [('"persists": true', '"persists": false'), ('"rate_hz": ', '"rate_hz": 1')]
)
def test_a_record_that_is_not_what_was_written_is_refused(saved: Path, before: str, after: str) -> None:
    text = (saved / RECORD).read_text()
    assert before in text
    (saved / RECORD).write_text(text.replace(before, after, 1))
    with pytest.raises(AdaptationError, match="changed since it was written"):
        Adapted.load(saved)


@pytest.mark.parametrize("name", [INTERFACE, RECORD])
def test_a_damaged_or_missing_file_is_one_clear_error(saved: Path, name: str) -> None:
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[:-7])
    with pytest.raises(AdaptationError, match=name):
        Adapted.load(saved)
    (saved / name).unlink()
    with pytest.raises(AdaptationError, match=name):
        Adapted.load(saved)


@pytest.mark.parametrize("name", [RESULT, EVALUATION])
def test_scores_of_another_adaptation_are_refused(
    name: str, backbone: Backbone, make_adapted: Callable[..., Adapted], tmp_path: Path
) -> None:
    """As where a folder was copied in part over another's."""
    adapted = replace(make_adapted(backbone), result={"score": 0.5}, evaluation={"units": []})
    own, other = adapted.save(tmp_path / "own"), tmp_path / "other"
    replace(adapted, identity=replace(adapted.identity, subject="worm10")).save(other)
    loaded = Adapted.load(own)
    assert (loaded.result, loaded.evaluation) == ({"score": 0.5}, {"units": []})
    (own / name).write_bytes((other / name).read_bytes())
    with pytest.raises(AdaptationError, match=rf"{name}: .*another adaptation than adaptation\.json"):
        Adapted.load(own)
    scores = getattr(adapted, Path(name).stem)
    (own / name).write_bytes(sealed(scores))  # as earlier versions did, which do not say whose they are
    assert getattr(Adapted.load(own), Path(name).stem) == scores


def test_an_adaptation_that_is_replaced_while_it_is_read_is_not_given_the_others_scores(
    backbone: Backbone, make_adapted: Callable[..., Adapted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As through a link to the newest, which is led elsewhere meanwhile."""
    adapted = replace(make_adapted(backbone), result={"score": 0.5})
    own, other, link = tmp_path / "own", tmp_path / "other", tmp_path / "newest"
    adapted.save(own)
    replace(adapted, identity=replace(adapted.identity, subject="worm10"), result={"score": 0.9}).save(other)
    link.symlink_to(own)

    def repointed(*given: object) -> None:
        link.unlink()
        link.symlink_to(other)

    monkeypatch.setattr(artifact, "_check_shapes", repointed)  # between the record and its scores
    with pytest.raises(AdaptationError, match=r"result\.json: .*replaced while it was read"):
        Adapted.load(link)


def test_a_folder_is_there_whole_or_not_at_all(saved: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RuntimeError), new_folder(tmp_path / "new") as partial:
        (partial / "file").write_text("half")
        raise RuntimeError
    with pytest.raises(StorageError, match="No space left on device"), new_folder(tmp_path / "new"):
        raise OSError(28, "No space left on device")
    with pytest.raises(StorageError, match="exists already"), new_folder(saved):
        raise AssertionError("never entered")
    assert sorted(tmp_path.iterdir()) == before


def test_of_two_that_fill_one_folder_the_second_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with pytest.raises(StorageError, match="there meanwhile"), new_folder(out) as other:
        assert not caplog.text
        with new_folder(out) as first:
            assert f"{other}: is what another command for out has begun" in caplog.text
            (first / "file").write_text("first")
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["first"]


@pytest.mark.parametrize("what", ["a link", "a disk", "given in"])
def test_an_empty_folder_that_no_other_takes_the_place_of_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    out = there = tmp_path / "there"
    there.mkdir()
    if what == "a link":
        out = tmp_path / "link"
        out.symlink_to(there)
    if what == "a disk":
        monkeypatch.setattr(Path, "is_mount", lambda path: path == there)
    if what == "given in":
        monkeypatch.chdir(there)
        out = Path()
    with pytest.raises(StorageError, match=rf"{what}.*takes the place of. Name one in it"):
        begun(out).__enter__()
    with new_folder(out / "worm9"):
        pass
    with new_folder(tmp_path / "empty") as folder:
        (tmp_path / "empty").mkdir()
        (folder / "file").write_text("whole")
    assert (tmp_path / "empty" / "file").read_text() == "whole"


@pytest.mark.parametrize("when", ["before it is written", "while it is written"])
@pytest.mark.parametrize("how", ["unmounted", "gone", "mounted again"])
def test_a_disk_that_is_unmounted_meanwhile_is_said_and_nothing_is_made_in_its_place(
    tmp_path: Path, when: str, how: str
) -> None:
    disk, away = tmp_path / "disk", tmp_path / "away"
    disk.mkdir()

    def goes() -> None:
        disk.rename(away)
        if how == "unmounted":  # the folder below, which a disk mounted by a second name has the numbers of
            disk.mkdir()
        if how == "mounted again":
            away.rename(disk)

    refused = pytest.raises(StorageError, match=rf"{disk}/runs/worm9: could not be written \(No such file")
    with (
        contextlib.nullcontext() if how == "mounted again" else refused,
        new_folder(disk / "runs" / "worm9") as folder,
    ):
        if when == "before it is written":
            goes()
        (folder / "file").write_text("whole")
        if when == "while it is written":
            goes()
    assert [path.name for path in tmp_path.rglob("worm9/file")] == ["file"] * (how == "mounted again")
    assert how == "mounted again" or not (disk / "runs").exists()


def a_recording(**given: object) -> Session:
    """A later recording of the six units."""
    traces = np.random.default_rng(3).normal(size=(60, 6)).astype(np.float32)
    return Session(**{"traces": traces, "rate_hz": 2.5, "species": "celegans", "subject": "worm9",
                      "session": "day2", "dataset": "lab", **given})  # fmt: skip


def test_a_recordings_last_window_is_repaired_as_the_adaptations_recording_was(
    backbone: Backbone, make_adapted: Callable[..., Adapted]
) -> None:
    adapted = make_adapted(backbone)
    traces = a_recording().frames(0, 60)
    traces[:, 0], traces[:, 4], traces[50, 1] = 1.0, traces[:, 5], np.nan  # each still the unit that it was
    expected = traces[-12:, adapted.preprocessing.columns]
    expected[2, 1] = traces[49, 1]
    np.testing.assert_array_equal(adapted.latest_window(a_recording(traces=traces)), expected)


def test_units_without_a_value_are_named(backbone: Backbone, make_adapted: Callable[..., Adapted]) -> None:
    adapted = make_adapted(backbone)
    traces = a_recording().frames(0, 60)
    traces[:, adapted.preprocessing.columns[1]] = np.nan
    name = adapted.preprocessing.unit_names[1]
    with pytest.raises(AdaptationError, match=rf"{name} \(1 of {adapted.num_units} units\) have no"):
        adapted.latest_window(a_recording(traces=traces))


def test_a_last_window_spans_no_gap(backbone: Backbone, make_adapted: Callable[..., Adapted]) -> None:
    adapted = make_adapted(backbone)
    time_s = np.arange(60) / 2.5
    time_s[-5:] += 30
    with pytest.raises(AdaptationError, match="last unbroken stretch has 5 frames"):
        adapted.latest_window(a_recording(time_s=time_s))
    lost = a_recording().frames(0, 60)
    lost[45:55] = np.nan
    with pytest.raises(AdaptationError, match="last unbroken stretch has 5 frames"):
        adapted.latest_window(a_recording(traces=lost))
    lost[45:] = np.nan
    with pytest.raises(RecordingError, match="no value in frames 45 to 60, its last"):
        adapted.latest_window(a_recording(traces=lost))


def test_a_recording_whose_frame_times_tell_its_rate_is_resampled_again(
    backbone: Backbone, make_adapted: Callable[..., Adapted]
) -> None:
    made = make_adapted(backbone)
    adapted = replace(made, preprocessing=replace(made.preprocessing, recorded_rate_hz=10.0, resample_hz=2.5))
    timed = a_recording(rate_hz=None, time_s=np.arange(60) / 10)
    expected = timed.frames(12, 60)[:, adapted.preprocessing.columns].reshape(12, 4, 5).mean(axis=1)
    np.testing.assert_allclose(adapted.latest_window(timed), expected, rtol=1e-5, atol=1e-6)


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with (
        pytest.raises(StorageError, match=r"worm9: Not a directory. Choose another"),
        begun(tmp_path / "file" / "runs" / "worm9"),
    ):
        raise AssertionError("never entered")
    with begun(tmp_path / "new" / "runs" / "worm9") as folder:
        assert folder.parent == tmp_path / "new" / "runs"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
