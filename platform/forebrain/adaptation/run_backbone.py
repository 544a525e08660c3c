"""The backbone that a run has trained, described as a published version is."""

from __future__ import annotations

from forebrain.adaptation.description import Description
from forebrain.adaptation.start import Start
from forebrain.errors import AdaptationError, CheckpointError
from forebrain.runs.trained import TrainedModel
from forebrain.sessions.seen import is_guessed
from forebrain.shards.windows import ShardWindows
from forebrain.training.data import open_windows as open_run_windows
from forebrain.training.run_folder import RunFolder
from forebrain_registry import SeenSession

# In the config of a published version, what `num_guessed` says of it.
GUESSED = "guessed_names"
# The like of a run that had not ended, `TrainedModel.unfinished`; of others there is none.
UNFINISHED = "unfinished"


def open_windows(run: RunFolder, trained: TrainedModel, data: str | None) -> ShardWindows:
    """The windows a run was trained on.

    Raises:
        CheckpointError: there are other shards at that address.
        ShardError: there are none.
    """
    config = trained.config
    kept = None if data else run.kept_index()
    windows = open_run_windows(config, data or run.shards(config.data), kept)
    if windows.shards.fingerprint != trained.checkpoint.record["data_fingerprint"]:
        raise CheckpointError(
            f"{run.uri} was trained on other data than {windows.shards.uri} holds; give its own --data."
        )
    return windows


def describe(trained: TrainedModel, windows: ShardWindows) -> Description:
    """The backbone in words.

    Raises:
        AdaptationError: it forecasts principal components, which belong to their recording.
    """
    options = windows.shards.options
    if windows.shards.forecasts_components:
        raise AdaptationError(
            "the run forecasts principal components in place of units. They belong to their recording, so "
            "no other animal can be adapted to such a backbone; train on shards prepared without pca."
        )
    config = trained.config
    return Description(
        model=config.resolved_model(),
        num_datasets=len(trained.datasets),
        loss=config.training.resolved(config.protocol).loss,
        protocol=config.protocol,
        event_rate_hz=options["event_rate_hz"],
        resample_hz=options["resample_hz"],
        fitted_on={
            entry.id: windows.shards.fitted_on(position, config.protocol)
            for position, entry in enumerate(windows.shards.sessions)
            if entry.id in trained.interfaces
        },
    )


def seen_sessions(trained: TrainedModel, windows: ShardWindows) -> tuple[SeenSession, ...]:
    """Every session that the backbone was trained on."""
    return tuple(
        SeenSession(entry.dataset, entry.subject, entry.session, entry.species, entry.rate_hz)
        for entry in windows.shards.sessions
        if entry.id in trained.interfaces
    )


def num_guessed(trained: TrainedModel, windows: ShardWindows) -> int:
    """Of how many of these the names were guessed from file names."""
    return sum(is_guessed(entry) for entry in windows.shards.sessions if entry.id in trained.interfaces)


def fit_start(trained: TrainedModel, windows: ShardWindows) -> Start:
    """The start of new interfaces: what the interfaces of the run have in common."""
    embedding = dict(trained.backbone.named_parameters()).get("dataset")
    of_dataset = {} if embedding is None else dict(zip(trained.datasets, embedding.detach(), strict=True))
    return Start.fit(trained.interfaces, of_dataset, windows)
