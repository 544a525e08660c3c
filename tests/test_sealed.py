"""A sealed record is what was written, or an error."""

from __future__ import annotations

import contextlib
import json

import pytest

from forebrain.sealed import SEAL, sealed, unsealed

RECORD = {"score": 0.1 + 0.2, "none": None, "by_step": {3: [1, 2.5e-300], 12: []}, "name": "Würmer"}


def test_a_record_comes_back_as_json_has_it() -> None:
    assert unsealed(sealed(RECORD)) == json.loads(json.dumps(RECORD))
    assert unsealed(sealed(RECORD, indent=None)) == unsealed(sealed(RECORD))
    assert unsealed(b'{"score": 1}') == {"score": 1}  # of before there were seals


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_gives_another_record(bit: int) -> None:
    data = sealed(RECORD)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << bit
        if f'"{SEAL}"'.encode() not in damaged:
            continue  # without its seal it is one of before there were seals
        with contextlib.suppress(ValueError):
            assert unsealed(bytes(damaged)) == unsealed(data)  # a space that became a tab


@pytest.mark.parametrize("data", [b"", b"[]", b"3", b"[" * 3000, sealed(RECORD)[:-9], b"\xff"])
def test_what_is_no_record_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        unsealed(data)
