"""From publishing a deploy event to the first entry of its log, at an idle worker."""

import json
import time
from datetime import datetime

from amqp import Publisher
from grid import deploy_event, percentile
from report import row

NAME = "enqueue-to-log"
EVENTS = 200
# Long enough for the worker and the broker to be idle again.
PAUSE = 0.03


def measure(grid):
    delays = []
    with grid.worker():
        publisher = Publisher(grid.vhost)
        for number in range(EVENTS):
            build_id = f"first-entry-{number}"
            fake = {"log_lines": 1, "layers": 1, "layer_bytes": 4096, "seed": number}
            body = deploy_event(build_id, f"{number:040x}", namespace="smoke", fake=fake)
            published = time.time()
            publisher.publish("maestro.deploys", "deploy.smoke.shop", body)
            grid.outcome(build_id)
            with open(grid.build(build_id) / "log.ndjson", encoding="utf-8") as log:
                first = json.loads(log.readline())
            # The entry's time is cut to the millisecond: it may be as much later.
            delays.append((datetime.fromisoformat(first["at"]).timestamp() - published) * 1000 + 1)
            time.sleep(PAUSE)
        publisher.close()
    scenario = f"{EVENTS} fakes, one at a time"
    yield row(NAME, scenario, "median", "ms", percentile(delays, 0.5))
    yield row(NAME, scenario, "p99", "ms", percentile(delays, 0.99), below=100)
