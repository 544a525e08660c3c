from __future__ import annotations

from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
from writing import assert_values, read_one

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers import find_recordings, reader_name


def test_one_sheet_of_numbers_is_read_beside_one_of_words(tmp_path: Path, calcium: np.ndarray) -> None:
    book = openpyxl.Workbook()
    book.active.title = "notes"
    for line in ("mouse 7", "cortex", "30 min"):
        book.active.append([line])
    sheet = book.create_sheet("dff")
    for row in calcium.tolist():
        sheet.append(row)
    book.save(tmp_path / "a.xlsx")
    assert reader_name(tmp_path / "a.xlsx") == "excel"
    session = read_one(tmp_path / "a.xlsx")
    assert_values(session, calcium)
    assert session.metadata["variable"] == "dff"


def test_several_sheets_are_asked_about(tmp_path: Path, calcium: np.ndarray) -> None:
    with pd.ExcelWriter(tmp_path / "a.xlsx") as writer:
        pd.DataFrame(calcium).to_excel(writer, sheet_name="day 1", index=False)
        pd.DataFrame(calcium + 1).to_excel(writer, sheet_name="day 2", index=False)
    with pytest.raises(RecordingQuestion) as caught:
        read_one(tmp_path / "a.xlsx")
    assert caught.value.choices == {"variable": ["day 1", "day 2"]}
    assert_values(read_one(tmp_path / "a.xlsx", variable="day 2"), calcium + 1)


def test_an_empty_cell_is_a_missing_value(tmp_path: Path, calcium: np.ndarray) -> None:
    values = calcium.copy()
    values[5, 2] = np.nan
    pd.DataFrame(values, columns=list("abcdef")).to_excel(tmp_path / "a.xlsx", index=False)
    assert_values(read_one(tmp_path / "a.xlsx"), values)


def test_a_damaged_workbook_and_one_of_words_are_refused(tmp_path: Path, calcium: np.ndarray) -> None:
    pd.DataFrame(calcium).to_excel(tmp_path / "a.xlsx", index=False)
    whole = (tmp_path / "a.xlsx").read_bytes()
    (tmp_path / "a.xlsx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match="damaged"):
        read_one(tmp_path / "a.xlsx")
    pd.DataFrame({"name": ["a", "b", "c", "d"]}).to_excel(tmp_path / "b.xlsx", index=False)
    with pytest.raises(RecordingError, match="no sheet holds a table of numbers"):
        read_one(tmp_path / "b.xlsx")


def test_workbooks_are_found_in_folders(tmp_path: Path, calcium: np.ndarray) -> None:
    pd.DataFrame(calcium).to_excel(tmp_path / "a.xlsx", index=False)
    assert [Path(path).name for path in find_recordings([tmp_path])] == ["a.xlsx"]
