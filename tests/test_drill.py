"""Commands that are killed, refused or stopped beside others at what they do in a folder, by drill.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOME = [
    ("prepare", "killed", 6),
    ("prepare-more", "unreadable", 53),
    ("publish", "stopped", 11),
    ("copy", "full", 13),
    ("live", "killed", 29),
    ("publish-and-gc", "stopped", 5),
]
MORE = [
    ("prepare", "unwritable", 5),
    ("prepare-more", "killed", 3),
    ("pretrain", "killed", 61),
    ("evaluate", "killed", 37),
    ("publish", "unreadable", 11),
    ("publish", "killed", 7),
    ("copy", "stopped", 7),
    ("pull", "full", 7),
    ("pull", "unreadable", 11),
    ("alias", "killed", 3),
    ("adapt", "stopped", 19),
    ("adapt", "killed", 23),
    ("forecast", "unwritable", 3),
    ("rivals", "stopped", 9),
    ("live", "full", 53),
    ("copy-and-gc", "stopped", 7),
    ("publish-and-evaluate", "stopped", 37),
    ("publish-and-another", "stopped", 17),
    ("alias-and-publish", "stopped", 5),
    ("prepare-and-more", "stopped", 11),
    ("pretrain-and-prepare", "stopped", 149),
    ("pretrain-and-other", "stopped", 149),
    ("adapt-and-other", "stopped", 29),
    ("rivals-and-other", "stopped", 9),
]
IN_STORE = [
    ("copy@s3", "full", 7),
    ("prepare@s3", "killed", 5),
    ("pretrain@s3", "lost", 41),
    ("publish@s3", "lost", 5),
    ("publish-and-another@s3", "stopped", 7),
]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    paths = f"{HERE}:{HERE.parent / 'platform'}:{HERE.parent / 'registry'}"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("name", "fault", "every"), [*SOME, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE)]
)
def test_wherever_a_command_meets_a_fault_it_leaves_in_the_end_what_an_undisturbed_one_leaves(
    name: str, fault: str, every: int
) -> None:
    drilled = run(str(HERE / "drill.py"), name, fault, str(every))
    assert drilled.returncode == 0, drilled.stdout + drilled.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault", "every"), IN_STORE)
def test_in_a_store_it_does_so_too(s3_bucket: str, name: str, fault: str, every: int) -> None:
    drilled = run(str(HERE / "drill.py"), name, fault, str(every))
    assert drilled.returncode == 0, drilled.stdout + drilled.stderr


CARELESS = """
import sys
from pathlib import Path
from drill import Scenario, drill

def careless():
    try:
        before = Path("recs/fish0.npz").stat().st_size
    except OSError:  # taken for no recording
        before = 0
    if not Path("out").exists():
        Path("out").mkdir()
        Path("out/size").write_text(str(before))
    return 0

def counts_on(number):
    def count():
        before = Path("count").read_text() if Path("count").exists() else ""
        if str(number) not in before:
            Path("count").write_text("".join(sorted(before + str(number))))
        return 0
    return count

scenario = Scenario(counts_on(1), other=counts_on(2)) if sys.argv[1] == "stopped" else Scenario(careless)
print(*drill(scenario, sys.argv[1], Path(sys.argv[2])), sep="\\n")
"""


@pytest.mark.parametrize("fault", ["killed", "unreadable", "full", "stopped"])
def test_a_careless_command_shows(tmp_path: Path, fault: str) -> None:
    drilled = run("-c", CARELESS, fault, str(tmp_path))
    number, *shown = drilled.stdout.splitlines()
    assert number.endswith("operations") and shown, drilled.stdout + drilled.stderr
