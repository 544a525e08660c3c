"""Pictures look alike wherever they are drawn, and a forecaster has one colour in all of them."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text

from forebrain import plotting
from forebrain.models.registry import MODELS
from forebrain.scoring.baselines import BASELINES

pytestmark = pytest.mark.usefixtures("fine_pictures")

PACKAGE = Path(__file__).parent.parent / "platform" / "forebrain"


@plotting.style()
def _picture() -> bytes:
    figure, axes = plotting.canvas(4, 3)
    axes.plot([1, 2], [3, 4], **plotting.line("POCO"))
    plotting.title(axes, "a session", "how to read it")
    return plotting.png(figure)


def test_a_picture_is_the_same_in_a_notebook_with_a_style_of_its_own() -> None:
    alone = _picture()
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 20, "savefig.dpi": 30, "axes.grid": True}):
        assert _picture() == alone


def test_a_picture_leaves_the_style_of_others_as_it_was() -> None:
    before = dict(mpl.rcParams)
    _picture()
    assert dict(mpl.rcParams) == before


def test_every_picture_is_drawn_in_the_one_style() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if path.name != "plotting.py":
            assert "FigureCanvas" not in text and "Figure(" not in text and "pyplot" not in text, path


def test_models_and_baselines_of_one_picture_differ_in_colour() -> None:
    titles = [config().title for config in MODELS.values()]
    models = [title for title in titles if title.split(" (")[0].lower() not in ("copy", "mean")]
    found = plotting.colours([*models, *BASELINES])
    assert len(set(found.values())) == len(models) + len(BASELINES)


def test_a_name_keeps_its_colour_whatever_stands_beside_it() -> None:
    alone = {name: plotting.colours([name])[name] for name in plotting.COLOURS}
    for order in (list(alone), list(reversed(alone))):
        assert plotting.colours(order) == alone
        assert plotting.colours(["somebody's own", *order])[order[0]] == alone[order[0]]


def test_runs_of_one_model_can_be_told_apart() -> None:
    both = plotting.colours(["POCO (wide)", "POCO (narrow)"])
    assert both["POCO (wide)"] == plotting.COLOURS["POCO"] != both["POCO (narrow)"]
    assert plotting.colours(["POCO (wide)", "POCO"])["POCO (wide)"] != plotting.COLOURS["POCO"]


def test_a_model_that_nobody_knows_takes_no_known_models_colour() -> None:
    strangers = plotting.colours(["one", "two", "three"])
    assert len(set(strangers.values())) == 3
    assert not set(strangers.values()) & set(plotting.COLOURS.values())


def test_baselines_are_grey_and_dashed() -> None:
    for name in BASELINES:
        drawn = plotting.line(name)
        red, green, blue = mpl.colors.to_rgb(drawn["color"])
        assert red == green == blue and drawn["linestyle"] != "-"


@pytest.mark.parametrize(("rate_hz", "shown"), [(2.0, "8 s"), (None, "16 frames")])
def test_time_is_in_seconds_where_the_rate_is_known(rate_hz: float | None, shown: str) -> None:
    assert plotting.duration(16, rate_hz) == shown
    to_time, unit = plotting.time_scale(rate_hz)
    assert to_time(16) == (8 if rate_hz else 16) and unit == ("s" if rate_hz else "frames")


def test_names_may_hold_dollars() -> None:
    with plotting.style():
        figure, axes = plotting.canvas(4, 3)
        plotting.title(axes, r"$\frac{1}{2$", "")
        assert not any(text.get_parse_math() for text in figure.findobj(Text))
        assert plotting.png(figure).startswith(b"\x89PNG")


def test_names_at_line_ends_do_not_overlap() -> None:
    with plotting.style():
        _, axes = plotting.canvas(4, 3)
        axes.set_ylim(0, 1)
        ends = {name: (0.5 + number / 1000, plotting.INK) for number, name in enumerate("abcd")}
        plotting.label_line_ends(axes, {**ends, "low": (-3.0, plotting.INK), "none": (np.nan, plotting.INK)})
        heights = {text.get_text(): text.xy[1] for text in axes.texts}
    assert list(heights) == ["low (-3.00, below)", *"abcd"]
    assert min(np.diff(list(heights.values()))) > 0.05
