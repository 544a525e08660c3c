"""The portable form: what workers share out comes together again, whole or not at all."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save as save_tensors

from forebrain.errors import CheckpointError
from forebrain.training.state import file_of, from_files, joined, name_of_range


def test_elements_that_workers_share_out_come_together_in_the_shape_of_the_whole() -> None:
    whole = {"weight": torch.randn(3, 5), "weight.exp_avg": torch.randn(3, 5), "one": torch.randn(())}
    # The edges cut rows in two, and every worker's files come in any order.
    parts = {
        name_of_range(name, value.shape, start, stop - start): value.flatten()[start:stop]
        for name, value in whole.items()
        for start, stop in ([(7, 11), (0, 7), (11, 15)] if value.ndim else [(0, 1)])
    }
    found = joined({**parts, "weight.step": torch.tensor(3.0)})
    assert found.keys() == {*whole, "weight.step"}
    assert all(found[name].equal(value) for name, value in whole.items())
    for lost in (0, 7, 11):
        left = {name: part for name, part in parts.items() if f"[{lost}:" not in name or "exp" in name}
        with pytest.raises(CheckpointError, match=r"weight: the checkpoint holds elements .* 0 to 15"):
            joined(left)


def test_files_of_one_kind_are_read_together_and_those_of_older_runs_too() -> None:
    rows = torch.randn(4, 2)
    contents = {
        file_of("backbone", 1): save_tensors({"weight[3:4]": rows[3:]}),
        file_of("interfaces", 0): save_tensors({"lab/one:unit": rows}),
        file_of("backbone", 0): save_tensors({"weight[0:3]": rows[:3].clone()}),
    }
    (name,) = from_files("backbone", contents)
    assert name == "weight" and from_files("backbone", contents)[name].equal(rows)
    assert list(from_files("interfaces", contents)) == ["lab/one:unit"]
    assert list(from_files("backbone", {"backbone.safetensors": save_tensors({"bias": rows})})) == ["bias"]
