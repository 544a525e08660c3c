"""The shape of the project: what must not be there, and which way imports point."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from cluster_folders import CLUSTERS
from forebrain.commands import SUMMARIES, module_of

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "platform" / "forebrain"

# What a room may import of the platform's other rooms, besides the modules at the top.
_SCIENCE = {"models", "scoring", "sessions", "shards"}
_TRAINING = _SCIENCE | {"accelerate", "training"}
_RUNS = _TRAINING | {"evaluation", "runs"}
MAY_IMPORT = {
    "sessions": set(),
    "scoring": {"sessions"},
    "shards": {"scoring", "sessions"},
    "models": set(),
    "accelerate": {"models"},
    "training": _SCIENCE | {"accelerate"},
    "evaluation": {"scoring", "sessions"},
    "runs": _TRAINING | {"evaluation"},
    "realtime": _TRAINING,
    "adaptation": _RUNS | {"realtime"},
    "studies": _RUNS | {"adaptation"},
    "benchmarking": _TRAINING | {"adaptation", "realtime"},
    "pages": _RUNS | {"adaptation"},
    "commands": _RUNS | {"adaptation", "benchmarking", "pages", "realtime", "studies"},
}
# Heavy packages, and the only modules that may import them.
ONLY_IN = {
    "ray": {
        "benchmarking/chaos.py",
        "shards/prepare.py",
        "training/on_ray.py",
        "training/ray_metrics.py",
        "ray_runtime.py",
        "commands/doctor.py",
        "studies/tuning.py",
        "studies/many_adaptations.py",
    },
    "deepspeed": {"training/strategies/zero.py"},
    "triton": {"accelerate/film_triton.py"},
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("root", ["platform", "registry"])
def test_source_roots_hold_no_init(root: str) -> None:
    # platform/__init__.py would shadow the standard library's platform in every process that imports us.
    assert not (ROOT / root / "__init__.py").exists()
    assert not list((ROOT / root).glob("*.py"))


def test_every_room_is_named() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if list(path.glob("*.py")) and path.is_dir()}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_imports_point_one_way(folder: str) -> None:
    others = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {folder, "__pycache__"}
    for path in (PACKAGE / folder).rglob("*.py"):
        used = {name.split(".")[1] for name in imports_of(path) if name.startswith("forebrain.")} & others
        assert used <= MAY_IMPORT[folder], f"{path.relative_to(ROOT)} imports {used - MAY_IMPORT[folder]}"


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_heavy_packages_are_imported_where_they_belong(package: str) -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == package for name in imports_of(path))
    }
    assert users <= ONLY_IN[package]


GIVEN_BY_USERS = r"\bstr\b|Config$|Namespace|Files|Signer|Verifier"  # types of arguments that hold paths
# By file: what may be made a Path as it is, since it is no path that a user gives, or was looked at before.
PATHS_AS_THEY_ARE = {
    "benchmarking/chaos.py": {"folder"},  # each a folder for temporary files
    "benchmarking/large_session.py": {"f'{results}/{rank}.json'"},
    "benchmarking/scaling.py": {"f'{results}/{rank}.json'"},
    "config.py": {"values[0]"},  # whether one of the name is there
    "sessions/catalogue.py": {"os.environ.get(variable) or Path.home() / default"},
    "sessions/finding.py": {"path"},  # which those of a folder are, as the rest of `sessions` gets them
    "sessions/inspection.py": {"address"},
    "sessions/readers/__init__.py": {"given", "path"},
    "sessions/remote.py": {"self.name", "_dataset(self.address, self.url)"},
    "shards/recordings.py": {"address"},
    "storage/folder.py": {"path"},
    "training/board.py": {"self._scratch.name"},
}


def test_a_path_that_a_user_gives_is_made_one_by_path_here_or_by_a_folder() -> None:
    """A bare Path takes s3://lab/a, file:///a and ~/a for folders of the one that is worked in."""
    found: dict[str, set[str]] = {}
    for root in (PACKAGE, ROOT / "registry" / "forebrain_registry"):
        for path in root.rglob("*.py"):
            functions = [
                node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
            ]
            for function in functions:
                given = {
                    each.arg
                    for each in (*function.args.args, *function.args.kwonlyargs)
                    if each.annotation is None
                    or re.search(
                        r"\bstr\b|Config$|Namespace|Files|Signer|Verifier", ast.unparse(each.annotation)
                    )
                }
                for call in ast.walk(function):
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == "Path" and call.args:
                        names = {each.id for each in ast.walk(call.args[0]) if isinstance(each, ast.Name)}
                        if names & given:
                            file = path.relative_to(root).as_posix()
                            found.setdefault(file, set()).add(ast.unparse(call.args[0]))
    assert found == PATHS_AS_THEY_ARE


