"""`forebrain live`: forecasting while recording. Needs the extra `live`."""

from __future__ import annotations

from typing import Literal

Transport = Literal["requests", "streams", "lsl"]
TITLES = {
    "requests": "ZeroMQ request and reply",
    "streams": "two ZeroMQ streams",
    "lsl": "the Lab Streaming Layer",
}
