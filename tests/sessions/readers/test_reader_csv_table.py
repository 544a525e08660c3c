from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers import csv_table
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

NAMES = ["AVAL", "AVAR", "RIML", "RIMR"]


@pytest.fixture
def table(traces: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(traces, columns=NAMES)


def read(path: Path, sidecar: Sidecar = Sidecar()) -> Session:  # noqa: B008 (frozen)
    assert csv_table.recognises(path)
    (session,) = csv_table.read(path, sidecar)
    return session


@pytest.mark.parametrize(
    "options",
    [
        {"index": False},
        {"index": True},
        {"index": False, "sep": "\t"},
        {"index": False, "sep": ";", "decimal": ","},
        {"index": False, "sep": " "},
        {"index": True, "index_label": "frame"},
        {"index": False, "lineterminator": "\r\n"},
        {"index": False, "encoding": "utf-8-sig"},
    ],
)
def test_named_columns_are_units(tmp_path: Path, table: pd.DataFrame, options: dict[str, object]) -> None:
    path = tmp_path / "worm.csv"
    table.to_csv(path, **options)
    session = read(path, Sidecar(rate_hz=2.0))
    assert session.unit_names == tuple(NAMES) and session.rate_hz == 2.0
    np.testing.assert_allclose(session.traces, table)


@pytest.mark.parametrize("seconds_per_unit", [("time", 1.0), ("Time (s)", 1.0), ("t_ms", 1e-3)])
def test_time_and_trial_columns_are_found_by_name(
    tmp_path: Path, table: pd.DataFrame, seconds_per_unit: tuple[str, float]
) -> None:
    name, scale = seconds_per_unit
    table.insert(0, name, np.arange(50) * 0.2 / scale)
    table.insert(1, "trial", np.repeat(["a", "b"], 25))
    table.to_csv(tmp_path / "worm.csv", index=False)
    session = read(tmp_path / "worm.csv")
    assert session.unit_names == tuple(NAMES)
    assert session.rate_hz == pytest.approx(5.0)
    np.testing.assert_allclose(session.time_s, np.arange(50) * 0.2)
    assert session.segments == [(0, 25), (25, 50)]


def test_sidecar_names_the_columns(tmp_path: Path, table: pd.DataFrame) -> None:
    table["state"] = "forward"
    table["clock"] = np.arange(50) / 4
    table.to_csv(tmp_path / "worm.csv", index=False)
    with pytest.raises(RecordingError, match=r"column state holds text \('forward'\)"):
        read(tmp_path / "worm.csv")
    session = read(tmp_path / "worm.csv", Sidecar(columns=("RIML", "AVAL"), time_column="clock"))
    assert session.unit_names == ("RIML", "AVAL") and session.rate_hz == 4.0
    np.testing.assert_allclose(session.traces, table[["RIML", "AVAL"]])
    with pytest.raises(RecordingError, match=r"no column is called AIBL.*AVAL"):
        read(tmp_path / "worm.csv", Sidecar(columns=("AIBL",)))


@pytest.mark.parametrize("options", [{}, {"sep": ";"}, {"index_label": ""}])
def test_units_in_rows_are_told_by_the_text_of_an_index(
    tmp_path: Path, table: pd.DataFrame, options: dict[str, str]
) -> None:
    table.T.to_csv(tmp_path / "worm.csv", **options)
    session = read(tmp_path / "worm.csv", Sidecar(rate_hz=2.0))
    assert session.unit_names == tuple(NAMES)
    np.testing.assert_allclose(session.traces, table)


def test_an_index_of_text_that_may_name_units_or_frames_is_asked_about(
    tmp_path: Path, table: pd.DataFrame
) -> None:
    table.index = [f"frame {number}" for number in range(50)]
    table.to_csv(tmp_path / "worm.csv")
    with pytest.raises(RecordingQuestion, match="may name units or frames") as asked:
        read(tmp_path / "worm.csv")
    assert asked.value.choices == {"frames_axis": [0, 1]}
    np.testing.assert_allclose(read(tmp_path / "worm.csv", Sidecar(frames_axis=0)).traces, table)
    turned = read(tmp_path / "worm.csv", Sidecar(frames_axis=1))
    assert turned.traces.shape == (4, 50) and turned.unit_names == tuple(table.index)


@pytest.mark.parametrize(("column", "text"), [("AVAR", "1_000"), ("AVAR", "0x1F"), ("time", "0x1F")])
def test_what_is_no_number_is_named(tmp_path: Path, table: pd.DataFrame, column: str, text: str) -> None:
    table = table.astype(object)
    table.insert(0, "time", [f"{frame / 4}" for frame in range(50)])
    table.loc[7, column] = text
    table.to_csv(tmp_path / "worm.csv", index=False)
    with pytest.raises(RecordingError, match=f"column {column} holds text .'{text}'."):
        read(tmp_path / "worm.csv")


def test_a_forecast_is_no_recording(tmp_path: Path, table: pd.DataFrame) -> None:
    table.insert(0, "frames_ahead", np.arange(1, 51))
    table.insert(1, "seconds_ahead", np.arange(1, 51) / 5)
    table.to_csv(tmp_path / "ahead.csv", index=False)
    with pytest.raises(RecordingError, match="a forecast that forebrain wrote"):
        read(tmp_path / "ahead.csv")


def test_an_index_of_dates_is_the_time(tmp_path: Path, table: pd.DataFrame) -> None:
    table.index = pd.date_range("2024-03-01 23:59:58", periods=50, freq="250ms")
    table.to_csv(tmp_path / "worm.csv")
    session = read(tmp_path / "worm.csv")
    assert session.rate_hz == 4.0 and session.unit_names == tuple(NAMES)


def test_units_in_rows_without_names_keep_their_first_frame(tmp_path: Path, table: pd.DataFrame) -> None:
    table.columns = range(4)
    for index in (True, False):
        table.T.to_csv(tmp_path / "worm.csv", index=index)
        session = read(tmp_path / "worm.csv", Sidecar(frames_axis=1, rate_hz=2.0))
        assert session.unit_names is None
        np.testing.assert_allclose(session.traces, table)


def test_units_in_rows_are_told_by_the_first_columns_name(tmp_path: Path, table: pd.DataFrame) -> None:
    table.T.to_csv(tmp_path / "worm.csv", index_label="Neuron")
    session = read(tmp_path / "worm.csv")
    assert session.unit_names == tuple(NAMES)
    np.testing.assert_allclose(session.traces, table)


@pytest.mark.parametrize("names", [NAMES, [10, 9, 2, 1]])
def test_long_table_becomes_frames_and_units(
    tmp_path: Path, table: pd.DataFrame, names: list[object]
) -> None:
    long = table.set_axis(names, axis=1).assign(time=np.arange(50) / 5).melt("time", var_name="cell")
    long.sample(frac=1, random_state=0).sort_values("cell", key=lambda cell: cell.map(names.index)).to_csv(
        tmp_path / "worm.csv", index=False
    )
    session = read(tmp_path / "worm.csv")
    assert session.unit_names == tuple(map(str, names)) and session.rate_hz == pytest.approx(5.0)
    np.testing.assert_allclose(session.traces, table)
    long.assign(other=1.0).to_csv(tmp_path / "worm.csv", index=False)
    with pytest.raises(RecordingError, match="cell repeats its values"):
        read(tmp_path / "worm.csv")
    np.testing.assert_allclose(read(tmp_path / "worm.csv", Sidecar(columns=("value",))).traces, table)


@pytest.mark.parametrize("delimiter", [",", " ", "\t", ";"])
@pytest.mark.parametrize("transposed", [False, True])
def test_without_a_header_the_longer_side_counts_frames(
    tmp_path: Path, traces: np.ndarray, delimiter: str, transposed: bool
) -> None:
    path = tmp_path / "worm.txt"
    np.savetxt(path, traces.T if transposed else traces, delimiter=delimiter, header="made by savetxt")
    np.testing.assert_allclose(read(path).traces, traces)


def test_header_that_only_counts_is_no_data(tmp_path: Path, traces: np.ndarray) -> None:
    pd.DataFrame(traces).to_csv(tmp_path / "bare.csv", index=False)
    pd.DataFrame(traces).to_csv(tmp_path / "index.csv", index=True)
    for name in ("bare.csv", "index.csv"):
        np.testing.assert_allclose(read(tmp_path / name).traces, traces)


def test_missing_values_stay_missing(tmp_path: Path, table: pd.DataFrame) -> None:
    table.iloc[3, 1] = np.nan
    table.to_csv(tmp_path / "empty.csv", index=False)
    table.to_csv(tmp_path / "marked.csv", index=False, na_rep="NaN")
    for name in ("empty.csv", "marked.csv"):
        np.testing.assert_allclose(read(tmp_path / name).traces, table)


def test_an_unnamed_clock_is_no_unit_and_becomes_the_times_where_the_sidecar_says_so(
    tmp_path: Path, traces: np.ndarray
) -> None:
    np.savetxt(tmp_path / "a.csv", np.column_stack([np.arange(50) / 10, traces]), delimiter=",")
    session = read(tmp_path / "a.csv")
    np.testing.assert_allclose(session.traces, traces)
    assert session.rate_hz is None
    assert "time_column: '0'" in session.metadata["clocks_left_out"]
    session = read(tmp_path / "a.csv", Sidecar(time_column="0"))
    assert session.rate_hz == pytest.approx(10.0)
    np.testing.assert_allclose(session.traces, traces)


def test_zebrafish_text_agrees_with_its_twin(original_dir: Path, twin: Callable[[str], Session]) -> None:
    session = read(original_dir / "txt_cilva" / "zf1.ca2", Sidecar(rate_hz=2.1646))
    np.testing.assert_allclose(session.traces, twin("zebrafish__triplett2020_cilva__zf1").traces, rtol=1e-6)


@pytest.mark.parametrize("name", ["SAL_1", "SAL_2"])
def test_honeybee_trials_agree_with_their_twins(
    original_dir: Path, twin: Callable[[str], Session], name: str
) -> None:
    session = read(original_dir / "csv_trials_honeybee" / f"{name}.csv", Sidecar(rate_hz=8.0))
    expected = twin(f"honeybee__marachlian2023_AL__{name}")
    # The file gives odours 0 to 9 twice; the twin has both trials of an odour together.
    by_odour = session.traces.reshape(2, 10, 80, 11).swapaxes(0, 1).reshape(1600, 11)
    np.testing.assert_allclose(by_odour, expected.traces, rtol=1e-6)
    assert session.segments == expected.segments
    assert [f"glomerulus_{unit}" for unit in session.unit_names] == list(expected.unit_names)


def test_labels_of_trials_are_inputs_that_last_as_long_as_the_trial(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"{unit},{odour},{drug},{','.join(f'{value:.4f}' for value in rng.random(20))}"
        for odour, drug in ((3, "SAL"), (0, "SAL"), (3, "PTX"))
        for unit in (17, 28)
    ]
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    session = read(tmp_path / "a.csv", Sidecar(rate_hz=8.0))
    assert session.stimulus_names == ("label1", "label2:PTX", "label2:SAL")
    np.testing.assert_array_equal(session.input_values(["label1"])[:, 0], np.repeat([3, 0, 3], 20))
    np.testing.assert_array_equal(session.input_values(["label2:PTX"])[:, 0], np.repeat([0, 0, 1], 20))


def test_trial_that_lacks_a_unit_is_refused(original_dir: Path, tmp_path: Path) -> None:
    lines = (original_dir / "csv_trials_honeybee" / "SAL_1.csv").read_text().splitlines()
    (tmp_path / "SAL_1.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(RecordingError, match="unit 52 has 19 rows"):
        read(tmp_path / "SAL_1.csv")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("txt_cilva/zf1.stim", "one column"),
        ("minian_zarr_placecell/neural_timestamp.csv", "no column of units"),
        ("minian_zarr_placecell/behavior_timestamp.csv", "no column of units"),
        ("minian_zarr_placecell/behavior_position.csv", "no column of units"),
        ("mat_events_cellreg_sheintuch2020/C6_M4/Environment A/frameLog_1.csv", "Var5 holds text"),
    ],
)
def test_tables_of_other_things_are_refused(original_dir: Path, name: str, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        read(original_dir / name)


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"words only\nand more words\n", b"<html>1,2\n3,4</html>", b"1,2\0\n3,4\n"]
)
def test_what_is_no_table_is_not_recognised(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    assert not csv_table.recognises(tmp_path / "a.csv")


def test_rows_of_different_lengths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,4,5\n6,7\n")
    with pytest.raises(RecordingError, match="row 3 has 3 fields"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("written", "cut", "is_read"),
    [
        ({"fmt": "%.3f"}, 1, True),  # only the line end, as many editors save it
        ({"fmt": "%.3f"}, 2, False),
        ({"fmt": "%.3f"}, 4, False),
        ({"fmt": "%.3f"}, 5, False),  # and the point
        ({"fmt": "%.3f", "delimiter": ","}, 6, False),  # -5|9.063
        ({"fmt": "%.3f", "delimiter": ";"}, 8, False),  # all of it
        ({"fmt": "%.8e"}, 2, False),  # -5.90630000e+0|1
        ({"fmt": "%.16g", "newline": "\r\n"}, 2, True),
        ({"fmt": "%.16g", "newline": "\r\n"}, 12, False),
        ({"fmt": "%.3f", "encoding": "utf-16-le"}, 2, True),
        ({"fmt": "%.3f", "encoding": "utf-16-le"}, 4, False),
        ({"fmt": "%g"}, 1, True),
        ({"fmt": "%d"}, 1, True),
    ],
)
def test_a_file_that_ends_within_its_last_number_is_refused(
    tmp_path: Path, written: dict[str, str], cut: int, is_read: bool
) -> None:
    """As one that is copied or recorded still."""
    values = np.random.default_rng(0).normal(0, 60, (60, 4))
    values[-1, -1] = -59.063 if written["fmt"] != "%.16g" else -59.06312345678901
    path = tmp_path / "a.csv"
    np.savetxt(path, values, **written)
    assert read(path).num_frames == 60
    path.write_bytes(path.read_bytes()[:-cut])
    if is_read:
        session = read(path)
        assert session.traces[-1, -1] == float(written["fmt"] % values[-1, -1])
    else:
        with pytest.raises(
            RecordingError, match=r"without a line end.*end it with a line end if it is whole"
        ):
            read(path)


def test_a_last_value_that_is_missing_is_no_cut_number(tmp_path: Path, table: pd.DataFrame) -> None:
    table.iloc[-1, -1] = np.nan
    table.to_csv(tmp_path / "a.csv", index=False, na_rep="nan")
    (tmp_path / "a.csv").write_text((tmp_path / "a.csv").read_text().rstrip())
    assert np.isnan(read(tmp_path / "a.csv").traces[-1, -1])


def test_a_few_rows_written_by_hand_need_no_line_end(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1.5,2.25\n3.5,4.75\n5.5,6")
    assert read(tmp_path / "a.csv").num_frames == 3
