"""Charts as SVG, drawn without a script: lines with bands, and rows of dots with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from markupsafe import Markup

_TOP, _RIGHT, _BOTTOM = 12, 14, 42
_FAR = 0.25  # below copy


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: shown where a mouse points at it.
        colour: of CSS.
        points: (x, y); those with no y are left out.
        band: (x, low, high) for each point that has an interval.
        dashes: of SVG; "" for a solid line.
        series: number that a script shows and hides it by; None for what always stays.
    """

    name: str
    colour: str
    points: Sequence[tuple[float, float | None]]
    band: Sequence[tuple[float, float | None, float | None]] = ()
    dashes: str = ""
    series: int | None = None


@dataclass(frozen=True)
class Dot:
    """A value in a row, perhaps with its interval."""

    name: str
    colour: str
    value: float | None
    low: float | None = None
    high: float | None = None
    series: int | None = None


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    width: int = 620,
    height: int = 300,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Lines in one frame.

    Args:
        lines: the last lies on top.
        x_label, y_label: with their units.
        width, height: CSS pixels; the chart shrinks with its column.
        y_range: None for what the lines span.
    """
    points = [(x, y) for line in lines for x, y in line.points if _is_number(y)]
    if not points:
        return Markup('<p class="none">nothing to draw</p>')
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = y_range or _margin(min(ys), max(ys))
    left = 54
    frame = _Frame(min(xs), max(xs), low, high, left, _TOP, width - _RIGHT, height - _BOTTOM)
    parts = [_axes(frame, x_label, y_label, width, height)]
    for line in lines:
        parts.append(_band(frame, line))
        drawn = [(x, y) for x, y in line.points if _is_number(y)]
        if not drawn:
            continue
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in drawn)
        parts.append(
            Markup(
                '<polyline points="{}" fill="none" stroke="{}" stroke-width="{}" stroke-dasharray="{}"{}>'
                "<title>{}: {}</title></polyline>"
            ).format(
                path,
                line.colour,
                "1.4" if line.dashes else "2",
                line.dashes or "none",
                _series(line.series),
                line.name,
                f"{drawn[-1][1]:.3f} at the end",
            )
        )
        if len(drawn) == 1:
            parts.append(
                _circle(frame.x(drawn[0][0]), frame.y(drawn[0][1]), line.colour, line.series, line.name)
            )
    return _svg(parts, width, height, y_label)


def dot_rows(
    rows: Sequence[tuple[str, Sequence[Dot]]], x_label: str, width: int = 620, label_width: int = 210
) -> Markup:
    """A row for each label, with dots and intervals on one scale; 0 is drawn, what is far below is written.

    Args:
        rows: from top to bottom.
        x_label: with its unit.
        width, label_width: CSS pixels.
    """
    shown = [value for _, dots in rows for dot in dots for value in (dot.value, dot.low, dot.high)]
    # What is far below would press all else into a line; it is written at the edge.
    values = [value for value in shown if _is_number(value) and value > -_FAR]
    if not any(_is_number(value) for value in shown):
        return Markup('<p class="none">nothing to draw</p>')
    step = 22
    height = _TOP + step * len(rows) + _BOTTOM
    low, high = _margin(min([0.0, *values]), max([0.0, *values]))
    frame = _Frame(low, high, 0, 1, label_width, _TOP, width - _RIGHT, height - _BOTTOM)
    parts = [_x_axis(frame, x_label, width, height)]
    zero = frame.x(0)
    parts.append(
        Markup('<line x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}" class="zero"/>').format(
            zero, frame.top, frame.bottom
        )
    )
    for number, (label, dots) in enumerate(rows):
        y = _TOP + step * (number + 0.5)
        parts.append(
            Markup(
                '<text x="{}" y="{:.1f}" class="label" text-anchor="end">{}<title>{}</title></text>'
            ).format(label_width - 10, y + 4, _short(label, (label_width - 10) // 7), label)
        )
        for dot in dots:
            if not _is_number(dot.value):
                continue
            if _is_number(dot.low) and _is_number(dot.high):
                parts.append(
                    Markup(
                        '<line x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}" stroke="{}" stroke-width="3" '
                        'stroke-opacity="0.35"{}/>'
                    ).format(
                        frame.x(max(low, dot.low)),
                        frame.x(max(low, dot.high)),
                        y,
                        y,
                        dot.colour,
                        _series(dot.series),
                    )
                )
            if dot.value < low:
                parts.append(
                    Markup('<text x="{:.1f}" y="{:.1f}">◂ {:.2f}</text>').format(frame.left, y + 4, dot.value)
                )
                continue
            at = frame.x(dot.value)
            parts.append(_circle(at, y, dot.colour, dot.series, f"{label}, {dot.name}: {dot.value:.3f}"))
    return _svg(parts, width, height, x_label)


@dataclass(frozen=True)
class _Frame:
    """Where data lie in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    left: float
    top: float
    right: float
    bottom: float

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1.0
        return self.left + (value - self.x_low) / span * (self.right - self.left)

    def y(self, value: float) -> float:
        span = (self.y_high - self.y_low) or 1.0
        inside = min(max(value, self.y_low), self.y_high)
        return self.bottom - (inside - self.y_low) / span * (self.bottom - self.top)


