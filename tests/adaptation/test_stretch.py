"""Of a short stretch of a new animal nothing else is known: what is fitted to it follows from it alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.comparison import compare
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.recording import with_rate
from forebrain.adaptation.stretch import last_minutes
from forebrain.adaptation.windows import SessionWindows
from forebrain.errors import AdaptationError
from forebrain.sessions.preprocessing import RateWarning
from forebrain.sessions.session import Session
from forebrain.shards.fits import LEAST_PERSISTENCE, least_persistence
from forebrain_registry import Registry

QUICK = FitConfig(steps=4, batch_size=4)
# Of 500 frames at 2.5 Hz: training ends at 300 and testing begins at 400.
ONE_MINUTE = (150, 300)


@pytest.fixture
def backbone(registry: Registry, publish_backbone: Callable[..., str]) -> Backbone:
    return Backbone.from_registry(publish_backbone(), registry.uri)


@pytest.fixture
def session(walk: Callable[..., Session]) -> Session:
    return walk(9, num_frames=500)


def test_the_stretch_is_the_last_minutes_before_the_validation_part(session: Session) -> None:
    stretch = last_minutes(session, 1, 12, 4)
    assert stretch.split is not None and stretch.num_frames == 250
    assert [int((stretch.split == part).sum()) for part in (0, 1, 2)] == [120, 30, 100]
    assert stretch.segments == [(0, 150), (150, 250)]
    traces = np.array(session.traces)
    assert (stretch.frames(0, 250) == np.concatenate([traces[150:300], traces[400:]])).all()
    whole = last_minutes(session, math.inf, 12, 4)
    assert whole.split is not None and (whole.split == 0).sum() == 240 and (whole.split == 1).sum() == 60


def test_all_frames_train_where_four_fifths_hold_no_window(session: Session) -> None:
    assert session.rate_hz is not None
    stretch = last_minutes(session, 17 / session.rate_hz / 60, 12, 4)
    assert stretch.split is not None
    assert [int((stretch.split == part).sum()) for part in (0, 1, 2)] == [17, 0, 100]
    windows = SessionWindows(stretch, "given", 12, 4, is_short=True)
    assert windows.num_windows(0, "train") == 2


def test_breaks_of_the_recording_stay_breaks(session: Session) -> None:
    broken = replace(session, segment_ids=(np.arange(500) >= 200).astype(np.int32))
    assert last_minutes(broken, 1, 12, 4).segments == [(0, 50), (50, 150), (150, 250)]


def test_it_is_tested_on_the_windows_of_the_whole_recording(session: Session) -> None:
    whole = SessionWindows(session, "chronological", 12, 4)
    stretch = SessionWindows(last_minutes(session, 0.5, 12, 4), "given", 12, 4)
    assert whole.starts("test").tolist() == (stretch.starts("test") + 325).tolist()
    assert stretch.num_windows(0, "train") < whole.num_windows(0, "train")


@pytest.mark.parametrize("first_is_missing", [False, True])
def test_no_other_frame_is_seen(backbone: Backbone, session: Session, first_is_missing: bool) -> None:
    """Neither frames before the stretch nor the validation part change a bit of what is fitted."""
    traces = np.array(session.traces)
    if first_is_missing:
        traces[ONE_MINUTE[0] - 1 : ONE_MINUTE[0] + 3, 1] = np.nan
    others = traces.copy()
    rng = np.random.default_rng(0)
    others[: ONE_MINUTE[0]] += 3 * rng.normal(size=others[: ONE_MINUTE[0]].shape)
    others[ONE_MINUTE[1] : 400] -= 50
    others[:100, 2] = np.nan
    comparisons = [
        compare(backbone, replace(session, traces=each), "none", QUICK, minutes=1)
        for each in (traces, others)
    ]
    results = [comparison.result() for comparison in comparisons]
    for result in results:
        assert result["minutes"] == 1 and result["mode"] == "none"
        result.pop("seconds_in_all")
        result.pop("seconds")
    assert results[0] == results[1]
    assert results[0]["baselines"]["self"] is not None and results[0]["baselines"]["era"] is not None
    fitted = [comparison.prepared.preprocessing for comparison in comparisons]
    assert fitted[0].mean.tobytes() == fitted[1].mean.tobytes()


def test_without_a_backbone_the_head_alone_is_fitted(session: Session) -> None:
    result = compare(Backbone.nothing(12, 4), session, "none", QUICK, minutes=1).result()
    assert result["baselines"]["self"] is None and result["baselines"]["era"] is not None


def test_what_is_adapted_to_a_stretch_is_kept_and_forecasts_the_whole(
    backbone: Backbone, session: Session, tmp_path: Path
) -> None:
    unknown = replace(session, rate_hz=None)
    adapted = backbone.adapt(with_rate(unknown, 2.5), minutes=1, config=QUICK, rivals=False, progress=False)
    adapted.save(tmp_path / "adapted")
    again = Adapted.load(tmp_path / "adapted")
    with pytest.warns(RateWarning, match=r"rate is not known; its frames are taken to come at 2\.5 Hz"):
        window = again.latest_window(unknown)
    assert again.forecast(window).tobytes() == adapted.forecast(adapted.latest_window(session)).tobytes()
    with pytest.raises(AdaptationError, match=r"states 2\.5 Hz, and rate_hz is 30"):
        with_rate(session, 30)


def test_where_no_window_fits_the_backbone_forecasts_alone(backbone: Backbone, session: Session) -> None:
    context = backbone.model.config.context
    assert session.rate_hz is not None
    minutes = (context - 2) / session.rate_hz / 60
    comparison = compare(backbone, session, "none", QUICK, minutes=minutes)
    result = comparison.result()
    assert result["baselines"]["self"] is None and result["baselines"]["era"] is None
    assert result["baselines"]["linear"] == result["baselines"]["ridge"] == 0  # as copy
    assert result["score"] == pytest.approx(result["others"]["not adapted"], abs=1e-6)
    weights = result["weights"]["weights"]
    assert set(weights["model"]) == {1.0} and set(weights["linear"]) == {0.0}


def test_what_cannot_be_counted_is_one_error(backbone: Backbone, session: Session) -> None:
    with pytest.raises(AdaptationError, match=r"no rate.*--rate_hz"):
        compare(backbone, replace(session, rate_hz=None), "none", QUICK, minutes=1)
    for minutes in (2.5, 0.01):
        with pytest.raises(AdaptationError, match=r"300 frames \(2 minutes\) before the validation part"):
            compare(backbone, session, "none", QUICK, minutes=minutes)
    for minutes in (0, -1, math.nan):
        with pytest.raises(AdaptationError, match="expected a positive number"):
            compare(backbone, session, "none", QUICK, minutes=minutes)
    with pytest.raises(AdaptationError, match="protocol is poco"):
        compare(backbone.under("poco"), session, "none", QUICK, minutes=1)


def test_a_short_stretch_need_not_be_as_persistent() -> None:
    limits = [least_persistence(count) for count in (50, 200, 2000)]
    assert (
        limits == sorted(limits)
        and limits[0] < 0.2
        and limits[-1] == pytest.approx(LEAST_PERSISTENCE, abs=0.03)
    )


def test_a_rate_that_is_given_never_replaces_one_that_the_recording_tells(
    walk: Callable[..., Session],
) -> None:
    stated = replace(walk(1), rate_hz=8.0)
    timed = replace(stated, rate_hz=None, time_s=np.arange(stated.num_frames) / 8.0)
    for session in (stated, timed):
        assert with_rate(session, 8.05) is session
    with pytest.raises(AdaptationError, match="its frame times say 8 Hz, and rate_hz is 10"):
        with_rate(timed, 10.0)
    with pytest.raises(AdaptationError, match="states 8 Hz, and rate_hz is 10"):
        with_rate(stated, 10.0)
    assert with_rate(replace(stated, rate_hz=None), 10.0).rate_hz == 10.0


def test_a_training_part_in_which_nothing_moves_is_told_of_the_session(
    backbone: Backbone, walk: Callable[..., Session]
) -> None:
    traces = np.array(walk(1).traces)
    traces[:240] = traces[0]
    with pytest.raises(AdaptationError, match="lab/animal1/one: nothing moves in its training part"):
        compare(backbone, replace(walk(1), traces=traces), "none", QUICK)
