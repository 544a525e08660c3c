"""A random permutation of [0, n) that can be evaluated at any place: no list, no state, only a key.

A four-round Feistel network permutes the next power of four; values that fall outside [0, n) are passed
through it again until they fall inside (cycle walking; at most four expected rounds).
"""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 4
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY = np.uint64(0xD6E8FEB86659FD93)


def key_of(*parts: object) -> np.ndarray:
    """Round keys [4] uint64 from anything that has a stable text, for example (seed, session id, epoch)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8 * _ROUNDS).digest()
    return np.frombuffer(digest, dtype="<u8")


def permute(places: np.ndarray, length: int, keys: np.ndarray) -> np.ndarray:
    """The permutation's values at `places`.

    Args:
        places: int64 [B], each in [0, length).
        length: size of the permuted range.
        keys: uint64 [4] for all places, or [B, 4], one row for each.

    Returns:
        int64 [B], each in [0, length).
    """
    half_bits = max(1, (int(length - 1).bit_length() + 1) // 2)
    keys = np.broadcast_to(keys, (len(places), _ROUNDS))
    values = places.astype(np.uint64)
    outside = np.arange(len(places))
    while outside.size:
        values[outside] = _feistel(values[outside], half_bits, keys[outside])
        outside = outside[values[outside] >= length]
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half_bits: int, keys: np.ndarray) -> np.ndarray:
    shift = np.uint64(half_bits)
    mask = np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for round_index in range(_ROUNDS):
        left, right = right, left ^ (_mix(right + keys[:, round_index]) & mask)
    return (left << shift) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """uint64 [B], of which overflow is meant, and which numpy says nothing of in arrays."""
    values = (values + _MIX) * _MULTIPLY
    values = (values ^ (values >> np.uint64(32))) * _MULTIPLY
    return values ^ (values >> np.uint64(32))
