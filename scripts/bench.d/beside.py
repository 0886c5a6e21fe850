"""The two ways from a commit to an image that can be pulled: BuildGrid's, and the script that users would write.

    git clone --depth 1 URL; git checkout COMMIT; DOCKER_BUILDKIT=1 docker build; docker push

Both build the same commits on the same engine, in turns, each first in every other round, since the second one
finds the engine's cache as the first has left it. What the engine does by itself is in no figure: from handing
over the context until the last step is done, for the script all of `docker build`.
"""

import base64
import contextlib
import datetime
import json
import resource
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass

from amqp import Publisher
from grid import deploy_event, stock_registry
from meter import Meter, forget_peak, peak
from report import row
from running import DOCKER, answers, git

PEER = "clone, build, push"
ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


@dataclass
class Times:
    """One way of one commit, in seconds; memory in MiB."""

    whole: float
    fetch: float
    build: float
    publish: float
    # Of all processes that publish: engine, worker, registry, client.
    cpu: float
    engine_peak: float
    worker_peak: float = 0.0

    @property
    def outside(self):
        return self.whole - self.build


class Beside:
    """A worker with its registry, and a stock registry for the script, on one engine."""

    def __init__(self, grid, engine, stock, meter, worker, login):
        self.grid, self.engine, self.stock, self.meter, self.worker = grid, engine, stock, meter, worker
        self.headers = {"Authorization": f"Basic {login}", "Accept": ACCEPT}
        self.events = Publisher(grid.vhost)
        self.count = 0

    def round(self, repository, commit, arguments, first):
        """Both ways of one commit: BuildGrid's and the script's times."""
        ways = [self.ours, self.script]
        done = [None, None]
        for index in (0, 1) if first == "ours" else (1, 0):
            done[index] = ways[index](repository, commit, arguments)
        return done

    def ours(self, repository, commit, arguments):
        self.count += 1
        build_id = f"beside-{time.time_ns()}"
        event = deploy_event(build_id, commit, repository.url, build={"args": arguments})
        url = f"http://{self.grid.registry_host}/v2/acme/shop.{repository.name}/manifests/{commit}"
        forget_peak(self.worker)
        with self.meter.running():
            sent = time.time()
            self.events.publish("maestro.deploys", "deploy.acme.shop", event)
            while not answers(url, self.headers):
                if (self.grid.build(build_id) / "outcome.json").exists():
                    # Raises unless it is an image, which is there then.
                    self.grid.outcome(build_id)
                # To the hundredth, without taking the processor from what is measured.
                time.sleep(max(0.002, (time.time() - sent) / 100))
            pullable = time.time()
            self.grid.outcome(build_id)
        begun, fetched, built = moments(self.grid.build(build_id))
        cpu, engine_peak = self.meter.between(built, pullable)
        return Times(
            whole=pullable - sent, fetch=fetched - begun, build=built - fetched, publish=pullable - built,
            cpu=cpu, engine_peak=engine_peak, worker_peak=peak(self.worker),
        )  # fmt: skip

    def script(self, repository, commit, arguments):
        clone = self.grid.folder / "clone"
        image = f"{self.stock}/acme/shop.{repository.name}:{commit}"
        options = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        with self.meter.running():
            began = time.time()
            git("clone", "--quiet", "--depth", "1", repository.url, clone)
            git("-C", clone, "checkout", "--quiet", commit)
            fetched = time.time()
            network = ["--network", self.engine.network]
            self.engine.docker("build", "--quiet", *network, *options, "--tag", image, clone)
            built, client = time.time(), client_seconds()
            self.engine.docker("push", "--quiet", image)
            pushed = time.time()
            client = client_seconds() - client
        cpu, engine_peak = self.meter.between(built, pushed)
        shutil.rmtree(clone)
        self.engine.docker("image", "rm", "--force", image)
        return Times(
            whole=pushed - began, fetch=fetched - began, build=built - fetched, publish=pushed - built,
            cpu=cpu + client, engine_peak=engine_peak,
        )  # fmt: skip


@contextlib.contextmanager
def beside(grid, engine):
    """The two, new: neither store has anything."""
    grid.engine = engine
    stock_folder = grid.folder / "stock"
    shutil.rmtree(stock_folder, ignore_errors=True)
    for left in (grid.data, grid.folder / "store"):
        shutil.rmtree(left, ignore_errors=True)
    with grid.worker(slots=1) as worker, grid.registry(), stock_registry(stock_folder) as (stock, registry):
        credential = json.loads(grid.run("credential", "add", "acme", "--json"))
        login = base64.b64encode(f"{credential['user']}:{credential['password']}".encode()).decode()
        meter = Meter(engine.pid(), [worker.child.pid, registry.child.pid])
        yield Beside(grid, engine, stock, meter, worker, login)


def moments(build):
    """When a build's fetch began and ended, and when its last step was done: Unix time."""
    entries = [json.loads(line) for line in (build / "log.ndjson").read_text().splitlines()]
    begun = next(entry for entry in entries if entry["text"].startswith("attempt "))
    fetched = next(entry for entry in entries if entry["text"].startswith("commit "))
    built = [entry for entry in entries if entry["step"]][-1]
    return [moment(entry) for entry in (begun, fetched, built)]


def moment(entry):
    return datetime.datetime.fromisoformat(entry["at"].replace("Z", "+00:00")).timestamp()


def client_seconds():
    """Of processor, of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def median(times, what):
    return statistics.median(getattr(one, what) for one in times)


def rows(bench, scenario, rounds, publish_below, fetch_below=None):
    """What the rounds of a scenario have shown. `publish_below`, `fetch_below`: the goals, as shares of the script's."""
    ours, script = zip(*rounds)
    of = f"median of {len(rounds)}"
    both = lambda what: (median(ours, what), median(script, what))  # noqa: E731
    yield row(bench, scenario, f"publish, {of}", "s", *both("publish"), "docker push", ratio_below=publish_below)
    yield row(bench, scenario, f"outside the engine's build, {of}", "s", *both("outside"), PEER, ratio_below=0.25)
    yield row(bench, scenario, f"fetch, {of}", "s", *both("fetch"), "git clone --depth 1", ratio_below=fetch_below)
    yield row(bench, scenario, "publish, processor", "s", *both("cpu"), "docker push")
    yield row(bench, scenario, "publish, engine's peak memory", "MiB", *both("engine_peak"), "docker push")
    yield row(bench, scenario, "worker's peak memory", "MiB", max(one.worker_peak for one in ours), below=150)
