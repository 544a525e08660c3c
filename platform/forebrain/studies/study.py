"""A study from end to end: check everything, prepare the data, run what is missing, read what came out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import yaml
from rich.console import Console

from forebrain.errors import CheckpointError, ConfigError, ForebrainError, StudyError
from forebrain.out_folder import STUDY_OF_RUNS as _ASKED
from forebrain.out_folder import require_own
from forebrain.runs.pretrain import check_data, prepare_into, require_options
from forebrain.sealed import sealed, unsealed
from forebrain.sessions.remote import is_remote
from forebrain.shards.index import INDEX_NAME
from forebrain.shards.reader import sources_of
from forebrain.shards.recordings import find_all, hashes_of
from forebrain.studies.notes import read_note, read_result, unfinished
from forebrain.studies.trials import Trial
from forebrain.training.config import PretrainConfig
from forebrain.training.data import is_same_data
from forebrain.training.run_folder import RunFolder, check_same_run
from forebrain_registry.lines import some
from forebrain_registry.storage import Folder

# In the study's folder: why some of its recordings are no part of the set that it prepared of them.
_LEFT_OUT = "left-out.json"
# Of result.json: the forecaster that was trained, and those beside it.
MODEL = "model"
Status = Literal["finished", "failed", "stopped", "missing"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        trial: which.
        status: finished, or why there is no result.
        text: more about that, where there is more to say.
        result: result.json of a finished trial.
    """

    trial: Trial
    status: Status
    text: str
    result: dict[str, Any] | None

    def by_session(self, part: str, forecaster: str = MODEL) -> dict[str, float]:
        """Scores by session, of the sessions that count and in which they are defined.

        Args:
            part: validation or test.
            forecaster: the model, or a baseline.
        """
        block = (self.result or {}).get(part) or {}
        if forecaster != MODEL:
            block = block.get("baselines", {}).get(forecaster, {})
        target = self.trial.target
        return {
            session: scores["score"]
            for session, scores in block.get("by_session", {}).items()
            if scores["score"] is not None and target in (None, session)
        }


class Study(Protocol):
    """A study's config."""

    @property
    def pretrain(self) -> PretrainConfig:
        """The config that all trials share; `out` is the study's folder."""

    @property
    def parallel(self) -> int | None:
        """Trials at once; None for as many as fit."""

    def trials(self, base: PretrainConfig) -> list[Trial]:
        """All trials, of `pretrain` with the address of prepared shards."""


def conduct(study: Study, console: Console, early_stopping: bool = False) -> list[Outcome]:
    """Runs a study, or goes on with it.

    Args:
        study: its config.
        console: where progress is shown.
        early_stopping: see `run_trials`.

    Raises:
        ConfigError: a trial is impossible, or the cluster has not the room; nothing was started.
        CheckpointError: the folder holds another study.
        StudyStoppedError: SIGTERM or SIGINT came.
    """
    from forebrain.studies.tuning import run_trials  # needs Ray, which definitions and reports do not

    base = study.pretrain
    folder = Folder(base.out)
    base = dataclasses.replace(base, out=folder.uri, data=_absolute(base.data))
    asked = yaml.safe_dump(_values(study, base.out), sort_keys=False).encode()
    is_new = _claim(folder, study, base, asked)
    try:
        trials = _ready_trials(study, base, console, is_new)
    except ForebrainError:
        if is_new:
            folder.remove(_ASKED)
            folder.remove_if_empty()
        raise
    folder.write(_ASKED, asked)  # with what was added since
    todo = unfinished(trials)
    console.print(f"{len(trials)} trials in {folder.uri}, {len(trials) - len(todo)} of them done already.")
    run_trials(trials, folder.uri, console, study.parallel, early_stopping)
    return read_outcomes(trials)


def read_outcomes(trials: Sequence[Trial]) -> list[Outcome]:
    """The outcomes in the trials' folders; a trial whose folder is not there is missing."""
    outcomes = []
    for trial in trials:
        result, note = read_result(trial), read_note(trial)
        if result is not None:
            outcomes.append(Outcome(trial, "finished", "", result))
        elif note is not None:
            outcomes.append(Outcome(trial, note.status, note.text, None))
        else:
            outcomes.append(Outcome(trial, "missing", "it has not run, or its folder was removed", None))
    return outcomes


def left_out(folder: Folder) -> tuple[str, ...] | None:
    """Why some of a study's recordings are no part of the set that it prepared of them; None where it was
    stopped before it knew."""
    try:
        found = unsealed(folder.read(_LEFT_OUT))["left_out"]
        return None if found is None else tuple(map(str, found))
    except FileNotFoundError:  # the set was there before, or an earlier version prepared it
        return ()
    except (ValueError, LookupError, TypeError) as error:
        return (f"some recordings, perhaps: {folder.uri_of(_LEFT_OUT)} is damaged ({error!r:.200})",)


def require_results(outcomes: Sequence[Outcome]) -> None:
    """Raises StudyError if no trial has a result, with the reason of the first."""
    if any(outcome.result is not None for outcome in outcomes):
        return
    first = outcomes[0]
    why = f"{first.trial.label}: {first.status}: {first.text}"
    raise StudyError(
        *f"none of {len(outcomes)} trials has a result. {why}".splitlines(),
        "The same command tries those that failed again.",
    )


def _absolute(data: str) -> str:
    return data if data.startswith("sim://") else Folder(data).uri


