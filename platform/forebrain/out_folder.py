"""What lies in a folder that results go into: no command writes over work that is not its own.

Each kind of work is known by one file. What tells two works of one kind apart (another config, other
recordings, other settings) is compared by who writes that kind.
"""

from __future__ import annotations

import contextlib
import re

from forebrain.errors import ConfigError
from forebrain_registry.storage import Folder

RUN, ADAPTATION, ADAPTATIONS = "config.yaml", "adaptation.json", "adaptations.yaml"
STUDY, STUDY_OF_RUNS = "study.json", "study.yaml"
SET, COMPARISON = "index.json", "comparison.json"
# Of each kind, what its file holds near its beginning, as a lab's own of that name does not, and its name.
KINDS = {
    SET: (rb'"format": ?"forebrain-', "a prepared set"),
    RUN: (rb"(?ms)^data:.*^out:.*^model:", "a run"),
    STUDY_OF_RUNS: (rb"(?m)^pretrain:", "a study of runs"),
    STUDY: (rb'"sessions": ?[\[{]', "a study"),
    ADAPTATIONS: (rb"(?m)^\w+:", "adaptations"),
    ADAPTATION: (rb'"format": ?"forebrain-', "an adaptation"),
    COMPARISON: (rb'^\{\s*"part":', "a comparison of runs"),
}
MARK_BYTES = 1 << 16


def require_own(out: Folder, own: str) -> None:
    """Makes sure, before any work, that a folder holds no work of another kind.

    Args:
        out: where results go.
        own: the kind that goes there.

    Raises:
        ConfigError: it does.
    """
    is_both = {own} & {SET, RUN} and out.exists(own)  # as earlier versions let a run and its data be
    for name, (mark, what) in KINDS.items():
        if name == own or (is_both and name in (SET, RUN)):
            continue
        with contextlib.suppress(FileNotFoundError):
            if re.search(mark, out.read_range(name, 0, MARK_BYTES)):
                raise ConfigError(f"{out.uri} holds {what} ({name}); give another --out.")
