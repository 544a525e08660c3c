"""Prometheus' files by their structure: what it collects is there, and alerts ask for metrics that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from forebrain.training.ray_metrics import METRICS

CLUSTER = Path(__file__).parents[2] / "cluster"
PROMETHEUS = CLUSTER / "prometheus"


def test_ray_s_own_list_of_nodes_is_what_is_collected() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    config = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())
    assert set(config) == {"global", "rule_files", "scrape_configs"}
    (job,) = config["scrape_configs"]
    (discovery,) = job["file_sd_configs"]
    assert discovery["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
    assert [(PROMETHEUS / name).is_file() for name in config["rule_files"]] == [True]


def test_alerts_ask_for_metrics_that_exist_and_say_what_to_do() -> None:
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    known = {f"ray_{metric}" for metric, *_ in METRICS}
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "annotations"}
        asked = set(re.findall(r"ray_\w+", rule["expr"]))
        assert asked and asked <= known
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert set(rule["annotations"]) == {"summary", "do"}


def test_yamllint_takes_every_file() -> None:
    config = CLUSTER.parent / ".yamllint.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "--config-file", str(config), str(CLUSTER)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
