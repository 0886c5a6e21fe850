"""Runs the soak. `scripts/soak` has made everything ready that it needs."""

import argparse
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import load
import proxy
import verify
from amqp import Publisher
from faults import Faults
from running import DOCKER, SCRIPTS, GitServer
from workers import World

BROKER = "127.0.0.1:5672"
RESULTS = "soak.results"
# For each second of faults.
FAKES, REALS, CANCELS = 500 / 120, 20 / 120, 10 / 120
DUPLICATED = 0.2
# After the last fault: leases run out, and retries wait up to a minute.
DRAIN = 300


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binary", type=Path, required=True)
    arguments.add_argument("--vhost", required=True)
    arguments.add_argument("--folder", type=Path, required=True)
    arguments.add_argument("--seconds", type=int, required=True)
    arguments.add_argument("--seed", type=int, required=True)
    options = arguments.parse_args()
    random.seed(options.seed)
    print(f"    seed {options.seed}", flush=True)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    subprocess.run([SCRIPTS / "base-image", load.BASE], check=True)
    with GitServer(options.folder / "git") as git:
        sys.exit(soak(World(options.binary, options.vhost, options.folder), git, options.seconds))


def soak(world, git, seconds):
    config = world.configure("timeline", BROKER, world.timeline_host, None)
    timeline = world.daemon("timeline", config, "timeline")
    await_all([timeline])
    tokens = {}
    for name, role in [("worker", "worker"), ("soak", "maestro")]:
        tokens[name] = world.run(config, "token", "add", name, "--role", role, "--all-namespaces", "--quiet").strip()
    token_file = world.folder / "worker.token"
    token_file.touch(mode=0o600)
    token_file.write_text(tokens["worker"])

    before_broker = [proxy.Proxy(f"broker, worker {n + 1}", BROKER) for n in range(3)]
    before_timeline = proxy.Proxy("timeline", world.timeline_host)
    before_git = proxy.Proxy("git server", git.url.removeprefix("http://"))
    for one in [*before_broker, before_timeline]:
        one.faults = proxy.FAULTS
    # A fetch that fails waits ten seconds, then a minute: seldom is enough.
    before_git.faults = [proxy.DELAY, proxy.THROTTLE, proxy.FREEZE, proxy.CUT]

    fakes = list(load.fakes(round(FAKES * seconds)))
    reals = list(load.commits(git.repository("soak"), before_git.address, round(REALS * seconds)))
    events = fakes + reals
    random.shuffle(events)
    for event in random.sample(fakes, round(CANCELS * seconds)):
        event.cancelled = True

    workers = []
    for number, broker in enumerate(before_broker):
        name = f"worker-{number + 1}"
        workers.append(world.daemon(name, world.configure(name, broker.address, before_timeline.address, token_file), "worker"))
    await_all(workers)
    publisher = Publisher(world.vhost)
    publisher.listen(RESULTS, "buildgrid.events", "build.#")

    service = verify.Timeline(world.timeline_host, tokens["soak"])
    faults = Faults(workers, timeline, [*before_broker, before_timeline, before_git])
    started = time.monotonic()
    faults.start()
    cancels = Cancels(world, config, tokens["soak"])
    published = 0
    for number, event in enumerate(events):
        # Over nine tenths of the time: the last ones are attacked, too.
        time.sleep(max(0, started + 0.9 * seconds * number / len(events) - time.monotonic()))
        for _ in range(random.randint(2, 5) if random.random() < DUPLICATED else 1):
            publisher.publish("maestro.deploys", f"deploy.{load.NAMESPACE}.{event.app}", event.body)
            published += 1
        if event.cancelled:
            cancels.soon(event)
    time.sleep(max(0, started + seconds - time.monotonic()))
    faults.stop()
    cancels.join()
    print(f"    drained in {drain(world, workers, events, service):.0f} s", flush=True)
    for worker in workers:
        worker.end()

    results = defaultdict(list)
    for body in publisher.take(RESULTS):
        result = json.loads(body)
        results[result["id"]].append(result)
    verdict = verify.Verdict()
    verify.events(verdict, events, results, service)
    login = json.loads(world.run(config, "credential", "add", load.NAMESPACE, "--json"))
    with world.registry(config) as registry:
        pulled = verify.images(verdict, events, results, registry, login)
    verify.directories(verdict, [world.data(worker.name) for worker in workers], world.folder / "store")
    verify.engine(verdict, DOCKER)
    timeline.end()
    publisher.close()
    return report(world, faults, verdict, events, published, pulled)


