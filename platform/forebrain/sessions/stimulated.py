"""Simulated sessions whose inputs and true responses are known: a worm, units of which are stimulated.

Every 12 to 24 s the activity of one target jumps by `JUMP` and decays with `DECAY_S`; each unit that responds
to the target adds its kernel convolved with that activity. Kernels are of measured responses, which hold
indirect paths already, so responses are not fed back. Shared and private slow activity and white noise are
added.

Kernels are read from a file and belong to no package: an .npz of `kernels` [P pairs, K] (a response to a unit
of activity, per second), `stimulated` and `responding` [P] (positions in `neuron_ids`), `neuron_ids` [N] and
`fs` (Hz).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.session import Session

RATE_HZ = 2.0  # of the frames
JUMP, DECAY_S = 3.0, 2.0
INTERVAL_S = (12.0, 24.0)
MIN_PEAK = 0.2  # of the kernels that count when targets are chosen
INPUT = "stimulated"
_SHARED_S, _PRIVATE_S = 8.0, 4.0
_NUM_LATENTS = 3
_ARRAYS = ("kernels", "stimulated", "responding", "neuron_ids", "fs")


@dataclass(frozen=True, eq=False)
class Kernels:
    """Responses of units to the activity of others.

    Attributes:
        values: float [P, K], of each pair.
        stimulated, responding: int [P], the units of each pair.
        names: N names of units.
        rate_hz: of the kernels, a whole multiple of `RATE_HZ`.
    """

    values: np.ndarray
    stimulated: np.ndarray
    responding: np.ndarray
    names: tuple[str, ...]
    rate_hz: float

    @classmethod
    def read(cls, path: str | Path) -> Kernels:
        """Reads a file of kernels.

        Raises:
            RecordingError: it is not there, or no such file.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                values, stimulated, responding, names, rate = (archive[name] for name in _ARRAYS)
        except (OSError, ValueError, KeyError) as error:
            raise RecordingError(
                f"{path}: no file of kernels ({error}); expected an .npz of {', '.join(_ARRAYS)}."
            ) from error
        rate_hz = float(np.ravel(rate)[0])
        pairs = (len(values),)
        if values.ndim != 2 or stimulated.shape != pairs or responding.shape != pairs or rate_hz % RATE_HZ:
            raise RecordingError(
                f"{path}: kernels have shape {values.shape} at {rate_hz:g} Hz, for {stimulated.shape} and "
                f"{responding.shape} units; expected [pairs, times], two units a pair, and a multiple of "
                f"{RATE_HZ:g} Hz."
            )
        return cls(
            values.astype(np.float64),
            stimulated.astype(int),
            responding.astype(int),
            tuple(map(str, names)),
            rate_hz,
        )

    def targets(self, count: int) -> list[int]:
        """The units that most others respond to by `MIN_PEAK` or more, most first.

        Raises:
            RecordingError: there are fewer.
        """
        strong = np.abs(self.values).max(axis=1) > MIN_PEAK
        partners = np.bincount(self.stimulated[strong], minlength=len(self.names))
        if not 1 <= count <= np.count_nonzero(partners):
            raise RecordingError(
                f"{count} targets were asked for; expected 1 to {np.count_nonzero(partners)}, the units that "
                "others respond to."
            )
        return np.argsort(-partners, kind="stable")[:count].tolist()

    def response(self, target: int, seconds: float) -> np.ndarray:
        """The true response to one mark on a target, float32 [frames, N], from the frame of the mark on."""
        length = round(seconds * self.rate_hz)
        activity = np.zeros((length, len(self.names)))
        activity[:, target] = JUMP * np.exp(-np.arange(length) / (DECAY_S * self.rate_hz))
        self._respond(activity)
        return activity[:: int(self.rate_hz / RATE_HZ)].astype(np.float32)

    def _respond(self, activity: np.ndarray) -> None:
        """Adds the responses to the activity, [T, N], of the targets."""
        length, imposed = len(activity), activity.copy()
        size = 1 << (length + self.values.shape[1] - 1).bit_length()
        spectra = {
            int(unit): np.fft.rfft(imposed[:, unit], size) for unit in np.flatnonzero(imposed.any(axis=0))
        }
        for kernel, source, unit in zip(self.values, self.stimulated, self.responding, strict=True):
            if int(source) in spectra:
                found = np.fft.irfft(spectra[int(source)] * np.fft.rfft(kernel, size), size)
                activity[:, unit] += found[:length] / self.rate_hz


