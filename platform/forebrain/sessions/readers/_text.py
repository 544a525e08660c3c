"""Tables in text files: how they are written, found by looking at their first lines."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import check_size

if TYPE_CHECKING:
    import pandas as pd

_HEAD_BYTES = 8 << 20  # two rows of 70,000 units and more
_NUM_LOOKED_AT = 20
_COMMENTS = ("#", "%")
_OTHER_TEXT = ("<", "{", "[", "version https://git-lfs")  # HTML, JSON, a pointer to a file stored elsewhere


@dataclass(frozen=True)
class TextTable:
    """How a table is written.

    Attributes:
        path: the file.
        encoding: of its text.
        delimiter: one character, or a space for any run of white space.
        decimal: `.` or `,`.
        num_skipped: comment and empty lines before the table.
        rows: the fields of its first rows, stripped.
    """

    path: Path
    encoding: str
    delimiter: str
    decimal: str
    num_skipped: int
    rows: tuple[tuple[str, ...], ...]

    def load(self, num_header_rows: int) -> pd.DataFrame:
        """All rows after the header; columns are numbered, and hold text only where they are not numeric.

        Raises:
            RecordingError: rows have different lengths.
        """
        import pandas as pd

        check_size(self.path.stat().st_size, self.path)
        width = len(self.rows[-1])
        for number, row in enumerate(self.rows[num_header_rows:], start=num_header_rows + 1):
            if len(row) != width:
                raise RecordingError(f"{self.path}: row {number} has {len(row)} fields, others have {width}.")
        try:
            return pd.read_csv(
                self.path,
                sep=r"\s+" if self.delimiter == " " else self.delimiter,
                decimal=self.decimal,
                encoding=self.encoding,
                header=None,
                names=range(width),
                skiprows=self.num_skipped + num_header_rows,
                skipinitialspace=True,
                low_memory=False,
            )
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise RecordingError(f"{self.path}: not a table ({str(error).strip()}).") from error


def look_at(path: Path) -> TextTable | None:
    """How the table in a file is written; None if the file is no text or no table of at least two rows."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
        if stream.read(1):
            head = head[: head.rfind(b"\n") + 1]
    encoding = _encoding(head)
    if encoding is None:
        return None
    lines = head.decode(encoding).splitlines()
    is_content = [bool(line.strip()) and not line.lstrip().startswith(_COMMENTS) for line in lines]
    if not any(is_content):
        return None
    num_skipped = is_content.index(True)
    lines = [line for line in lines[num_skipped:] if line.strip()][:_NUM_LOOKED_AT]
    if len(lines) < 2 or lines[0].lstrip().startswith(_OTHER_TEXT):
        return None
    delimiter = _delimiter(lines)
    rows = tuple(_fields(line, delimiter) for line in lines)
    decimal = "." if delimiter == "," or any(is_number(field) and "." in field for field in rows[-1]) else ","
    if not any(is_number(field.replace(decimal, ".")) for row in rows for field in row):
        return None
    return TextTable(path, encoding, delimiter, decimal, num_skipped, rows)


def is_number(field: str) -> bool:
    """Whether Python takes a field for a number, `nan` among them."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def _encoding(head: bytes) -> str | None:
    if b"\0" in head:
        return None
    for encoding in ("utf-8-sig", "cp1252"):  # Excel writes the second
        try:
            head.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return None


def _delimiter(lines: list[str]) -> str:
    """The first delimiter that cuts all lines into the same number of fields."""
    for delimiter in (";", "\t", ",", " "):  # commas last of the three: they may be decimal
        widths = {len(_fields(line, delimiter)) for line in lines}
        if len(widths) == 1 and widths != {1}:
            return delimiter
    return "," if "," in lines[-1] else " "


def _fields(line: str, delimiter: str) -> tuple[str, ...]:
    if delimiter == " ":
        return tuple(next(csv.reader([" ".join(line.split())], delimiter=" ")))
    return tuple(field.strip() for field in next(csv.reader([line], delimiter=delimiter)))
