"""What an adaptation leaves in a folder, and loads again to forecast with.

    adaptation.json          the record: whose it is, which model it belongs to, and the files' hashes
    interface.safetensors    unit [N, d], session [d], mean [N], scale [N], columns [N]
    backbone.safetensors     only where the backbone is none that can be pulled, or was changed

The folder appears whole or not at all. An interface means nothing to another backbone than its own, so the
record holds the hash of the backbone's weights, and what is loaded is compared with it.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from forebrain.accelerate import accelerate
from forebrain.adaptation.backbone import Origin, pull_version, weights_of
from forebrain.adaptation.description import Description, fill, tensors_of
from forebrain.errors import AdaptationError, StorageError
from forebrain.models.base import Interface, Model, SessionInput
from forebrain.sessions.repair import repair_units
from forebrain.sessions.resample import bin_events, resample
from forebrain.sessions.session import Range, Session
from forebrain.storage import PARTIAL
from forebrain_registry.records import WEIGHTS

FORMAT = "forebrain-adaptation-1"
RECORD = "adaptation.json"
INTERFACE = "interface.safetensors"
BACKBONE = "backbone.safetensors"
# Between the rates of two recordings that a model may see as one: those of one laboratory differ as much.
RATE_TOLERANCE = 0.25
Mode = Literal["embeddings", "forecaster", "full", "scratch", "none"]


@dataclass(frozen=True, eq=False)
class Adapted:
    """A backbone with the interface of one animal.

    Attributes:
        backbone: on the CPU, in evaluation mode.
        interface: the animal's.
        mean, scale: float32 [N], by which raw frames become what the model sees: (frame - mean) / scale.
        columns: int64 [N], which of the recording's units these are; repair drops useless ones.
        num_recorded: units of the recording before repair.
        unit_names: N names.
        rate_hz: frames a second that the model is given; None where the recording did not state it.
        recorded_rate_hz: the recording's own, stated or told by its frame times.
        event_rate_hz: bins that the recording's events were summed into, Hz; None where they were not.
        resample_hz: rate that it was resampled to; None where it was not.
        species, subject, session, dataset: of the recording.
        fitted_on: the frames, after repair, that mean and scale were fitted on.
        mode: what was trained: see `fit`.
        origin: the backbone's.
        description: what it expects.
    """

    backbone: Model
    interface: Interface
    mean: np.ndarray
    scale: np.ndarray
    columns: np.ndarray
    num_recorded: int
    unit_names: tuple[str, ...]
    rate_hz: float | None
    recorded_rate_hz: float | None
    event_rate_hz: float | None
    resample_hz: float | None
    species: str
    subject: str
    session: str
    dataset: str
    fitted_on: tuple[Range, ...]
    mode: Mode
    origin: Origin
    description: Description

    @property
    def context(self) -> int:
        """C, frames that a forecast is made from."""
        return self.backbone.config.context

    @property
    def horizon(self) -> int:
        """H, frames forecast."""
        return self.backbone.config.horizon

    @property
    def num_units(self) -> int:
        """N."""
        return len(self.mean)

    @property
    def model(self) -> str:
        """The backbone: `name@number sha256:...` of a published version, or the run's address."""
        return f"{self.origin} sha256:{self.origin.digest or self.origin.weights_sha256}"

    @torch.inference_mode()
    def forecast(self, window: np.ndarray) -> np.ndarray:
        """Forecasts what follows a window.

        Args:
            window: raw frames [at least C, N] at `rate_hz`, of the adapted units or of all that were
                recorded; the last C are used.

        Returns:
            float32 [H, N], in the same units of measurement.

        Raises:
            AdaptationError: too few frames, another number of units, or a value that is not finite.
        """
        frames = self._checked(window)
        normalised = (frames - self.mean) / self.scale
        window_ = torch.from_numpy(normalised).to(self.interface.unit.device)
        (forecast,) = self._forecaster.forecast([SessionInput(window_[None], self.interface)])
        return forecast[0].cpu().numpy() * self.scale + self.mean

    @cached_property
    def _forecaster(self) -> Model:
        return accelerate(self.backbone, "stream")

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: without what follows from the rest."""
        return {name: value for name, value in self.__dict__.items() if name != "_forecaster"}

    def _checked(self, window: np.ndarray) -> np.ndarray:
        """The last C frames of the adapted units, float32 [C, N]."""
        window = np.asarray(window)
        if window.ndim != 2 or window.shape[1] not in (self.num_units, self.num_recorded):
            either = f"{self.num_units}" + (
                f" (or all {self.num_recorded} recorded)" if self.num_recorded != self.num_units else ""
            )
            raise AdaptationError(
                f"a window of shape {window.shape} was given; expected [frames, units] with {either} units."
            )
        if len(window) < self.context:
            raise AdaptationError(
                f"a window of {len(window)} frames was given; this model forecasts from {self.context}."
            )
        frames = window[-self.context :].astype(np.float32)
        if frames.shape[1] != self.num_units:
            frames = frames[:, self.columns]
        if not np.isfinite(frames).all():
            unit = int(np.flatnonzero(~np.isfinite(frames).all(axis=0))[0])
            raise AdaptationError(
                f"the window holds values of {self.unit_names[unit]} that are not finite; hold the last "
                "known value in their place."
            )
        # One layout, so that the same numbers give the same bits wherever a window is from.
        return np.ascontiguousarray(frames)

    def latest_window(self, session: Session) -> np.ndarray:
        """The last frames of a recording of this animal, as `forecast` takes them: float32 [C, N].

        Missing values hold the unit's last known one, and gaps break the recording, as they did when it was
        adapted to; events are binned and frames resampled as then.

        Args:
            session: as it was recorded, with the same units in the same order.

        Raises:
            AdaptationError: it has other units or another rate, ends with too few unbroken frames, or a unit
                has no value yet.
        """
        if session.num_units != self.num_recorded:
            raise AdaptationError(
                f"session {session.id}: has {session.num_units} units; the recording that was adapted to had "
                f"{self.num_recorded}. Give one of the same units in the same order, or adapt to this one."
            )
        session = repair_units(session, self.columns)
        if self.resample_hz is None and not rates_agree(session.rate_hz, self.recorded_rate_hz):
            raise AdaptationError(
                f"session {session.id}: has {session.rate_hz:.4g} frames a second; the recording that was "
                f"adapted to had {self.recorded_rate_hz:.4g}. Adapt to this one."
            )
        if self.event_rate_hz is not None:
            session, _ = bin_events(session, self.event_rate_hz)
        if self.resample_hz is not None:
            session, _ = resample(session, self.resample_hz)
        start, stop = session.segments[-1]
        if stop - start < self.context:
            raise AdaptationError(
                f"session {session.id}: its last unbroken stretch has {stop - start} frames; a forecast is "
                f"made from {self.context}."
            )
        window = session.frames(stop - self.context, stop)
        lost = [self.unit_names[unit] for unit in np.flatnonzero(np.isnan(window).any(axis=0))]
        if lost:
            raise AdaptationError(
                f"session {session.id}: {', '.join(lost[:5])}{', ...' if lost[5:] else ''} "
                f"({len(lost)} of {self.num_units} units) have no value when its last {self.context} frames "
                "begin, nor before. Adapt to this recording."
            )
        return window

    def as_csv(self, forecast: np.ndarray) -> str:
        """A forecast [H, N] as CSV: a row for each frame ahead with its time, a column for each unit."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["frames_ahead", "seconds_ahead", *self.unit_names])
        for ahead, row in enumerate(forecast, 1):
            seconds = "" if self.rate_hz is None else f"{ahead / self.rate_hz:.6g}"
            writer.writerow([ahead, seconds, *(f"{value:.6g}" for value in row)])
        return stream.getvalue()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the folder, which must not exist yet; it appears whole or not at all.

        Raises:
            StorageError: there is something of that name, or the disk is full.
        """
        with new_folder(folder) as partial:
            self.write_into(partial)
        return Path(folder)

    def write_into(self, folder: Path) -> None:
        """Writes the files into a folder that is there."""
        files = {INTERFACE: safetensors.torch.save(self._tensors())}
        if not self.can_be_pulled:
            files[BACKBONE] = weights_of(self.backbone)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        record = {
            "format": FORMAT,
            "mode": self.mode,
            "model": dataclasses.asdict(self.origin),
            "config": self.description.config(),
            "preprocessing": replace(self.description, fitted_on={}).preprocessing(),
            **{name: getattr(self, name) for name in _PLAIN},
            "context": self.context,
            "horizon": self.horizon,
            "persists": self.interface.is_smooth,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        (folder / RECORD).write_text(json.dumps(record, indent=1, allow_nan=False))

    @property
    def can_be_pulled(self) -> bool:
        """Whether the backbone is a published version as it was published."""
        return self.origin.digest is not None and self.mode in ("embeddings", "none")

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "unit": self.interface.unit.detach().float().cpu().contiguous(),
            "session": self.interface.session.detach().float().cpu().contiguous(),
            "mean": torch.from_numpy(self.mean),
            "scale": torch.from_numpy(self.scale),
            "columns": torch.from_numpy(self.columns),
        }

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        registry: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> Adapted:
        """Loads what `save` wrote; a published backbone comes from the cache or its registry.

        Args:
            folder: the --out of `forebrain adapt`.
            registry: where the backbone is now; None for where it was pulled from.
            cache: the folder that pulled versions are kept in; None for the user's.

        Raises:
            AdaptationError: the folder holds no adaptation, a file is missing or not what was written, or the
                backbone is not to be had or not the one that this interface belongs to.
        """
        where = Path(folder)
        record = _read_record(where)
        try:
            files, origin = record["files"], Origin(**record["model"])
            description = Description.from_metadata(record["config"], record["preprocessing"], str(where))
            plain = {name: record[name] for name in _PLAIN}
            plain["unit_names"] = tuple(plain["unit_names"])
            plain["fitted_on"] = tuple((start, stop) for start, stop in plain["fitted_on"])
            mode, is_smooth = record["mode"], record.get("persists", True)
        except (KeyError, TypeError, ValueError) as error:
            raise AdaptationError(f"{where / RECORD}: damaged ({error!r:.200}); adapt again.") from error
        tensors = tensors_of(_read_file(where, INTERFACE, files), str(where / INTERFACE))
        if BACKBONE in files:
            weights = _read_file(where, BACKBONE, files)
        else:
            weights = _pulled_weights(origin, registry, cache)
            if hashlib.sha256(weights).hexdigest() != origin.weights_sha256:
                raise AdaptationError(
                    f"{where}: this interface belongs to {origin} with weights {origin.weights_sha256[:16]}, "
                    "and the model that was found has others. An interface means nothing to another "
                    "backbone; adapt again."
                )
        backbone = description.build(tensors_of(weights, str(origin)), str(origin)).requires_grad_(False)
        interface = backbone.new_interface(len(plain["unit_names"])).requires_grad_(False)
        _check_shapes(tensors, interface, where)
        fill(interface, {name: tensors[name] for name in ("unit", "session")}, str(where))
        interface.is_smooth = is_smooth
        mean, scale, columns = (tensors[name].numpy() for name in ("mean", "scale", "columns"))
        return cls(
            backbone, interface, mean, scale, columns, mode=mode, origin=origin, description=description,
            **plain,
        )  # fmt: skip


_PLAIN = (
    "num_recorded", "unit_names", "rate_hz", "recorded_rate_hz", "event_rate_hz", "resample_hz", "species",
    "subject", "session", "dataset", "fitted_on",
)  # fmt: skip


def rates_agree(rate_hz: float | None, other_hz: float | None) -> bool:
    """Whether two rates are within `RATE_TOLERANCE`; one that is not known agrees with any."""
    if rate_hz is None or other_hz is None:
        return True
    return abs(math.log(rate_hz / other_hz)) <= math.log(1 + RATE_TOLERANCE)


@contextlib.contextmanager
def new_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which gets its name once the block ends without an error; else nothing is left.

    Raises:
        StorageError: there is something of that name that is no empty folder, or the disk is full.
    """
    target = Path(target).absolute()
    require_new(target)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise StorageError(
                f"{target}: something else was written there meanwhile; nothing of this was kept. Choose "
                "another folder."
            ) from error
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "Free some space" if full else "Check the folder and its rights"
        raise StorageError(
            f"{target}: could not be written ({error.strerror or error}); nothing of it was kept. {mend}, or "
            "choose another folder, and give the same command again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_new(target: str | os.PathLike[str]) -> None:
    """Raises StorageError if there is something of a name that is no empty folder, or it cannot be made."""
    target = Path(target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise StorageError(f"{target}: exists already. Give a folder that does not.")
    above = next(each for each in target.absolute().parents if each.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise StorageError(f"{target}: {above} is no folder that can be written to. Choose another folder.")


def _read_record(folder: Path) -> Mapping[str, Any]:
    path = folder / RECORD
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise AdaptationError(
            f"{folder}: no {RECORD}, so there is no adaptation here; give the --out of `forebrain adapt`."
        ) from error
    except (OSError, ValueError) as error:
        raise AdaptationError(f"{path}: cannot be read ({error}); adapt again.") from error
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise AdaptationError(
            f"{path}: has format {found!r:.60}; this program reads {FORMAT!r}. "
            "Update forebrain, or adapt again."
        )
    return record


def _read_file(folder: Path, name: str, files: Mapping[str, str]) -> bytes:
    """A file of the folder, checked against the record."""
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise AdaptationError(f"{folder / name}: cannot be read ({error.strerror}); adapt again.") from error
    if hashlib.sha256(data).hexdigest() != files.get(name):
        raise AdaptationError(
            f"{folder / name}: is not the file that {RECORD} names. It was damaged, or is another "
            "adaptation's; adapt again."
        )
    return data


def _pulled_weights(
    origin: Origin, registry: str | os.PathLike[str] | None, cache: str | os.PathLike[str] | None
) -> bytes:
    address = os.fspath(registry) if registry is not None else origin.registry
    if origin.digest is None or address is None:
        raise AdaptationError(f"{origin}: was never published, and its weights are not in the folder.")
    pulled = pull_version(origin.pinned, address, cache)
    return (pulled.folder / WEIGHTS).read_bytes()


def _check_shapes(tensors: Mapping[str, Tensor], interface: Interface, where: Path) -> None:
    """Raises AdaptationError if an interface file does not hold what belongs there."""
    num_units = len(interface.unit)
    expected = {
        "unit": tuple(interface.unit.shape),
        "session": tuple(interface.session.shape),
        "mean": (num_units,),
        "scale": (num_units,),
        "columns": (num_units,),
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise AdaptationError(f"{where / INTERFACE}: holds {found}; expected {expected}. Adapt again.")
