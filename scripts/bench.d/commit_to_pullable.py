"""From a commit to an image that can be pulled, beside what a script of three commands takes.

Both build on the same engine, in turns, each round from commits of their own that nothing has been
built from yet; so both find the base image and the first steps in the cache, and neither finds the
other's work.
"""

import base64
import json
import os
import shutil
import subprocess
import time
from statistics import median

from grid import stock_registry
from images import base_image, docker
from report import row
from running import DOCKER, GitServer, answers

NAME = "commit-to-pullable"
ROUNDS = 7
PEER = "clone, build, push"

TINY = b"""\
ARG BASE
FROM ${BASE}
WORKDIR /srv/hello
RUN echo "a step that stays the same" > unchanged
COPY nonce .
"""
# Text that gzip makes a quarter smaller: about what a layer of a program and its data does.
LARGE = TINY + b"RUN head -c 7864320 /dev/urandom | base64 > payload\n"


def measure(grid):
    environment = {**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(grid.folder / "docker")}
    with (
        grid.worker(),
        grid.registry(),
        GitServer(grid.folder / "git") as server,
        stock_registry(grid.folder / "stock") as stock,
        base_image() as base,
    ):
        credential = json.loads(grid.run("credential", "add", "acme", "--json"))
        login = base64.b64encode(f"{credential['user']}:{credential['password']}".encode()).decode()
        for name, dockerfile, scenario in [
            ("tiny", TINY, "a tiny new layer"),
            ("large", LARGE, "a 10 MB new layer and a tiny one"),
        ]:
            repository = server.repository(name)
            ours, theirs = [], []
            for round_number in range(ROUNDS + 1):
                timings = (
                    from_event(grid, repository, dockerfile, base, login),
                    from_script(grid, repository, dockerfile, base, stock, environment),
                )
                # The first round fills caches: the mirror, the first steps.
                if round_number > 0:
                    ours.append(timings[0])
                    theirs.append(timings[1])
            yield row(NAME, scenario, f"median of {ROUNDS}", "s", median(ours), median(theirs), PEER)


def new_commit(repository, dockerfile):
    return repository.commit({"Dockerfile": dockerfile, "nonce": os.urandom(16).hex().encode()})


def from_event(grid, repository, dockerfile, base, login):
    commit = new_commit(repository, dockerfile)
    name = repository.tree.stem
    started = time.monotonic()
    grid.run(
        "enqueue", "--namespace", "acme", "--app", "shop", "--repository", repository.url,
        "--commit", commit, "--ref", "refs/heads/main", "--arg", f"BASE={base}", "--wait",
    )  # fmt: skip
    url = f"http://{grid.registry_host}/v2/acme/shop.{name}/manifests/{commit}"
    accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    while not answers(url, {"Authorization": f"Basic {login}", "Accept": accept}):
        if time.monotonic() - started > 120:
            raise RuntimeError(f"{url} does not answer although the event's outcome is an image")
        time.sleep(0.002)
    return time.monotonic() - started


def from_script(grid, repository, dockerfile, base, stock, environment):
    commit = new_commit(repository, dockerfile)
    clone, image = grid.folder / "clone", f"{stock}/acme/shop.{repository.tree.stem}:{commit}"
    started = time.monotonic()
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", repository.url, clone], check=True)
    run = {"check": True, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([DOCKER, "build", "--build-arg", f"BASE={base}", "--tag", image, clone], **run)
    subprocess.run([DOCKER, "push", image], **run)
    elapsed = time.monotonic() - started
    shutil.rmtree(clone)
    docker("image", "rm", "--force", image)
    return elapsed
