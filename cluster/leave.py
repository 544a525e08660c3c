"""Tells Ray that this machine is about to be taken away, so that runs save and go on elsewhere.

    python cluster/leave.py --seconds 100       now, then waits until nothing runs here, at most so long
    python cluster/leave.py --watch aws         when the cloud says so; also gcp

Ray itself hears nothing of a spot machine's end, nor of a pod's. What a run does about it is in
docs/guarantees.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import psutil
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

METADATA = {"aws": "http://169.254.169.254", "gcp": "http://metadata.google.internal"}
GCP_NOTICE_S = 30.0
POLL_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="host:port of the head")
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument("--seconds", type=float, help="the machine goes in so many seconds")
    when.add_argument("--watch", choices=sorted(METADATA), help="the cloud to ask")
    options = parser.parse_args()
    if not options.address:
        parser.error("which cluster? Give --address HOST:PORT, or set RAY_ADDRESS.")
    if options.watch:
        look = {"aws": aws_deadline, "gcp": gcp_deadline}[options.watch]
        while (deadline := look()) is None:
            time.sleep(POLL_S)
        announce(options.address, deadline)
    else:
        deadline = time.time() + options.seconds
        announce(options.address, deadline)
        wait_until_idle(deadline)


def announce(address: str, deadline: float) -> None:
    """Tells a cluster that each of its worker nodes on this machine goes at a time (Unix clock, seconds)."""
    here = {item.address for items in psutil.net_if_addrs().values() for item in items}
    head = GcsClient(address=address)
    for node in head.get_all_node_info().values():
        # Without its head there is no cluster to tell.
        if node.state == node.ALIVE and not node.is_head_node and node.node_manager_address in here:
            left_s = deadline - time.time()
            accepted, why_not = head.drain_node(
                node.node_id.hex(),
                DRAIN_NODE_REASON_PREEMPTION,
                f"the machine goes in {left_s:.0f} s",
                int(1000 * deadline),
            )
            said = "told Ray" if accepted else f"Ray refuses to hear ({why_not})"
            print(f"{said} that {node.node_manager_address} goes in {left_s:.0f} s", flush=True)


def wait_until_idle(deadline: float) -> None:
    """Until Ray runs nothing on this machine, or the deadline."""
    while time.time() < deadline and any(map(_is_busy, psutil.process_iter(["cmdline"]))):
        time.sleep(POLL_S)


def aws_deadline(metadata: str = METADATA["aws"]) -> float | None:
    """When EC2 takes this spot machine, seconds of the Unix clock; None if it said nothing."""
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask(f"{metadata}/latest/api/token", lifetime, method="PUT")
    notice = _ask(
        f"{metadata}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token or ""}
    )
    if notice is None:
        return None
    return datetime.datetime.fromisoformat(json.loads(notice)["time"]).timestamp()


def gcp_deadline(metadata: str = METADATA["gcp"], clock: Callable[[], float] = time.time) -> float | None:
    """When Compute Engine takes this spot machine, seconds of the Unix clock; None if it said nothing."""
    preempted = _ask(f"{metadata}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return clock() + GCP_NOTICE_S if preempted == "TRUE" else None


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """The machine's metadata service; None where it has no such thing, or does not answer just now."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers, method=method), timeout=5
        ) as answer:
            return answer.read().decode().strip()
    except OSError as error:
        if not isinstance(error, urllib.error.HTTPError) or error.code != 404:
            print(f"{url}: {error}", flush=True)
        return None


def _is_busy(process: psutil.Process) -> bool:
    """Whether it is a worker of Ray that has something to do; Ray puts that into its title."""
    title = " ".join(process.info["cmdline"] or [])
    return title.startswith("ray::") and not title.startswith("ray::IDLE")


if __name__ == "__main__":
    main()
