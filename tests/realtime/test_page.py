"""The page shows a stream in a real browser, and nobody who looks at it disturbs the stream."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from realtime_small import CONTEXT, HORIZON, Small, activity
from test_transports import MAX_BYTES

import forebrain as fb
from chromium_window import CHROMIUM, Browser
from forebrain.errors import ConfigError
from forebrain.realtime import LiveForecaster, beside, page
from forebrain.realtime.pictures import Pictures
from forebrain.realtime.server import serve
from forebrain.realtime.zeromq import Publisher, RequestPort

Open = Callable[..., LiveForecaster]


@contextlib.contextmanager
def paged(live: LiveForecaster, more: dict[str, Any] | None = None) -> Iterator[tuple[str, fb.live.Client]]:
    """The page of a forecaster that is served by threads, and a client of it; `more` is in each picture."""
    port, publisher, ends = RequestPort("tcp://127.0.0.1:*", MAX_BYTES), Publisher("tcp://127.0.0.1:*"), []
    listening = page.listen("0")
    url = page.url_of(listening)

    def send(picture: bytes) -> None:
        publisher.send(msgpack.packb(msgpack.unpackb(picture) | more) if more else picture)

    followers = [Pictures(live, send, title="worm9 <b>day 1</b>")]
    threads = [
        threading.Thread(target=page.show, args=(listening, publisher.address, lambda: bool(ends))),
        threading.Thread(target=serve, args=(live, port, lambda: bool(ends), lambda live: None, followers)),
    ]
    for thread in threads:
        thread.start()
    try:
        with fb.live.Client(port.address) as client:
            yield url, client
    finally:
        ends.append(True)
        for thread in threads:
            thread.join()
        port.close()
        publisher.close()


def pictures_of(url: str) -> Iterator[dict]:
    with urllib.request.urlopen(url + "pictures", timeout=10) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def test_the_page_asks_for_nothing_outside_of_itself() -> None:
    html = resources.files("forebrain.realtime").joinpath("page.html").read_text()
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    assert html.count('src="') == 0 and "innerHTML" not in html.replace("outerHTML", "")


def test_a_browser_gets_the_page_and_pictures_and_nothing_else(small: Small, open_live: Open) -> None:
    frames = activity(CONTEXT + 20, small.preprocessing)
    with paged(open_live()) as (url, client):
        with urllib.request.urlopen(url) as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert b"<title>forebrain live" in answer.read()
        for path in ("page.html", "../pictures", "pictures/x", "etc/passwd"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url + path)
        for method in ("POST", "PUT", "DELETE"):
            with pytest.raises(urllib.error.HTTPError, match="501"):
                urllib.request.urlopen(urllib.request.Request(url, b"x", method=method))
        for index, frame in enumerate(frames):
            client.step(frame, index)
            time.sleep(0.01)
        picture = next(each for each in pictures_of(url) if each["status"]["source"] == "model")
        assert picture["about"]["names"] == list("abcdef")


def test_pages_that_stop_reading_or_go_away_hold_nobody_up(small: Small, open_live: Open) -> None:
    """Two pages read, one stops reading, others come and go: forecasts and the readers' pictures go on."""
    frames, in_process = activity(300, small.preprocessing), open_live()
    with paged(open_live()) as (url, client):
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        stuck = socket.create_connection((host, int(port)))
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        stuck.sendall(b"GET /pictures HTTP/1.1\r\nHost: x\r\n\r\n")
        readers = [pictures_of(url), pictures_of(url)]
        for index, frame in enumerate(frames):
            if index % 50 == 0:
                with socket.create_connection((host, int(port))) as leaving:
                    leaving.sendall(b"GET /pictures HTTP/1.1\r\n\r\n")
            reply = client.step(frame, index)
            np.testing.assert_array_equal(reply.values, in_process.step(frame, index))
            time.sleep(0.004)
        for reader in readers:
            assert next(each for each in reader if each["status"]["frames"] > 200)
        assert client.status()["frames"] == 300
        stuck.close()


