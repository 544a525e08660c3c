"""What the live page costs the forecaster: frames at a rig's rate, in one process, shown or not in turn.

A busy machine keeps any program waiting for a core, some frames for many times what they take. That wait,
which the kernel counts (`schedstat`), is taken out; what the page could add stays in: instructions, caches
gone cold, locks, the interpreter's among them.
"""

from __future__ import annotations

import multiprocessing
import time
import urllib.request
from typing import Any

import numpy as np
import torch

from forebrain.benchmarking.intervals import untrained
from forebrain.benchmarking.timing import p99_ratio, waited_s
from forebrain.realtime import LiveConfig
from forebrain.realtime.pacing import Pacer
from forebrain.realtime.page import listen, shown, url_of
from forebrain.realtime.pictures import Pictures
from forebrain.realtime.zeromq import Publisher

RATE_HZ = 30.0
BLOCK = 30  # frames with or without the page
BLOCKS = 240
REHEARSALS = 20


def time_page(units: int, blocks: int = BLOCKS) -> dict[str, Any]:
    """Milliseconds from a frame's arrival to its forecast with the page shown to one browser and without, and
    what the page takes of a core of the forecaster.

    Args:
        units: of the session.
        blocks: of `BLOCK` frames at `RATE_HZ`, every second of them shown.
    """
    live = untrained(units, LiveConfig(precision="bf16"))
    for _ in range(REHEARSALS):
        live.rehearse()
    rng = np.random.default_rng(0)
    stream = rng.normal(size=(blocks * BLOCK, units)).astype(np.float32)
    publisher, listening = Publisher("tcp://127.0.0.1:*"), listen("0")
    url = url_of(listening)
    browser = multiprocessing.get_context("spawn").Process(target=_read, args=(url,), daemon=True)
    reply_s = np.zeros((blocks, BLOCK))
    shown_s = np.zeros((blocks, BLOCK))
    try:
        with shown(listening, publisher.address):
            browser.start()
            pictures = Pictures(live, publisher.send)
            pacer = Pacer(1 / RATE_HZ)
            for number, frame in enumerate(stream):
                pacer.wait(number)
                block, place = divmod(number, BLOCK)
                came, waited = time.perf_counter(), waited_s()
                live.ingest(frame)
                live.forecast()
                reply_s[block, place] = time.perf_counter() - came - (waited_s() - waited)
                live.settle()
                if block % 2:
                    began = time.thread_time()
                    pictures.frame(live)
                    shown_s[block, place] = time.thread_time() - began
    finally:
        browser.kill()
        publisher.close()
    whole = live.context // BLOCK + 2  # blocks whose frames all have a forecast, the first pair of them even
    whole += whole % 2
    without, with_page = reply_s[whole::2], reply_s[whole + 1 :: 2]
    low, high = p99_ratio(without, with_page, rng)
    p99_ms, p99_shown_ms = (1e3 * float(np.quantile(each, 0.99)) for each in (without, with_page))
    return {
        "what": "page", "units": units, "batch": 1, "dtype": "bf16", "device": "cpu",
        "threads": torch.get_num_threads(), "frames": int(with_page.size), "p99_ms": p99_ms,
        "median_ms": 1e3 * float(np.median(without)),
        "ratio": float(np.median(with_page) / np.median(without)),
        "p99_ratio": p99_shown_ms / p99_ms, "p99_low": low, "p99_high": high,
        "core_share": float(shown_s[whole + 1 :: 2].mean()) * RATE_HZ,
    }  # fmt: skip


def _read(url: str) -> None:
    """A browser: reads the page's pictures as they come."""
    with urllib.request.urlopen(f"{url}pictures") as stream:
        while stream.readline():
            pass
