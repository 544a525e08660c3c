from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from writing import assert_values, read_all, read_one

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers import find_recordings, reader_name

RATE_HZ = 30_000.0


def write(
    folder: Path, params: bool = True, group: str | None = None, ks_label: str | None = None
) -> np.ndarray:
    """A folder of nine clusters, as Kilosort writes it; gives the counts of each in bins of 0.1 s, [T, 9]."""
    rng = np.random.default_rng(0)
    samples, clusters = np.sort(rng.integers(0, 10**6, 2000)), rng.integers(0, 9, 2000)
    np.save(folder / "spike_times.npy", samples[:, None].astype(np.uint64))
    np.save(folder / "spike_clusters.npy", clusters.astype(np.int32))
    np.save(folder / "channel_positions.npy", rng.random((32, 2)))
    np.save(folder / "template_feature_ind.npy", rng.integers(0, 40, (120, 16)))
    np.save(folder / "amplitudes.npy", rng.random((2000, 1)))
    if params:
        (folder / "params.py").write_text(
            f"dat_path = 'a.dat'\nn_channels_dat = 32\nsample_rate = {RATE_HZ}\n"
        )
    for name, column, labels in (("group", "group", group), ("KSLabel", "KSLabel", ks_label)):
        if labels is not None:
            rows = [f"{unit}\t{label}" for unit, label in enumerate(labels.split())]
            (folder / f"cluster_{name}.tsv").write_text(f"cluster_id\t{column}\n" + "\n".join(rows) + "\n")
    num_bins = int(samples.max() / RATE_HZ / 0.1)
    edges = 0.1 * np.arange(num_bins + 1)
    return np.stack(
        [
            np.histogram((times := samples[clusters == unit] / RATE_HZ)[times < edges[-1]], edges)[0]
            for unit in range(9)
        ],
        1,
    )


def test_a_folder_is_one_recording_of_its_clusters_in_bins(tmp_path: Path) -> None:
    counts = write(tmp_path)
    assert find_recordings([tmp_path]) == [str(tmp_path)] and reader_name(tmp_path) == "phy"
    session = read_one(tmp_path, bin_s=0.1)
    assert_values(session, counts)
    assert (session.signal, session.rate_hz) == ("spike_counts", 10.0)
    assert session.metadata["sampling_rate_from"] == "params.py"
    assert_values(read_one(tmp_path, rate_hz=10.0), counts)


def test_bins_and_a_sampling_rate_that_nothing_states_are_asked_for(tmp_path: Path) -> None:
    counts = write(tmp_path, params=False)
    with pytest.raises(RecordingQuestion, match="spike times of 9 units") as caught:
        read_one(tmp_path)
    assert list(caught.value.choices) == ["sampling_rate_hz", "bin_s"]
    assert_values(read_one(tmp_path, bin_s=0.1, sampling_rate_hz=RATE_HZ), counts)


def test_params_are_read_and_never_run(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "params.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nsample_rate = 30000.\n")
    read_one(tmp_path, bin_s=0.1)
    assert not (tmp_path / "ran").exists()


def test_clusters_that_a_person_called_good_go_before_those_of_the_sorter(tmp_path: Path) -> None:
    counts = write(
        tmp_path,
        group="good noise mua good noise good mua noise noise",
        ks_label="mua good good good good good good good good",
    )
    session = read_one(tmp_path, bin_s=0.1)
    assert_values(session, counts[:, [0, 3, 5]])
    assert session.unit_names == ("cluster0", "cluster3", "cluster5")
    assert session.metadata["cells"] == "3 of 9 clusters are good (cluster_group.tsv)"


def test_without_a_persons_labels_those_of_the_sorter_count(tmp_path: Path) -> None:
    counts = write(tmp_path, ks_label="mua good good mua mua mua mua mua mua")
    assert_values(read_one(tmp_path, bin_s=0.1), counts[:, [1, 2]])


def test_where_all_is_noise_there_is_no_recording(tmp_path: Path) -> None:
    write(tmp_path, group=" ".join(["noise"] * 9))
    with pytest.raises(RecordingError, match="0 of 9 clusters are good"):
        read_one(tmp_path, bin_s=0.1)


def test_the_sorters_helper_arrays_are_no_recordings_by_themselves(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "spike_clusters.npy").unlink()
    (tmp_path / "spike_times.npy").unlink()
    sessions, _ = read_all(tmp_path)
    assert sessions == []


def test_arrays_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    np.save(tmp_path / "spike_clusters.npy", np.zeros(5, np.int32))
    with pytest.raises(RecordingError, match=r"2000 spikes.*5"):
        read_one(tmp_path, bin_s=0.1)
