"""One backbone adapted to many recordings in parallel; a recording that cannot be used stops no other.

adaptations.yaml               what was asked; the same command goes on, another is refused
<session key>/                 the folder of one adaptation; finished once its result.json is there
table.csv, table.json          a row for each session, failures too
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import yaml
from rich.console import Console

from forebrain.adaptation.adapting import Mode, default_mode
from forebrain.adaptation.artifact import EVALUATION, RECORD, RESULT, scores_of
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.comparison import compare
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.recording import with_rate
from forebrain.adaptation.report import save_comparison
from forebrain.alone import alone_in
from forebrain.console import Table
from forebrain.errors import ConfigError, ForebrainError, StudyError
from forebrain.evaluation.tables import overview
from forebrain.out_folder import ADAPTATIONS as ASKED
from forebrain.out_folder import require_own
from forebrain.scoring.evaluate import Evaluation
from forebrain.sealed import require_numbers, unsealed
from forebrain.sessions.session import session_key
from forebrain.shards.recordings import find_all, open_any, sha256_of
from forebrain.studies.kept import require_unchanged
from forebrain.studies.remarks import Remarks
from forebrain.training.versions import code_version
from forebrain_registry.storage import Folder, carrying_anchors, scratch

# In the folder of an adaptation: the hash of the recording that it is of, and the version that made it.
OF = "recording.json"
_COLUMNS = (
    "session", "status", "score", "low", "high", "linear", "ridge", "self", "not adapted", "seconds", "leak",
    "recording", "error", "code_version",
)  # fmt: skip
_SHOWN = _COLUMNS[:-3]
_NAMED = "model"  # in ASKED, for people: which version had the weights
_NUMBERS = ("score", "low", "high", "linear", "ridge", "self", "not adapted", "seconds")
Row = dict[str, Any]
_log = logging.getLogger(__name__)
RunEach = Callable[[Callable[[Row], list[Row]], list[Row]], Iterable[list[Row]]]


@dataclass(frozen=True)
class ManyConfig:
    """A backbone, the recordings to adapt it to, and how.

    Attributes:
        model: name, name@3 or name@alias of a published backbone; or a run folder, with a / in it.
        recordings: files and folders of recordings.
        out: folder or s3://bucket/folder. The same command goes on with what is not finished there.
        registry: where the backbone is. None: FOREBRAIN_REGISTRY.
        mode: what is trained: embeddings, forecaster, full, scratch or none. None: see `default_mode`.
        minutes: fit to so many minutes of each, see `last_minutes`. None: the whole recording.
        rate_hz: frames a second of recordings that do not state it.
        resample: bring recordings to the nearest rate that the backbone was trained on.
        serial: one after the other in this process, without Ray, in place of as many as there are CPUs.
        fit: the optimisation.
    """

    model: str
    recordings: list[str]
    out: str
    registry: str | None = None
    mode: Mode | None = None
    minutes: float | None = None
    rate_hz: float | None = None
    resample: bool = False
    serial: bool = False
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        for name in ("minutes", "rate_hz"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value:g}; expected a positive number.")


@alone_in("out")
def adapt_many(config: ManyConfig, console: Console) -> list[Row]:
    """Adapts to every session of the recordings, and writes the table.

    Returns:
        A row for each session, and for each recording that could not be opened: `status` is adapted,
        finished (before) or failed.

    Raises:
        ForebrainError: there is no such backbone or recording, or `out` holds adaptations of another kind,
            or other work.
    """
    out = Folder(config.out)
    require_own(out, ASKED)
    backbone = Backbone.open(config.model, config.registry)
    config = replace(config, mode=config.mode or default_mode(backbone.model, config.minutes))
    _claim(out, config, backbone)
    item = {
        "model": backbone.origin.pinned,
        "registry": backbone.origin.registry,
        "weights": backbone.origin.weights_sha256,
        "out": out.uri,
        "mode": config.mode,
        "resample": config.resample,
        "minutes": config.minutes,
        "rate_hz": config.rate_hz,
        "fit": dataclasses.asdict(config.fit),
    }
    items = [{**item, "recording": recording} for recording in find_all(config.recordings)]
    console.print(f"Adapting {backbone.origin} to {len(items)} recordings ...")
    rows: list[Row] = []
    remarks = Remarks(console)
    run_each: RunEach = _here if config.serial else _on_ray
    for number, made in enumerate(run_each(_adapt_recording, items), 1):
        rows += made
        for row in made:
            said = f"score {row['score']:.3f}" if row["score"] is not None else row["error"] or "no score"
            console.print(
                f"[{number}/{len(items)}] {row['session'] or row['recording']}: {row['status']}, {said}"
            )
            if row["status"] == "finished":
                remarks.step(row, "adaptations")
    rows = _refuse_shared_names(_sorted(rows))
    if others := _of_other_recordings(out, rows):
        console.print(f"table.csv keeps {len(others)} rows of recordings that were adapted to before.")
    every = _sorted([*rows, *others])
    out.write("table.csv", _as_csv(every).encode())
    out.write("table.json", json.dumps(every, indent=1).encode())
    return rows


def show(config: ManyConfig, rows: list[Row], console: Console) -> None:
    """Prints the table, and the mean over sessions with its interval."""
    table = Table(*_SHOWN, title=f"adapted to {config.model}, test part", left=[1])
    for row in rows:
        table.add_row(*(_text(row[name]) for name in _SHOWN))
    console.print(table)
    out = Folder(config.out)
    done = [row["session"] for row in rows if row["status"] != "failed"]
    if len(done) > 1:
        merged = Evaluation.merge([_evaluation(out.child(session_key(session))) for session in done])
        console.print(overview(merged).to_rich())
    for row in rows:
        if row["status"] == "failed":
            console.print(f"failed: {row['session'] or row['recording']}: {row['error']}")
    console.print(f"{len(done)} adapted, {len(rows) - len(done)} failed: {out.uri_of('table.csv')}")


def _claim(out: Folder, config: ManyConfig, backbone: Backbone) -> None:
    """Writes down what is asked, or raises ConfigError where something else was asked before."""
    asked = {
        "weights": backbone.origin.weights_sha256,
        "mode": config.mode,
        "resample": config.resample,
        # Folders of before these were there hold neither.
        **{
            name: getattr(config, name)
            for name in ("minutes", "rate_hz")
            if getattr(config, name) is not None
        },
        **dataclasses.asdict(config.fit),
    }
    if not out.exists(ASKED):
        with contextlib.suppress(FileExistsError):  # another command came first
            with_name = {**asked, _NAMED: str(backbone.origin)}
            out.create(ASKED, yaml.safe_dump(with_name, sort_keys=False).encode())
    try:
        before = dict(yaml.safe_load(out.read(ASKED)))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{out.uri_of(ASKED)}: damaged ({' '.join(str(error).split())}). Remove it, and the same command "
            "makes it again."
        ) from error
    began_with, now = before.pop(_NAMED, None), str(backbone.origin)
    if before != asked:
        # A name alone stands for another version once one is published.
        is_other = before.get("weights") != asked["weights"] and began_with not in (None, now)
        model = f", with --model {began_with} in place of {now}," if is_other else ""
        other = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
        raise ConfigError(
            f"{out.uri} holds adaptations with another {', '.join(other)}. Give the same command{model} to "
            "go on there, or another --out."
        )


def _here(function: Callable[[Row], list[Row]], items: list[Row]) -> Iterator[list[Row]]:
    return map(function, items)


def _on_ray(function: Callable[[Row], list[Row]], items: list[Row]) -> Iterator[list[Row]]:
    """A task of one CPU for each item; results come as they are done."""
    from forebrain.ray_runtime import start_ray

    start_ray()
    import ray

    task = ray.remote(num_cpus=1, max_retries=1)(carrying_anchors(function))
    waiting = {task.remote(item): item for item in items}
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        item = waiting.pop(done)
        try:
            yield ray.get(done)
        except ray.exceptions.RayError as error:
            yield [_row(item["recording"], "", "failed", error=f"its worker ended ({type(error).__name__})")]


def _adapt_recording(item: Row) -> list[Row]:
    """Adapts to every session of one recording; what goes wrong with one becomes its row."""
    torch.set_num_threads(1)
    recording = item["recording"]
    try:
        sha256 = sha256_of(recording)
        sessions = open_any(recording)
        backbone = Backbone.open(item["model"], item["registry"])
        if backbone.origin.weights_sha256 != item["weights"]:
            raise StudyError(
                f"{item['model']} has other weights than when this began. Give another --out to adapt them."
            )
    except (ForebrainError, OSError) as error:
        return [_row(recording, "", "failed", error=str(error))]
    rows = []
    out = Folder(item["out"])
    for session in sessions:
        place = out.child(session_key(session.id))
        try:
            result, status = _finished(place), "finished"
            version: str | None = code_version()
            if result is not None:
                version = _require_same(place, sha256, session.id)
            else:
                comparison = compare(
                    backbone, with_rate(session, item["rate_hz"]), item["mode"], FitConfig(**item["fit"]),
                    item["resample"], minutes=item["minutes"],
                )  # fmt: skip
                require_unchanged(recording, sha256)
                with scratch() as folder:
                    made = save_comparison(comparison, folder / "adaptation")
                    of = {"sha256": sha256, "code_version": version}
                    (made / OF).write_text(json.dumps(of), encoding="utf-8")
                    place.remove_partial()
                    # The result last: it says that all else is there.
                    for path in sorted(made.iterdir(), key=lambda path: path.name == RESULT):
                        place.write(path.name, path.read_bytes())
                result, status = comparison.result(), "adapted"
        except (ForebrainError, OSError) as error:
            rows.append(_row(recording, session.id, "failed", error=str(error)))
        else:
            rows.append(_row(recording, session.id, status, result, version=version))
    return rows


def _evaluation(place: Folder) -> Evaluation:
    stored = place.read_all([EVALUATION, RECORD])
    try:
        return Evaluation.from_json(scores_of(stored[EVALUATION], stored[RECORD]))
    except (ValueError, LookupError, TypeError) as error:
        raise StudyError(
            f"{place.uri_of(EVALUATION)}: damaged ({error!r:.200}). Remove its folder, and the same command "
            "adapts again."
        ) from error


def _finished(place: Folder) -> Row | None:
    """The result of an adaptation that is done; None where there is none, or it is damaged and made again.

    So is one of which a file was removed since.
    """
    try:
        stored = place.read_all([RESULT, RECORD])
        result = scores_of(stored[RESULT], stored[RECORD])
        is_whole = all(place.exists(name) for name in (EVALUATION, *unsealed(stored[RECORD])["files"]))
        row = _row("", "", "", result)
        require_numbers(row, _NUMBERS, or_none=True)
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return result if is_whole else None


def _require_same(place: Folder, sha256: str, session: str) -> str | None:
    """The version that made a finished adaptation; None where it did not say.

    One of an earlier version, which kept no hash, is taken for one of this recording.

    Raises:
        ConfigError: it is not of the recording with this hash.
        StudyError: what it is of is damaged.
    """
    try:
        of = json.loads(place.read(OF))
        known, version = of["sha256"], of.get("code_version")
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise StudyError(
            f"{place.uri_of(OF)}: damaged ({error!r:.200}). Remove its folder, and the same command adapts "
            "again."
        ) from error
    if known != sha256:
        raise ConfigError(
            f"{place.uri} holds the adaptation to another recording called {session}, or to this one before "
            "it or its sidecar file changed. Give another --out, or remove that folder to adapt again."
        )
    return None if version is None else str(version)


def _refuse_shared_names(rows: list[Row]) -> list[Row]:
    """The rows; those of recordings that are called the same failed, for they share one folder."""
    names = Counter(row["session"] for row in rows if row["session"])
    return [
        row
        if names[row["session"]] < 2
        else _row(
            row["recording"],
            row["session"],
            "failed",
            error=f"{names[row['session']]} recordings are called {row['session']}, so their adaptations "
            "cannot be told apart. Name each one's session in a sidecar file, and give another --out.",
        )
        for row in rows
    ]


def _row(
    recording: str,
    session: str,
    status: str,
    result: Row | None = None,
    error: str = "",
    version: str | None = None,
) -> Row:
    row: Row = dict.fromkeys(_COLUMNS)
    row |= {"recording": recording, "session": session, "status": status, "error": error}
    row["code_version"] = version
    if result is not None:
        low, high = result["interval"]
        row |= {
            "score": result["score"],
            "low": low,
            "high": high,
            **{name: result["baselines"].get(name) for name in ("linear", "ridge", "self")},
            "not adapted": result["others"].get("not adapted"),
            "seconds": result["seconds"],
            "leak": result["leak"],
        }
    return row


def _sorted(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["recording"], row["session"]))


def _of_other_recordings(out: Folder, rows: list[Row]) -> list[Row]:
    """Rows of the table that is there, of adaptations that are still there and that no row is of now."""
    try:
        before = [{name: row[name] for name in _COLUMNS} for row in json.loads(out.read("table.json"))]
        given = {row[name] for row in rows for name in ("recording", "session")}
        return [
            row
            for row in before
            if not given & {row["recording"], row["session"]}
            and row["session"]
            and _finished(out.child(session_key(row["session"]))) is not None
        ]
    except FileNotFoundError:
        return []
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        _log.warning("%s: damaged (%r); its rows are left out.", out.uri_of("table.json"), error)
        return []


def _as_csv(rows: list[Row]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _text(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "LEAK" if cell else ""
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
