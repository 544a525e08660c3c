"""Arrays that carry names and times: of pandas, xarray and pynapple, told by what they offer."""

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


def column_names(values: Any) -> list[str] | None:
    """The names that the values along the last axis bear: the columns of a DataFrame or TsdFrame, the index
    of a Series, the coordinate of an xarray DataArray; None where they bear none, or are only counted from
    0."""
    labels = getattr(values, "columns", None)
    if labels is None and getattr(values, "ndim", None):
        indexes = getattr(values, "indexes", None)  # of an xarray DataArray
        labels = getattr(values, "index", None) if indexes is None else indexes.get(values.dims[-1])
    if labels is None or callable(labels) or list(labels) == list(range(len(labels))):
        return None
    return [str(name) for name in labels]


def with_names(values: Any) -> tuple[np.ndarray, list[str] | None]:
    """An array and the names of its values along the last axis; of a mapping the values by name.

    Raises:
        ValueError, TypeError: no array can be made of it.
    """
    names = column_names(values)
    is_table = hasattr(values, "columns")  # whose columns may be each of a type of its own
    if hasattr(values, "keys") and not hasattr(values, "dtype") and (names is not None or not is_table):
        columns = [unmasked(values[name]) for name in values.keys()]  # noqa: SIM118
        return np.stack(columns, axis=-1), [str(name) for name in values.keys()]  # noqa: SIM118
    return unmasked(values), names


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
