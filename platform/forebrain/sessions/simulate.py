"""Simulated sessions: chaotic recurrent networks whose individuals share most of their wiring.

After Duan et al. 2025 (POCO), simulated data: tau dh/dt = -h + J tanh(h) + noise, with
J = gain / sqrt(N) * (sqrt(1 - eta^2) * Template + eta * Individual), both matrices standard normal. Sessions
of a species share the Template, and eta sets how much individuals differ. No file is needed, so tests,
examples and first runs work anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.session import Session
from forebrain_registry.storage import path_here

SIMULATION_VERSION = 1  # part of what a simulated recording is, as a file's bytes are


@dataclass(frozen=True)
class Species:
    """How one simulated species differs from the others.

    Attributes:
        name: species and dataset name.
        num_units, num_sessions, num_frames: size; each session has a few frames more than the one before.
        rate_hz: recorded frames a second.
        tau_s: time constant of a unit, seconds; slow units are easy to forecast.
        gain: of the recurrent weights; above 1 the network is chaotic.
        noise: of the dynamics; what nobody can forecast.
        eta: individuality in [0, 1]; 0 gives every session the same wiring.
    """

    name: str
    num_units: int
    num_sessions: int
    num_frames: int
    rate_hz: float
    tau_s: float
    gain: float = 2.0
    noise: float = 0.1
    eta: float = 0.3


SPECIES = (
    Species("sim-zebrafish", num_units=250, num_sessions=3, num_frames=2400, rate_hz=2.0, tau_s=1.5),
    Species("sim-celegans", num_units=90, num_sessions=3, num_frames=2000, rate_hz=3.0, tau_s=1.2, gain=2.5),
    Species("sim-mouse", num_units=140, num_sessions=2, num_frames=3600, rate_hz=10.0, tau_s=0.3, noise=0.2),
)
# Options of sim://stimulated, and the arguments of `simulate_stimulated` that they are.
_STIMULATED: dict[str, tuple[str, Callable[[str], float]]] = {
    "seed": ("seed", int),
    "minutes": ("minutes", float),
    "noise": ("noise", float),
    "targets": ("num_targets", int),
}
STEPS_PER_FRAME = 5  # a frame is the mean of five steps of the dynamics
WARM_UP_FRAMES = 200
# Of states, about 1 in size.
GRID = 2.0**-14


def simulate(species: Species, individual: int, seed: int = 0) -> Session:
    """One session of a species. The same arguments give the same session.

    Args:
        individual: number of the session, 0 for the first.
        seed: of the whole set; another seed gives other templates too.
    """
    identity = [seed, *species.name.encode()]
    template = _weights(np.random.default_rng([*identity, 0]), species.num_units)
    rng = np.random.default_rng([*identity, 1, individual])
    own = _weights(rng, species.num_units)
    weights = species.gain * (np.sqrt(1 - species.eta**2) * template + species.eta * own)
    num_frames = species.num_frames + 100 * individual
    return Session(
        traces=_run(species, weights, num_frames, rng),
        rate_hz=species.rate_hz,
        species=species.name,
        subject=f"animal{individual + 1}",
        session=f"seed{seed}",
        dataset=species.name,
        signal="simulated_rate",
        metadata={"note": "simulated chaotic recurrent network", "licence": "Apache-2.0"},
    )


def simulated_addresses(address: str) -> list[str]:
    """The address of each session of a simulated set.

    Args:
        address: `sim://default?seed=0`, or one session whose inputs and true responses are known (see
            `stimulated`): `sim://stimulated?kernels=FILE` with any of `seed`, `minutes`, `noise`, `targets`.

    Raises:
        RecordingError: the address names no set.
    """
    parts = urlsplit(address)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    if parts.netloc == "stimulated" and "kernels" in query and set(query) <= {"kernels", *_STIMULATED}:
        _stimulated_options(address, query)
        query["kernels"] = str(path_here(query["kernels"]).absolute())
        return [f"sim://stimulated?{urlencode(query, safe='/')}"]
    seed = query.get("seed", "0")
    if parts.netloc != "default" or set(query) - {"seed"} or not seed.isdecimal():
        raise RecordingError(
            f"{address}: no such simulated set; expected sim://default?seed=NUMBER or "
            f"sim://stimulated?kernels=FILE with any of {', '.join(_STIMULATED)}."
        )
    return [
        f"sim://{species.name}/{individual}?seed={seed}"
        for species in SPECIES
        for individual in range(species.num_sessions)
    ]


def open_simulated(address: str) -> list[Session]:
    """The session behind one of `simulated_addresses`.

    Raises:
        RecordingError: the file of kernels that it names cannot be read.
    """
    parts = urlsplit(address)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    if parts.netloc == "stimulated":
        from forebrain.sessions.stimulated import Kernels, simulate_stimulated

        return [simulate_stimulated(Kernels.read(query["kernels"]), **_stimulated_options(address, query))]
    species = {species.name: species for species in SPECIES}[parts.netloc]
    return [simulate(species, int(parts.path.strip("/")), int(query["seed"]))]


def kernels_file(address: str) -> Path | None:
    """The file of kernels that a simulated address names; None where it names none."""
    found = parse_qs(urlsplit(address).query).get("kernels")
    return Path(found[0]) if found else None


def _stimulated_options(address: str, query: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `simulate_stimulated` that an address states."""
    found: dict[str, Any] = {}
    for key, (argument, number) in _STIMULATED.items():
        if key in query:
            try:
                found[argument] = number(query[key])
            except ValueError as error:
                raise RecordingError(f"{address}: {key} is {query[key]!r}; expected a number.") from error
    return found


def _weights(rng: np.random.Generator, num_units: int) -> np.ndarray:
    return rng.standard_normal((num_units, num_units)) / np.sqrt(num_units)


def _run(species: Species, weights: np.ndarray, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Runs the network and records tanh(h), float32 [num_frames, N].

    It is chaotic, so that the last bit of a sum, which is the processor's, would make another recording of it
    within a minute. States lie on a grid, far coarser than that bit and far finer than the noise.
    """
    step = 1.0 / (species.rate_hz * STEPS_PER_FRAME * species.tau_s)  # in time constants
    kick = species.noise * np.sqrt(step)
    state = rng.standard_normal(species.num_units, dtype=np.float32).astype(float)
    frames = np.zeros((num_frames, species.num_units))
    for frame in range(-WARM_UP_FRAMES, num_frames):
        noise = kick * rng.standard_normal((STEPS_PER_FRAME, species.num_units), dtype=np.float32)
        for index in range(STEPS_PER_FRAME):
            rates = np.tanh(state)
            if frame >= 0:
                frames[frame] += rates
            state = np.rint((state + step * (weights @ rates - state) + noise[index]) / GRID) * GRID
    return (frames / STEPS_PER_FRAME).astype(np.float32)
