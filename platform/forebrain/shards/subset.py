"""A part of a data set to train on, for studies of how much the rest would have helped.

What is kept follows from (data, config, seed), and a larger subset of the same seed holds every smaller one.
What is evaluated does not: validation and test windows stay where they are, and errors are weighed by the
statistics of the whole training part, so that scores of different subsets are of the same things. What the
model sees is normalised by the subset alone: a shorter recording does not know the rest of a longer one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from forebrain.errors import BadShardError, ConfigError
from forebrain.scoring.intervals import rng_for
from forebrain.scoring.protocols import Range, fit_ranges, part_ranges, without
from forebrain.sessions.session import fits
from forebrain.shards.fetching import PageFetcher
from forebrain.shards.fits import Fit, Moments, scale_of
from forebrain.shards.index import TRACES, SessionEntry
from forebrain.shards.reader import ALL, ShardSet
from forebrain_registry.lines import composed


@dataclass(frozen=True)
class SubsetConfig:
    """Which part of the data a run trains on; None keeps everything.

    Attributes:
        include: sessions whose id fits one of these patterns, in which * stands for anything.
        subjects: so many of their subjects, drawn by the run's seed, with all their sessions.
        sessions: so many of their sessions, drawn by the run's seed.
        frames: the last so many frames of each session's training part. The latest, because then the time
            between training and evaluation is the same for every number.
        fraction: the last part of each session's training frames, in place of `frames`.
        units: so many units of each session, drawn by the run's seed.
        scored_units: forecasts of so many units of each session are scored, the first that were drawn, so
            that runs with different `units` are scored on the same ones. None: all that are kept.
    """

    include: list[str] | None = None
    subjects: int | None = None
    sessions: int | None = None
    frames: int | None = None
    fraction: float | None = None
    units: int | None = None
    scored_units: int | None = None

    def __post_init__(self) -> None:
        for name in ("subjects", "sessions", "frames", "units", "scored_units"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"subset.{name} is {value}; expected 1 or more.")
        if self.include is not None and not self.include:
            raise ConfigError("subset.include is empty; expected patterns of session ids, or none for all.")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ConfigError(f"subset.fraction is {self.fraction}; expected above 0, at most 1.")
        if self.frames is not None and self.fraction is not None:
            raise ConfigError("subset.frames and subset.fraction are both given; expected one of them.")
        if self.scored_units is not None and not (self.units and self.scored_units <= self.units):
            raise ConfigError(
                f"subset.scored_units is {self.scored_units} and subset.units {self.units}; "
                "expected at most as many as are kept."
            )

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self == SubsetConfig()

    @property
    def has_own_fits(self) -> bool:
        """Whether sessions lose frames or units, and with them their statistics."""
        return not (self.frames is None and self.fraction is None and self.units is None)


class SubsetShards:
    """A part of an open set of shards, with the face of a `ShardSet`.

    Args:
        whole: the set.
        config: what is kept of it.
        protocol: under which it is read.
        seed: of what is drawn.
        held_out_conditions: experimental conditions whose frames are in no segment, and in no statistic.

    Attributes:
        uri, fingerprint, max_window, forecasts_components, skips_bad, options: those of the set.
        sessions: entries of the sessions that are kept; of the units, only what is kept of them.

    Raises:
        ConfigError: there is not as much as is to be kept, or the protocol or the set has no such subset.
    """

    def __init__(
        self,
        whole: ShardSet,
        config: SubsetConfig,
        protocol: str,
        seed: int,
        held_out_conditions: Collection[str] = (),
    ) -> None:
        self._has_own_fits = config.has_own_fits or bool(held_out_conditions)
        if self._has_own_fits and whole.forecasts_components:
            raise ConfigError(
                f"some frames or units of {whole.uri} are left out, whose principal components were fitted "
                "on all of them; expected shards prepared without --prepare.pca."
            )
        if (config.frames or config.fraction) and protocol == "poco":
            raise ConfigError(
                "subset.frames and subset.fraction do not go with protocol poco, which normalises by the "
                "whole recording; expected another protocol."
            )
        self._whole, self._config, self._protocol = whole, config, protocol
        self.uri, self.fingerprint, self.max_window = whole.uri, whole.fingerprint, whole.max_window
        self.forecasts_components, self.skips_bad = whole.forecasts_components, whole.skips_bad
        self.options = whole.options
        self._positions = _chosen_sessions(whole, config, seed)
        entries = [whole.sessions[position] for position in self._positions]
        self._held_out = [_ranges_of(entry, held_out_conditions) for entry in entries]
        entries = [
            replace(entry, segments=tuple(without(list(entry.segments), held_out)))
            for entry, held_out in zip(entries, self._held_out, strict=True)
        ]
        self._training = [_latest_training(entry, config, protocol) for entry in entries]
        self._units = [_chosen_units(entry, config, seed) for entry in entries]
        self.sessions = [_with_units(*pair) for pair in zip(entries, self._units, strict=True)]
        self._own_fit = lru_cache(maxsize=None)(self._find_fit)

    @property
    def bad_shards(self) -> dict[str, str]:
        return self._whole.bad_shards

    def read(self, session: int, start: int, stop: int, units: slice = ALL) -> np.ndarray:
        """Raw frames [start, stop) of a range of the units that are kept; see `ShardSet.read`."""
        kept = self._units[session]
        if kept is None:
            return self._whole.read(self._positions[session], start, stop, units)
        return self._whole.read(self._positions[session], start, stop)[:, kept[units]]

    def read_inputs(self, session: int, name: str, start: int, stop: int) -> np.ndarray:
        """As `ShardSet.read_inputs`."""
        return self._whole.read_inputs(self._positions[session], name, start, stop)

    def expect(self, session: int, ranges: Iterable[Range], units: slice = ALL, name: str = TRACES) -> None:
        """Hears that windows will be read; see `ShardSet.expect`."""
        narrow = units if self._units[session] is None else ALL
        self._whole.expect(self._positions[session], ranges, narrow, name)

    @property
    def fetcher(self) -> PageFetcher | None:
        """See `ShardSet.fetcher`."""
        return self._whole.fetcher

    def forget_expected(self) -> None:
        """Hears that what was expected is not read after all."""
        self._whole.forget_expected()

    def hurry(self) -> None:
        """Hears that what was expected came too late; see `ShardSet.hurry`."""
        self._whole.hurry()

    def fit(self, session: int, protocol: str) -> Fit:
        """The normalisation that the subset's own training frames give."""
        assert protocol == self._protocol
        return self._own_fit(session) if self._has_own_fits else self._whole_fit(session)

    def fitted_on(self, session: int, protocol: str) -> tuple[Range, ...]:
        """The frames that `fit` was fitted on."""
        if not self._has_own_fits:
            return self._whole.fitted_on(self._positions[session], protocol)
        num_frames = self.sessions[session].num_frames
        return tuple(fit_ranges(protocol, num_frames, self._training[session]))

    def held_out_ranges(self, session: int) -> list[Range]:
        """Frames of the conditions that are held out."""
        return self._held_out[session]

    def training_segments(self, session: int) -> list[Range]:
        """Where training windows may lie."""
        return self._training[session]

    def as_scored(self, session: int, protocol: str, values: np.ndarray) -> np.ndarray:
        """Values [..., N] in the units of measure of the whole training part, of the K units that are
        scored: [..., K]. Offsets are left out, because all metrics are of differences."""
        if not self._has_own_fits:
            return values
        ratio = self.fit(session, protocol).scale / self._whole_fit(session).scale[self._kept(session)]
        scored = slice(self._config.scored_units)
        return values[..., scored] * ratio[scored]

    def unit_positions(self, session: int) -> np.ndarray | None:
        """Positions of the units that are kept; see `ShardSet.unit_positions`."""
        positions = self._whole.unit_positions(self._positions[session])
        return None if positions is None else positions[self._kept(session)]

    def unit_names(self, session: int) -> tuple[str, ...] | None:
        """Names of the units that are kept; see `ShardSet.unit_names`."""
        return self._of_kept(session, self._whole.unit_names(self._positions[session]))

    def brain_regions(self, session: int) -> tuple[str, ...] | None:
        """Regions of the units that are kept; see `ShardSet.brain_regions`."""
        return self._of_kept(session, self._whole.brain_regions(self._positions[session]))

    def _of_kept(self, session: int, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        units = self._units[session]
        return names if names is None or units is None else tuple(names[unit] for unit in units)

    def _kept(self, session: int) -> np.ndarray | slice:
        units = self._units[session]
        return slice(None) if units is None else units

    def _whole_fit(self, session: int) -> Fit:
        return self._whole.fit(self._positions[session], self._protocol)

    def _find_fit(self, session: int) -> Fit:
        """The fit as `prepare` makes it, on the part of the data that is kept."""
        entry = self.sessions[session]
        moments = Moments(entry.num_units)
        pieces = [
            (first, min(first + self.max_window, stop))
            for start, stop in self.fitted_on(session, self._protocol)
            for first in range(start, stop, self.max_window)
        ]
        self.expect(session, pieces)
        for start, stop in pieces:
            try:
                moments.add(self.read(session, start, stop))
            except BadShardError:
                if not self.skips_bad:
                    raise
        return Fit(moments.mean.astype(np.float32), scale_of(self._protocol, moments.std).astype(np.float32))


def _chosen_sessions(whole: ShardSet, config: SubsetConfig, seed: int) -> list[int]:
    """Positions of the sessions that are kept, in the order of the set."""
    entries = dict(enumerate(whole.sessions))
    if config.include is not None:
        for pattern in config.include:
            if not any(fits(entry.id, pattern) for entry in entries.values()):
                raise ConfigError(
                    f"subset.include: no session of {whole.uri} is like {pattern!r}; there are "
                    f"{', '.join(entry.id for entry in list(entries.values())[:8])} ..."
                )
        entries = {
            position: entry
            for position, entry in entries.items()
            if any(fits(entry.id, pattern) for pattern in config.include)
        }
    if config.subjects is not None:
        subjects = _drawn(
            "subjects", sorted({subject_of(entry) for entry in entries.values()}), config.subjects, seed
        )
        entries = {position: entry for position, entry in entries.items() if subject_of(entry) in subjects}
    if config.sessions is not None:
        ids = _drawn("sessions", sorted(entry.id for entry in entries.values()), config.sessions, seed)
        entries = {position: entry for position, entry in entries.items() if entry.id in ids}
    return list(entries)


def _ranges_of(entry: SessionEntry, conditions: Collection[str]) -> list[Range]:
    return sorted(each for name in conditions for each in entry.conditions.get(name, ()))


def subject_of(entry: SessionEntry) -> str:
    """The animal of a session; two data sets may use the same name for two animals."""
    return composed(f"{entry.dataset}/{entry.subject}")


def _drawn(what: str, names: list[str], count: int, seed: int) -> set[str]:
    if count > len(names):
        raise ConfigError(f"subset.{what} is {count}; expected at most the {len(names)} that there are.")
    order = rng_for(seed, "subset", what).permutation(len(names))
    return {names[position] for position in order[:count]}


def _latest_training(entry: SessionEntry, config: SubsetConfig, protocol: str) -> list[Range]:
    """The frames a session may train on: all of it, or the end of its training part."""
    segments = list(entry.segments)
    if config.frames is None and config.fraction is None:
        return segments
    training = part_ranges(protocol, "train", entry.num_frames, segments)
    available = sum(stop - start for start, stop in training)
    if config.fraction is not None:
        return latest(training, max(1, round(config.fraction * available)))
    assert config.frames is not None
    if config.frames > available:
        raise ConfigError(
            f"subset.frames is {config.frames} and the training part of {entry.id} has {available} frames; "
            "expected at most as many. Leave shorter sessions out with subset.include, or give "
            "subset.fraction."
        )
    return latest(training, config.frames)


def latest(ranges: list[Range], count: int) -> list[Range]:
    """The last `count` frames of ordered ranges."""
    kept: list[Range] = []
    for start, stop in reversed(ranges):
        if count <= 0:
            break
        kept.append((max(start, stop - count), stop))
        count -= stop - start
    return kept[::-1]


def _chosen_units(entry: SessionEntry, config: SubsetConfig, seed: int) -> np.ndarray | None:
    """Numbers of the units that are kept, in the order in which they are drawn; None for all."""
    if config.units is None:
        return None
    if config.units > entry.num_units:
        raise ConfigError(
            f"subset.units is {config.units} and {entry.id} has {entry.num_units} units; expected at most as "
            "many. Leave smaller sessions out with subset.include."
        )
    return rng_for(seed, "subset units", entry.id).permutation(entry.num_units)[: config.units]


def _with_units(entry: SessionEntry, units: np.ndarray | None) -> SessionEntry:
    return entry if units is None else replace(entry, num_units=len(units))
