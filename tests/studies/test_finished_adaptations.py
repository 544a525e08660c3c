"""An adaptation of many is taken for finished only where it is whole, and of this recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forebrain.adaptation.artifact import EVALUATION, INTERFACE, RECORD, RESULT
from forebrain.errors import ConfigError, StudyError
from forebrain.sealed import sealed
from forebrain.sessions.session import session_key
from forebrain.studies.many_adaptations import (
    OF,
    ManyConfig,
    _finished,
    _of_other_recordings,
    _require_same,
    _row,
    _text,
)
from forebrain_registry.storage import Folder

FINISHED = {
    "interval": [0.1, 0.2], "score": 0.15, "baselines": {"linear": 0.1, "ridge": 0.1, "self": None},
    "others": {}, "seconds": 3.0, "leak": False,
}  # fmt: skip


def leave(folder: Path, result: dict[str, Any]) -> None:
    for name in (INTERFACE, EVALUATION):
        (folder / name).write_bytes(b"{}")
    (folder / RECORD).write_bytes(sealed({"files": {INTERFACE: "11"}}))
    (folder / RESULT).write_text(json.dumps(result))  # as one of before there were seals


@pytest.mark.parametrize("lost", [RECORD, EVALUATION, RESULT, INTERFACE])
def test_one_that_has_lost_a_file_is_made_again(tmp_path: Path, lost: str) -> None:
    leave(tmp_path, FINISHED)
    assert _finished(Folder(tmp_path)) == FINISHED
    (tmp_path / lost).unlink()
    assert _finished(Folder(tmp_path)) is None


def test_one_with_the_result_of_another_is_made_again(tmp_path: Path) -> None:
    leave(tmp_path, {**FINISHED, "adaptation_sha256": "12"})
    assert _finished(Folder(tmp_path)) is None


@pytest.mark.parametrize("name", FINISHED)
@pytest.mark.parametrize("wrong", ["text", [], {}, 3, None])
def test_one_whose_result_was_edited_is_a_row_of_the_table_or_made_again(
    tmp_path: Path, name: str, wrong: Any
) -> None:
    leave(tmp_path, {**FINISHED, name: wrong})
    result = _finished(Folder(tmp_path))
    is_right = name == "leak" or (name in ("score", "seconds") and wrong in (3, None))
    is_right |= name in ("baselines", "others") and wrong == {}
    assert (result is not None) == is_right
    if result is not None:
        assert [_text(cell) for cell in _row("a.npz", "lab/a/1", "finished", result).values()]


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b"[" * 100_000])
def test_a_damaged_hash_of_its_recording_is_not_taken_for_the_right_one(
    tmp_path: Path, content: bytes
) -> None:
    _require_same(Folder(tmp_path), "11", "lab/a/1")  # of an earlier version
    (tmp_path / OF).write_bytes(b'{"sha256": "12"}')
    with pytest.raises(ConfigError, match="another recording called lab/a/1"):
        _require_same(Folder(tmp_path), "11", "lab/a/1")
    (tmp_path / OF).write_bytes(content)
    with pytest.raises(StudyError, match=f"{OF}: damaged"):
        _require_same(Folder(tmp_path), "11", "lab/a/1")


def test_rows_of_recordings_that_are_not_given_now_stay_in_the_table(tmp_path: Path) -> None:
    out = Folder(tmp_path)
    assert not _of_other_recordings(out, [])
    rows = [_row(f"{name}.npz", f"lab/{name}/1", "adapted", FINISHED) for name in "abc"]
    out.write("table.json", json.dumps([*rows, _row("d.npz", "", "failed")]).encode())
    for name in "ab":
        folder = tmp_path / session_key(f"lab/{name}/1")
        folder.mkdir()
        leave(folder, FINISHED)
    moved = _row("elsewhere/a.npz", "lab/a/1", "finished", FINISHED)
    assert _of_other_recordings(out, [moved]) == [rows[1]]  # the folder of c was removed
    assert not _of_other_recordings(out, rows)
    out.write("table.json", b"[{}]")
    assert not _of_other_recordings(out, [])


@pytest.mark.parametrize("given", [{"minutes": 0.0}, {"minutes": float("nan")}, {"rate_hz": -1.0}])
def test_what_fits_no_recording_is_refused_before_a_folder_is_claimed(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected a positive number"):
        ManyConfig("worms", ["a.npz", "b.npz"], "out", **given)
