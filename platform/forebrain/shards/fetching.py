"""Pages of a far store: several requests in flight, each page asked for once, memory bounded.

A reader says what it will read (`expect`), in the order in which it will. Requests for that go out in the
same order, as many at a time as `hurry` has asked for, and no more than AHEAD_BYTES ahead of the reader.
What was read stays within KEPT_BYTES, and what is expected again stays longest. What is read does not depend
on what comes when.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from forebrain.shards.pages import Member, Page, neighbours

# Memory: of pages asked for ahead of their reader, and of pages that were read and may be again.
AHEAD_BYTES = 128 << 20
KEPT_BYTES = 128 << 20
# One request brings pages that follow one another, of so many bytes at most.
REQUEST_BYTES = 8 << 20
REQUESTS_IN_FLIGHT = 4
MOST_IN_FLIGHT = 64

Fetch = Callable[[Member, Sequence[Page]], Sequence[np.ndarray | Exception]]
_Key = tuple[str, str, int]  # sample, member, page


class _Request:
    """Neighbouring pages of one member. It is taken once, by whoever makes it."""

    def __init__(self, member: Member, pages: Sequence[Page]) -> None:
        self.member, self.pages = member, pages
        self.expected = [_Expected(self, page.num_bytes) for page in pages]
        self.is_taken = False


@dataclass(eq=False)
class _Expected:
    """A page that is on its way; `is_counted` as long as its bytes are among those ahead of the reader."""

    request: _Request
    num_bytes: int
    is_counted: bool = False

    def __post_init__(self) -> None:
        self.values: Future[np.ndarray] = Future()


class PageFetcher:
    """Fetches pages, by threads that live for as long as there is something to fetch.

    Args:
        fetch: brings neighbouring pages of a member, or what is wrong with each; called from any thread.
        in_flight: requests ahead of the reader at a time, at first; 0 leaves all to the reader, one by one.

    Attributes:
        in_flight: requests ahead of the reader at a time, at most. What the reader needs and nobody has asked
            for yet, it asks for itself.
        kept_bytes: memory for pages that were read and may be again.
    """

    def __init__(self, fetch: Fetch, in_flight: int = REQUESTS_IN_FLIGHT) -> None:
        self._fetch = fetch
        self.in_flight = in_flight
        self.kept_bytes = KEPT_BYTES
        self._lock = threading.Lock()
        self._expected: dict[_Key, _Expected] = {}
        self._num_reads: Counter[_Key] = Counter()  # that are expected, of pages on their way or kept
        self._kept: OrderedDict[_Key, np.ndarray] = OrderedDict()  # what was used last is last
        self._queue: deque[_Request] = deque()
        self._num_threads = 0
        self._ahead_bytes = 0
        self._num_kept_bytes = 0

    def hurry(self) -> None:
        """Makes twice as many requests at a time, because what was expected came too late; not where none
        waits for its turn."""
        with self._lock:
            if self._queue:
                self.in_flight = min(2 * self.in_flight, MOST_IN_FLIGHT)

    def expect(self, member: Member, pages: Sequence[Page]) -> None:
        """Hears of pages that will be read once more, after all that it heard of before."""
        with self._lock:
            self._num_reads.update(_key(member, page) for page in pages)
            self._ask(member, pages)
            self._start_threads()

    def read(self, member: Member, pages: Sequence[Page]) -> list[np.ndarray]:
        """Values of pages, each [frames, channels], not to be written to.

        Raises:
            Exception: what `fetch` raised, or gave for one of them. It is fetched anew when it is read again.
        """
        found: list[np.ndarray | _Expected] = []
        with self._lock:
            self._ask(member, pages)
            mine = []
            for page in pages:
                key = _key(member, page)
                if key in self._kept:
                    found.append(self._kept[key])
                    continue
                expected = self._expected[key]
                found.append(expected)
                if not expected.request.is_taken:
                    expected.request.is_taken = True
                    mine.append(expected.request)
        for request in mine:
            self._make(request)
        values, errors = [], []
        for page, each in zip(pages, found, strict=True):
            error = each.values.exception() if isinstance(each, _Expected) else None
            if error is not None:
                errors.append(error)
                continue
            values.append(each.values.result() if isinstance(each, _Expected) else each)
            with self._lock:
                self._keep(_key(member, page), each, values[-1])
        with self._lock:
            self._start_threads()
        if errors:
            raise errors[0]
        return values

    def forget_expected(self) -> None:
        """Fetches no more of what was expected and not yet read."""
        with self._lock:
            self._queue.clear()
            self._num_reads.clear()
            for key in list(self._expected):
                self._drop(key)

    def _ask(self, member: Member, pages: Sequence[Page]) -> None:
        """Queues requests for those pages that are neither here nor on their way."""
        absent = []
        for page in pages:
            key = _key(member, page)
            if key in self._kept:
                self._kept.move_to_end(key)
            elif key not in self._expected:
                absent.append(page)
        for together in neighbours(absent, REQUEST_BYTES):
            request = _Request(member, together)
            self._queue.append(request)
            for page, expected in zip(together, request.expected, strict=True):
                self._expected[_key(member, page)] = expected

    def _start_threads(self) -> None:
        wanted = min(self.in_flight, self._num_threads + len(self._queue))
        while self._num_threads < wanted and self._ahead_bytes < AHEAD_BYTES:
            self._num_threads += 1
            threading.Thread(target=self._work, name="fetch", daemon=True).start()

    def _work(self) -> None:
        while (request := self._take()) is not None:
            self._make(request)

    def _take(self) -> _Request | None:
        """The next request for a thread; None if the thread is not needed any more."""
        with self._lock:
            while self._queue and self._ahead_bytes < AHEAD_BYTES:
                request = self._queue.popleft()
                if request.is_taken:
                    continue
                request.is_taken = True
                for expected in request.expected:
                    expected.is_counted = True
                    self._ahead_bytes += expected.num_bytes
                return request
            self._num_threads -= 1
            return None

    def _make(self, request: _Request) -> None:
        values: Sequence[np.ndarray | BaseException]
        try:
            values = self._fetch(request.member, request.pages)
        except BaseException as error:
            values = [error] * len(request.pages)
        for page, expected, found in zip(request.pages, request.expected, values, strict=True):
            if isinstance(found, BaseException):
                with self._lock:
                    self._drop(_key(request.member, page))
                expected.values.set_exception(found)
            else:
                expected.values.set_result(found)

    def _keep(self, key: _Key, found: np.ndarray | _Expected, values: np.ndarray) -> None:
        """Keeps a page that was read, in place of those that were not used for longest; of those that are
        expected again, only where all others are gone."""
        self._num_reads[key] -= 1
        if self._num_reads[key] <= 0:
            del self._num_reads[key]
        if self._expected.get(key) is found:  # and not one that came since another reader had it
            self._drop(key)
        if key not in self._kept:
            self._num_kept_bytes += values.nbytes
        self._kept[key] = values
        for _ in range(len(self._kept)):
            if self._num_kept_bytes <= self.kept_bytes:
                return
            if next(iter(self._kept)) in self._num_reads:
                self._kept.move_to_end(next(iter(self._kept)))
            else:
                self._forget_oldest()
        while self._num_kept_bytes > self.kept_bytes:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._num_kept_bytes -= self._kept.popitem(last=False)[1].nbytes

    def _drop(self, key: _Key) -> None:
        expected = self._expected.pop(key, None)
        if expected is not None and expected.is_counted:
            expected.is_counted = False
            self._ahead_bytes -= expected.num_bytes


def _key(member: Member, page: Page) -> _Key:
    return member.key, member.name, page.number
