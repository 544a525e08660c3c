"""A long run: memory stays flat, and every fault is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from realtime_small import SMALL, build_small

from forebrain import realtime
from forebrain.errors import ConfigError
from forebrain.realtime import LiveConfig
from forebrain.realtime.soak import SoakConfig, soak
from forebrain.realtime.state import StateFile

SMALLEST = replace(SMALL, num_layers=0, num_latents=1, token_length=16)


@pytest.mark.parametrize("frames", [8_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_after_thousands_of_frames_memory_is_what_it_was(tmp_path: Path, frames: int) -> None:
    live = realtime.open(*build_small(6, config=SMALLEST), config=LiveConfig(precision="bf16"))
    state = StateFile(tmp_path / "state", live, every_s=0.5)
    soaked = soak(live, SoakConfig(frames=frames), state)
    state.close(live)
    # 18,000 frames later 8 MiB would be 466 bytes a frame, four times what a frame and its forecast take.
    assert soaked.growth_bytes < 8 << 20
    status = soaked.status
    assert status["frames"] + status["late"] + status["repeated"] == soaked.frames == frames
    for fault in ("missing_values", "missing_frames", "late", "repeated", "gaps"):
        assert status[fault] > 0, fault
    assert status["refused"] == status["not_finite"] == status["restarts"] == 0
    assert status["score_windows"] == 256
    assert status["forecasts"] > frames * 0.45 and status["skipped"] > frames * 0.45


def test_a_soak_is_long_enough_to_tell() -> None:
    with pytest.raises(ConfigError, match="1,000"):
        SoakConfig(frames=999)