def _axes(frame: _Frame, x_label: str, y_label: str, width: int, height: int) -> Markup:
    parts = [_x_axis(frame, x_label, width, height)]
    for value in _ticks(frame.y_low, frame.y_high):
        y = frame.y(value)
        parts.append(
            Markup(
                '<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}" class="{}"/>'
                '<text x="{}" y="{:.1f}" text-anchor="end">{}</text>'
            ).format(
                frame.left,
                frame.right,
                y,
                y,
                "zero" if value == 0 else "grid",
                frame.left - 6,
                y + 4,
                _tick(value),
            )
        )
    parts.append(
        Markup('<text transform="translate(13 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (frame.top + frame.bottom) / 2, y_label
        )
    )
    return Markup("").join(parts)


def _x_axis(frame: _Frame, label: str, width: int, height: int) -> Markup:
    parts = [
        Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" class="axis"/>').format(
            frame.left, frame.right, frame.bottom, frame.bottom
        )
    ]
    for value in _ticks(frame.x_low, frame.x_high):
        parts.append(
            Markup(
                '<line x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}" class="axis"/>'
                '<text x="{0:.1f}" y="{3}" text-anchor="middle">{4}</text>'
            ).format(frame.x(value), frame.bottom, frame.bottom + 4, frame.bottom + 17, _tick(value))
        )
    middle = (frame.left + frame.right) / 2
    parts.append(
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(middle, height - 6, label)
    )
    return Markup("").join(parts)


def _band(frame: _Frame, line: Line) -> Markup:
    known = [(x, low, high) for x, low, high in line.band if _is_number(low) and _is_number(high)]
    if len(known) < 2:
        return Markup("")
    there = [f"{frame.x(x):.1f},{frame.y(high):.1f}" for x, _, high in known]
    back = [f"{frame.x(x):.1f},{frame.y(low):.1f}" for x, low, _ in reversed(known)]
    return Markup('<polygon points="{}" fill="{}" fill-opacity="0.15"{}/>').format(
        " ".join(there + back), line.colour, _series(line.series)
    )


def _circle(x: float, y: float, colour: str, series: int | None, text: str) -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4.2" fill="{}"{}><title>{}</title></circle>').format(
        x, y, colour, _series(series), text
    )


def _svg(parts: Sequence[Markup], width: int, height: int, label: str) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {} {}" style="max-width: {}px" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, round(1.15 * width), label, Markup("").join(parts))


def _series(number: int | None) -> Markup:
    return Markup("") if number is None else Markup(' data-series="{}"').format(number)


def _ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round values within a range."""
    span = (high - low) or 1.0
    size = 10 ** math.floor(math.log10(span / about))
    step = next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= about)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    return f"{value:,.6g}".replace("-", "−")


def _margin(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
