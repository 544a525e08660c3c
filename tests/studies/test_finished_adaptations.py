"""An adaptation of many is taken for finished only where it is whole, and of this recording."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebrain.adaptation.artifact import EVALUATION, INTERFACE, RECORD, RESULT
from forebrain.errors import ConfigError, StudyError
from forebrain.sealed import sealed
from forebrain.studies.many_adaptations import OF, _finished, _require_same
from forebrain_registry.storage import Folder


@pytest.mark.parametrize("lost", [RECORD, EVALUATION, RESULT, INTERFACE])
def test_one_that_has_lost_a_file_is_made_again(tmp_path: Path, lost: str) -> None:
    for name in (INTERFACE, EVALUATION):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / RECORD).write_bytes(sealed({"files": {INTERFACE: "11"}}))
    (tmp_path / RESULT).write_bytes(sealed({"interval": [0.1, 0.2]}))
    assert _finished(Folder(tmp_path)) == {"interval": [0.1, 0.2]}
    (tmp_path / lost).unlink()
    assert _finished(Folder(tmp_path)) is None


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
