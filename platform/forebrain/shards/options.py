"""The choices that a user has when recordings are prepared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from forebrain.errors import ConfigError
from forebrain.shards.index import FIRST_FORMAT, FORMAT, to_json

# Formats and versions of what prepared sessions that a set may hold side by side, the current one last; the
# version is raised when the same recording and options give other bytes.
_VERSIONS = ((FIRST_FORMAT, 2), (FORMAT, 3), (FORMAT, 4), (FORMAT, 5))


@dataclass(frozen=True)
class PrepareConfig:
    """How recordings become shards. Every field is part of what the shards are.

    Attributes:
        max_window: longest window (context + horizon) that can be read, frames.
        event_rate_hz: bins that event matrices are summed into, Hz; null keeps their frames.
        resample_hz: common rate that every session is resampled to, causally; null keeps their rates.
        pca: forecast this many principal components in place of the units; null forecasts the units.
        stretch_bytes: target size of a sample; a sample holds at least 4 x max_window frames.
        shard_bytes: target size of a tar.
        page_bytes: size of the checksummed pages a window is read in, at most.
    """

    max_window: int = 320
    event_rate_hz: float | None = 2.0
    resample_hz: float | None = None
    pca: int | None = None
    stretch_bytes: int = 64 << 20
    shard_bytes: int = 256 << 20
    page_bytes: int = 2 << 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; expected a number above 0.")

    def require_of(self, options: Mapping[str, Any], where: str) -> None:
        """Makes sure that a prepared set has these options, as far as they were given: others than those by
        default.

        Args:
            options: of the set's index.
            where: its address.

        Raises:
            ConfigError: it has others, which nothing can change any more.
        """
        for item in fields(self):
            value, of_set = getattr(self, item.name), options.get(item.name, item.default)
            if value not in (item.default, of_set):
                raise ConfigError(
                    f"prepare.{item.name} is {value}, but {where} is a prepared set, whose {item.name} is "
                    f"{of_set}. Leave the option out, or give a set, or recordings, to prepare with it."
                )

    @property
    def sha256(self) -> str:
        """Tells sessions apart that were prepared with other options, or by other code."""
        return self.known_sha256[-1]

    @property
    def known_sha256(self) -> tuple[str, ...]:
        """The `sha256` of this and of earlier versions, whose sessions stay as they are in a set."""
        return tuple(
            hashlib.sha256(to_json({"format": name, "version": version, **asdict(self)})).hexdigest()
            for name, version in _VERSIONS
        )
