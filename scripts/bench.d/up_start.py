"""From starting `buildgrid up` to its first 200 on /readyz: the first time, when it makes its database, its
store and its login, and later times."""

import shutil
import time
from statistics import median

from report import row

NAME = "up-start"
FIRST, LATER = 5, 10


def measure(grid):
    first = []
    for _ in range(FIRST):
        shutil.rmtree(grid.up_data, ignore_errors=True)
        first.append(start(grid))
    later = [start(grid) for _ in range(LATER)]
    for scenario, times in [(f"{FIRST} first starts", first), (f"{LATER} later starts", later)]:
        yield row(NAME, scenario, "median", "s", median(times))
        yield row(NAME, scenario, "slowest", "s", max(times), below=1)


def start(grid):
    started = time.monotonic()
    with grid.up():
        return time.monotonic() - started
