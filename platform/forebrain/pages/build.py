"""How a page is made: one HTML file with all that it shows inside, so that it opens from a disk or a mail.

Names of laboratories, animals and models are shown as text whatever they hold: templates escape them, and the
page's own policy lets a browser fetch nothing.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import forebrain
from forebrain.errors import ConfigError
from forebrain_registry.lines import one_line
from forebrain_registry.storage import Folder

# Widths in pixels, and qualities of WebP, that a picture is tried at until it is small enough.
_MAX_PIXELS = 40_000_000
_LEAST_BYTES_A_PIXEL = 0.03
_SIZES = ((1400, 80), (1100, 75), (860, 70), (640, 65), (480, 60), (360, 50), (260, 40))


def write_page(out: str, name: str, template: str, overwrite: bool, **content: Any) -> str:
    """Writes a page into a folder.

    Args:
        out: a folder or s3://bucket/folder.
        name: of the file.
        template: a file of `templates/`.
        overwrite: replace a page of this name.
        **content: what the template shows.

    Returns:
        The page's address.

    Raises:
        ConfigError: there is such a file, and it is not to be replaced.
        StorageError: it cannot be written.
    """
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = _environment().get_template(template)
    data = page.render(**content, made=made, version=forebrain.__version__).encode()
    folder = Folder(out)
    if overwrite:
        folder.write(name, data)
    else:
        try:
            folder.create(name, data)
        except FileExistsError as error:
            raise ConfigError(
                f"{folder.uri_of(name)}: exists already. Give --overwrite to replace it, or another --out."
            ) from error
    return folder.uri_of(name)


def picture(data: bytes, max_bytes: int) -> str:
    """A picture as the address of an image that lies in the page itself.

    Args:
        data: PNG or another format that Pillow reads.
        max_bytes: it is made smaller until it takes no more, or is 260 pixels wide.

    Raises:
        OSError: it is no picture.
        ValueError: it is too large to be one of ours.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise ValueError(f"a picture of {opened.width} x {opened.height} pixels")
            whole = opened.convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    encoded = b""
    for width, quality in _SIZES:
        shown = min(width, whole.width)
        height = round(whole.height * shown / whole.width)
        # Not even tried where it is sure to be too large, or is no other than the last.
        if (width, quality) != _SIZES[-1] and (
            shown * height * _LEAST_BYTES_A_PIXEL > max_bytes or (encoded and whole.width < width)
        ):
            continue
        small = whole.resize((shown, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
        stream = io.BytesIO()
        small.save(stream, "WEBP", quality=quality, method=3)
        encoded = stream.getvalue()
        if len(encoded) * 4 <= max_bytes * 3:  # as base64 has it
            break
    return f"data:image/webp;base64,{base64.b64encode(encoded).decode()}"


def number(value: float | None, digits: int = 3) -> str:
    """A number as people read it, with a true minus; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−")


def listed(items: Sequence[str], most: int = 8) -> str:
    """Items in a sentence, of which only the first are named."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more or "not stated"


def rate(rate_hz: float | None) -> str:
    """A rate as people read it."""
    return "unknown rate" if rate_hz is None else f"{rate_hz:.3g} Hz"


def _on_a_line(value: Any) -> Any:
    """Text of others, of which no character may act; what is made of it here (`Markup`) as it is."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _environment() -> jinja2.Environment:
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_on_a_line,
    )
    environment.filters |= {"number": number, "listed": listed, "rate": rate}
    # Of the project's own files, never of anything that is read.
    environment.globals["own_file"] = lambda name: Markup((folder / name).read_text(encoding="utf-8"))
    return environment
