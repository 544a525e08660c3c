from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from forebrain.errors import RecordingError
from forebrain.sessions.inspection import (
    Inspected,
    as_input_table,
    ask,
    inspect_all,
    same_numbers,
    sidecar_path,
    write_questions,
)
from forebrain.sessions.readers import find_recordings, open_recording, reader_name
from forebrain.sessions.readers._selected import SelectedFrames
from forebrain.sessions.sidecar import parse_sidecar


def look(*paths: Path) -> list[Inspected]:
    return list(
        inspect_all(find_recordings(paths), open_recording, lambda address: reader_name(address) or "")
    )


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape)


def test_what_was_read_and_where_it_comes_from_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "fish" / "suite2p" / "plane0"
    folder.mkdir(parents=True)
    np.save(folder / "F.npy", noise(54, 200))
    np.save(folder / "iscell.npy", np.stack([np.arange(54) < 20, np.ones(54)], axis=1))
    (folder / "session.yaml").write_text("rate_hz: 7.5\nspecies: zebrafish\n")
    (result,) = look(tmp_path)
    told = "\n".join(result.remarks())
    assert "cells: 20 of 54 ROIs are cells (iscell.npy)" in told
    assert "rate: 7.5 Hz, from the sidecar" in told
    assert "frames and units: told by the layout of suite2p" in told
    assert "identity: dataset from the folder's name; subject, session from the file's name" in told
    assert "identity guessed from the file name" in told


def test_one_recording_under_two_names_is_said(tmp_path: Path) -> None:
    """Left out under one name, it would be trained on under the other."""
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(seed).random((100, 4)))
    results = look(tmp_path)
    assert all(result.session for result in results)
    (line,) = same_numbers(results)
    folder = tmp_path.name
    assert line.startswith(f"{folder}/b/b: holds the same numbers as {folder}/a/a. If it is one recording")


def test_a_recording_that_was_saved_again_as_it_grew_is_said(tmp_path: Path) -> None:
    traces = np.random.default_rng(5).random((200, 4))
    for frames in (100, 150, 200):
        np.save(tmp_path / f"after_{frames}.npy", traces[:frames])
    np.save(tmp_path / "other.npy", traces[100:])
    for name, first in (("events", 150), ("more_events", 160)):  # nothing happens yet in the first frames
        np.save(tmp_path / f"{name}.npy", traces * (np.arange(200) >= first)[:, None])
    lines = list(same_numbers(look(tmp_path)))
    assert len(lines) == 2 and "after_150" in lines[0] and "after_200" in lines[1]
    begun = f"begins with the same numbers as {tmp_path.name}/after_100/after_100. If it is one recording"
    assert all(begun in line for line in lines)


def test_of_recordings_of_one_name_the_second_cannot_be_used(tmp_path: Path) -> None:
    for lab in ("a", "b"):
        (tmp_path / lab / "day1").mkdir(parents=True)
        np.save(tmp_path / lab / "day1" / "worm1.npy", noise(100, 5) + ord(lab))
    first, second = look(tmp_path)
    assert first.session is not None and second.session is None
    assert "session day1/worm1/worm1 was already found in" in second.error


def test_what_float32_rounds_away_is_told_of_whatever_format(tmp_path: Path) -> None:
    traces = 1e7 + 0.1 * np.random.default_rng(0).standard_normal((200, 5))
    np.save(tmp_path / "a.npy", traces)
    np.savez(tmp_path / "b.npz", traces=traces)
    scipy.io.savemat(tmp_path / "c.mat", {"traces": traces})
    np.savetxt(tmp_path / "d.csv", traces, "%.4f", ",", header="A,B,C,D,E", comments="")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["traces"] = traces
    results = look(tmp_path)
    assert len(results) == 5
    for result in results:
        assert "5 units whose changes are too small beside their values for float32" in result.error
    scaled = SelectedFrames(np.arange(20).reshape(10, 2), np.arange(2), 0.1, 1e7)
    assert scaled[0:10][1, 0] == 1e7 + 0.2


def test_an_accent_written_in_two_ways_is_one_name(tmp_path: Path) -> None:
    """Systems name files with letters that look the same and are other characters."""
    for form in ("NFC", "NFD"):
        np.save(tmp_path / f"{unicodedata.normalize(form, 'ratón')}.npy", noise(100, 5) + len(form))
    first, second = look(tmp_path)
    assert first.session is not None and second.session is None
    assert first.session.subject == unicodedata.normalize("NFC", "ratón")
    assert "was already found in" in second.error


def test_questions_are_written_as_a_sidecar_to_fill_in(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=noise(100, 5), two=noise(100, 6))
    results = look(tmp_path)
    (path,) = write_questions(results)
    assert path == sidecar_path(str(tmp_path / "a.npz"))
    text = path.read_text()
    assert "several arrays could be the traces" in text.replace("\n# ", " ")
    assert "#   variable: one" in text and "\nvariable:\n" in text
    (again,) = look(tmp_path)
    assert again.question is not None  # a key without a value says nothing
    assert write_questions([again]) == [] and path.read_text() == text
    path.write_text(text.replace("\nvariable:\n", "\nvariable: two\n"))
    (answered,) = look(tmp_path)
    assert answered.session is not None and answered.session.num_units == 6


