"""The worker's memory while 16 builds write 200 KiB/s or more of log each, with 50 secrets to mask."""

import json
import random
import string
import time

from grid import deploy_event
from publish_memory import forget_peak, peak
from report import row

NAME = "log-memory"
BUILDS = 16
LINES = 400_000
SPEED = 200 << 10
# Written by each line beside its text: the keys of a log entry.
SECRETS = 50


def measure(grid):
    secrets(grid.folder / "secrets")
    with grid.worker(BUILDS) as worker:
        forget_peak(worker)
        begun = time.monotonic()
        for number in range(BUILDS):
            event = deploy_event(
                f"log-{number}", f"{number:040x}", namespace="smoke",
                fake={"log_lines": LINES, "layers": 1, "layer_bytes": 1000},
            )  # fmt: skip
            path = grid.folder / f"event-{number}.json"
            path.write_bytes(event)
            grid.run("enqueue", path)
        for number in range(BUILDS):
            grid.outcome(f"log-{number}")
        elapsed = time.monotonic() - begun
        memory = peak(worker)
    speed = min(text_of(grid.build(f"log-{number}") / "log.ndjson") for number in range(BUILDS)) / elapsed
    scenario = f"{BUILDS} builds at once, {SECRETS} secrets"
    yield row(NAME, scenario, "log of each, text alone", "KiB/s", speed / 1024, at_least=SPEED / 1024)
    yield row(NAME, scenario, "peak resident memory", "MiB", memory, below=256)


def secrets(folder):
    folder.mkdir(mode=0o700)
    source = random.Random(1)
    for number in range(SECRETS):
        value = "".join(source.choices(string.ascii_letters + string.digits, k=40))
        (folder / f"secret.smoke.s{number}").write_text(value)


def text_of(log):
    """The bytes of a log's lines, without what BuildGrid writes beside them."""
    with open(log, encoding="utf-8") as lines:
        return sum(len(json.loads(line)["text"]) + 1 for line in lines)
