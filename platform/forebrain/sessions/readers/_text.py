"""Tables in text files: how they are written, found by looking at their first lines."""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._common import check_size
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import pandas as pd

_HEAD_BYTES = 8 << 20  # two rows of 70,000 units and more
_NUM_LOOKED_AT = 20
_NUM_JUDGED = 400  # rows in which decimal signs are told
_COMMENTS = ("#", "%")
_OTHER_TEXT = ("<", "{", "[", "version https://git-lfs")  # HTML, JSON, a pointer to a file stored elsewhere
_SEPARATOR_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # how Excel is told the delimiter
_OTHER_SIGN = {".": ",", ",": "."}
_has_digit = re.compile(r"\d").search
_QUOTED_MISSING = (" nan", " NaN", " ")  # white space within quotes is not skipped


@dataclass(frozen=True)
class TextTable:
    """How a table is written.

    Attributes:
        path: the file.
        encoding: of its text.
        delimiter: one character, or a space for any run of white space.
        decimal: `.` or `,`.
        thousands: what parts thousands, None for nothing.
        is_ambiguous: whether `decimal` may as well part thousands.
        num_skipped: comment and empty lines before the table, and a line that states the delimiter.
        rows: the fields of its first rows, stripped.
    """

    path: Path
    encoding: str
    delimiter: str
    decimal: str
    thousands: str | None
    is_ambiguous: bool
    num_skipped: int
    rows: tuple[tuple[str, ...], ...]

    def load(self, num_header_rows: int, sidecar: Sidecar) -> pd.DataFrame:
        """All rows after the header; columns are numbered, and hold text only where they are not numeric.

        Raises:
            RecordingError: rows have different lengths.
            RecordingQuestion: points or commas may begin decimals or part thousands.
        """
        import pandas as pd

        check_size(self.path.stat().st_size, self.path)
        width = len(self.rows[-1])
        for number, row in enumerate(self.rows[num_header_rows:], start=num_header_rows + 1):
            if len(row) != width:
                raise RecordingError(f"{self.path}: row {number} has {len(row)} fields, others have {width}.")
        decimal, thousands = self.signs(sidecar)
        try:
            frame = pd.read_csv(
                self.path,
                sep=r"\s+" if self.delimiter == " " else self.delimiter,
                decimal=decimal,
                thousands=thousands,
                encoding=self.encoding,
                header=None,
                names=range(width),
                skiprows=self.num_skipped + num_header_rows,
                skipinitialspace=True,
                na_values=_QUOTED_MISSING,
                low_memory=False,
            )
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise RecordingError(f"{self.path}: not a table ({str(error).strip()}).") from error
        self._refuse_short_rows(np.flatnonzero(frame.iloc[:, -1].isna()), num_header_rows, width)
        self._refuse_cut_number(num_header_rows, decimal)
        return frame

    def _refuse_short_rows(self, suspects: np.ndarray, num_header_rows: int, width: int) -> None:
        """Raises RecordingError where a row, of those without a last value, has too few fields, as cut files
        do."""
        if not suspects.size:
            return
        wanted = set(suspects.tolist())
        for number, line in enumerate(self._lines(num_header_rows)):
            if number in wanted and len(_fields(line, self.delimiter)) < width:
                raise RecordingError(
                    f"{self.path}: row {number + num_header_rows + 1} has "
                    f"{len(_fields(line, self.delimiter))} "
                    f"fields, others have {width}. The file may be cut off; copy it again."
                )

    def _refuse_cut_number(self, num_header_rows: int, decimal: str) -> None:
        """Raises RecordingError where the file ends within its last number, as cut files do: without a line
        end, and with fewer characters behind the decimal sign than any other row has there. Many editors
        write no last line end, and of N rows the last has the fewest by chance once in N files or fewer; a
        handful is not judged."""
        with self.path.open("rb") as stream:
            stream.seek(-2, os.SEEK_END)
            if stream.read().strip(b"\0").endswith((b"\n", b"\r")):
                return
        lines = self._lines(num_header_rows)
        separator = None if self.delimiter == " " else self.delimiter
        *others, last = (line.rsplit(separator, 1)[-1].strip() for line in lines)
        numbers = [field for field in others if _has_digit(field)]
        is_whole = last in others or bool(last and not _has_digit(last))  # such as nan
        if is_whole or len(numbers) < _NUM_LOOKED_AT:
            return
        fewest = min(len(field.partition(decimal)[2]) for field in numbers)
        if len(last.partition(decimal)[2]) < fewest:
            raise RecordingError(
                f"{self.path}: ends with {last!r}, without a line end; in the same column of all other rows "
                f"{fewest} characters or more follow {decimal!r}. The file may be cut off: copy it again, or "
                "end it with a line end if it is whole."
            )

    def _lines(self, num_header_rows: int) -> Iterator[str]:
        """The lines after the header that are not empty, without their ends."""
        with self.path.open(encoding=self.encoding, newline="") as stream:
            lines = (line.strip("\r\n") for line in itertools.islice(stream, self.num_skipped, None))
            yield from itertools.islice((line for line in lines if line.strip()), num_header_rows, None)

    def signs(self, sidecar: Sidecar) -> tuple[str, str | None]:
        """The sign that begins decimals and the one that parts thousands.

        Raises:
            RecordingQuestion: numbers such as 1.449 beside 872 leave it open.
        """
        if sidecar.decimal is not None:
            other = _OTHER_SIGN[sidecar.decimal]
            return sidecar.decimal, None if other == self.delimiter else other
        if self.is_ambiguous:
            sign = self.decimal
            example = next(
                field for row in self.rows for field in row if sign in field and is_number(plain(field, sign))
            )
            raise RecordingQuestion(
                f"{self.path}: numbers such as {example} may have three decimals or be thousands parted by "
                f"{sign!r}. "
                f"State decimal: '{sign}' in the sidecar if {example} is {plain(example, sign)}, or decimal: "
                f"'{_OTHER_SIGN[sign]}' if it is {example.replace(sign, '')}.",
                {"decimal": [sign, _OTHER_SIGN[sign]]},
            )
        return self.decimal, self.thousands