def test_no_text_is_read_or_written_in_the_terminals_encoding() -> None:
    names = {"read_text", "write_text", "open", "fdopen", "run", "Popen"}
    as_text = re.compile(r"_text\(|[( ]'[rwax+]+t?'|text=True")
    found = []
    for root in ("platform", "registry", "jobs", "cluster"):
        for path in (ROOT / root).rglob("*.py"):
            calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
            for call in calls:
                is_one = getattr(call.func, "attr", getattr(call.func, "id", "")) in names
                text = ast.unparse(call) if is_one else ""
                if as_text.search(text) and "encoding=" not in text:
                    found.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert found == []


def test_yaml_that_people_write_is_read_as_they_wrote_it() -> None:
    """By `plain_yaml`; a record that `yaml.safe_dump` wrote is read by its counterpart, quoted alike."""
    found = set()
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "registry").rglob("*.py")]:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        reads = [text for text in map(ast.unparse, calls) if re.match(r"yaml\.(?!safe_dump)[a-z_]+\(", text)]
        if any("BaseLoader" not in text for text in reads):
            found.add(path.relative_to(ROOT).as_posix())
    records = ("training/run_folder.py", "studies/study.py", "studies/many_adaptations.py")
    assert found == {"registry/forebrain_registry/plain_yaml.py"} | {
        f"platform/forebrain/{name}" for name in records
    }


def test_nobody_imports_the_commands() -> None:
    sources = [*PACKAGE.rglob("*.py"), *(ROOT / "registry").rglob("*.py")]
    users = {
        path.relative_to(ROOT).as_posix()
        for path in sources
        if any(name.startswith("forebrain.commands") for name in imports_of(path))
        and not path.is_relative_to(PACKAGE / "commands")
    }
    assert users == {"platform/forebrain/__main__.py"}


def test_every_command_is_a_module_of_its_words_with_a_config_and_a_run() -> None:
    folder = PACKAGE / "commands"
    modules = {
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.py")
        if not path.name.startswith("_")
    }
    assert modules == {name.replace("-", "_").replace(" ", "/") for name in SUMMARIES}
    for name in SUMMARIES:
        module = module_of(name)
        assert hasattr(module, "main") or (is_dataclass(module.Config) and callable(module.run)), name


def test_jobs_hold_nothing_but_a_call() -> None:
    for path in (ROOT / "jobs").rglob("*.py"):
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        assert len(lines) == 5 and lines[-1].startswith("    sys.exit(main(["), path.name


def test_clusters_are_started_where_tests_run_one_after_another() -> None:
    starts = re.compile(r"\b(start_ray|cluster_of|ray\.init)\(")
    tests = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    found = {name for name, text in tests.items() if starts.search(text)}
    assert found and found <= {place.split("::")[0] for place in CLUSTERS}, found


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("forebrain.sessions.readers", ["torch", "ray"]),
        ("forebrain.scoring.evaluate", ["torch", "ray"]),
        ("forebrain.training.loop", ["ray", "deepspeed", "tensorboard", "matplotlib", "triton"]),
        ("forebrain.adaptation.artifact", ["ray", "deepspeed", "tensorboard", "matplotlib", "triton"]),
        ("forebrain.commands", ["torch", "ray"]),
        ("forebrain.realtime", ["ray", "deepspeed", "zmq", "pylsl", "matplotlib", "forebrain.adaptation"]),
        ("forebrain.commands._help", ["torch", "ray", "numpy", "jsonargparse"]),
        ("forebrain.commands.doctor", ["torch", "ray"]),
        ("forebrain.commands.inspect", ["torch", "ray"]),
        ("forebrain.commands.adapt", ["ray", "deepspeed", "tensorboard", "triton"]),
        ("forebrain.commands.live.serve", ["ray", "deepspeed", "zmq", "pylsl", "matplotlib"]),
        ("forebrain.commands.live.replay", ["ray", "deepspeed", "zmq", "pylsl", "matplotlib"]),
        ("forebrain_registry", ["torch", "ray", "forebrain"]),
    ],
)
def test_light_modules_stay_light(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    environment = {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'registry'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"
