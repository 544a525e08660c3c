"""The dashboard asks for metrics that exist, and for all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from forebrain.training.ray_metrics import METRICS

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana" / "forebrain.json"


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    # Ray puts `ray_` before the names of an application's metrics.
    assert set(re.findall(r"ray_(forebrain_\w+)", asked)) == {metric for metric, *_ in METRICS}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
