"""Reading logs of a million lines (100 MiB of text, more than twice that as NDJSON): ranges, a search, a
filter; and the memory of the service while four workers send, readers follow and others read.

The peers read the same log from a file in the page cache: a plain one, and one that zstd has compressed,
which is the nearest to what the service does."""

import json
import random
import subprocess
import time
from statistics import median

from grid import percentile
from report import row
from timeline import Client, appends, build_line, deploy_line, in_processes, peak, send, write_log

NAME = "timeline-read"
LINES = 1_000_000
SERVICES = [f"service-{number:02}" for number in range(100)]
RANGE, RANGES = 1000, 200
RUNS = 10
# Three lines have the word.
WORD = "Zugzwang"
NOWHERE = "Zwischenzug"
RARE = {seq: f"the rarest of words is {WORD}" for seq in (17, LINES // 2, LINES - 5)}
SCENARIO = "1000000 lines"


def measure(grid):
    build, deploy = grid.folder / "build.ndjson", grid.folder / "deploy.ndjson"
    write_log(build, LINES, build_line, RARE)
    write_log(deploy, LINES, lambda seq, words: deploy_line(seq, words, SERVICES))
    bodies = appends(build)
    with grid.up() as up:
        host, worker, local = grid.timeline_host, grid.token("worker"), grid.token("local")
        writer, reader = Client(host, worker), Client(host, local)
        send(host, worker, writer.claim("read"), bodies)
        send(host, local, reader.deploy("read", SERVICES), appends(deploy))
        yield from ranges(reader, build)
        yield from search(reader, build)
        yield from filtered(reader, deploy)
        yield from together(grid, up, writer, bodies)


def ranges(reader, file):
    places = random.Random(1).sample(range(LINES - RANGE), RANGES)
    waits = []
    for place in places:
        elapsed, answer = timed(reader, f"builds/read/log?after={place}&limit={RANGE}")
        waits.append(elapsed * 1000)
        expect(answer, RANGE, first=place + 1)
    theirs = [shell(f"sed -n '{place + 2},{place + 1 + RANGE}p;{place + 1 + RANGE}q' {file}") for place in places[:20]]
    figure = f"any range of {RANGE}"
    yield row(NAME, SCENARIO, f"{figure}, median", "ms", median(waits), median(theirs) * 1000, "sed -n on the file")
    yield row(NAME, SCENARIO, f"{figure}, p99", "ms", percentile(waits, 0.99), below=50)


def search(reader, file):
    packed = file.with_suffix(".zst")
    shell(f"zstd -q -1 {file} -o {packed}")
    for word, found, figure in [(WORD, len(RARE), "a rare word"), (NOWHERE, 0, "a word that is nowhere")]:
        times = []
        for _ in range(RUNS):
            elapsed, answer = timed(reader, f"builds/read/log?q={word.lower()}")
            times.append(elapsed)
            expect(answer, found)
        for peer, command in [
            ("grep -ciF on the file", f"grep -ciF {word} {file}"),
            ("zstdcat | grep -ciF", f"zstdcat {packed} | grep -ciF {word}"),
        ]:
            theirs = median(shell(command) for _ in range(3))
            yield row(NAME, SCENARIO, f"{figure}, median", "s", median(times), theirs, peer)
        yield row(NAME, SCENARIO, f"{figure}, slowest of {RUNS}", "s", max(times), below=2)


def filtered(reader, file):
    service, count = SERVICES[42], LINES // len(SERVICES)
    times = []
    for _ in range(RUNS):
        elapsed, answer = timed(reader, f"deploys/read/log?service={service}&limit={count}")
        times.append(elapsed * 1000)
        expect(answer, count, first=42)
    figure, packed, line = "a service of a hundred", file.with_suffix(".zst"), f"'\"service\":\"{service}\",'"
    shell(f"zstd -q -1 {file} -o {packed}")
    for peer, command in [
        ("grep -F on the file", f"grep -F {line} {file}"),
        ("zstdcat | grep -F", f"zstdcat {packed} | grep -F {line}"),
    ]:
        theirs = median(shell(command) for _ in range(3)) * 1000
        yield row(NAME, SCENARIO, f"{figure}, all of its lines, median", "ms", median(times), theirs, peer)
    yield row(NAME, SCENARIO, f"{figure}, all of its lines, slowest of {RUNS}", "ms", max(times), below=200)


def together(grid, up, writer, bodies):
    """Four workers send as fast as they can, each log is followed, and others read and search meanwhile."""
    host, worker, local = grid.timeline_host, grid.token("worker"), grid.token("local")
    builds = [f"together-{number}" for number in range(4)]
    sent = [(send, (host, worker, writer.claim(build), bodies)) for build in builds]
    followed = [(follow, (host, local, build)) for build in builds]
    read = [(read_about, (host, local)) for _ in range(2)]
    in_processes(apply, sent + followed + read)
    yield row(NAME, "sent, followed, read and searched at once", "peak resident memory", "MiB", peak(up), below=200)


def apply(function, arguments):
    return function(*arguments)


def follow(host, token, build):
    """Follows a log for all its lines."""
    response = Client(host, token).open("GET", f"builds/{build}/log", Accept="text/event-stream")
    count, held = 0, b""
    while count < LINES and (piece := response.read1(1 << 20)):
        events, _, held = (held + piece).rpartition(b"\n\n")
        count += events.count(b"event: entry\n")


def read_about(host, token):
    client = Client(host, token)
    for place in random.Random(2).sample(range(LINES - RANGE), 20):
        client.call("GET", f"builds/read/log?after={place}&limit={RANGE}")
        client.call("GET", f"builds/read/log?q={NOWHERE}")
        client.call("GET", f"deploys/read/log?service={SERVICES[7]}&limit={LINES // len(SERVICES)}")


def timed(client, path):
    started = time.monotonic()
    answer = client.call("GET", path)
    return time.monotonic() - started, answer


def expect(answer, count, first=None):
    lines = answer.splitlines()
    if len(lines) != count or (first is not None and json.loads(lines[0])["seq"] != first):
        raise RuntimeError(f"{len(lines)} lines instead of {count}, the first {lines[:1]}")


def shell(command):
    """How long it takes, in seconds; that grep finds nothing is no failure."""
    started = time.monotonic()
    # Into a pipe: grep that writes to /dev/null stops at the first line it finds.
    done = subprocess.run(command, shell=True, capture_output=True)
    if done.returncode not in (0, 1) or done.stderr:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr.decode()}")
    return time.monotonic() - started
