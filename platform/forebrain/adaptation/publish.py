"""Publishing: a checkpoint of a run becomes a version in a registry, with all that a lab needs to use it.

Nothing in a version tells where it was made: no address, no name of a machine, no credentials.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from rich.console import Console

from forebrain.adaptation.origin import registry_address, weights_of
from forebrain.adaptation.run_backbone import (
    GUESSED,
    UNFINISHED,
    describe,
    fit_start,
    num_guessed,
    open_windows,
    seen_sessions,
)
from forebrain.adaptation.start import START
from forebrain.errors import PublishError
from forebrain.runs.evaluate import SCORED_PARTS, score_parts, windows_scored, with_baselines
from forebrain.runs.trained import TrainedModel
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.intervals import LEVEL
from forebrain.shards.windows import ShardWindows
from forebrain.training.config import PretrainConfig
from forebrain.training.run_folder import RunFolder
from forebrain.training.versions import code_version
from forebrain_registry import Metadata, Metric, Registry, RegistryError, Version, publish, restore
from forebrain_registry.card import make_card
from forebrain_registry.publishing import note_number
from forebrain_registry.records import CARD, PICTURE, WEIGHTS, check_name
from forebrain_registry.verifying import verify_version

INTERFACES = "interfaces.safetensors"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishConfig:
    """The run to publish, and where.

    Attributes:
        run: the run folder, the --out of `forebrain pretrain`.
        name: of the model in the registry: a-z, 0-9, '.', '_' and '-'.
        registry: its address, a folder or s3://bucket/prefix. None: FOREBRAIN_REGISTRY.
        licence: of the weights, as SPDX writes it, for example CC-BY-4.0. Mind those of the recordings.
        step: of the checkpoint to publish. None: the best by validation.
        data: shards the run was trained on. None: where the run's config says they are.
        parent: reference to the version that this one was made from, name@3.
        summary: a sentence for lists and the model card. None: one about data and score.
    """

    run: str
    name: str
    registry: str | None = None
    licence: str = "not stated"
    step: int | None = None
    data: str | None = None
    parent: str | None = None
    summary: str | None = None


def publish_run(config: PublishConfig, metrics: Sequence[Metric] = ()) -> tuple[Version, bool]:
    """Publishes a checkpoint of a run, unless it is published there already, with what else is asked for.

    What that version has lost is stored again; where it cannot be made as it was, another is published.

    Args:
        config: what is published where.
        metrics: what else was measured of it, besides the scores of the run.

    Returns:
        The version, and whether it was there before.

    Raises:
        ForebrainError: there is no such run or checkpoint, or its data are not to be had, or the registry
            cannot be published to. Nothing is visible there then.
    """
    registry = require_publishable(config.name, config.registry)
    with registry.staying():
        return _publish(registry, config, metrics)


def _publish(registry: Registry, config: PublishConfig, metrics: Sequence[Metric]) -> tuple[Version, bool]:
    run = RunFolder(config.run)
    trained = TrainedModel.load(run, config.step)
    weights = weights_of(trained.backbone)
    known = _published_before(registry, config, trained, weights)
    if known is not None and not verify_version(registry, known).problems:
        with _registry_errors():
            if known.number not in registry.listing(known.name).given:  # its publisher was killed
                note_number(registry, known)
        return known, True
    windows = open_windows(run, trained, config.data)
    metadata = _metadata(config, run, trained, windows, metrics) if known is None else known.metadata
    pictures = _picture(run, trained)
    # The card says in sentences what a summary made of the metadata says.
    told = dataclasses.replace(metadata, summary=config.summary or "")
    card = make_card(config.name, told, PICTURE if pictures else None)
    card += _training(trained) + _recordings(trained, windows)
    files = {WEIGHTS: weights, START: fit_start(trained, windows).save(), CARD: card.encode(), **pictures}
    interfaces = {INTERFACES: _interfaces(trained, windows)}
    with _registry_errors():
        if known is not None and not restore(registry, known, files, interfaces):
            return known, True
        return publish(registry, config.name, files, metadata, interfaces), False


def _metadata(
    config: PublishConfig,
    run: RunFolder,
    trained: TrainedModel,
    windows: ShardWindows,
    metrics: Sequence[Metric],
) -> Metadata:
    description = describe(trained, windows)
    metadata = Metadata(
        licence=config.licence,
        config=description.config()
        | {"run": _identity(trained.config), GUESSED: num_guessed(trained, windows)}
        | ({UNFINISHED: trained.unfinished} if trained.unfinished else {}),
        preprocessing=description.preprocessing(),
        sessions=seen_sessions(trained, windows),
        metrics=(*metrics, *_metrics_of(run, trained, windows)),
        parent=config.parent,
        run_id=run_id(trained),
        code_version=code_version(),
    )
    return dataclasses.replace(metadata, summary=config.summary or _summary(metadata))


def say_published(version: Version, was_there: bool, console: Console) -> None:
    """Tells a person what became of a publication, and what to do with it."""
    if was_there:
        console.print(f"This checkpoint is published already, as {version}; no other version was made.")
    else:
        console.print(f"Published as {version} (sha256:{version.digest}).")
    console.print(f"Adapt it: forebrain adapt --model {version} --recording FILE --out DIR")


def require_publishable(name: str, registry: str | None) -> Registry:
    """The registry, after a try whether it can be published to under this name.

    Raises:
        ForebrainError: it cannot.
    """
    opened = Registry(registry_address(registry))
    with _registry_errors():
        check_name(name)
        opened.writer()
    return opened


def run_id(trained: TrainedModel) -> str:
    """Names a run by what was asked of it and of which data: the same wherever it was computed."""
    asked = json.dumps(_identity(trained.config), sort_keys=True).encode()
    fingerprint = trained.checkpoint.record["data_fingerprint"]
    return f"{hashlib.sha256(asked).hexdigest()[:16]}-{fingerprint[:16]}-step{trained.checkpoint.step}"


def _identity(config: PretrainConfig) -> dict[str, Any]:
    """The settings that define the run, without addresses."""
    values = config.identity()
    del values["data"]
    return json.loads(json.dumps(values))


def _published_before(
    registry: Registry, config: PublishConfig, trained: TrainedModel, weights: bytes
) -> Version | None:
    """The newest version of the same run with the same weights that says of itself what is asked for.

    One that is deprecated counts, with a line: the same command given again must not bring it back.
    """
    sha256, run = hashlib.sha256(weights).hexdigest(), run_id(trained)
    asked = {"summary": config.summary, "parent": config.parent}
    if config.licence != PublishConfig.licence:
        asked["licence"] = config.licence
    with _registry_errors():
        if config.name not in registry.names():
            return None
        versions, deprecations = registry.versions(config.name), registry.deprecations(config.name)
    for version in reversed(versions):
        stored = {file.path: file.sha256 for file in version.record.files}
        if (stored[WEIGHTS], version.metadata.run_id) != (sha256, run):
            continue
        # Once the run has ended, a version is to say so, though its best weights be those of before.
        if UNFINISHED in version.metadata.config and not trained.unfinished:
            continue
        if all(value in (None, getattr(version.metadata, name)) for name, value in asked.items()):
            if version.number in deprecations:
                _log.warning(
                    "%s is deprecated: %s. Its name alone passes over it; `forebrain registry deprecate %s "
                    "--undo` takes that back.",
                    version,
                    deprecations[version.number],
                    version,
                )
            return version
    return None


def _scores(run: RunFolder, trained: TrainedModel, windows: ShardWindows) -> dict[str, Any]:
    """Blocks of the scored parts as in result.json: those of the run, or scored now."""
    result = run.read_result() or {}
    if result.get("best_step") == trained.checkpoint.step:
        return {part: result[part] for part in SCORED_PARTS if part in result}
    config, forecasters = trained.config, with_baselines(trained, windows)
    parts = score_parts(trained, windows, forecasters, windows_scored(windows, config), Console(quiet=True))
    return {part: evaluation.result(config.model.title) for part, evaluation in parts.items()}


def _metrics_of(run: RunFolder, trained: TrainedModel, windows: ShardWindows) -> tuple[Metric, ...]:
    """The metrics of the scores, which an earlier version may have written without a seal."""
    scores = _scores(run, trained, windows)
    try:
        return tuple(_metrics(scores))
    except (LookupError, TypeError, ValueError, AttributeError, RegistryError) as error:
        raise run.damaged_result(repr(error)) from error


def _picture(run: RunFolder, trained: TrainedModel) -> dict[str, bytes]:
    """The picture of forecasts that the run drew of this checkpoint, where it did."""
    path = "evaluation/test/forecast_traces.png"
    if (run.read_result() or {}).get("best_step") != trained.checkpoint.step or not run.folder.exists(path):
        return {}
    return {PICTURE: run.folder.read(path)}


def _metrics(scores: Mapping[str, Any]) -> Iterator[Metric]:
    """The model's figures with intervals, never without the baselines' beside them."""
    for part, block in scores.items():
        for name in ("score", "mse", "mae", "correlation"):
            yield from _metric(name, name, block, part)
        if block.get("r2") is not None:
            yield Metric("R2", block["r2"], split=part)
        for baseline in BASELINES:
            yield from _metric(f"score of {baseline}", "score", block["baselines"][baseline], part)
        if len(block["by_dataset"]) > 1:
            for dataset, own in block["by_dataset"].items():
                yield from _metric("score", "score", own, part, dataset)


def _metric(name: str, key: str, block: Mapping[str, Any], part: str, dataset: str = "") -> Iterator[Metric]:
    if block[key] is None:
        return
    low, high = block["interval"][key]
    over = {"sessions": "bootstrap over sessions", "blocks": "bootstrap over blocks of time"}
    if low is None or high is None:
        yield Metric(name, block[key], split=part, dataset=dataset)
    else:
        interval = f"{LEVEL:.0%}, {over[block['interval']['kind']]}"
        yield Metric(name, block[key], low, high, interval, part, dataset)


def _summary(metadata: Metadata) -> str:
    test = {
        metric.name: metric.value
        for metric in metadata.metrics
        if metric.split == "test" and not metric.dataset
    }
    scored = "score" in test
    score = f", test score {test['score']:.3f} (linear {test['score of linear']:.3f})" if scored else ""
    unfinished = metadata.config.get(UNFINISHED)
    so_far = f", after {unfinished}" if unfinished else ""
    return f"{', '.join(metadata.species)}: {len(metadata.sessions)} sessions{score}{so_far}"


def _training(trained: TrainedModel) -> str:
    """The part of the card on a run that had not ended; empty of one that had."""
    if not trained.unfinished:
        return ""
    return (
        "\n## Training\n\nThe run that this is of had not ended when it was published: it had done "
        f"{trained.unfinished}.\n"
    )


def _recordings(trained: TrainedModel, windows: ShardWindows) -> str:
    """The part of the card on licences and citations of the recordings; empty where none was stated."""
    found: dict[str, None] = {}
    for entry in windows.shards.sessions:
        licence, citation = (entry.metadata.get(name) or "not stated" for name in ("licence", "citation"))
        if entry.id in trained.interfaces and (licence, citation) != ("not stated", "not stated"):
            found[
                "| "
                + " | ".join(cell.replace("|", "/") for cell in (entry.dataset, licence, citation))
                + " |"
            ] = None
    if not found:
        return ""
    return "\n".join(("\n## Recordings\n", "| data set | licence | citation |", "|---|---|---|", *found, ""))


def _interfaces(trained: TrainedModel, windows: ShardWindows) -> bytes:
    """The tensors of each session trained on: `<session id>:unit`, `:session`, `:mean` and `:scale`."""
    tensors: dict[str, torch.Tensor] = {}
    for number, entry in enumerate(windows.shards.sessions):
        interface = trained.interfaces.get(entry.id)
        if interface is not None:
            fit = windows.shards.fit(number, windows.protocol)
            tensors |= {
                f"{entry.id}:unit": interface.unit.detach().cpu().contiguous(),
                f"{entry.id}:session": interface.session.detach().cpu().contiguous(),
                f"{entry.id}:mean": torch.from_numpy(fit.mean),
                f"{entry.id}:scale": torch.from_numpy(fit.scale),
            }
    return safetensors.torch.save(tensors)


@contextlib.contextmanager
def _registry_errors() -> Iterator[None]:
    try:
        yield
    except RegistryError as error:
        raise PublishError(str(error)) from error
