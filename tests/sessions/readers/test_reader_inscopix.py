from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions.readers import inscopix
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

DENOISED = "inscopix_csv_macaque/Time_Series_Quartz_L_2022_12_01_Denoised.csv"
RAW = "inscopix_csv_macaque/Quartz_L_S_2022_10_28_12_11_41_Raw.csv"
SPIKES = "inscopix_csv_macaque/Time_Series_Quartz_L_2022_12_01_Spikes.csv"


def read(path: Path, sidecar: Sidecar = Sidecar()) -> Session:  # noqa: B008 (frozen)
    assert inscopix.recognises(path)
    (session,) = inscopix.read(path, sidecar)
    return session


def test_denoised_traces_agree_with_their_twin(original_dir: Path, twin: Callable[[str], Session]) -> None:
    session = read(original_dir / DENOISED)
    expected = twin("macaque__rhesus_SMA_M1_thebrisklab__Quartz_L_2022_12_01")
    assert session.unit_names == expected.unit_names
    assert session.rate_hz == pytest.approx(expected.rate_hz, rel=1e-6)
    np.testing.assert_allclose(session.time_s, expected.time_s)
    is_missing = np.isnan(session.traces)  # the twin has them repaired
    np.testing.assert_allclose(
        session.traces[~is_missing], expected.traces[~is_missing], rtol=1e-6, atol=1e-30
    )


def test_rejected_cells_are_left_out(original_dir: Path) -> None:
    session = read(original_dir / RAW)
    assert session.num_units == 14
    assert not {"C09", "C12"} & set(session.unit_names)


def test_events_become_a_matrix_on_the_frames_of_the_traces(original_dir: Path) -> None:
    events, denoised = read(original_dir / SPIKES), read(original_dir / DENOISED)
    assert events.unit_names == denoised.unit_names
    assert events.rate_hz == pytest.approx(denoised.rate_hz, rel=1e-3)  # the two clocks differ by as much
    assert events.num_frames / events.rate_hz <= denoised.time_s[-1] + 0.2
    lines = (original_dir / SPIKES).read_text().splitlines()[1:]
    assert events.traces.sum() == pytest.approx(sum(float(line.split(",")[2]) for line in lines), rel=1e-5)
    assert np.count_nonzero(events.traces) == len(lines)
    assert events.traces[351, 0] == pytest.approx(3.32905)  # 35.086889 s, C00


def test_bin_width_of_the_sidecar_is_used(original_dir: Path) -> None:
    session = read(original_dir / SPIKES, Sidecar(bin_s=0.5, columns=("C00", "C02")))
    assert session.rate_hz == 2.0 and session.unit_names == ("C00", "C02")


def test_missing_values_may_be_quoted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"{t / 10},{first},{t}" for t, first in enumerate(["1.5"] * 7 + ['" nan"'] + ["1.5"] * 12)]
    path.write_text("\n".join(['," C00"," C01"', '"Time(s)/Cell Status"," accepted"," accepted"', *rows, ""]))
    session = read(path)
    assert np.flatnonzero(np.isnan(session.traces[:, 0])).tolist() == [7]
    assert session.traces[:, 1].tolist() == list(range(20))


def test_undecided_cells_are_kept_where_none_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        " , C0, C1, C2\nTime (s)/Cell Status, undecided, rejected, undecided\n0,1,2,3\n.1,4,5,6\n.2,7,8,9\n"
    )
    session = read(path)
    assert session.unit_names == ("C0", "C2") and "undecided" in session.metadata["cells_note"]
    assert read(path, Sidecar(columns=("C1",))).traces.tolist() == [[2], [5], [8]]
    path.write_text(path.read_text().replace("undecided", "rejected"))
    with pytest.raises(RecordingError, match="all 3 cells are rejected"):
        read(path)


def test_events_too_few_to_tell_the_rate_are_asked_about(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Time (s), Cell Name, Value\n1.0, C0, 2.0\n7.3, C1, 1.0\n")
    with pytest.raises(RecordingError, match="bin_s"):
        read(tmp_path / "a.csv")


def test_other_tables_are_left_to_others(original_dir: Path) -> None:
    assert not inscopix.recognises(original_dir / "txt_cilva" / "zf1.ca2")
    assert not inscopix.recognises(original_dir / "json_worm_machine" / "time_trace.json")
