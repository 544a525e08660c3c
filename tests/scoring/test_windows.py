from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebrain.scoring.window_source import ArrayWindows, choose_windows


@given(st.integers(0, 5000), st.integers(1, 300), st.integers(0, 5))
def test_one_window_is_chosen_from_each_equal_stretch_of_time(num: int, limit: int, seed: int) -> None:
    chosen = choose_windows("a", num, limit, seed)
    assert len(chosen) == min(num, limit)
    if num > limit:
        edges = np.arange(limit + 1) * num // limit
        assert ((edges[:-1] <= chosen) & (chosen < edges[1:])).all()
    else:
        assert (chosen == np.arange(num)).all()


def test_the_choice_depends_on_seed_and_session() -> None:
    first = choose_windows("a", 5000, 100, 0)
    assert (choose_windows("a", 5000, 100, 0) == first).all()
    assert (choose_windows("b", 5000, 100, 0) != first).any()
    assert (choose_windows("a", 5000, 100, 1) != first).any()
    assert len(choose_windows("a", 5000, None, 0)) == 5000


@pytest.mark.parametrize("protocol", ["chronological", "poco"])
def test_array_windows_are_normalised_stretches_of_their_part(walk, protocol: str) -> None:
    session = walk(0, num_frames=400)
    source = ArrayWindows([session], protocol, context=12, horizon=4)
    fitted = session.frames(0, 400 if protocol == "poco" else 240)
    scaled = (session.frames(0, 400) - fitted.mean(0)) / fitted.std(0)
    for part, start, stop in (("train", 0, 240), ("validation", 240, 320), ("test", 320, 400)):
        count = source.num_windows(0, part)
        assert count == stop - start - 16 + 1 - (protocol == "poco")
        context, target, starts = source.read(0, part, np.array([0, count - 1]))
        assert starts[0] == start and starts[1] + 16 <= stop
        for row, first in enumerate(starts):
            window = np.concatenate([context[row], target[row]])
            np.testing.assert_allclose(window, scaled[first : first + 16], atol=1e-5)
    np.testing.assert_allclose(source.training_mean(0), scaled[:240].mean(0), atol=1e-5)


def test_a_unit_that_never_moves_in_training_is_not_divided_by_zero(walk) -> None:
    session = walk(0)
    session.traces[:, 0] = 3.0
    source = ArrayWindows([session], "chronological", 12, 4)
    context, _, _ = source.read(0, "test", np.arange(3))
    assert (context[..., 0] == 0).all()
