"""A run folder: what was asked, what happened, what came out. The same layout on a disk and on S3.

config.yaml  metrics.jsonl  tensorboard/  checkpoints/  result.json  figures/
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import yaml

from forebrain.errors import CheckpointError
from forebrain.shards.index import INDEX_NAME
from forebrain.training.config import PretrainConfig
from forebrain_registry.storage import Folder


class RunFolder:
    """Reads and writes a run folder."""

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri)

    @property
    def uri(self) -> str:
        return self.folder.uri

    def check_config(self, config: PretrainConfig) -> None:
        """Raises CheckpointError if the folder holds a run of another config."""
        stored = self.read_config()
        if stored is not None:
            check_same_run(stored, json.loads(json.dumps(config.identity())), self.uri)

    def write_config(self, config: PretrainConfig) -> None:
        """Keeps the resolved config; it is enough to run again."""
        values = dataclasses.asdict(config)
        self.folder.write("config.yaml", yaml.safe_dump(values, sort_keys=False).encode())

    def write_deepspeed(self, config: dict[str, Any]) -> None:
        """Keeps what DeepSpeed is given, for people; nothing reads it."""
        self.folder.write("deepspeed.json", json.dumps(config, indent=1).encode())

    def read_config(self) -> dict[str, Any] | None:
        """The run's config as plain values; None if no run was started here."""
        try:
            values = yaml.safe_load(self.folder.read("config.yaml"))
        except FileNotFoundError:
            return None
        except yaml.YAMLError as error:
            raise CheckpointError(f"{self.uri}/config.yaml: not valid YAML ({error}).") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{self.uri}/config.yaml: expected the keys and values of a run.")
        return values

    def shards(self, data: str) -> str:
        """The run's shards: `data` where it is a set of shards, else those prepared in the run folder."""
        is_set = not data.startswith("sim://") and Folder(data).exists(INDEX_NAME)
        return data if is_set else self.folder.uri_of("shards")

    def clear(self) -> None:
        """Takes back a run that could not start."""
        for name in ("config.yaml", "shards"):
            self.folder.remove(name)
        self.folder.remove_if_empty()

    def write_result(self, result: dict[str, Any]) -> None:
        self.folder.write("result.json", json.dumps(result, indent=1, allow_nan=False).encode())

    def read_result(self) -> dict[str, Any] | None:
        try:
            return json.loads(self.folder.read("result.json"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise CheckpointError(
                f"{self.uri}/result.json: damaged ({error}); remove it, and the same command makes it again."
            ) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in self.folder.read("metrics.jsonl").splitlines()]
        except FileNotFoundError:
            return []

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        self.folder.write("metrics.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def check_same_run(stored: dict[str, Any], identity: dict[str, Any], where: str) -> None:
    """Raises CheckpointError, naming every difference, if a run of another config is there."""
    differences = [
        f"{name} was {before} and is now {now}"
        for name, before, now in _differences({key: stored.get(key) for key in identity}, identity)
    ]
    if differences:
        raise CheckpointError(
            f"{where} holds a run of another config: {'; '.join(differences)}. "
            "Give the same command to resume it, or another --out for a new run."
        )


def _differences(stored: Any, asked: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    # A key that is missing is of a run from before there was such an option: as if it were left out.
    if isinstance(asked, dict) and (stored is None or isinstance(stored, dict)):
        return [
            difference
            for key in asked
            for difference in _differences((stored or {}).get(key), asked[key], f"{name}.{key}".lstrip("."))
        ]
    is_same = stored == asked or (stored is None and asked is False)
    return [] if is_same else [(name, stored, asked)]
