"""The worker's memory while 16 builds write 200 KiB/s or more of log each, with 50 secrets to mask."""

import json
import random
import string
import time

from publish_memory import forget_peak, peak
from report import row

NAME = "log-memory"
BUILDS = 16
LINES = 400_000
# KiB a second.
SPEED = 200
SECRETS = 50


def measure(grid):
    secrets(grid.folder / "secrets")
    places = [
        ("alone", grid.worker, grid.data),
        ("with the timeline service, in one process", grid.up, grid.up_data / "worker"),
    ]
    for place, start, data in places:
        with start(BUILDS) as process:
            forget_peak(process)
            begun = time.monotonic()
            grid.run("enqueue", "--fake", "--count", str(BUILDS), "--log-lines", str(LINES), "--layers", "1", "--wait")
            elapsed = time.monotonic() - begun
            memory = peak(process)
        logs = [text_of(log) for log in data.glob("builds/*/log.ndjson")]
        scenario = f"{BUILDS} builds at once, {SECRETS} secrets, {place}"
        yield row(NAME, scenario, "log of each, text alone", "KiB/s", min(logs) / elapsed / 1024, at_least=SPEED)
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
