"""From starting the worker's program to its first 200 on /readyz, its queues being declared; broker and
engine are there."""

import time
from statistics import median

from report import row

NAME = "start-to-ready"
RUNS = 15


def measure(grid):
    # The first start makes the data directory and the queues.
    with grid.worker():
        pass
    times = []
    for _ in range(RUNS):
        started = time.monotonic()
        with grid.worker():
            times.append((time.monotonic() - started) * 1000)
    yield row(NAME, f"{RUNS} starts", "median", "ms", median(times), below=200)
    yield row(NAME, f"{RUNS} starts", "slowest", "ms", max(times))
