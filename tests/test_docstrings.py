"""What is public says what it is: modules, classes, and functions that are more than one statement."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for root in ("platform", "registry", "jobs") for path in (ROOT / root).rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in SOURCES}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Public classes, their public methods, and public functions, by dotted name."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node.name, node
            for each in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(each, Function) and not each.name.startswith("_"):
                    yield f"{node.name}.{each.name}", each


# Methods that a base class or protocol of the project describes; those that implement them need not again.
DESCRIBED = {
    node.name
    for tree in TREES.values()
    for name, node in public(tree)
    if "." in name and ast.get_docstring(node)
} | {"forward", "backward"}  # torch's own


@pytest.mark.parametrize("module", TREES)
def test_what_is_public_says_what_it_is(module: str) -> None:
    tree = TREES[module]
    silent = [
        name
        for name, node in public(tree)
        if not ast.get_docstring(node)
        and not ("." in name and node.name in DESCRIBED)
        and not (isinstance(node, Function) and len(node.body) == 1)
        # A job's main is described by its module, a reader's two functions by their package.
        and node.name not in ("main", "recognises", "read")
    ]
    assert ast.get_docstring(tree) and not silent, silent


@pytest.mark.parametrize("module", TREES)
def test_an_argument_that_a_docstring_describes_is_one(module: str) -> None:
    """A docstring that was left behind by its signature tells lies."""
    for name, node in public(TREES[module]):
        if not isinstance(node, Function):
            continue
        text = ast.get_docstring(node) or ""
        if "Args:\n" not in text:
            continue
        described = []
        for line in text.split("Args:\n")[1].split("\n\n")[0].splitlines():
            if line.startswith("    ") and not line.startswith("     ") and ":" in line:
                described += [word.strip(" *") for word in line.split(":")[0].split(",")]
        arguments = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        extra = [each.arg for each in (node.args.vararg, node.args.kwarg) if each]
        assert set(described) <= {*arguments, *extra}, f"{name}: {set(described) - {*arguments, *extra}}"