class Cancels:
    """Asks for the end of events a moment after they were published, as a person would."""

    def __init__(self, world, config, token):
        self.world, self.config, self.threads = world, config, []
        self.token_file = world.folder / "soak.token"
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(token)

    def soon(self, event):
        thread = threading.Timer(random.uniform(0, 3), self.cancel, [event])
        thread.start()
        self.threads.append(thread)

    def cancel(self, event):
        environment = f"BUILDGRID_TIMELINE__TOKEN_FILE={self.token_file}"
        command = ["env", environment, self.world.binary, "--config", self.config, "cancel", event.id]
        # It may not be known yet, or have ended: then it was not cancelled, and must end as it would have.
        subprocess.run(command, capture_output=True)

    def join(self):
        for thread in self.threads:
            thread.join()


def await_all(daemons):
    deadline = time.monotonic() + 30
    while not all(daemon.is_ready() for daemon in daemons):
        if time.monotonic() > deadline:
            raise RuntimeError("the daemons are not ready; their logs are in the soak's folder")
        time.sleep(0.05)


def drain(world, workers, events, service):
    """Waits for every event's end and every queue's emptiness; how long it took."""
    started = time.monotonic()
    open_events = {event.id for event in events}
    while time.monotonic() < started + DRAIN:
        for identity in list(open_events):
            build = service.build(identity)
            if build and build["state"] in verify.FINAL:
                open_events.discard(identity)
        if not open_events and not waiting(world) and not untold(world, workers):
            break
        time.sleep(1)
    return time.monotonic() - started


def waiting(world):
    """Messages that are not dead letters or results."""
    listed = subprocess.run(
        ["bash", "-c", f"source {SCRIPTS}/lib/terminal.sh; source {SCRIPTS}/lib/processes.sh; source {SCRIPTS}/lib/services.sh; "
         f"source {SCRIPTS}/lib/broker.sh; broker_ctl list_queues --vhost {world.vhost} name messages --no-table-headers"],
        check=True, capture_output=True, text=True,
    ).stdout
    counts = dict(line.split("\t") for line in listed.splitlines() if "\t" in line)
    return sum(int(count) for name, count in counts.items() if name not in ("buildgrid.dead", RESULTS))


def untold(world, workers):
    reports = [path for worker in workers for path in world.data(worker.name).glob("builds/*/report*.json")]
    return any(json.loads(path.read_bytes())["closed"] is None for path in reports)


def report(world, faults, verdict, events, published, pulled):
    rows = [(name, count) for name, count in sorted(faults.injected.items())]
    rows += [
        ("faults, all together", sum(faults.injected.values())),
        ("events", len(events)),
        ("  of them real commits", sum(event.real for event in events)),
        ("  published more than once, messages in all", published),
        ("images pulled and verified", pulled),
        ("events that the faults have kept from being built (told as infrastructure)", verdict.by_faults),
        ("lost", len(verdict.lost)),
        ("doubled", len(verdict.doubled)),
        ("torn", len(verdict.torn)),
        ("left in build directories, store and engine", len(verdict.left)),
    ]
    width = max(len(name) for name, _ in rows)
    print()
    for name, count in rows:
        print(f"    {name:<{width}}  {count:>6}")
    found = {key: getattr(verdict, key) for key in ("lost", "doubled", "torn", "left")}
    for key, sentences in found.items():
        for sentence in sentences[:20]:
            print(f"    {key}: {sentence}")
    (world.folder / "report.json").write_text(json.dumps({"figures": dict(rows), **found}, indent=2))
    return 1 if any(found.values()) else 0


main()
