"""The errors a user can mend. Each message says what is wrong, where, what was expected and what to do.

All are a ForebrainError, those of storage and registry too, so that one `except` at the door shows any of
them.
"""

import importlib.metadata
from pathlib import Path

import forebrain_registry
from forebrain_registry.errors import ForebrainError as ForebrainError
from forebrain_registry.errors import StorageError as StorageError


def _require_one_version() -> None:
    """Raises ImportError where forebrain_registry was replaced by that of another version.

    Two wheels hold it: forebrain's, and that of the light client, which puts its files over the others.
    """
    site = Path(__file__).parents[1]
    if Path(forebrain_registry.__file__).parents[1] != site:
        return  # a checkout
    found = importlib.metadata.Distribution.discover(name="forebrain", path=[str(site)])
    for version in {own.version for own in found} - {forebrain_registry.__version__}:
        raise ImportError(
            f"forebrain {version} found forebrain_registry {forebrain_registry.__version__}, which the "
            "package forebrain-registry put in its place. Uninstall that, then reinstall forebrain, which "
            "holds its own."
        )


_require_one_version()


class RecordingError(ForebrainError):
    """A recording file cannot be used: unreadable, incomplete, or without anything to forecast."""


class ConfigError(ForebrainError):
    """A configuration asks for something impossible."""


class ShardError(ForebrainError):
    """Shards are missing, damaged, or do not match their index."""


class BadShardError(ShardError):
    """A part of a shard is missing or not what was written: windows that need it can be skipped.

    Attributes:
        pages: the pages of its stretch that are known to be bad; empty for all that were asked for.
    """

    def __init__(self, message: str, pages: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.pages = pages


class CheckpointError(ForebrainError):
    """A checkpoint is missing, damaged, or belongs to another model, run or data set."""


class FrameError(ForebrainError):
    """A frame or message of a live stream cannot be used. Only that one is refused; the stream goes on."""


class NoAnswerError(ForebrainError):
    """A live forecaster did not answer in time: it is not running, or not at that address."""


class AdaptationError(ForebrainError):
    """A backbone, a recording and what was adapted do not fit together, or one of them is not there."""


class PublishError(ForebrainError):
    """A run cannot become a version, or a registry does not take it."""


class StudyError(ForebrainError):
    """A study cannot be worked at, or has nothing to report: none of its trials has a result."""


class ClusterError(ForebrainError):
    """Ray does not start, or its cluster cannot be joined."""


class DivergenceError(ForebrainError):
    """Training met a loss or gradient, or evaluation a forecast, that is not finite."""


class StoppedByPeerError(ForebrainError):
    """This worker stopped because another could not go on; the other's error tells why."""


class StoppedError(ForebrainError):
    """A run was asked to stop and has saved its state; the same command goes on.

    Attributes:
        signal_name: of the signal that asked, such as SIGTERM.
    """

    def __init__(self, signal_name: str, step: int) -> None:
        super().__init__(f"stopped by {signal_name} after step {step}; the same command goes on from there.")
        self.signal_name = signal_name