def look_at(path: Path) -> TextTable | None:
    """How the table in a file is written; None if the file is no text or no table of at least two rows."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
        is_cut = bool(stream.read(1))
    encoding = _encoding(head, is_cut)
    if encoding is None:
        return None
    text = (
        head[: len(head) // 2 * 2].decode(encoding, "ignore")
        if "16" in encoding
        else head.decode(encoding, "ignore")
    )
    lines = text.splitlines()[: -1 if is_cut else None]
    stated = _SEPARATOR_LINE.fullmatch(lines[0]) if lines else None
    is_content = [bool(line.strip()) and not line.lstrip().startswith(_COMMENTS) for line in lines]
    if stated:
        is_content[0] = False
    if not any(is_content):
        return None
    num_skipped = is_content.index(True)
    judged = [line for line in lines[num_skipped:] if line.strip()][:_NUM_JUDGED]
    lines = judged[:_NUM_LOOKED_AT]
    if len(lines) < 2 or lines[0].lstrip().startswith(_OTHER_TEXT):
        return None
    delimiter = stated[1] if stated else _delimiter(lines)
    rows = tuple(_fields(line, delimiter) for line in lines)
    decimal, thousands, is_ambiguous = _signs([_fields(line, delimiter) for line in judged], delimiter)
    if not any(is_number(plain(field, decimal, thousands)) for row in rows for field in row):
        return None
    return TextTable(path, encoding, delimiter, decimal, thousands, is_ambiguous, num_skipped, rows)


def is_number(field: str) -> bool:
    """Whether a field is a number as tables write it, `nan` among them; 1_000 is none."""
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field


def plain(field: str, decimal: str, thousands: str | None = None) -> str:
    """A field as Python writes numbers."""
    return (field.replace(thousands, "") if thousands else field).replace(decimal, ".")


def _encoding(head: bytes, is_cut: bool) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in head:
        # Text of Western letters in UTF-16 has a zero in every other byte.
        for encoding, zeros, letters in (
            ("utf-16-le", head[1::2], head[::2]),
            ("utf-16-be", head[::2], head[1::2]),
        ):
            if len(zeros) > 8 and zeros.count(0) > 0.9 * len(zeros) and letters.count(0) == 0:
                return encoding
        return None
    for encoding in ("utf-8-sig", "cp1252"):  # Excel writes the second
        try:
            head.decode(encoding)
        except UnicodeDecodeError as error:
            if is_cut and encoding == "utf-8-sig" and error.start > len(head) - 4:
                return encoding  # a letter of several bytes was cut
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


def _signs(rows: list[tuple[str, ...]], delimiter: str) -> tuple[str, str | None, bool]:
    """The sign that begins decimals, the one that parts thousands, and whether the first may as well be
    the second."""
    numbers = [
        field
        for row in rows
        for field in row
        if re.fullmatch(r"[-+]?[\d.,]*\d[\d.,]*(?:[eE][-+]?\d+)?", field)
    ]
    both = [field for field in numbers if "." in field and "," in field]
    if both:
        decimal = max(".,", key=both[0].rfind)
        return decimal, _OTHER_SIGN[decimal], False
    signs = [sign for sign in ".," if any(sign in field for field in numbers)]
    if len(signs) != 1:
        return ".", None, False  # no sign, or points in some fields and, in quotes, commas in others
    sign = signs[0]
    signed = [field for field in numbers if sign in field]
    if all(re.fullmatch(rf"[-+]?[1-9]\d{{0,2}}(?:\{sign}\d{{3}})+", field) for field in signed):
        if any(field.count(sign) > 1 for field in signed):
            return _OTHER_SIGN[sign], sign, False
        if (sign == "," or delimiter != ",") and _is_mixed(rows, sign, delimiter):
            return sign, None, True
    return sign, None, False


def _is_mixed(rows: list[tuple[str, ...]], sign: str, delimiter: str) -> bool:
    """Whether some column has whole numbers below 1,000 beside ones with a sign, as counts with parted
    thousands do.

    Behind semicolons, which European programs write, a sign in every number is as open.
    """
    is_open = delimiter == ";"
    for column in zip(*(row for row in rows if len(row) == len(rows[-1])), strict=False):
        fields = [field for field in column if field and is_number(plain(field, sign))]
        signed = [sign in field for field in fields]
        if any(signed) and (is_open or not all(signed)):
            return True
    return False


def _fields(line: str, delimiter: str) -> tuple[str, ...]:
    if delimiter == " ":
        return tuple(next(csv.reader([" ".join(line.split())], delimiter=" ")))
    return tuple(field.strip() for field in next(csv.reader([line], delimiter=delimiter)))
