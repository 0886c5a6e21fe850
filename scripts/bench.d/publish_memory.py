"""The worker's memory while it publishes an image of 1 GiB: a fake's, and one that Docker has built."""

import time

from images import base_image
from meter import forget_peak, peak
from report import row
from running import GitServer

NAME = "publish-memory"
DOCKERFILE = b"""\
ARG BASE
FROM ${BASE}
COPY nonce /nonce
RUN dd if=/dev/urandom of=/payload bs=1M count=1024 2>/dev/null
"""


def measure(grid):
    with grid.worker() as worker, GitServer(grid.folder / "git") as server, base_image() as base:
        for scenario, enqueue in [("a fake of 1 GiB", fake), ("a Docker image of 1 GiB", docker(server, base))]:
            forget_peak(worker)
            started = time.monotonic()
            enqueue(grid)
            elapsed = time.monotonic() - started
            yield row(NAME, scenario, "peak resident memory", "MiB", peak(worker), below=150)
            yield row(NAME, scenario, "event to published", "s", elapsed)


def fake(grid):
    grid.run("enqueue", "--fake", "--layers", "1", "--layer-bytes", str(1 << 30), "--log-lines", "1", "--wait")


def docker(server, base):
    def enqueue(grid):
        repository = server.repository("large")
        commit = repository.commit({"Dockerfile": DOCKERFILE, "nonce": str(time.time_ns()).encode()})
        grid.run(
            "enqueue", "--namespace", "acme", "--app", "large", "--repository", repository.url,
            "--commit", commit, "--ref", "refs/heads/main", "--arg", f"BASE={base}", "--wait",
        )  # fmt: skip

    return enqueue

