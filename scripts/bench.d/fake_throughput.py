"""How many small builds a second a worker takes from the queue to published images."""

import json
import os
import time

from report import row

NAME = "fake-throughput"
BUILDS = 2000
SLOTS = 16


def measure(grid):
    with grid.worker(SLOTS):
        started = time.time()
        grid.run(
            "enqueue", "--fake", "--count", str(BUILDS), "--id", "throughput",
            "--log-lines", "10", "--layers", "1", "--layer-bytes", "4096",
        )  # fmt: skip
        enqueued = time.time()
        outcomes = [grid.data / "builds" / f"throughput-{number}" / "outcome.json" for number in range(BUILDS)]
        grid.outcome(f"throughput-{BUILDS - 1}")
        while missing := [path for path in outcomes if not path.exists()]:
            grid.outcome(missing[-1].parent.name)
        last = max(os.stat(path).st_mtime for path in outcomes)
        for path in outcomes:
            outcome = json.loads(path.read_bytes())
            if outcome["state"] != "published":
                raise RuntimeError(f"{outcome['id']} is {outcome['state']}: {outcome['reason']}")
    scenario = f"{BUILDS} fakes, {SLOTS} slots"
    yield row(NAME, scenario, "enqueued", "1/s", BUILDS / (enqueued - started))
    yield row(NAME, scenario, "published, from the first enqueued on", "1/s", BUILDS / (last - started), at_least=100)
