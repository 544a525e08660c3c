"""The front door in Python: what `import forebrain as fb` offers as functions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.origin import newest_published
from forebrain.adaptation.recording import open_session
from forebrain.adaptation.tables import require_pandas
from forebrain.sessions.session import Session
from forebrain_registry import Version

if TYPE_CHECKING:
    import pandas


def models(registry: str | os.PathLike[str] | None = None) -> pandas.DataFrame:
    """The published models, and those that come with the package: a row for each, by its newest version that
    is not deprecated.

    Args:
        registry: a folder, s3://bucket/prefix or the address of a web host; None for FOREBRAIN_REGISTRY.

    Returns:
        Columns `name`, `species`, `rates` (Hz), `size` (MB), `score` (of the test part, 0 is copy and 1 is
        perfect) and `where` (the address of its registry, `package://forebrain` for the package);
        `load(name, where)` takes the very model of a row.

    Raises:
        AdaptationError: there is no such registry, or it cannot be read.
    """
    pandas = require_pandas()
    rows = [_row(version, address) for version, address in newest_published(registry)]
    return pandas.DataFrame(rows, columns=["name", "species", "rates", "size", "score", "where"])


def load(reference: str | os.PathLike[str], registry: str | os.PathLike[str] | None = None) -> Backbone:
    """A trained backbone.

    Args:
        reference: `name`, `name@3`, `name@alias` or `name@sha256:...` of a published one; or a run folder,
            with a `/` in it.
        registry: where it is published; None for FOREBRAIN_REGISTRY; `package://forebrain` for what comes
            with the package, which is looked in, with a line, where another holds nothing of the name.

    Raises:
        AdaptationError: there is no such backbone (the nearest is suggested), no registry, or it is damaged.
    """
    return Backbone.open(os.fspath(reference), registry)


def read(recording: str | os.PathLike[str], session: str | None = None) -> Session:
    """The session of a recording; nothing of its traces is read yet.

    Args:
        recording: a file or folder that is one recording, in any of the formats of docs/recordings.md.
        session: its id, where the recording holds several.

    Raises:
        RecordingError: it cannot be read.
        AdaptationError: it holds several sessions and none, or an unknown one, was asked for.
    """
    return open_session(os.fspath(recording), session)


def open(folder: str | os.PathLike[str], registry: str | os.PathLike[str] | None = None) -> Adapted:
    """The adaptation that `Adapted.save`, `Adapted.report` or `forebrain adapt` left in a folder.

    Args:
        folder: of the adaptation.
        registry: where its backbone is now; None for where it was pulled from.

    Raises:
        AdaptationError: there is no adaptation in the folder, or it is damaged, or its backbone is not to be
            had.
    """
    return Adapted.load(folder, registry)


def _row(version: Version, where: str) -> dict[str, object]:
    metadata = version.metadata
    score = metadata.of_test()
    return {
        "name": str(version),
        "species": ", ".join(metadata.species),
        "rates": ", ".join(dict.fromkeys(f"{rate:.4g}" for rate in metadata.rates_hz)),
        "size": version.size_bytes / 1e6,
        "score": None if score is None else score.value,
        "where": where,
    }
