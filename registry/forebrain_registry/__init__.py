"""A model registry without a server: a folder, s3://bucket/prefix, or (to read) any web host.

    from forebrain_registry import Metadata, Registry, publish, pull

    registry = Registry("s3://lab/models")
    version = publish(registry, "zebrafish", "best/", Metadata(licence="MIT", config={}, preprocessing={}))
    registry.set_alias("zebrafish", "champion", version.number)
    folder = pull(registry, "zebrafish@champion").folder

Versions are immutable and numbered from 1; their bytes are content-addressed; aliases, deprecations and
signatures are records beside them. `layout` says what lies where, docs/registry.md what is guaranteed.
Imports neither Ray, torch nor forebrain.
"""

from forebrain_registry.collector import Collected, collect_garbage
from forebrain_registry.errors import (
    ConflictError,
    DamagedError,
    ForebrainError,
    InvalidError,
    NotFoundError,
    RegistryError,
    StorageError,
)
from forebrain_registry.publishing import copy, publish, restore
from forebrain_registry.pulling import Pulled, default_cache, export, pull
from forebrain_registry.records import Metadata, Metric, Reference, SeenSession, StoredFile, Version
from forebrain_registry.registry import Registry
from forebrain_registry.verifying import Findings, verify, write_index

__version__ = "0.1.0"

__all__ = [
    "Collected",
    "ConflictError",
    "DamagedError",
    "Findings",
    "ForebrainError",
    "InvalidError",
    "Metadata",
    "Metric",
    "NotFoundError",
    "Pulled",
    "Reference",
    "Registry",
    "RegistryError",
    "SeenSession",
    "StorageError",
    "StoredFile",
    "Version",
    "collect_garbage",
    "copy",
    "default_cache",
    "export",
    "publish",
    "pull",
    "restore",
    "verify",
    "write_index",
]
