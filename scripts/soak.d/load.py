"""The load: deploy events of fakes and of real commits, each with what must come of it."""

import json
import random
import uuid
from dataclasses import dataclass

NAMESPACE = "smoke"
LINES = 300
BASE = "buildgrid-soak/base"
DOCKERFILE = f"""\
FROM {BASE}
COPY word /word
RUN for n in $(seq {LINES}); do echo "line $n of {LINES}"; done
RUN sleep 0.3; cat /word > /copy
"""


@dataclass
class Event:
    id: str
    app: str
    body: bytes
    # The states that may come of it. One that faults have kept from being built is failed, too.
    expected: set
    # The lines of its steps, where all of them are known.
    lines: list
    real: bool
    cancelled: bool = False


def fakes(count):
    for number in range(count):
        lines = random.randint(10, 300)
        chance = random.random()
        outcome = "build_failed" if chance < 0.08 else "infrastructure" if chance < 0.1 else "published"
        fake = {
            "log_lines": lines,
            "line_interval_ms": random.choice([0, 0, 1, 3]),
            "layers": random.randint(1, 3),
            "layer_bytes": random.choice([0, 1000, 65536, 300_000]),
            "outcome": outcome,
            "seed": number,
        }
        expected = {"published"} if outcome == "published" else {"failed"}
        texts = [f"fake line {n + 1} of {lines}" for n in range(lines)]
        yield event(f"fake-{number}", expected, texts, fake=fake, commit="%040x" % random.getrandbits(160))


def commits(repository, address, count):
    """Real commits of a repository, which workers fetch from `address`."""
    files = {"Dockerfile": DOCKERFILE.encode()}
    for number in range(count):
        commit = repository.commit(files | {"word": uuid.uuid4().bytes})
        url = f"http://{address}/{repository.url.rsplit('/', 1)[1]}"
        texts = [f"line {n + 1} of {LINES}" for n in range(LINES)]
        source = {"repository": {"url": url}, "ref": "refs/heads/main"}
        yield event(f"real-{number}", {"published"}, texts, real=True, commit=commit, **source)


def event(name, expected, lines, real=False, **fields):
    app = f"app-{random.randint(0, 4)}"
    identity = f"{name}-{uuid.uuid4().hex[:8]}"
    body = {"version": 1, "id": identity, "namespace": NAMESPACE, "app": app, **fields}
    return Event(identity, app, json.dumps(body).encode(), expected, lines, real)
