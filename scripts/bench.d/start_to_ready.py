"""From starting the worker's program to its first 200 on /readyz, its queues being declared; broker and
engine are there. Once with nothing behind it, and once after a crash with much of it: a full store, many builds,
some of them cut short, and logs that the timeline service, which is away, does not have."""

import hashlib
import json
import shutil
import time
from statistics import median

from report import row
from running import free_port

NAME = "start-to-ready"
RUNS = 15
BLOBS, BUILDS = 10_000, 1_000
# One in so many builds.
CUT_SHORT, TOLD = 5, 2
COMMIT = "9fceb02d0ae598e95dc970b74767f19372d61af8"


def measure(grid):
    # The first start makes the data directory and the queues.
    with grid.worker():
        pass
    yield from starts(grid, f"{RUNS} starts", 200, None)
    fill(grid)
    yield from starts(grid, f"{BLOBS:,} blobs, {BUILDS:,} builds", None, 2000)


def starts(grid, scenario, median_below, slowest_below):
    times = []
    for _ in range(RUNS):
        started = time.monotonic()
        with grid.worker():
            times.append((time.monotonic() - started) * 1000)
    yield row(NAME, scenario, "median", "ms", median(times), below=median_below)
    yield row(NAME, scenario, "slowest", "ms", max(times), below=slowest_below)


def fill(grid):
    """Many builds, each a copy of one that was made without a timeline service to tell, and many blobs."""
    grid.timeline_url = f"http://127.0.0.1:{free_port()}"
    with grid.worker():
        event = {"version": 1, "id": "model", "namespace": "smoke", "app": "shop", "commit": COMMIT}
        (grid.folder / "event.json").write_text(json.dumps(event | {"fake": {"log_lines": 200}}))
        grid.run("enqueue", "--via", "broker", "--wait", grid.folder / "event.json")
        model = grid.build("model")
    for number in range(BUILDS):
        build = grid.build(f"build-{number}")
        shutil.copytree(model, build)
        (build / "event.json").write_text((model / "event.json").read_text().replace("model", build.name))
        report = json.loads((model / "report.json").read_bytes())
        if report["end"] is None or report["closed"] is not None:
            raise RuntimeError(f"the model of the builds is not one that is still to be told: {report}")
        if number % CUT_SHORT == 0:
            (build / "outcome.json").unlink()
            (build / "spool").mkdir()
            (build / "spool" / "image.tar").write_bytes(bytes(100_000))
            report["end"] = None
        elif number % TOLD == 0:
            report |= {"claimed": True, "closed": {"how": "sent"}}
        (build / "report.json").write_text(json.dumps(report))
    blobs = grid.folder / "store/docker/registry/v2/blobs/sha256"
    for number in range(BLOBS):
        content = f"blob {number}\n".encode()
        digest = hashlib.sha256(content).hexdigest()
        blob = blobs / digest[:2] / digest
        blob.mkdir(parents=True, exist_ok=True)
        (blob / "data").write_bytes(content)
