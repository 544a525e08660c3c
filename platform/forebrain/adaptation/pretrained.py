"""A trained backbone with all that is known of it, from a registry or from a run."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from typing import Self

from forebrain.adaptation.description import Description, tensors_of
from forebrain.adaptation.origin import Origin, pull_version, weights_of
from forebrain.adaptation.run_backbone import (
    GUESSED,
    describe,
    fit_start,
    num_guessed,
    open_windows,
    seen_sessions,
)
from forebrain.adaptation.start import START, Start
from forebrain.models.base import Model
from forebrain.models.baselines.constant import CopyConfig
from forebrain.runs.trained import TrainedModel
from forebrain.scoring.protocols import RecordingProtocol
from forebrain.shards.options import PrepareConfig
from forebrain.training.run_folder import RunFolder
from forebrain_registry import SeenSession
from forebrain_registry.records import WEIGHTS


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained backbone and what is known of it.

    Attributes:
        model: on the CPU, in evaluation mode, frozen.
        description: what it expects of a recording.
        origin: where it is from.
        sessions: every session it was trained on.
        start: what the interfaces that it was trained with have in common; None where that was not published.
        deprecated: why it is, as its registry said; None where it is not, or none was asked, as of a digest
            in the cache.
        guessed: of how many of the sessions the names were guessed from file names.
    """

    model: Model
    description: Description
    origin: Origin
    sessions: tuple[SeenSession, ...]
    start: Start | None = None
    deprecated: str | None = None
    guessed: int = 0

    @classmethod
    def open(cls, reference: str, registry: str | os.PathLike[str] | None = None) -> Self:
        """A published version, or a run's best backbone where the reference holds a `/`."""
        return cls.from_run(reference) if "/" in reference else cls.from_registry(reference, registry)

    @classmethod
    def nothing(cls, context: int = CopyConfig.context, horizon: int = CopyConfig.horizon) -> Self:
        """No backbone: the last frame of C is repeated H times, and heads are all that is fitted."""
        model = CopyConfig(context=context, horizon=horizon, relative=True)
        description = Description(model, 1, "relative", "chronological", PrepareConfig.event_rate_hz, None)
        built = model.build().eval()
        origin = Origin("none", hashlib.sha256(weights_of(built)).hexdigest())
        return cls(built, description, origin, ())

    def under(self, protocol: RecordingProtocol | None) -> Self:
        """The same for recordings that are split by another protocol; None for its own."""
        if protocol is None:
            return self
        return replace(self, description=replace(self.description, protocol=protocol))

    @classmethod
    def from_registry(
        cls,
        reference: str,
        registry: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Pulls a published version, or finds it in the cache.

        Args:
            reference: `name`, `name@3`, `name@alias` or `name@sha256:...`.
            registry: its address; None for FOREBRAIN_REGISTRY. What comes with the package is looked in where
                that holds nothing of the name.
            cache: the folder that pulled versions are kept in; None for the user's.

        Raises:
            AdaptationError: there is no such version (the nearest is suggested), it is damaged, or it is no
                backbone that this program can use.
        """
        pulled, address = pull_version(reference, registry, cache)
        version, metadata = pulled.version, pulled.version.metadata
        where = f"{version}"
        description = Description.from_metadata(metadata.config, metadata.preprocessing, where)
        data = (pulled.folder / WEIGHTS).read_bytes()
        origin = Origin(
            reference=str(version),
            weights_sha256=hashlib.sha256(data).hexdigest(),
            digest=version.digest,
            registry=address,
        )
        model = description.build(tensors_of(data, where), where).requires_grad_(False)
        start = None
        # What lies in the cache and no record names was checked by nobody.
        if START in [stored.path for stored in version.record.files]:
            start = Start.load((pulled.folder / START).read_bytes(), model.new_interface(1), where)
        guessed = metadata.config.get(GUESSED)
        guessed = guessed if isinstance(guessed, int) else 0  # an earlier version did not say
        return cls(model, description, origin, metadata.sessions, start, pulled.deprecated, guessed)

    @classmethod
    def from_run(cls, run: str, data: str | None = None) -> Self:
        """The best backbone of a run, as it would be published.

        Args:
            run: the run folder, the --out of `forebrain pretrain`.
            data: shards the run was trained on; None for where its config says they are.

        Raises:
            ForebrainError: there is no run, or its data are not to be had.
        """
        folder = RunFolder(run)
        trained = TrainedModel.load(folder)
        windows = open_windows(folder, trained, data)
        weights_sha256 = hashlib.sha256(weights_of(trained.backbone)).hexdigest()
        return cls(
            model=trained.backbone.requires_grad_(False),
            description=describe(trained, windows),
            origin=Origin(folder.uri, weights_sha256),
            sessions=seen_sessions(trained, windows),
            start=fit_start(trained, windows),
            guessed=num_guessed(trained, windows),
        )

    @property
    def rates_hz(self) -> list[float]:
        """The rates that it was trained on, where they are known."""
        return sorted({seen.rate_hz for seen in self.sessions if seen.rate_hz is not None})
