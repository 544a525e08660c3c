"""YAML as people write it: a number is decimal or text, nothing is a date, and a key stands once."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

# 010 is not 8, 1:30 not 90, and 1e3 no text.
_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0|[1-9][0-9_]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"
        r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
}


class PlainLoader(yaml.SafeLoader):
    """Safe YAML whose numbers are decimal; dates and = are text."""

    yaml_implicit_resolvers: ClassVar = {
        start: [
            (tag, _NUMBERS.get(tag, pattern))
            for tag, pattern in resolvers
            if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")
        ]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def each_key_once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Keys and values; of a key that comes twice, one value would be lost without a word.

    Raises:
        ValueError: one does.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


def _mapping(loader: PlainLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    each_key_once([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
    return loader.construct_mapping(node, deep=True)


PlainLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(text: str) -> Any:
    """What a text says.

    Raises:
        yaml.YAMLError, ValueError: it is no valid YAML, or has a key twice.
    """
    return yaml.load(text, PlainLoader)
