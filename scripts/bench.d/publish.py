"""From a built image to one that can be pulled, beside `docker push`: by what is new in it.

The base is 650 MB of this machine's own programs and texts, in one layer and in four; a layer of so many MB is a copy
of some of them, made by a step. Each round builds a commit of its own; for "never seen", each round has stores of its own.
"""

import os

from beside import beside, rows
from engine import own_engine
from images import base_image, system_images
from running import GitServer

NAME = "publish"


def measure(grid):
    for newer, scenarios in [(False, SCENARIOS), (True, CONTAINERD)]:
        wanted = [scenario for scenario in scenarios if grid.wants(scenario[0])]
        if wanted:
            yield from measured(grid, newer, wanted)


def measured(grid, newer, wanted):
    folder = grid.folder / ("containerd" if newer else "overlay2")
    folder.mkdir()
    with own_engine(folder / "engine", newer) as engine, GitServer(folder / "git") as server:
        with base_image("buildgrid-bench/tiny", engine.environment) as tiny:
            images = {"tiny": tiny}
            if any(base != "tiny" for _, base, *_ in wanted):
                images |= system_images(engine, folder / "system", tiny)
            for name, base, rounds, make, publish_below in wanted:
                repository = server.repository(name.replace(",", "").replace(" ", "-").lower())
                found = list(make(grid, engine, repository, images[base], rounds))
                yield from rows(NAME, name, found, publish_below)


def never_seen(grid, engine, repository, base, rounds):
    for number in range(rounds):
        with beside(grid, engine) as pair:
            yield next_round(pair, repository, base, b"FROM ${BASE}\nCOPY nonce /nonce\n", number)


def in_known_base(dockerfile, files=None):
    def make(grid, engine, repository, base, rounds):
        with beside(grid, engine) as pair:
            # Makes the base known, and fills the mirror.
            next_round(pair, repository, base, b"FROM ${BASE}\nCOPY nonce /nonce\n", 0)
            if files:
                files(repository.tree)
            for number in range(rounds):
                yield next_round(pair, repository, base, dockerfile, number)

    return make


def next_round(pair, repository, base, dockerfile, number):
    commit = repository.commit({"Dockerfile": b"ARG BASE\n" + dockerfile, "nonce": os.urandom(16).hex().encode()})
    return pair.round(repository, commit, {"BASE": base}, first=("ours", "script")[number % 2])


def layer_of(megabytes):
    step = "RUN --mount=target=/context cp -r /samples/%d /data && cp /context/nonce /data/\n" % megabytes
    return in_known_base(b"FROM ${BASE}\n" + step.encode())


def many_files(tree):
    """100,000 files of the length of small sources and configuration."""
    for folder in range(1000):
        path = tree / "files" / f"d{folder}"
        path.mkdir(parents=True)
        for number in range(100):
            lines = (f"{key} = {folder * number + key}  # of {number}\n" for key in range(number % 30))
            (path / f"f{number}").write_text("".join(lines))


FORTY = b"FROM ${BASE}\n" + b"".join(b"COPY nonce /nonces/%d\n" % number for number in range(40))

# The name, the base, how many rounds, what they build, and the goal of the publish as a share of docker push's time.
SCENARIOS = [
    ("base of 650 MB never seen", "one layer", 3, never_seen, 0.15),
    ("base of 650 MB in 4 layers never seen", "four layers", 2, never_seen, 1),
    ("new layer of 1 MB", "one layer", 4, layer_of(1), 1),
    ("new layer of 10 MB", "one layer", 4, layer_of(10), 1),
    ("new layer of 100 MB", "one layer", 3, layer_of(100), 0.15),
    ("nothing new", "one layer", 4, in_known_base(b"FROM ${BASE}\nRUN true\n"), 1),
    ("40 small layers", "tiny", 5, in_known_base(FORTY), 1),
    ("100,000 small files", "tiny", 2, in_known_base(b"FROM ${BASE}\nCOPY . /context\n", many_files), 1),
]

# The same on a newer engine, which has compressed its layers by the end of the build.
CONTAINERD = [
    ("containerd, base of 650 MB never seen", "one layer", 2, never_seen, 0.5),
    ("containerd, new layer of 100 MB", "one layer", 3, layer_of(100), 0.5),
]
