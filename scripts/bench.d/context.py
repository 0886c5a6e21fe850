"""Large build contexts: how soon the engine has the whole of one, beside `docker build` of the same checkout.

Both are timed from the beginning of the build to that of the step which copies the context; so a build ends
right after it, by a step that fails. BuildGrid reads the files out of git, docker from the disk: of a checkout made
for the build, as a runner of builds makes it, and of one that stays, of which docker sends only what has changed. The
time that a checkout takes does not count.
"""

import datetime
import json
import os
import random
import shutil
import subprocess
import time
from statistics import median

from images import base_image
from meter import forget_peak, peak
from report import row
from running import DOCKER, GitServer, git

NAME = "context"
ROUNDS = 3
FRESH = "docker build, fresh checkout"
KEPT = "docker build, kept checkout"
COPY = "COPY {} /context"
DOCKERFILE = "ARG BASE\nFROM ${{BASE}}\n" + COPY + "\nRUN exit 7\n"


def measure(grid):
    environment = {**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(grid.folder / "docker")}
    with grid.worker() as worker, GitServer(grid.folder / "git") as server, base_image() as base:
        for number, (scenario, make, used) in enumerate(SCENARIOS):
            repository = server.repository(f"{make.__name__}-{number}")
            # What packing costs is not measured here.
            for place in (repository.tree, repository.tree.with_suffix(".git")):
                git("-C", place, "config", "core.compression", "0")
                git("-C", place, "config", "core.bigFileThreshold", "1m")
            make(repository.tree)
            ours, fresh, kept, memory = [], [], [], []
            for _ in range(ROUNDS + 1):
                commit = repository.commit({"Dockerfile": DOCKERFILE.format(used).encode(), "nonce": os.urandom(16)})
                forget_peak(worker)
                ours.append(from_event(grid, repository, commit, base, COPY.format(used)))
                memory.append(peak(worker))
                kept.append(from_docker(repository.tree, base, environment, COPY.format(used)))
                tree = checkout(repository, grid.folder / "checkout")
                fresh.append(from_docker(tree, base, environment, COPY.format(used)))
            # The first round fills the mirror and the engine's memory of files.
            figure = f"context with the engine, median of {ROUNDS}"
            yield row(NAME, scenario, figure, "s", median(ours[1:]), median(fresh[1:]), FRESH, ratio_below=1)
            yield row(NAME, scenario, figure, "s", median(ours[1:]), median(kept[1:]), KEPT)
            yield row(NAME, scenario, "peak resident memory of the worker", "MiB", max(memory), below=256)


def few(tree):
    for name in ["d1", "d7"]:
        (tree / name).mkdir()
        (tree / name / "file").write_text("content\n")


def many(tree):
    for folder in range(1000):
        path = tree / f"d{folder}"
        path.mkdir()
        for number in range(100):
            (path / f"f{number}").write_text(f"file {folder} {number}\n")


def large(tree):
    source = random.Random(1)
    for number in range(64):
        (tree / f"f{number}").write_bytes(source.randbytes(32 << 20))


# What is made, and which of it the Dockerfile copies.
SCENARIOS = [
    ("2 files", few, "."),
    ("2 files, 1 of them used", few, "d7"),
    ("100,000 files", many, "."),
    ("100,000 files, 100 of them used", many, "d7"),
    ("2 GiB in 64 files", large, "."),
]


def from_event(grid, repository, commit, base, copy):
    build_id = f"context-{time.time_ns()}"
    command = [
        grid.binary, "--config", grid.config, "enqueue", "--id", build_id, "--namespace", "acme", "--app", "context",
        "--repository", repository.url, "--commit", commit, "--ref", "refs/heads/main", "--arg", f"BASE={base}", "--wait",
    ]  # fmt: skip
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    outcome = json.loads((grid.build(build_id) / "outcome.json").read_bytes())
    if "exit code: 7" not in outcome["reason"] and "exit code 7" not in outcome["reason"]:
        raise RuntimeError(f"{build_id} is {outcome['state']}: {outcome['reason']}")
    entries = [json.loads(line) for line in (grid.build(build_id) / "log.ndjson").read_text().splitlines()]
    # The commit is named once it is there, and the build begins.
    begun = next(entry for entry in entries if entry["text"].startswith("commit "))
    copied = next(entry for entry in entries if copy in (entry["step"] or ""))
    return (moment(copied) - moment(begun)).total_seconds()


def moment(entry):
    return datetime.datetime.fromisoformat(entry["at"].replace("Z", "+00:00"))


def checkout(repository, place):
    shutil.rmtree(place, ignore_errors=True)
    git("clone", "--quiet", "--depth", "1", repository.tree.with_suffix(".git").as_uri(), place)
    return place


def from_docker(tree, base, environment, copy):
    command = [DOCKER, "build", "--progress", "plain", "--build-arg", f"BASE={base}", tree]
    started = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as build:
        copied = None
        for line in build.stderr:
            if copied is None and copy in line:
                copied = time.monotonic() - started
    if copied is None:
        raise RuntimeError("docker build has not come to the copy")
    return copied
