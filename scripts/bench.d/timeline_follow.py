"""How far behind are those who follow a log live, at 5,000 lines a second.

From the time that stands in a line, which is when it was written, to its arrival as a server-sent event:
once the whole way, of fakes that a worker builds; once of a single log, sent ten times a second as a
worker sends one."""

import json
import random
import time
import zlib
from datetime import datetime, timezone

from grid import deploy_event, percentile
from report import row
from timeline import Client, background, build_line, in_processes, peak, text

NAME = "timeline-follow"
RATE = 5000
SECONDS = 15
# A fake sleeps after each line, for a millisecond and what the timer adds.
FAKES = 11
# How often a worker sends what it has collected, a second.
PARTS = 10


def measure(grid):
    with grid.up(slots=FAKES) as up:
        for scenario, (behind, seconds) in [
            (f"{FAKES} builds, from worker to reader", fakes(grid)),
            ("one log, from sender to reader", one_log(grid)),
        ]:
            yield row(NAME, scenario, "lines", "1/s", len(behind) / seconds)
            yield row(NAME, scenario, "behind, median", "ms", percentile(behind, 0.5))
            yield row(NAME, scenario, "behind, p99", "ms", percentile(behind, 0.99), below=200)
        yield row(NAME, "both", "peak resident memory", "MiB", peak(up), below=200)


def fakes(grid):
    lines = RATE * SECONDS // FAKES
    builds = [f"follow-{number}" for number in range(FAKES)]
    host, token = grid.timeline_host, grid.token("local")
    client = Client(host, token)
    for build in builds:
        fake = {"log_lines": lines, "line_interval_ms": 1, "layers": 1, "layer_bytes": 4096}
        event = deploy_event(build, "0" * 40, namespace="smoke", app=build, fake=fake)
        client.call("POST", "builds", event, Content_Type="application/json")
    followed = in_processes(follow, [(host, token, build) for build in builds])
    if min(map(len, followed)) < lines:
        raise RuntimeError(f"{lines} lines were written, {min(map(len, followed))} arrived")
    written = [at for arrivals in followed for at, _ in arrivals]
    return behind(arrival for arrivals in followed for arrival in arrivals), max(written) - min(written)


def one_log(grid):
    source = random.Random(1)
    lines, build = RATE * SECONDS, "follow-one"
    client = Client(grid.timeline_host, grid.token("worker"))
    path = client.claim(build)
    with background(follow, grid.timeline_host, grid.token("local"), build, lines) as followed:
        started = time.time()
        for first in range(0, lines, RATE // PARTS):
            end = first + RATE // PARTS
            # Each line is written at its time; the part is sent when its last one has been.
            time.sleep(max(0.0, started + end / RATE - time.time()))
            written = [(seq, started + seq / RATE) for seq in range(first, end)]
            part = "".join(build_line(seq, text(source), utc(at)) for seq, at in written)
            client.append(path, gzip(part), "gzip")
        seconds = time.time() - started
        return behind(followed.get(60)), seconds


def follow(host, token, build, lines=None):
    """Follows a build's log to its end, or for so many lines: when each was written and when it arrived."""
    response = Client(host, token).open("GET", f"builds/{build}/log", Accept="text/event-stream")
    arrivals, held = [], b""
    while piece := response.read1(1 << 20):
        now = time.time()
        *events, held = (held + piece).split(b"\n\n")
        for event in events:
            if event.startswith(b"event: end"):
                return arrivals
            if event.startswith(b"event: entry"):
                entry = json.loads(event.partition(b"\ndata: ")[2])
                arrivals.append((datetime.fromisoformat(entry["at"]).timestamp(), now))
        if len(arrivals) == lines:
            return arrivals
    raise RuntimeError(f"the log of {build} broke off after {len(arrivals)} lines")


def behind(arrivals):
    # A line's time is cut to the millisecond: it may be as much later.
    return [(arrived - written) * 1000 for written, arrived in arrivals]


def utc(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"


def gzip(part):
    packer = zlib.compressobj(level=1, wbits=31)
    return packer.compress(part.encode()) + packer.flush()