def _claim(folder: Folder, study: Study, base: PretrainConfig, asked: bytes) -> bool:
    """Makes the folder this study's before any work; True where it held none before.

    Variants, seeds and sizes may be added to a study; what all its trials share may not change.

    Raises:
        CheckpointError: a study of another base is there.
        ConfigError: other work or another study is there.
    """
    is_new = False
    require_own(folder, _ASKED)
    if not folder.exists(_ASKED):
        with contextlib.suppress(FileExistsError):  # another command came first
            folder.create(_ASKED, asked)
            is_new = True
    try:
        before = yaml.safe_load(folder.read(_ASKED))
        stored, axis = dict(before["pretrain"]), before.get("axis")
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{folder.uri_of(_ASKED)}: damaged ({' '.join(str(error).split())}). Remove it, and the same "
            "command makes it again."
        ) from error
    if axis != (own := getattr(study, "axis", None)):
        of = "study ablate" if axis is None else f"study scale of {axis}"
        own = "study ablate" if own is None else f"study scale of {own}"
        raise ConfigError(f"{folder.uri} holds {of}; give another --out for {own}.")
    if stored.get("data") != base.data:
        runs = [trial.run for trial in study.trials(base)]
        trained_on = {one.record["data_fingerprint"] for run in runs for one in run.checkpoints().committed()}
        if is_same_data(base.data, str(stored.get("data")), trained_on, folder.uri_of("shards")):
            stored["data"] = base.data
    check_same_run(stored, json.loads(json.dumps(base.identity())), folder.uri)
    return is_new


def _ready_trials(study: Study, base: PretrainConfig, console: Console, is_new: bool) -> list[Trial]:
    """All trials, their data prepared, and what is not finished of them found to be possible."""
    trials = study.trials(base)
    for trial in trials:
        if trial.config.prepare != base.prepare:
            raise ConfigError(
                f"{trial.label}: changes options of prepare, and all trials of a study share one set. "
                "Prepare a set with each, and compare runs of them, or make a study of each."
            )
    if is_new and RunFolder(base.out).shards(base.data) == base.data:
        require_options(base)
    trials = study.trials(_with_shards(base, trials, console))
    for trial in trials:
        trial.run.check_config(trial.config)
    for trial in trials:
        _require_as_asked(trial)
    for trial in unfinished(trials):
        try:
            check_data(trial.config.data, trial.config)
        except ConfigError as error:
            raise ConfigError(f"{trial.label}: {error}") from error
    return trials


def _require_as_asked(trial: Trial) -> None:
    """Raises ConfigError if a finished trial was scored on other windows than the study's, by `evaluate`."""
    asked = None if trial.config.evaluation.full else trial.config.evaluation.windows_per_session
    result = read_result(trial) or {}
    for part in ("validation", "test"):
        scored = result.get(part, {}).get("windows", {}).get("per_session", asked)
        if scored != asked:
            raise ConfigError(
                f"{trial.label}: its {part} part was scored on {_windows(scored)}, and the study's on "
                f"{_windows(asked)}, so they cannot be compared. `forebrain evaluate --run {trial.run.uri}` "
                "scores it as the others again."
            )


def _windows(per_session: int | None) -> str:
    return "every window" if per_session is None else f"{per_session} windows a session"


def _with_shards(base: PretrainConfig, trials: Sequence[Trial], console: Console) -> PretrainConfig:
    """The base with its recordings prepared, where `data` names some: once, for all trials."""
    shards, folder = RunFolder(base.out).shards(base.data), Folder(base.out)
    if shards == base.data:
        return base
    recordings = find_all([base.data])
    if Folder(shards).exists(INDEX_NAME) and left_out(folder) is not None:
        _require_prepared_of(recordings, shards, folder)
    else:
        longest = max(
            (trial.config.evaluation.longest_context or trial.config.model.context)
            + trial.config.model.horizon
            for trial in trials
        )
        if longest > base.prepare.max_window:
            raise ConfigError(
                f"prepare.max_window is {base.prepare.max_window}; expected at least the {longest} frames of "
                "context and horizon of the longest trial."
            )
        folder.write(_LEFT_OUT, sealed({"left_out": None}))  # until it is known
        hashes = hashes_of(recordings)
        failures = prepare_into(shards, recordings, base, console)
        folder.write(_LEFT_OUT, sealed({"left_out": failures, "recordings": hashes}))
    return dataclasses.replace(base, data=shards)


def _require_prepared_of(recordings: Sequence[str], shards: str, folder: Folder) -> None:
    """Raises ConfigError if recordings are others than a study's set was prepared from: its next trials would
    be of the old ones."""
    try:
        kept: dict[str, str | None] | None = unsealed(folder.read(_LEFT_OUT)).get("recordings")
    except (FileNotFoundError, ValueError, AttributeError):  # an earlier version's, or damaged
        kept = None
    before = kept or {}
    elsewhere = [
        address for address in recordings if is_remote(address) and address in before
    ]  # not asked again
    now = {address: before[address] for address in elsewhere}
    now |= hashes_of([address for address in recordings if address not in now])
    known = sources_of(shards) | set(before.values())
    came = [address for address, sha256 in now.items() if sha256 not in known]
    if kept is None and left_out(folder):  # which were there then, and of no use, is not known
        came = []
    gone = [each for each in known if each is not None and each not in now.values()]
    if not came and not gone:
        return
    names = {sha256: address for address, sha256 in before.items()}
    others = sorted({*came, *(names[each] for each in gone if each in names)})
    raise ConfigError(
        f"{folder.uri} holds a study of these recordings as they were before some changed, came or went: "
        f"{some(others) or f'{len(gone)} are gone'}. Give back what it was, or another --out."
    )


def _values(study: Any, out: str) -> dict[str, Any]:
    values: dict[str, Any] = dataclasses.asdict(study)
    values["pretrain"] |= {"out": out, "data": _absolute(study.pretrain.data)}
    return values
