"""Pages: the checksummed pieces that a member of a sample is stored in, and where each of them lies.

A member is an array [frames, channels] of float32. It is cut into rows of `page_frames` frames, and each row
into ranges of channels; pages are stored one after another, row by row, each as frames x channels. So a
window of all channels is one range of bytes, a window of some channels one range for each row, and where all
channels are in one page the member is the plain array.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

FLOAT_BYTES = 4
# Units a page has at most: a session of more may be split over workers, each of which reads some of them.
PAGE_UNITS = 4096
# A window reads whole pages, half a page too many at either end: they are short beside it, but not so small
# that their checksums count.
PAGES_A_WINDOW = 8
LEAST_PAGE_BYTES = 64 << 10


@dataclass(frozen=True)
class PageShape:
    """How a member is cut.

    Attributes:
        frames: frames a page; the last row of a sample has what is left.
        edges: page i of a row holds channels [edges[i], edges[i + 1]).
    """

    frames: int
    edges: tuple[int, ...]

    @property
    def num_channels(self) -> int:
        return self.edges[-1]

    @property
    def pages_a_row(self) -> int:
        return len(self.edges) - 1

    def num_pages(self, num_frames: int) -> int:
        """Pages of a sample of so many frames."""
        return -(-num_frames // self.frames) * self.pages_a_row

    def rows(self, start: int, stop: int) -> range:
        """The rows of pages that hold frames [start, stop) of a sample."""
        return range(start // self.frames, -(-stop // self.frames))

    def columns(self, channels: slice) -> range:
        """The places in a row of the pages that hold a range of channels."""
        first, last, _ = channels.indices(self.num_channels)
        if last <= first:
            return range(0)
        if len(self.edges) == 2:
            return range(1)
        return range(bisect.bisect_right(self.edges, first) - 1, bisect.bisect_left(self.edges, last))

    def numbers(self, start: int, stop: int, channels: slice) -> list[int]:
        """The pages that hold frames [start, stop) of a range of channels, by number in the sample."""
        columns = self.columns(channels)
        return [row * self.pages_a_row + column for row in self.rows(start, stop) for column in columns]


def page_shape(num_channels: int, longest_window: int, page_bytes: int) -> PageShape:
    """The shape of pages of a member.

    Args:
        num_channels: of the member.
        longest_window: frames.
        page_bytes: size of a page at most, unless one frame is larger.
    """
    pages_a_row = -(-num_channels // PAGE_UNITS)
    edges = tuple(num_channels * place // pages_a_row for place in range(pages_a_row + 1))
    frame_bytes = FLOAT_BYTES * max(stop - start for start, stop in itertools.pairwise(edges))
    wanted = max(math.ceil(longest_window / PAGES_A_WINDOW), LEAST_PAGE_BYTES // frame_bytes)
    return PageShape(max(1, min(wanted, page_bytes // frame_bytes)), edges)


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        number: in its sample.
        begin: its first byte in the tar.
        first_frame, num_frames: of the sample.
        first_channel, num_channels: of the member.
    """

    number: int
    begin: int
    first_frame: int
    num_frames: int
    first_channel: int
    num_channels: int

    @property
    def num_bytes(self) -> int:
        return FLOAT_BYTES * self.num_frames * self.num_channels

    @property
    def end(self) -> int:
        return self.begin + self.num_bytes


@dataclass(frozen=True)
class Member:
    """One member of one sample, in the tar.

    Attributes:
        session: position of the session in its set.
        name: `traces`, `stimulus` or `behaviour`.
        shard, shard_size: name of the tar, and its bytes.
        key: WebDataset key of the sample.
        sample: number of the sample in the session.
        offset: first byte of the member.
        first_frame, num_frames: of the session, and of the sample.
        shape: of its pages.
    """

    session: int
    name: str
    shard: str
    shard_size: int
    key: str
    sample: int
    offset: int
    first_frame: int
    num_frames: int
    shape: PageShape

    @cached_property
    def num_pages(self) -> int:
        return self.shape.num_pages(self.num_frames)

    def page(self, number: int) -> Page:
        """The page of a number, counted row by row."""
        shape = self.shape
        row, column = divmod(number, shape.pages_a_row)
        low, high = shape.edges[column : column + 2]
        first = row * shape.frames
        num_frames = min(shape.frames, self.num_frames - first)
        skipped = first * shape.num_channels + num_frames * low
        return Page(number, self.offset + FLOAT_BYTES * skipped, first, num_frames, low, high - low)

    def pages(self, start: int, stop: int, channels: slice = slice(None)) -> list[Page]:
        """The pages that hold frames [start, stop) of a range of channels, in the order of the tar."""
        return [self.page(number) for number in self.shape.numbers(start, stop, channels)]


def assemble(
    pages: Sequence[tuple[Page, np.ndarray]], start: int, stop: int, first: int, last: int
) -> np.ndarray:
    """Frames [start, stop) of channels [first, last) from the pages that hold them."""
    if len(pages) == 1:
        page, values = pages[0]
        return values[
            start - page.first_frame : stop - page.first_frame,
            first - page.first_channel : last - page.first_channel,
        ]
    frames = np.empty((stop - start, last - first), "<f4")
    for page, values in pages:
        low, high = max(start, page.first_frame), min(stop, page.first_frame + page.num_frames)
        left = max(first, page.first_channel)
        right = min(last, page.first_channel + page.num_channels)
        frames[low - start : high - start, left - first : right - first] = values[
            low - page.first_frame : high - page.first_frame,
            left - page.first_channel : right - page.first_channel,
        ]
    return frames


def neighbours(pages: Sequence[Page], most_bytes: int) -> Iterator[list[Page]]:
    """Pages in the order of the tar, cut where there is a gap, or a run gets longer than `most_bytes`."""
    run: list[Page] = []
    for page in pages:
        if run and (run[-1].end != page.begin or page.end - run[0].begin > most_bytes):
            yield run
            run = []
        run.append(page)
    if run:
        yield run
