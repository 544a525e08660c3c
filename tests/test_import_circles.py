"""No module needs itself to be imported: imports within each package form no circle.

Imports within functions count as well, since that is how a circle is hidden; so do those for types alone.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def module_name(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """Modules of the package that a module names, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from inner & modules
            if not inner <= modules:
                yield node.module


def circle_in(package: Path) -> list[str]:
    """The modules of one circle, the first of them also last; empty where there is none."""
    paths = {module_name(path, package.parent): path for path in package.rglob("*.py")}
    graph = {
        name: set(imported(ast.parse(path.read_text()), set(paths))) - {name} for name, path in paths.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("package", ["registry/forebrain_registry", "platform/forebrain"])
def test_imports_form_no_circle(package: str) -> None:
    assert circle_in(ROOT / package) == []


def test_a_circle_is_found_where_a_function_hides_it(tmp_path: Path) -> None:
    package = tmp_path / "lab"
    package.mkdir()
    (package / "__init__.py").write_text("from lab.a import f\n")
    (package / "a.py").write_text("from lab import b\n")
    (package / "b.py").write_text("import os\n")
    assert circle_in(package) == []
    (package / "b.py").write_text("def f():\n    from lab.a import f\n")
    assert set(circle_in(package)) == {"lab.a", "lab.b"}
