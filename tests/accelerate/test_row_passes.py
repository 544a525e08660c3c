"""Rows hold no more memory the longer they pass. What they compute is tested in test_poco."""

from __future__ import annotations

import pytest
import torch

from forebrain.accelerate import row_passes
from forebrain.accelerate.row_head import RowHead
from forebrain.accelerate.row_passes import SessionRows
from forebrain.models.base import SessionTarget
from forebrain.models.poco import Poco, PocoConfig


def test_what_is_held_from_call_to_call_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_passes, "CPU_BLOCK_ROWS", 16)
    monkeypatch.setattr(row_passes._OF_THREAD, "buffers", row_passes._Buffers())
    model = Poco(PocoConfig(width=16, film_width=32))
    held = []
    for batch, units in ((1, 16), (9, 13), (1, 100), (40, 1)):
        rows = SessionRows(
            torch.randn(units, 16), torch.rand(batch, 8, units), torch.randn(batch, 8, 16),
            torch.randn(batch, 48, units),
        )  # fmt: skip
        head = RowHead([rows], model._row_head_weights(), 0.2, torch.float32)
        head.error([SessionTarget(torch.randn(batch, 16, units), torch.ones(batch, 1, units))]).backward()
        head.forecast()
        held.append(sum(each.numel() for each in row_passes._OF_THREAD.buffers._held.values()))
    assert held == held[:1] * 4


def test_views_of_it_are_few_and_of_what_is_held() -> None:
    buffers = row_passes._Buffers()
    for num_rows in [*range(1, 3 * row_passes.MOST_VIEWS), 5]:
        taken = buffers.take("gate", num_rows, 8, torch.float32, torch.device("cpu"))
        again = buffers.take("gate", num_rows, 8, torch.float32, torch.device("cpu"))
        (held,) = buffers._held.values()
        assert taken.shape == (num_rows, 8)
        assert taken.data_ptr() == again.data_ptr() == held.data_ptr()
        assert len(buffers._taken) <= row_passes.MOST_VIEWS + 1
