from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions.readers import json_table
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar


def test_timed_rows_agree_with_their_twin(original_dir: Path, twin: Callable[[str], Session]) -> None:
    path = original_dir / "json_worm_machine" / "time_trace.json"
    assert json_table.recognises(path)
    (session,) = json_table.read(path, Sidecar())
    expected = twin("celegans__atanas2023_wormmachine__2022-08-02-01")
    assert session.rate_hz == pytest.approx(expected.rate_hz, rel=1e-4)
    np.testing.assert_allclose(session.time_s, expected.time_s)
    np.testing.assert_allclose(session.traces, expected.traces, rtol=1e-6)


def test_table_under_keys_is_named_by_the_sidecar(tmp_path: Path, traces: np.ndarray) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"meta": {"lab": 1}, "raw": traces.T.tolist(), "clean": {"smooth": traces.tolist()}})
    )
    assert json_table.recognises(path)
    with pytest.raises(RecordingError, match=r"raw \(4, 50\), clean/smooth \(50, 4\)"):
        json_table.read(path, Sidecar())
    for name in ("raw", "clean/smooth"):
        np.testing.assert_array_equal(json_table.read(path, Sidecar(variable=name))[0].traces, traces)


def test_missing_values_stay_missing(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([[1, None], [2, 3], [4, 5], [6, 7]]))
    (session,) = json_table.read(tmp_path / "a.json", Sidecar())
    np.testing.assert_array_equal(session.traces, [[1, np.nan], [2, 3], [4, 5], [6, 7]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[[0.0, [1.0, 2.0]], [0.1, [3.", "cut off"),
        ("[" * 100_000, "not valid JSON"),
        ('{"name": "worm"}', "no numeric array"),
        ("[[1, 2], [3]]", "no numeric array"),
        ('[["a", "b"], ["c", "d"]]', "no numeric array"),
    ],
)
def test_what_holds_no_table_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert json_table.recognises(tmp_path / "a.json")
    with pytest.raises(RecordingError, match=words):
        json_table.read(tmp_path / "a.json", Sidecar())


def test_what_is_not_json_is_not_recognised(tmp_path: Path) -> None:
    for content in (b"", b"plain text", b"<html>", b"[section]\nkey=1"):
        (tmp_path / "a.json").write_bytes(content)
        assert not json_table.recognises(tmp_path / "a.json")
