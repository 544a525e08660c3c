"""Simulated stimulation: true responses are those of the kernels, and can be found again by regression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions.simulate import open_simulated, simulated_addresses
from forebrain.sessions.stimulated import Kernels, simulate_stimulated
from forebrain.shards.recordings import sha256_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Kernels of three targets and five units: one rises late, one is negative."""
    time = np.arange(40) / 4
    rise = time * np.exp(1 - time)
    values = np.stack([rise, -0.5 * rise, 0.8 * np.exp(-time / 3), 0.1 * rise])
    path = tmp_path / "kernels.npz"
    np.savez(
        path, kernels=values, stimulated=[0, 0, 1, 2], responding=[3, 4, 4, 3],
        neuron_ids=["A", "B", "C", "D", "E"], fs=4.0,
    )  # fmt: skip
    return path


def test_targets_are_the_units_that_most_respond_to(file: Path) -> None:
    kernels = Kernels.read(file)
    assert kernels.targets(2) == [0, 1]
    with pytest.raises(RecordingError, match="3 targets were asked for; expected 1 to 2"):
        kernels.targets(3)


def test_without_noise_marks_give_the_true_responses(file: Path) -> None:
    kernels = Kernels.read(file)
    session = simulate_stimulated(kernels, seed=3, minutes=5, noise=0, num_targets=2)
    assert [each.name for each in session.inputs] == ["stimulated[A]", "stimulated[B]"]
    assert {each.kind for each in session.inputs} == {"pattern"}
    expected = np.zeros((session.num_frames + 60, 5))
    for column, target in enumerate([0, 1]):
        response = kernels.response(target, 30)
        for frame in np.flatnonzero(session.stimulus[:, column]):
            expected[frame : frame + 60] += response
    np.testing.assert_allclose(session.traces, expected[: session.num_frames], atol=2e-3)
    assert kernels.response(0, 30)[0, 0] == 3 and kernels.response(0, 30)[:, 4].min() < -0.2
    gaps = np.diff(np.flatnonzero(session.stimulus.any(axis=1))) / 2
    assert gaps.min() >= 11.5 and gaps.max() <= 24.5


def test_an_address_names_the_file_and_the_options(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    (address,) = simulated_addresses("sim://stimulated?kernels=kernels.npz&minutes=3&targets=2&seed=5")
    assert str(file) in address
    (session,) = open_simulated(address)
    assert (session.num_frames, session.session, session.stimulus.shape[1]) == (360, "seed5", 2)
    (again,) = open_simulated(address)
    np.testing.assert_array_equal(session.traces, again.traces)
    before = sha256_of(address)
    file.write_bytes(file.read_bytes() + b" ")
    assert sha256_of(address) != before


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("sim://stimulated", "no such simulated set"),
        ("sim://stimulated?kernels=a.npz&colour=1", "no such simulated set"),
        ("sim://stimulated?kernels=a.npz&minutes=long", "minutes is 'long'"),
        ("sim://stimulated?kernels=nowhere.npz", "no file of kernels"),
    ],
)
def test_what_names_nothing_is_refused(address: str, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        open_simulated(*simulated_addresses(address))


def test_regression_on_measured_kernels_finds_them_again(data_dir: Path) -> None:
    path = data_dir / "inputs" / "kernels" / "randi2023_response_kernels_wt.npz"
    if not path.is_file():
        pytest.skip(f"no kernels at {path}")
    kernels = Kernels.read(path)
    session = simulate_stimulated(kernels, seed=0, minutes=60, noise=0.25)
    num_lags, targets = 41, kernels.targets(12)
    lagged = [np.pad(session.stimulus, ((lag, 0), (0, 0)))[: session.num_frames] for lag in range(num_lags)]
    design = np.concatenate(lagged, axis=1)
    activity = session.traces - session.traces.mean(axis=0)
    found = np.linalg.solve(design.T @ design + np.eye(design.shape[1]), design.T @ activity)
    found = found.reshape(num_lags, 12, -1)
    fits = [
        np.corrcoef(
            kernels.response(int(source), num_lags / 2)[:, unit], found[:, targets.index(source), unit]
        )[0, 1]
        for source, unit, kernel in zip(kernels.stimulated, kernels.responding, kernels.values, strict=True)
        if source in targets and np.abs(kernel).max() >= 0.3
    ]
    assert len(fits) > 20 and np.median(fits) > 0.9
