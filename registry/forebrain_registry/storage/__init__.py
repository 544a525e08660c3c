"""The one way to files that last: folders on a local disk or in an object store.

Training, shards and the registry all use it. `folder` says what can be done, `local_disk` and `object_store`
do it, `retries` is the rule by which a request is tried again, and `staying` keeps folders that were moved
away from being made anew.
"""

from forebrain_registry.storage.folder import Folder, file_at, path_here, scratch
from forebrain_registry.storage.local_disk import PARTIAL, partial_beside, tell_of_partial_beside
from forebrain_registry.storage.stat import Stat
from forebrain_registry.storage.staying import Anchor, anchored, carrying_anchors, require_anchored

__all__ = [
    "PARTIAL",
    "Anchor",
    "Folder",
    "Stat",
    "anchored",
    "carrying_anchors",
    "file_at",
    "partial_beside",
    "path_here",
    "require_anchored",
    "scratch",
    "tell_of_partial_beside",
]
