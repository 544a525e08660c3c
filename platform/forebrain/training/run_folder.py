"""A run folder: what was asked, what happened, what came out. The same layout on a disk and on S3.

config.yaml  metrics.jsonl  tensorboard/  checkpoints/  attempts/  data_index.json or shards/  result.json
evaluation/
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import urllib.parse
from typing import Any

import yaml

from forebrain.errors import CheckpointError
from forebrain.out_folder import RUN as _CONFIG
from forebrain.out_folder import require_own
from forebrain.sealed import sealed, unsealed
from forebrain.shards.reader import is_set, read_index
from forebrain.training.checkpoints import CheckpointStore
from forebrain.training.config import PretrainConfig
from forebrain.training.data import is_same_data
from forebrain.training.metrics_file import MetricsFile
from forebrain_registry.storage import Folder

_RESULT = "result.json"
_SHARDS = "shards"
_INDEX = "data_index.json"


class RunFolder:
    """Reads and writes a run folder; nobody else knows where in it things are.

    Args:
        uri: its address, a path or s3://bucket/prefix.

    Attributes:
        folder: the same as a `Folder`.
    """

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri)

    @property
    def uri(self) -> str:
        return self.folder.uri

    @property
    def attempts(self) -> Folder:
        """Records of the starts of the training loop; see `training.ledger`."""
        return self.folder.child("attempts")

    @property
    def tensorboard(self) -> Folder:
        return self.folder.child("tensorboard")

    @property
    def ray_uri(self) -> str:
        """Address of what Ray Train keeps for itself; nothing of it is read."""
        return ray_uri_in(self.folder)

    def checkpoints(self, keep: int = 2) -> CheckpointStore:
        """The run's checkpoints; `keep` as in `CheckpointStore`."""
        return CheckpointStore(self.folder.child("checkpoints"), keep)

    def metrics(self) -> MetricsFile:
        """The run's metrics.jsonl."""
        return MetricsFile(self.folder)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, each kind of a step once."""
        return self.metrics().read()

    def shards(self, data: str) -> str:
        """Address of the run's shards: `data` where it is a set of shards, else those prepared in the run
        folder."""
        return data if not data.startswith("sim://") and is_set(data) else self.folder.uri_of(_SHARDS)

    def keep_index(self, data: str) -> None:
        """Keeps which sessions a prepared set holds as the run begins: more may be added meanwhile. A run
        that was begun without this stays as it is."""
        if self.shards(data) == data and not self.checkpoints().newest_step():
            with contextlib.suppress(FileExistsError):
                self.folder.create(_INDEX, read_index(data))

    def kept_index(self) -> bytes | None:
        """What `keep_index` kept; None where the run prepared its own shards, or began without it."""
        try:
            return self.folder.read(_INDEX)
        except FileNotFoundError:
            return None

    @property
    def has_shards(self) -> bool:
        """Whether something was prepared in the run folder."""
        return self.folder.exists(_SHARDS)

    def claim(self, config: PretrainConfig) -> bool:
        """Makes this the folder of a run before any work is done; the config is then enough to run again.

        Of two commands that start here at once one is first; the other must ask for the same run.

        Returns:
            Whether there was no run before.

        Raises:
            CheckpointError: a run of another config is there.
            ConfigError: other work is there.
        """
        require_own(self.folder, _CONFIG)
        content = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False).encode()
        is_new = False
        if self.read_config() is None:
            with contextlib.suppress(FileExistsError):
                self.folder.create(_CONFIG, content)
                is_new = True
        self.check_config(config)
        self.folder.remove_partial(deep=False)
        if not is_new:  # what computes it, and how often it is saved, may have changed
            self.folder.write(_CONFIG, content)
        return is_new

    def release(self, had_shards: bool) -> None:
        """Takes back the claim of a run that could not start, unless another process has started it.

        Args:
            had_shards: something was prepared here before the claim; it stays.
        """
        if self.attempts.names() or self.folder.exists("checkpoints"):
            return
        for name in (_CONFIG, _INDEX) if had_shards else (_CONFIG, _INDEX, _SHARDS):
            self.folder.remove(name)
        self.folder.remove_if_empty()

    def check_config(self, config: PretrainConfig) -> str | None:
        """Checks that the folder holds no run of another config, and no other work.

        Data that were moved, and hold what they held, are the same.

        Returns:
            Where the data were before, if that was elsewhere.

        Raises:
            CheckpointError: it does.
            ConfigError: it holds other work.
        """
        require_own(self.folder, _CONFIG)
        stored = self.read_config()
        if stored is None:
            return None
        before = stored.get("data")
        if isinstance(before, str) and self._is_same_data(config.data, before):
            stored["data"] = config.data
        check_same_run(stored, json.loads(json.dumps(config.identity())), self.uri)
        return before if before != config.data else None

    def _is_same_data(self, now: str, before: str) -> bool:
        trained_on = {checkpoint.record["data_fingerprint"] for checkpoint in self.checkpoints().committed()}
        return is_same_data(now, before, trained_on, self.folder.uri_of(_SHARDS))

    def read_config(self) -> dict[str, Any] | None:
        """The run's config as plain values; None if no run was started here."""
        try:
            values = yaml.safe_load(self.folder.read(_CONFIG))
        except FileNotFoundError:
            return None
        except (yaml.YAMLError, RecursionError) as error:
            why = " ".join(str(error).split())
            raise CheckpointError(f"{self.uri}/{_CONFIG}: not valid YAML ({why}).") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{self.uri}/{_CONFIG}: expected the keys and values of a run.")
        return values

    def write_deepspeed(self, config: dict[str, Any]) -> None:
        """Keeps what DeepSpeed is given, for people; nothing reads it."""
        self.folder.write("deepspeed.json", json.dumps(config, indent=1).encode())

    def is_finished(self, config: PretrainConfig) -> bool:
        """Whether there is a result of this config's run; `check_config` has looked at the data's address.

        Raises:
            CheckpointError: result.json is damaged, or another run's.
        """
        result = self.read_result() or {}
        if "config" in result:
            if not isinstance(result["config"], dict):
                raise self.damaged_result("its config is no map")
            stored = {**result["config"], "data": config.data}
            check_same_run(stored, json.loads(json.dumps(config.identity())), f"{self.uri}/{_RESULT}")
        return "steps" in result

    def write_result(self, result: dict[str, Any]) -> None:
        self.folder.write(_RESULT, sealed(result))

    def read_result(self) -> dict[str, Any] | None:
        """The content of result.json; None before the run has finished.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            return unsealed(self.folder.read(_RESULT))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise self.damaged_result(str(error)) from error

    def damaged_result(self, what: str) -> CheckpointError:
        """The error of a result.json in which something is not what a run writes."""
        return CheckpointError(
            f"{self.uri}/{_RESULT}: damaged ({what:.200}); remove it, and the same command of the run makes "
            "it again."
        )


def ray_uri_in(folder: Folder) -> str:
    """Address of a folder `ray` as Arrow, by which Ray writes, wants it: a path as it is, an address
    elsewhere with its characters escaped as in any URI."""
    if folder.is_local:
        return folder.uri_of("ray")
    scheme, _, rest = folder.uri_of("ray").partition("://")
    return f"{scheme}://{urllib.parse.quote(rest)}"


def check_same_run(stored: dict[str, Any], identity: dict[str, Any], where: str) -> None:
    """Raises CheckpointError, naming every difference, if a run of another config is there."""
    known = {key: stored.get(key) for key in identity}
    differences = [
        f"{name} was {before} and is now {now}" for name, before, now in _differences(known, identity)
    ]
    if differences:
        raise CheckpointError(
            f"{where} holds a run of another config: {'; '.join(differences)}. "
            "Give the same command to resume it, or another --out for a new run."
        )


def check_one_run(config: dict[str, Any], identity: dict[str, Any], where: str) -> None:
    """Raises CheckpointError if a config.yaml and a checkpoint beside it are of two runs.

    Args:
        config: as `RunFolder.read_config` gives it.
        identity: of the checkpoint's run, perhaps written by another version of the program. The address of
            the data may be another; their fingerprint settles that.
        where: names the checkpoint.
    """
    shared = {key: identity[key] for key in identity.keys() & config.keys() - {"data"}}
    differences = [
        f"{name} is {now} there and {before} in config.yaml"
        for name, before, now in _differences(config, shared)
        if before is not None
    ]
    if differences:
        raise CheckpointError(
            f"{where} is of another run than config.yaml: {'; '.join(sorted(differences))}. Two runs were "
            "mixed in this folder; give another --out and train again."
        )


def _differences(stored: Any, asked: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, value stored, value asked) where they differ, for the keys of what is asked."""
    # A key that is missing is of a run from before there was such an option: as if it were left out.
    if isinstance(asked, dict) and (stored is None or isinstance(stored, dict)):
        return [
            difference
            for key in asked
            for difference in _differences((stored or {}).get(key), asked[key], f"{name}.{key}".lstrip("."))
        ]
    is_same = stored == asked or (stored is None and asked is False)
    return [] if is_same else [(name, stored, asked)]
