"""Packed numbers: the CF conventions of netCDF and xarray, as xarray decodes them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

_KEYS = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")


def packing_of(attrs: Mapping[str, Any], dtype: np.dtype, fill_value: Any = None) -> dict[str, Any]:
    """The attributes that say how an array is packed; empty where its numbers are what they seem.

    Args:
        attrs: of the array.
        dtype: of the stored numbers.
        fill_value: of the format, where that means a missing value.
    """
    found = {}
    for key in _KEYS:
        if key not in attrs:
            continue
        value = attrs[key]
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, np.ndarray | list) and np.size(value) == 1:
            value = np.ravel(value)[0]
        if key == "_FillValue" and isinstance(value, str):
            value = _decoded_fill_value(value, dtype)
        found[key] = value
    if fill_value is not None and "_FillValue" not in found:
        found["_FillValue"] = fill_value
    if dtype.kind == "f" and found.keys() == {"_FillValue"} and np.isnan(found["_FillValue"]):
        return {}
    for key in ("_FillValue", "missing_value"):
        if key in found and not isinstance(found[key], np.ndarray):
            with np.errstate(over="ignore", invalid="ignore"):
                found[key] = dtype.type(found[key])
    return found


def unpacked(values: np.ndarray, packing: Mapping[str, Any]) -> np.ndarray:
    """Stored numbers as what they mean: scaled, shifted, NaN where missing; float."""
    if not packing:
        return values
    import xarray

    dims = [f"axis{number}" for number in range(values.ndim)]
    variable = xarray.Variable(dims, values, dict(packing))
    decoded = xarray.conventions.decode_cf_variable(
        "traces",
        variable,
        decode_times=False,
        decode_timedelta=False,
        concat_characters=False,
        stack_char_dim=False,
    )
    return np.asarray(decoded.values)


@functools.cache
def _decoded_fill_value(text: str, dtype: np.dtype) -> Any:
    """The `_FillValue` that xarray writes into zarr of format 3, where JSON has no such number."""
    from xarray.backends.zarr import FillValueCoder

    return FillValueCoder.decode(text, dtype)
