"""Runs the benches and reports them. `scripts/bench` has made everything ready that they need."""

import argparse
import sys
from pathlib import Path

import chart
import context
import enqueue_to_log
import fake_throughput
import history
import log_memory
import masking
import pages
import publish
import publish_memory
import pulls
import release_build
import report
import start_to_ready
import store_gc
import timeline_follow
import timeline_ingest
import timeline_read
import up_start
import viewer
from grid import Grid

USUAL = [
    start_to_ready,
    up_start,
    enqueue_to_log,
    fake_throughput,
    publish,
    history,
    context,
    publish_memory,
    pulls,
    store_gc,
    timeline_ingest,
    timeline_follow,
    timeline_read,
    pages,
    viewer,
    masking,
    log_memory,
]
# Only when named.
ON_REQUEST = [release_build]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binary", type=Path, required=True)
    arguments.add_argument("--vhost", required=True)
    arguments.add_argument("--folder", type=Path, required=True, help="for data and report.json")
    arguments.add_argument(
        "names",
        nargs="*",
        help="the benches to run, by default all but release-build; NAME:WORDS for those of publish's and history's "
        "scenarios that have WORDS in their names, _ for a blank",
    )
    options = arguments.parse_args()

    known = {bench.NAME: bench for bench in USUAL + ON_REQUEST}
    wanted = {}
    for name in options.names:
        bench, _, scenario = name.partition(":")
        wanted.setdefault(bench, []).append(scenario.replace("_", " "))
    if unknown := set(wanted) - set(known):
        arguments.error(f"no bench is called {', '.join(unknown)}; there are {', '.join(known)}")
    benches = [known[name] for name in wanted] or USUAL

    rows, failed = [], []
    for bench in benches:
        print(f"    {bench.NAME}: {' '.join(bench.__doc__.split('.')[0].split())}", flush=True)
        grid = Grid(options.binary, options.vhost, options.folder / bench.NAME, wanted.get(bench.NAME, ()))
        try:
            for row in bench.measure(grid):
                rows.append(row)
                print(f"        {report.line(row)}", flush=True)
                # What is there stays, should the rest be broken off.
                report.write(options.folder / "report.json", rows)
        except Exception as error:  # noqa: BLE001: the other figures are worth having all the same
            print(f"    {bench.NAME} failed: {error}", file=sys.stderr)
            failed.append(bench.NAME)
        else:
            grid.clear()
    report.write(options.folder / "report.json", rows)
    if drawn := chart.draw(rows):
        (options.folder / "publish.svg").write_text(drawn)
    print()
    print(report.table(rows))
    print(f"\nwritten to {options.folder / 'report.json'}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; their data is left in {options.folder}")


main()
