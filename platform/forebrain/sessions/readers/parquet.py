"""Parquet and Feather tables, opened by pyarrow through pandas; what columns are is told in `_table`."""

from __future__ import annotations

from pathlib import Path

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import check_size
from forebrain.sessions.readers._table import sessions_of_table
from forebrain.sessions.readers._text import is_number
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

_PARQUET, _FEATHER = b"PAR1", b"ARROW1"


def recognises(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(6).startswith((_PARQUET, _FEATHER))


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads a table.

    Raises:
        RecordingError: it is damaged, or holds no units.
        RecordingQuestion: what its columns mean cannot be told.
    """
    import pandas as pd
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as stream:
            is_parquet = stream.read(4) == _PARQUET
        if is_parquet:
            metadata = pyarrow.parquet.read_metadata(path)
            check_size(8 * metadata.num_rows * metadata.num_columns, path)
            frame = pd.read_parquet(path, engine="pyarrow")
        else:
            frame = pd.read_feather(path)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        kind = "Parquet" if path.suffix.lower() != ".feather" else "Feather"
        raise RecordingError(
            f"{path}: not readable as {kind} ({type(error).__name__}: {str(error).strip()[:200]}). It is "
            f"damaged; copy "
            "it again."
        ) from error
    if frame.index.name:
        frame = frame.reset_index()
    frame.columns = [str(name) for name in frame.columns]
    counted = [str(number) for number in range(frame.shape[1])]
    has_header = not (all(is_number(name) for name in frame.columns) and list(frame.columns) == counted)
    return sessions_of_table(frame, has_header, path, sidecar)
