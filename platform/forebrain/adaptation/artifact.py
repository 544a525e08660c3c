"""The files that an adaptation leaves in a folder, and loads again to forecast with.

    adaptation.json          the record: whose it is, which model it belongs to, and the files' hashes
    interface.safetensors    unit [N, d], session [d], mean [N], scale [N], columns [N]
    stack.safetensors        the weights of model, linear and head, where the model does not forecast alone
    inputs.safetensors       what forecasts with inputs, where the recording has some that change
    backbone.safetensors     only where the backbone is none that can be pulled for good, or was changed
    intervals.safetensors    how far its forecasts are off, by level, step and unit, see `scoring.conformal`
    result.json              its scores beside those of the baselines, where it was scored
    evaluation.json          the same by horizon step, as `scoring` has it

The folder appears whole or not at all. An interface means nothing to another backbone than its own, so the
record holds the hash of the backbone's weights, and what is loaded is compared with it. Both files of scores
hold the record's: a folder that was copied in part must not tell another animal's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor

from forebrain.adaptation.adapting import Mode, Trained
from forebrain.adaptation.description import Description, fill, tensors_of
from forebrain.adaptation.origin import Origin, pull_version, weights_of
from forebrain.adaptation.pretrained import Pretrained
from forebrain.adaptation.recording import Prepared
from forebrain.adaptation.shipped import SHIPPED
from forebrain.errors import AdaptationError, ConfigError, StorageError
from forebrain.models.base import Interface, Model
from forebrain.scoring.conformal import Calibration
from forebrain.scoring.input_stacks import InputStacks
from forebrain.scoring.stack import Stack
from forebrain.sealed import sealed, unsealed
from forebrain.sessions.preprocessing import Preprocessing
from forebrain.sessions.session import Session
from forebrain_registry.records import WEIGHTS
from forebrain_registry.storage import (
    Anchor,
    Folder,
    anchored,
    partial_beside,
    path_here,
    require_anchored,
    tell_of_partial_beside,
)

FORMAT = "forebrain-adaptation-1"
# With a stack, which a program of before would leave out in silence.
STACKED_FORMAT = "forebrain-adaptation-2"
RECORD = "adaptation.json"
INTERFACE = "interface.safetensors"
BACKBONE = "backbone.safetensors"
STACK = "stack.safetensors"
INTERVALS = "intervals.safetensors"
INPUTS = "inputs.safetensors"
RESULT = "result.json"
EVALUATION = "evaluation.json"
# Of the record, in both of these.
_RECORD_SHA256 = "adaptation_sha256"
# What the record holds of `Preprocessing`; the rest are tensors of the interface's file.
_PREPROCESSING = (
    "num_recorded", "unit_names", "rate_hz", "recorded_rate_hz", "event_rate_hz", "resample_hz", "fitted_on",
)  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """Whose recording it is; see `Session`."""

    species: str
    subject: str
    session: str
    dataset: str

    @classmethod
    def of(cls, session: Session) -> Identity:
        return cls(session.species, session.subject, session.session, session.dataset)

    @property
    def id(self) -> str:
        """`dataset/subject/session`, the name people read."""
        return f"{self.dataset}/{self.subject}/{self.session}"


@dataclass(frozen=True, eq=False)
class Artifact:
    """A model with the interface of one animal, and what is known of both.

    Attributes:
        model: the backbone, on the CPU, in evaluation mode.
        interface: the animal's.
        preprocessing: how its frames become what the model sees.
        identity: whose recording it was adapted to.
        mode: what was trained.
        origin: where the backbone is from.
        description: what the backbone expects.
        stack: weights of the model's forecast and of regressions of the recording; None for the model alone.
        inputs: forecasts that know what is done to the animal; None where no input is known.
        calibration: of the intervals; None where nothing could be calibrated on, or it was adapted before
            there were any.
        result, evaluation: what result.json and evaluation.json hold; None where it was not scored.
    """

    model: Model
    interface: Interface
    preprocessing: Preprocessing
    identity: Identity
    mode: Mode
    origin: Origin
    description: Description
    stack: Stack | None = None
    inputs: InputStacks | None = None
    calibration: Calibration | None = None
    result: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        backbone: Pretrained,
        prepared: Prepared,
        trained: Trained,
        mode: Mode,
        stack: Stack | None = None,
        inputs: InputStacks | None = None,
        calibration: Calibration | None = None,
        result: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
    ) -> Self:
        """The artifact of an interface and model that were trained on a recording."""
        description = backbone.description
        return cls(
            model=trained.model.eval().requires_grad_(False),
            interface=trained.interface.requires_grad_(False),
            preprocessing=prepared.preprocessing,
            identity=Identity.of(prepared.session),
            mode=mode,
            origin=backbone.origin,
            description=replace(description, num_datasets=1) if mode == "scratch" else description,
            stack=stack,
            inputs=inputs,
            calibration=calibration,
            result=result,
            evaluation=evaluation,
        )

    @property
    def can_be_pulled(self) -> bool:
        """Whether the backbone is a published version as it was published, and stays where it is.

        Those that come with the package do not: the next may bring others.
        """
        is_kept = self.origin.digest is not None and self.origin.registry != SHIPPED
        return is_kept and self.mode in ("embeddings", "none")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the folder, which must not exist yet; it appears whole or not at all.

        Raises:
            StorageError: there is something of that name, or the disk is full.
        """
        with new_folder(folder) as partial:
            self.write_into(partial)
        return path_here(folder)

    def write_into(self, folder: Path) -> None:
        """Writes the files into a folder that is there."""
        files = {INTERFACE: safetensors.torch.save(self._tensors())}
        if not self.can_be_pulled:
            files[BACKBONE] = weights_of(self.model)
        if self.stack is not None:
            files[STACK] = safetensors.numpy.save(self.stack.arrays())
        if self.calibration is not None:
            files[INTERVALS] = safetensors.numpy.save(self.calibration.arrays())
        if self.inputs is not None:
            files[INPUTS] = safetensors.numpy.save(self.inputs.arrays())
        for name, data in files.items():
            (folder / name).write_bytes(data)
        config = self.model.config
        record = {
            "format": FORMAT if self.stack is None else STACKED_FORMAT,
            "mode": self.mode,
            "model": dataclasses.asdict(self.origin),
            "config": self.description.config(),
            "preprocessing": replace(self.description, fitted_on={}).preprocessing(),
            **{name: getattr(self.preprocessing, name) for name in _PREPROCESSING},
            **dataclasses.asdict(self.identity),
            "context": config.context,
            "horizon": config.horizon,
            "persists": self.interface.is_smooth,
            **({} if self.calibration is None else {"intervals": dict(self.calibration.record)}),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        if self.inputs is not None:
            record["inputs"] = self.inputs.record()
        content = sealed(record)
        (folder / RECORD).write_bytes(content)
        whose = {_RECORD_SHA256: hashlib.sha256(content).hexdigest()}
        if self.result is not None:
            (folder / RESULT).write_bytes(sealed({**self.result, **whose}))
        if self.evaluation is not None:
            (folder / EVALUATION).write_bytes(sealed({**self.evaluation, **whose}, indent=None))

    def _tensors(self) -> dict[str, Tensor]:
        fitted = self.preprocessing
        return {
            "unit": self.interface.unit.detach().float().cpu().contiguous(),
            "session": self.interface.session.detach().float().cpu().contiguous(),
            "mean": torch.from_numpy(fitted.mean),
            "scale": torch.from_numpy(fitted.scale),
            "columns": torch.from_numpy(fitted.columns),
        }

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        registry: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Loads what `save` wrote; a published backbone comes from the cache or its registry.

        Args:
            folder: the --out of `forebrain adapt`.
            registry: where the backbone is now; None for where it was pulled from.
            cache: the folder that pulled versions are kept in; None for the user's.

        Raises:
            AdaptationError: the folder holds no adaptation, a file is missing or not what was written, or the
                backbone is not to be had or not the one that this interface belongs to.
        """
        where = path_here(folder)
        content, record = read_record(where)
        try:
            files, origin, mode = record["files"], Origin(**record["model"]), record["mode"]
            description = Description.from_metadata(record["config"], record["preprocessing"], str(where))
            identity = Identity(*(record[each.name] for each in dataclasses.fields(Identity)))
            known: dict[str, Any] = {name: record[name] for name in _PREPROCESSING}
            known["unit_names"] = tuple(known["unit_names"])
            known["fitted_on"] = tuple((start, stop) for start, stop in known["fitted_on"])
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
        model = description.build(tensors_of(weights, str(origin)), str(origin)).requires_grad_(False)
        interface = model.new_interface(len(known["unit_names"])).requires_grad_(False)
        _check_shapes(tensors, interface, where)
        fill(interface, {name: tensors[name] for name in ("unit", "session")}, str(where))
        interface.is_smooth = record.get("persists", True)
        known |= {name: tensors[name].numpy() for name in ("mean", "scale", "columns")}
        stack = inputs = calibration = None
        try:
            if STACK in files:
                arrays = safetensors.numpy.load(_read_file(where, STACK, files))
                stack = Stack.from_arrays(arrays, str(where / STACK))
            if INPUTS in files:
                arrays = safetensors.numpy.load(_read_file(where, INPUTS, files))
                inputs = InputStacks.from_arrays(arrays, record.get("inputs", {}), str(where / INPUTS))
            if INTERVALS in files:
                arrays = safetensors.numpy.load(_read_file(where, INTERVALS, files))
                known_record = record.get("intervals") or {}
                calibration = Calibration.from_arrays(arrays, known_record, str(where / INTERVALS))
        except ConfigError as error:
            raise AdaptationError(f"{error} Adapt again.") from error
        try:
            preprocessing = Preprocessing(**known)
        except (ConfigError, TypeError) as error:
            raise AdaptationError(f"{where}: damaged ({error}); adapt again.") from error
        return cls(
            model, interface, preprocessing, identity, mode, origin, description, stack, inputs, calibration,
            result=read_scores(where, RESULT, content), evaluation=read_scores(where, EVALUATION, content),
        )  # fmt: skip


def scores_of(data: bytes, record: bytes) -> dict[str, Any]:
    """What result.json or evaluation.json holds, beside the adaptation.json with these bytes.

    Those of an earlier version do not say whose they are, and are taken for this adaptation's.

    Raises:
        ValueError: it has changed, or is another adaptation's.
    """
    scores, sha256 = unsealed(data), hashlib.sha256(record).hexdigest()
    if scores.pop(_RECORD_SHA256, sha256) != sha256:
        raise ValueError(
            f"it is of another adaptation than {RECORD} beside it: the folder was copied in part, or "
            "replaced while it was read"
        )
    return scores


def read_scores(folder: Path, name: str, record: bytes) -> dict[str, Any] | None:
    """The same of a folder, whose adaptation.json was read before; None where there is no such file.

    Raises:
        AdaptationError: it cannot be read, has changed, or is another adaptation's.
    """
    try:
        return scores_of((folder / name).read_bytes(), record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise AdaptationError(
            f"{folder / name}: damaged ({error!s:.200}). Delete it to go on without the scores, or adapt "
            "again."
        ) from error


@contextlib.contextmanager
def new_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which gets its name once the block ends without an error; else nothing is left.

    Raises:
        StorageError: there is something of that name that is no empty folder, or the disk is full.
    """
    with begun(target) as partial, finished(partial, target):
        yield partial


@contextlib.contextmanager
def begun(target: str | os.PathLike[str]) -> Iterator[Path]:
    """The empty folder that is to be filled and get a name, from before the work on; at the end it is gone.

    Where it is no longer found after the work, the folder above was moved, or a disk mounted or unmounted:
    whatever was made there would lie elsewhere than meant, or hidden.

    Raises:
        StorageError: there is something of that name that is no empty folder, or none that another can take
            the place of; or it cannot be made.
    """
    target = path_here(target)  # as given: a relative one is found where the working folder is moved
    Folder(target.absolute())  # which none is behind a link to nothing
    require_anchored(target.absolute())
    try:
        if target.exists():
            if not target.is_dir() or any(target.iterdir()):
                raise StorageError(f"{target}: exists already. Give a folder that does not.")
            if what := _stays(target.absolute()):
                raise StorageError(f"{target}: is {what}, which no other takes the place of. Name one in it.")
        missing = [each for each in target.parents if not each.exists()]
        tell_of_partial_beside(target)
        partial = partial_beside(target)
        partial.mkdir(parents=True)
    except OSError as error:  # a name that is too long, a folder that may not be looked at or written to
        raise StorageError(f"{target}: {error.strerror}. Choose another folder.") from error
    try:
        with anchored(Anchor(partial, partial)):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # they hold the folder
            for each in missing:
                each.rmdir()


@contextlib.contextmanager
def finished(partial: Path, target: str | os.PathLike[str]) -> Iterator[None]:
    """Gives what was `begun` its name, once the block that fills it ends without an error.

    Raises:
        StorageError: it is no longer there, the disk is full, or something else has the name.
    """
    try:
        yield
        partial.replace(path_here(target))
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


def _stays(folder: Path) -> str | None:
    """What keeps an empty folder from being replaced."""
    if folder.is_symlink():
        return f"a link to the folder {folder.readlink()}"
    if folder.is_mount():
        return "the folder that a disk is mounted at"
    return "the folder that this command is given in" if folder.samefile(Path.cwd()) else None


def read_record(folder: Path) -> tuple[bytes, Mapping[str, Any]]:
    """The bytes of adaptation.json, and what they hold.

    Raises:
        AdaptationError: there is none, it is damaged, or of a later version.
    """
    path = folder / RECORD
    try:
        content = path.read_bytes()
        record = unsealed(content)
    except FileNotFoundError as error:
        raise AdaptationError(
            f"{folder}: no {RECORD}, so there is no adaptation here; give the --out of `forebrain adapt`."
        ) from error
    except (OSError, ValueError) as error:
        raise AdaptationError(f"{path}: cannot be read, or is damaged ({error}); adapt again.") from error
    found = record.get("format")
    if found not in (FORMAT, STACKED_FORMAT):
        raise AdaptationError(
            f"{path}: has format {found!r:.60}; this program reads {FORMAT!r} and {STACKED_FORMAT!r}. "
            "Update forebrain, or adapt again."
        )
    return content, record


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
    try:
        pulled, _ = pull_version(origin.pinned, address, cache)
    except AdaptationError as error:
        if origin.registry != SHIPPED:
            raise
        raise AdaptationError(
            f"{error} {origin} came with another version of forebrain, and is not in the cache: install that "
            "version to open this, or adapt again."
        ) from error
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
