"""Arrays that carry names and times: pandas DataFrames and pynapple TsdFrames, told by what they offer."""

from __future__ import annotations

from typing import Any

import numpy as np

from forebrain.errors import RecordingError


def as_matrix(traces: Any) -> np.ndarray:
    """The values as real numbers [T, N], NaN where there is none.

    Raises:
        RecordingError: it is no table of real numbers.
    """
    values = getattr(traces, "values", traces)
    values = traces if callable(values) else values
    values = unmasked(values)
    if values.dtype.kind not in "fiub":
        raise RecordingError(
            f"the traces hold values of type {values.dtype}; expected real numbers, [frames, units]. Leave "
            "out columns of text or dates, and turn missing values into NaN."
        )
    if values.ndim != 2:
        raise RecordingError(f"the traces have shape {values.shape}; expected two axes, [frames, units].")
    return values


def unmasked(values: Any) -> np.ndarray:
    """The values as an array, NaN where a masked array, such as netCDF4's, hides what it holds."""
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.result_type(values.dtype, np.float32)), np.nan)
    return np.asarray(values)


def column_names(traces: Any) -> list[str] | None:
    """The names that the columns bear; None where they bear none, or are only counted from 0."""
    columns = getattr(traces, "columns", None)
    if columns is None or list(columns) == list(range(len(columns))):
        return None
    return [str(name) for name in columns]


def frame_times(traces: Any) -> np.ndarray | None:
    """float64 [T], seconds from the first frame on; None where nothing tells them for sure.

    A TsdFrame has them in seconds. Of a DataFrame an index of dates or time differences does; one of numbers
    might count frames, so it is passed over.
    """
    if hasattr(traces, "t") and hasattr(traces, "time_support"):
        return np.asarray(traces.t, np.float64)
    index: Any = getattr(traces, "index", ())
    if getattr(index, "tz", None) is not None:
        index = index.tz_convert(None)
    index = np.asarray(index)
    if index.dtype.kind not in "mM" or not len(index):
        return None
    return (index - index[0]) / np.timedelta64(1, "s")
