"""Settings of the system's allocator, which PyTorch leaves memory to."""

from __future__ import annotations

import torch

# The most that makes a difference is 32 MiB with what glibc puts in front of it.
_BYTES = 2**25 - 2**16


def keep_freed_memory() -> None:
    """Makes glibc keep the memory of wide results for the next ones.

    Until it has seen a large block freed it may give theirs back to the system whenever they go; the next
    ones then fault it in again, page by page, for up to a third of their time.
    """
    torch.empty(_BYTES, dtype=torch.uint8)