def test_guesses_are_written_too_and_what_is_there_stays(tmp_path: Path) -> None:
    np.save(tmp_path / "dff.npy", noise(100, 5))
    path = tmp_path / "dff.npy.session.yaml"
    path.write_text("species: mouse  # ours\n")
    write_questions(look(tmp_path))
    text = path.read_text()
    assert text.startswith("species: mouse  # ours\n")
    assert "\nrate_hz:" in text and "\nsubject:" in text and text.count("species:") == 1
    assert parse_sidecar(path).species == "mouse"


def test_a_sidecar_that_is_not_valid_is_not_added_to(tmp_path: Path) -> None:
    np.save(tmp_path / "dff.npy", noise(100, 5))
    (result,) = look(tmp_path)
    (tmp_path / "dff.npy.session.yaml").write_text("rate: 3\n")
    with pytest.raises(RecordingError, match="unknown key rate"):
        write_questions([result])
    assert (tmp_path / "dff.npy.session.yaml").read_text() == "rate: 3\n"


def test_a_person_is_asked_until_the_answer_is_valid(tmp_path: Path) -> None:
    np.save(tmp_path / "dff.npy", noise(40, 30))
    (result,) = look(tmp_path)
    typed: Iterator[str] = iter(["sideways", "2"])
    shown: list[str] = []
    assert ask(result, lambda prompt: next(typed), shown.append) == {"frames_axis": 1}
    assert any("frames_axis is 'sideways'; expected 0 or 1" in line for line in shown)
    (answered,) = look(tmp_path)
    assert answered.session is not None and answered.session.num_frames == 30


def test_an_answer_takes_the_place_of_the_key_that_was_left_open(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=noise(100, 5), two=noise(100, 6))
    (path,) = write_questions(look(tmp_path))
    (result,) = look(tmp_path)
    ask(result, lambda prompt: "2", lambda line: None)
    assert path.read_text().count("\nvariable:") == 1
    (answered,) = look(tmp_path)
    assert answered.session is not None and answered.session.num_units == 6


def test_nothing_typed_changes_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "dff.npy", noise(40, 30))
    (result,) = look(tmp_path)
    assert ask(result, lambda prompt: "", lambda line: None) is None
    assert not (tmp_path / "dff.npy.session.yaml").exists()


def test_a_name_that_is_no_text_is_one_line_and_the_others_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", noise(100, 5))
    (tmp_path / "good.npy").rename(tmp_path / os.fsdecode(b"w\xf6rm.npy"))
    np.save(tmp_path / "good.npy", noise(100, 5))
    good, bad = look(tmp_path)
    assert good.session is not None
    assert "w\\xf6rm.npy: the name is not valid UTF-8; rename" in bad.error
    (bad.address + bad.error).encode()


def shown(results: list[Inspected], context: int, horizon: int) -> list[list[str]]:
    table = as_input_table(results, context, horizon)
    assert table is not None
    return [list(row) for row in table.rows]


def test_inputs_are_listed_with_how_often_they_change(tmp_path: Path) -> None:
    tap = (np.arange(200) % 100 == 90).astype(float)
    ramp = np.linspace(0, 1, 200)
    known = {
        "stimulus": np.stack([tap, ramp, tap, tap], axis=1),
        "stimulus_names": ["tap", "drift", "laser[a]", "laser[b]"],
        "stimulus_kinds": ["", "", "pattern", "pattern"], "stimulus_units": ["N", "", "", ""],
        "behaviour": np.ones((200, 1)), "behaviour_names": ["speed"],
        "segment_id": np.repeat([0, 1], 100),
    }  # fmt: skip
    np.savez(
        tmp_path / "a.npz", traces=noise(200, 5), fs=5.0, source="lab", subject="m", session="s", **known
    )
    rows = shown(look(tmp_path), 60, 20)
    # A tap changes frames 90 and 91 of 100; of 21 windows in a segment those from 11 on see it.
    assert rows == [
        ["lab/m/s", "tap", "event", "N", "yes", "2.0%", "47.6%"],
        ["lab/m/s", "drift", "level", "", "yes", "0.0%", "0.0%"],
        ["lab/m/s", "laser", "pattern of 2", "", "yes", "2.0%", "47.6%"],
        ["lab/m/s", "speed", "level", "", "no", "0.0%", "0.0%"],
        ["lab/m/s", "any of the 3 that can be planned", "", "", "yes", "2.0%", "47.6%"],
    ]
    assert {row[-1] for row in shown(look(tmp_path), 90, 20)} == {"none fits"}


def test_what_is_lost_of_inputs_and_which_never_change_is_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", traces=noise(100, 5), fs=5.0)
    (tmp_path / "in.csv").write_text("time,label\n1.05,tap\n30,tap\n31,tone\n")
    (tmp_path / "a.session.yaml").write_text("input_files: in.csv\n")
    (result,) = look(tmp_path)
    told = "\n".join(result.remarks())
    assert (
        "marks or stretches of inputs lie outside of all frames and were left out: tap (1), tone (1)" in told
    )
    assert "1 of 2 inputs never change, so nothing can be learned of them (tone)" in told
    assert "inputs: tap: in.csv, 1 of 2 marks in frames" in told


def test_recordings_without_inputs_have_no_table_of_them(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(200, 5))
    assert as_input_table(look(tmp_path), 48, 16) is None
