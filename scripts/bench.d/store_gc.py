"""Garbage of a store of 100,000 blobs, collected while images are pulled. Beside it: the stock registry's
`garbage-collect`, with which nothing may be published meanwhile, on the same store."""

import base64
import hashlib
import json
import os
import resource
import shutil
import subprocess
import threading
import time
import urllib.request

from report import row
from tree import image

NAME = "store-gc"
# Each with a manifest, a configuration and two layers. Of every second one the tag is gone.
IMAGES = 25_000
PER_REPOSITORY = 250
LAYER = 4096


def measure(grid):
    grid.configure(2)
    login = json.loads(grid.run("credential", "add", "bench", "--json"))
    tags = fill(grid.folder / "store")
    # The files are links to the same bytes, which neither changes.
    subprocess.run(["cp", "-al", grid.folder / "store", grid.folder / "stock"], check=True)
    blobs, garbage = 4 * IMAGES, 4 * IMAGES // 2
    with grid.registry(), Pulls(grid, login, tags) as pulls:
        time.sleep(1)
        for scenario, expected in [("what is found is marked", "condemned"), ("what was marked is removed", "removed")]:
            # A grace of a second, by the clock in whole seconds.
            time.sleep(2)
            started, seen = time.monotonic(), len(pulls.times)
            collected = json.loads(collect(grid))
            elapsed = time.monotonic() - started
            if collected[expected]["blobs"] != garbage:
                raise RuntimeError(f"{collected[expected]} instead of {garbage} blobs")
            scenario = f"{blobs} blobs, {scenario}"
            yield row(NAME, scenario, "a round", "s", elapsed, below=30)
            yield row(NAME, scenario, "p99 of a pull meanwhile", "ms", 1000 * late(pulls.times[seen:]))
    if pulls.failed:
        raise RuntimeError(f"{len(pulls.failed)} pulls failed: {pulls.failed[0]}")
    # Of all processes that were waited for, the largest.
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    yield row(NAME, f"{blobs} blobs", "peak resident memory of all commands", "MiB", memory, below=150)
    ours = elapsed
    yield row(NAME, f"{blobs} blobs", "beside the stock registry", "s", ours, stock(grid), "docker-registry garbage-collect")


def collect(grid):
    environment = {**os.environ, "BUILDGRID_KEEPING__GC_GRACE": "1s"}
    command = [grid.binary, "--config", grid.config, "store", "gc", "--json"]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def stock(grid):
    """Seconds that the stock registry takes for the same, or none where it is not installed."""
    if not shutil.which("docker-registry"):
        return None
    config = grid.folder / "stock.yml"
    storage = {"filesystem": {"rootdirectory": str(grid.folder / "stock")}, "delete": {"enabled": True}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage}))
    started = time.monotonic()
    command = ["docker-registry", "garbage-collect", "--delete-untagged", config]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def fill(store):
    """Images as the publisher leaves them, without its syncs; answers those that have a tag."""
    tags = []
    for number in range(IMAGES):
        repository, tag = f"bench/app.r{number // PER_REPOSITORY}", f"{number:040x}"
        layers = [f"layer {number} {place}".encode().ljust(LAYER) for place in range(2)]
        if number % 2:
            image(store, repository, layers, tag)
            tags.append((repository, tag))
        else:
            image(store, repository, layers)
    return tags


class Pulls:
    """One client that pulls one image after the other, whole."""

    def __init__(self, grid, login, tags):
        self.base = f"http://{grid.registry_host}/v2"
        token = base64.b64encode(f"{login['user']}:{login['password']}".encode()).decode()
        self.headers = {"Authorization": f"Basic {token}"}
        self.tags, self.times, self.failed, self.ended = tags, [], [], threading.Event()
        self.thread = threading.Thread(target=self.pull)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def pull(self):
        number = 0
        while not self.ended.is_set():
            number = (number + 7919) % len(self.tags)
            repository, tag = self.tags[number]
            started = time.monotonic()
            try:
                manifest = json.loads(self.get(f"{repository}/manifests/{tag}"))
                for part in [manifest["config"], *manifest["layers"]]:
                    content = self.get(f"{repository}/blobs/{part['digest']}")
                    if f"sha256:{hashlib.sha256(content).hexdigest()}" != part["digest"]:
                        raise RuntimeError(f"{part['digest']} is something else")
            except Exception as error:  # noqa: BLE001: any is a pull that failed
                self.failed.append(f"{repository}:{tag}: {error}")
            self.times.append(time.monotonic() - started)

    def get(self, path):
        request = urllib.request.Request(f"{self.base}/{path}", headers=self.headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()


def late(times):
    return sorted(times)[len(times) * 99 // 100] if times else 0