def test_more_pages_than_there_are_places_for_are_told_so(
    open_live: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_WATCHERS", 2)
    with paged(open_live()) as (url, _):
        first, second = pictures_of(url), pictures_of(url)
        assert next(first) and next(second)
        with pytest.raises(urllib.error.HTTPError, match="2 pages are open already"):
            next(pictures_of(url))


def test_a_place_that_is_taken_or_none_is_said_in_a_line() -> None:
    with page.listen("0") as listening:
        taken = str(listening.getsockname()[1])
        with pytest.raises(ConfigError, match=rf"cannot be shown at {taken} \(Address already in use\)"):
            page.listen(taken)
    for where in ("", "http", "localhost", "99999", "localhost:x"):
        with pytest.raises(ConfigError, match="expected a port such as 8600"):
            page.listen(where)
    with pytest.raises(ConfigError, match="Choose another port"):
        page.listen("192.0.2.1:8600")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (420, True)])
def test_a_browser_shows_the_stream_and_what_becomes_of_it(
    small: Small, open_live: Open, tmp_path: Path, width: int, dark: bool
) -> None:
    frames, plays, ends = activity(4000, small.preprocessing), threading.Event(), threading.Event()
    plays.set()

    def send(client: fb.live.Client) -> None:
        for index, frame in enumerate(frames):
            plays.wait()
            if ends.is_set():
                return
            client.step(frame, index + 50 * (index > 40), index / 5)
            time.sleep(0.02)

    with Browser(tmp_path, width, dark=dark) as browser:
        with paged(open_live()) as (url, client):
            browser.open(url)
            browser.wait_for("document.getElementById('state').textContent === 'no frame has come yet'")
            rig = threading.Thread(target=send, args=(client,))
            rig.start()
            browser.wait_for("document.getElementById('state').className === 'good'")
            browser.wait_for("last.status.gaps === 1 && last.status.score_windows > 25 && !dirty")
            shot = browser.screenshot(tmp_path / "page.png")
            html = browser.evaluate("document.documentElement.outerHTML")
            wide = browser.evaluate("document.documentElement.scrollWidth")
            plays.clear()
            browser.wait_for("document.getElementById('state').textContent.startsWith('no frame for')")
            assert browser.evaluate("document.body.className") == "away"
            ends.set()
            plays.set()
            rig.join()
        browser.wait_for("document.getElementById('state').textContent.startsWith('the forecaster has not')")
        assert not [each for each in browser.errors if "ERR_" not in each], browser.errors
    assert "worm9 &lt;b&gt;day 1&lt;/b&gt;" in html  # text, whatever it holds
    assert "frames are missing: the window starts anew (at frame 91)" in html
    assert re.search(r'aria-label="6 of 6 units over the last \d+ frames', html)
    assert re.search(r"<dt>missing</dt><dd class=\"some\">50</dd>", html)
    assert re.search(r'id="latency">[\d.]+ ms<', html) and re.search(r'id="score">[−\d.]+<', html)
    assert len(re.findall(r"<tr><td>[a-f]</td>", html)) == 6
    assert wide <= width and shot.stat().st_size > 20_000


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_bands_coverage_and_inputs_are_drawn_where_the_forecaster_has_them(
    small: Small, open_live: Open, tmp_path: Path
) -> None:
    bands = np.linspace(-30, 30, 2)[:, None, None] + 100 + np.zeros((2, HORIZON, 6))
    more = {
        "bands": {"levels": [0.05, 0.95], "values": bands.astype("<f4").tobytes()},
        "coverage": {"inside": 0.87, "aim": 0.9},
        "inputs": {"names": ["light"], "past": [[0.0], [1.0]] * 10, "plan": [[1.0]] * HORIZON},
    }
    with Browser(tmp_path, 1400) as browser, paged(open_live(), more) as (url, client):
        browser.open(url)
        for index, frame in enumerate(activity(60, small.preprocessing)):
            client.step(frame, index, index / 5)
            time.sleep(0.02)
        browser.wait_for("last.status.source === 'model' && !dirty")
        browser.wait_for("document.getElementById('coverage').textContent === '87 %'")
        assert browser.evaluate("document.getElementById('coverage-of').textContent").endswith("90 %")
        painted = browser.evaluate(  # how much of the forecasts' zone is no longer of its plain colour
            "(() => { const plot = document.getElementById('plot'), c = plot.getContext('2d');"
            "const data = c.getImageData(plot.width - 25, 20, 10, 300).data; let found = 0;"
            "for (let k = 0; k < data.length; k += 4) if (data[k] < 220) found++; return found / 3000; })()"
        )
        assert painted > 0.5
        assert not browser.errors


def test_a_process_that_does_not_end_is_ended_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "END_S", 0.05)
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which it inherits
    process.start()
    signal.signal(signal.SIGTERM, before)
    beside.end(process)
    assert process.exitcode == -signal.SIGKILL
