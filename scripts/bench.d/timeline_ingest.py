"""How many log entries a second the timeline stores durably, from four workers at once.

The peer is Python's sqlite3, one row a line, one transaction for as many lines as an append has, with the
same journal and the same syncs; nothing has to reach it over HTTP, and it neither checks nor compresses."""

import json
import sqlite3
import time

from grid import percentile
from report import row
from timeline import Client, appends, build_line, in_processes, peak, send, write_log

NAME = "timeline-ingest"
WORKERS = 4
LINES = 500_000
PEER = "sqlite3, one row a line"


def measure(grid):
    log = grid.folder / "log.ndjson"
    write_log(log, LINES, build_line)
    bodies = appends(log)
    scenario = f"{WORKERS} workers, {LINES} lines each"
    with grid.up() as up:
        token = grid.token("worker")
        client = Client(grid.timeline_host, token)
        paths = [client.claim(f"ingest-{number}") for number in range(WORKERS)]
        start = time.monotonic() + 1
        answers = in_processes(send, [(grid.timeline_host, token, path, bodies, start) for path in paths])
        answers = [answer for answered in answers for answer in answered]
        elapsed = max(end for _, end in answers) - min(sent for sent, _ in answers)
        rate = WORKERS * LINES / elapsed
        waits = [end - sent for sent, end in answers]
        reader = Client(grid.timeline_host, grid.token("local"))
        for number in range(WORKERS):
            entries = json.loads(reader.call("GET", f"builds/ingest-{number}"))["attempts"][0]["entries"]
            if entries != LINES:
                raise RuntimeError(f"{entries} of {LINES} lines of ingest-{number} are stored")
        memory = peak(up)
        stored = sum(path.stat().st_size for path in (grid.up_data / "timeline").glob("timeline.db*"))
    their_rate, their_size = rows_in_sqlite(grid, log, len(bodies))
    yield row(NAME, scenario, "entries stored, durably", "1/s", rate, their_rate, PEER, at_least=200_000)
    yield row(NAME, scenario, "append to answer, p99", "s", percentile(waits, 0.99), below=1)
    size = stored / WORKERS / 1e6
    yield row(NAME, scenario, "disk for one of the logs", "MB", size, their_size, PEER)
    yield row(NAME, scenario, "peak resident memory", "MiB", memory, below=200)


def rows_in_sqlite(grid, log, batches):
    """Lines a second, and the megabytes that they take."""
    file = grid.folder / "peer.db"
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA journal_mode = wal")
    database.execute("PRAGMA synchronous = full")
    database.execute("CREATE TABLE lines (log TEXT, seq INTEGER, line TEXT, PRIMARY KEY (log, seq)) WITHOUT ROWID")
    lines = log.read_text().splitlines()
    size = -(-len(lines) // batches)
    rows = [("one", seq, line) for seq, line in enumerate(lines)]
    started = time.monotonic()
    for first in range(0, len(rows), size):
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO lines VALUES (?, ?, ?)", rows[first : first + size])
        database.execute("COMMIT")
    elapsed = time.monotonic() - started
    database.close()
    return len(rows) / elapsed, file.stat().st_size / 1e6
