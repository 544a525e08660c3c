"""Excel workbooks (.xlsx), opened by openpyxl: one sheet is the table; the sidecar's `variable` names it
among several."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._common import check_size
from forebrain.sessions.readers._table import is_header, sessions_of_table
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

_UNPACKED = 4  # bytes of Python objects for a byte of a sheet's XML
_MIN_ROWS = 3


def recognises(path: Path) -> bool:
    if not path.is_file() or path.suffix.lower() == ".npz":
        return False
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except zipfile.BadZipFile:
        return path.suffix.lower() in (".xlsx", ".xlsm")  # `read` says that it is damaged


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads one sheet.

    Raises:
        RecordingError: the workbook is damaged, or no sheet holds a table.
        RecordingQuestion: several do and the sidecar names none.
    """
    import openpyxl
    import pandas as pd

    try:
        with zipfile.ZipFile(path) as archive:
            check_size(_UNPACKED * sum(member.file_size for member in archive.infolist()), path)
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheets = {sheet.title: _rows(sheet) for sheet in book.worksheets}
        book.close()
    except RecordingError:
        raise
    except Exception as error:  # openpyxl raises errors of many kinds on damaged workbooks
        raise RecordingError(
            f"{path}: not readable as an Excel workbook ({type(error).__name__}: {error}). It is damaged; "
            f"copy it again, "
            "or save the sheet as CSV."
        ) from error
    name, rows = _chosen(sheets, path, sidecar)
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows[:20]]
    has_header = is_header(texts[0], texts[1:]) if sidecar.header is None else sidecar.header
    frame = pd.DataFrame(rows[int(has_header) :])
    frame = frame.apply(_as_numbers)
    if has_header:
        frame.columns = [text.strip() for text in texts[0]]
    sessions = sessions_of_table(frame, has_header, path, sidecar)
    return [replace(session, metadata={**session.metadata, "variable": name}) for session in sessions]


def _as_numbers(column: Any) -> Any:
    import pandas as pd

    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column


def _rows(sheet: Any) -> list[list[Any]]:
    """The rows of a sheet that hold anything, without the empty columns to the right."""
    rows = [list(row) for row in sheet.iter_rows(values_only=True)]
    rows = [row for row in rows if any(cell is not None for cell in row)]
    width = max(
        (number + 1 for row in rows for number, cell in enumerate(row) if cell is not None), default=0
    )
    return [row[:width] + [None] * (width - len(row)) for row in rows]


def _chosen(sheets: dict[str, list[list[Any]]], path: Path, sidecar: Sidecar) -> tuple[str, list[list[Any]]]:
    tables = {
        name: rows
        for name, rows in sheets.items()
        if len(rows) >= _MIN_ROWS and sum(isinstance(cell, int | float) for cell in rows[-1]) > 1
    }
    if sidecar.variable is not None and sidecar.variable in sheets and sheets[sidecar.variable]:
        return sidecar.variable, sheets[sidecar.variable]
    if sidecar.variable is not None or len(tables) > 1:
        wanted = (
            f"no sheet is called {sidecar.variable}" if sidecar.variable else "several sheets hold tables"
        )
        raise RecordingQuestion(
            f"{path}: {wanted}: {', '.join(tables or sheets)}. Name one as variable in the sidecar.",
            {"variable": list(tables or sheets)},
        )
    if not tables:
        raise RecordingError(
            f"{path}: no sheet holds a table of numbers; it has {', '.join(sheets) or 'none'}. If cells are "
            f"formulas, "
            "open and save the workbook once, or save the sheet as CSV."
        )
    return next(iter(tables.items()))
