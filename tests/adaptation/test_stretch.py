"""Of a short stretch of a new animal nothing else is known: what is fitted to it follows from it alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.comparison import compare
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.stretch import last_minutes
from forebrain.adaptation.windows import SessionWindows
from forebrain.errors import AdaptationError
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
    stretch = last_minutes(session, 1)
    assert stretch.split is not None
    found = [np.flatnonzero(stretch.split == part)[[0, -1]].tolist() for part in (0, 1, 2)]
    assert found == [[150, 269], [270, 299], [400, 499]]
    assert stretch.segments == [(0, 150), (150, 300), (300, 400), (400, 500)]
    whole = last_minutes(session, math.inf)
    assert whole.split is not None and (whole.split[:240] == 0).all() and (whole.split[240:300] == 1).all()


def test_breaks_of_the_recording_stay_breaks(session: Session) -> None:
    broken = replace(session, segment_ids=(np.arange(500) >= 200).astype(np.int32))
    assert last_minutes(broken, 1).segments == [(0, 150), (150, 200), (200, 300), (300, 400), (400, 500)]


def test_it_is_tested_on_the_windows_of_the_whole_recording(session: Session) -> None:
    whole = SessionWindows(session, "chronological", 12, 4)
    stretch = SessionWindows(last_minutes(session, 0.5), "given", 12, 4)
    assert (stretch.starts("test") == whole.starts("test")).all()
    assert stretch.num_windows(0, "train") < whole.num_windows(0, "train")


def test_no_other_frame_is_seen(backbone: Backbone, session: Session) -> None:
    """Neither the frames before the stretch nor the validation part change a bit of what is fitted."""
    traces = np.array(session.traces)
    others = traces.copy()
    rng = np.random.default_rng(0)
    others[: ONE_MINUTE[0]] += 3 * rng.normal(size=others[: ONE_MINUTE[0]].shape)
    others[ONE_MINUTE[1] : 400] -= 50
    results = [
        compare(backbone, replace(session, traces=each), "none", QUICK, minutes=1).result()
        for each in (traces, others)
    ]
    for result in results:
        assert result["minutes"] == 1 and result["mode"] == "none"
        result.pop("seconds_in_all")
        result.pop("seconds")
    assert results[0] == results[1]
    assert results[0]["baselines"]["self"] is not None and results[0]["baselines"]["era"] is not None


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
    for minutes in (2.5, 0, -1):
        with pytest.raises(AdaptationError, match="300 frames \\(2 minutes\\) before the validation part"):
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
