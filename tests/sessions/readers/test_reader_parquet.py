from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from writing import assert_values, read_one

from forebrain.errors import RecordingError
from forebrain.sessions.readers import reader_name


def test_the_index_of_a_frame_may_be_its_times(tmp_path: Path, calcium: np.ndarray) -> None:
    index = pd.Index(np.arange(200) / 20, name="time (s)")
    pd.DataFrame(calcium, index=index, columns=list("abcdef")).to_parquet(tmp_path / "a.parquet")
    assert reader_name(tmp_path / "a.parquet") == "parquet"
    session = read_one(tmp_path / "a.parquet")
    assert_values(session, calcium)
    assert session.rate_hz == pytest.approx(20)


@pytest.mark.parametrize("name", ["a.parquet", "a.feather"])
def test_a_damaged_table_is_refused(tmp_path: Path, calcium: np.ndarray, name: str) -> None:
    frame = pd.DataFrame(calcium, columns=list("abcdef"))
    (frame.to_parquet if name == "a.parquet" else frame.to_feather)(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match="damaged"):
        read_one(tmp_path / name)