def simulate_stimulated(
    kernels: Kernels, seed: int = 0, minutes: float = 20.0, noise: float = 0.25, num_targets: int = 12
) -> Session:
    """One session of a worm of which units are stimulated. The same arguments give the same session.

    Args:
        minutes: its length.
        noise: standard deviation of the shared and of the private slow activity, and of the white noise.
        num_targets: how many units are stimulated, one at random each time.

    Returns:
        A session whose stimulus is a pattern over the targets, 1 in the frame of a jump.

    Raises:
        RecordingError: the kernels have fewer targets, or an argument is no positive number.
    """
    if not (0 < minutes < float("inf") and 0 <= noise < float("inf")):
        raise RecordingError(f"minutes is {minutes} and noise {noise}; expected positive numbers.")
    rng = np.random.default_rng([seed, 2])
    targets = kernels.targets(num_targets)
    step = int(kernels.rate_hz / RATE_HZ)
    num_frames = round(60 * minutes * RATE_HZ)
    marks = np.zeros((num_frames, num_targets), np.float32)
    at = rng.uniform(*INTERVAL_S)
    while (frame := round(at * RATE_HZ)) < num_frames:
        marks[frame, rng.integers(num_targets)] = 1.0
        at += rng.uniform(*INTERVAL_S)
    activity = np.zeros((num_frames * step, len(kernels.names)))
    keep = np.exp(-1 / (DECAY_S * kernels.rate_hz))
    for column, target in enumerate(targets):
        activity[::step, target] = JUMP * marks[:, column]
        for frame in range(1, len(activity)):
            activity[frame, target] += keep * activity[frame - 1, target]
    kernels._respond(activity)
    shared = _slow(rng, num_frames, _NUM_LATENTS, _SHARED_S)
    loadings = rng.standard_normal((_NUM_LATENTS, len(kernels.names))) / np.sqrt(_NUM_LATENTS)
    traces = activity[::step] + noise * (
        shared @ loadings
        + _slow(rng, num_frames, len(kernels.names), _PRIVATE_S)
        + rng.standard_normal((num_frames, len(kernels.names)))
    )
    names = tuple(f"{INPUT}[{kernels.names[target]}]" for target in targets)
    return Session(
        traces=traces.astype(np.float32),
        rate_hz=RATE_HZ,
        species="sim-worm",
        subject=f"worm{seed}",
        session=f"seed{seed}",
        dataset="sim-stimulated",
        signal="simulated_dff",
        unit_names=kernels.names,
        stimulus=marks,
        stimulus_names=names,
        input_kinds=dict.fromkeys(names, "pattern"),
        metadata={"note": f"simulated by response kernels; {minutes:g} minutes, noise {noise:g}"},
    )


def _slow(rng: np.random.Generator, num_frames: int, num_series: int, tau_s: float) -> np.ndarray:
    """AR(1) series of standard deviation 1, [num_frames, num_series]."""
    keep = np.exp(-1 / (tau_s * RATE_HZ))
    kicks = np.sqrt(1 - keep**2) * rng.standard_normal((num_frames, num_series))
    found = np.empty((num_frames, num_series))
    found[0] = rng.standard_normal(num_series)
    for frame in range(1, num_frames):
        found[frame] = keep * found[frame - 1] + kicks[frame]
    return found
