"""The trials of a study: normal runs, each a base config with some keys replaced."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forebrain.config import from_values
from forebrain.errors import ConfigError
from forebrain.training.config import PretrainConfig
from forebrain.training.run_folder import RunFolder
from forebrain_registry.storage import Folder

# Keys of a model that stay when another model is chosen; all others belong to the one that was there.
_OF_EVERY_MODEL = ("context", "horizon")

Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """One setting that is compared: a name, and the keys of the base config that it replaces.

    Attributes:
        name: as reports show it.
        overrides: values by dotted key, such as model.width.
        size: where on its axis it lies, for a study of sizes.
    """

    name: str
    overrides: Overrides
    size: float | None = None


@dataclass(frozen=True)
class Trial:
    """One run of a study.

    Attributes:
        variant: the name of what is tried.
        config: the run's; its `out` is in the study's folder.
        target: id of the only session whose score counts, for variants that differ in what else they are
            trained on. None: all count.
    """

    variant: str
    config: PretrainConfig
    target: str | None = None

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def run(self) -> RunFolder:
        """The trial's run folder."""
        return RunFolder(self.config.out)

    @property
    def label(self) -> str:
        """The name of the trial in progress lines."""
        target = "" if self.target is None else f", {self.target}"
        return f"{self.variant}{target}, seed {self.seed}"


def make_trials(
    base: PretrainConfig, variants: Sequence[Variant], num_seeds: int, target: str | None = None
) -> list[Trial]:
    """Every variant with every seed, all variants of a seed together.

    Trials of a seed share weights' initialisation, order of the data and scored windows, so they are pairs.

    Args:
        base: what all share; `out` is the study's folder and `seed` the first seed.
        variants: what is compared.
        num_seeds: how many seeds, counted up from the base's.
        target: see `Trial`.

    Raises:
        ConfigError: a key is unknown, a value impossible, or two variants have the same name.
    """
    if num_seeds < 1:
        raise ConfigError(f"num_seeds is {num_seeds}; expected 1 or more.")
    names = Counter(slug(variant.name) for variant in variants)
    twice = [variant.name for variant in variants if names[slug(variant.name)] > 1]
    if twice:
        raise ConfigError(
            f"variants {', '.join(map(repr, twice))} have the same name; expected distinct ones."
        )
    if base.workers == 0 and base.training.threads is None:
        # Trials share the machine; a neighbour's threads cost more than they gain.
        base = dataclasses.replace(base, training=dataclasses.replace(base.training, threads=1))
    folder = "trials" if target is None else f"trials/{slug(target)}"
    configs = [with_overrides(base, variant.overrides, f"variant {variant.name!r}") for variant in variants]
    trials = []
    for seed in range(base.seed, base.seed + num_seeds):
        for variant, config in zip(variants, configs, strict=True):
            out = Folder(base.out).uri_of(f"{folder}/{slug(variant.name)}/seed-{seed}")
            trials.append(Trial(variant.name, dataclasses.replace(config, out=out, seed=seed), target))
    return trials


def with_overrides(base: PretrainConfig, overrides: Overrides, where: str) -> PretrainConfig:
    """A config with the values of some dotted keys replaced.

    Raises:
        ConfigError: a key is unknown or a value impossible; the message says where.
    """
    for key in ("data", "out", "seed", "workers"):
        if key in overrides:
            raise ConfigError(f"{where} sets {key}, which all trials of a study share.")
    values = copy.deepcopy(dataclasses.asdict(base))
    if "model.name" in overrides:
        values["model"] = {key: values["model"][key] for key in _OF_EVERY_MODEL}
    for key, value in overrides.items():
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section.get(name, {}) if isinstance(section, dict) else {}
        if "model.name" not in overrides and last not in section:
            raise ConfigError(
                f"{where} sets {key}, which is no option of a run; see forebrain pretrain --help-all."
            )
        section[last] = value
    try:
        return from_values(PretrainConfig, values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def slug(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.") or "-"
