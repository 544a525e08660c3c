from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions.simulate import SPECIES, open_simulated, simulate, simulated_addresses


def test_the_default_set_has_three_species_and_is_the_same_every_time():
    addresses = simulated_addresses("sim://default?seed=0")
    sessions = [open_simulated(address)[0] for address in addresses]
    assert len({session.species for session in sessions}) == 3
    assert len({session.id for session in sessions}) == len(sessions) == 8
    np.testing.assert_array_equal(sessions[3].traces, open_simulated(addresses[3])[0].traces)


def test_the_default_is_the_same_whatever_the_processor_sums_first():
    """OpenBLAS is told which processor it runs on, as far as it is there."""
    script = (
        "import hashlib; from forebrain.sessions.simulate import SPECIES, simulate; "
        "print(hashlib.sha256(simulate(SPECIES[0], 0).traces.tobytes()).hexdigest())"
    )
    told = {
        subprocess.check_output([sys.executable, "-c", script], env={**os.environ, "OPENBLAS_CORETYPE": kind})
        for kind in ("Haswell", "SkylakeX", "Prescott")
    }
    assert len(told) == 1


def test_seeds_and_individuals_differ():
    mouse = SPECIES[2]
    first = simulate(mouse, 0).traces
    assert not np.array_equal(first, simulate(mouse, 0, seed=1).traces)
    assert not np.array_equal(first, simulate(mouse, 1).traces[: len(first)])


@pytest.mark.parametrize("species", SPECIES, ids=lambda species: species.name)
def test_the_population_tells_more_about_the_next_frames_than_a_unit_alone(species):
    """Forecastable beyond a line through each unit's own past, and far from trivially."""
    traces = simulate(species, 0).traces
    half, horizon = len(traces) // 2, 5
    traces = (traces - traces[:half].mean(0)) / traces[:half].std(0)
    now, change = traces[:-horizon], traces[horizon:] - traces[:-horizon]

    def score(train: np.ndarray, test: np.ndarray) -> float:
        gram = train.T @ train + 100 * np.eye(train.shape[1])
        forecast = test @ np.linalg.solve(gram, train.T @ change[:half])
        return 1 - float(np.mean((change[half:] - forecast) ** 2) / np.mean(change[half:] ** 2))

    slope = float(np.sum(now[:half] * change[:half]) / np.sum(now[:half] ** 2))
    alone = 1 - float(np.mean((change[half:] - slope * now[half:]) ** 2) / np.mean(change[half:] ** 2))
    population = score(now[:half], now[half:])
    assert alone + 0.1 < population < 0.95


def test_an_unknown_set_is_refused():
    with pytest.raises(RecordingError, match="sim://default"):
        simulated_addresses("sim://other")
