"""What the benches of the timeline share: a caller of its API, and appends that are compressed before
the clock starts."""

import contextlib
import http.client
import json
import multiprocessing
import random
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from grid import deploy_event

# What a worker puts into one append, in bytes before compression.
APPEND = 1 << 20
NDJSON = "application/x-ndjson"
# Senders and readers are processes of their own, so that none waits for another's interpreter.
PROCESSES = multiprocessing.get_context("fork")


class Client:
    """One connection to the API, kept open."""

    def __init__(self, host, token):
        self.connection = http.client.HTTPConnection(host, timeout=60)
        self.headers = {"Authorization": f"Bearer {token}"}

    def open(self, method, path, body=None, **headers):
        """The response, of which nothing has been read."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, f"/api/v1/{path}", body, self.headers | named)
        response = self.connection.getresponse()
        if not 200 <= response.status < 300:
            raise RuntimeError(f"{method} {path} is answered {response.status}: {response.read().decode()}")
        return response

    def call(self, method, path, body=None, **headers):
        return self.open(method, path, body, **headers).read()

    def append(self, path, body, encoding="zstd"):
        return self.call("POST", path, body, Content_Type=NDJSON, Content_Encoding=encoding)

    def claim(self, build_id):
        """Claims a build as a worker does; the path of its log."""
        attempt = str(uuid.uuid4())
        event = deploy_event(build_id, "0" * 40, namespace="smoke", fake={}).decode()
        claim = {"event": event, "worker": "bench", "attempt": attempt, "number": 1}
        answer = self.call("PUT", f"builds/{build_id}", json.dumps(claim), Content_Type="application/json")
        if json.loads(answer)["answer"] != "go":
            raise RuntimeError(f"the claim of {build_id} is answered {answer.decode()}")
        return f"builds/{build_id}/attempts/{attempt}/log"

    def deploy(self, deploy_id, services):
        """Reports a deploy as Maestro does; the path of its log."""
        report = {"namespace": "smoke", "app": "shop", "state": "running", "services": services}
        self.call("PUT", f"deploys/{deploy_id}", json.dumps(report), Content_Type="application/json")
        return f"deploys/{deploy_id}/log"


VERBS = ["compiling", "linking", "checking", "unpacking", "fetching", "copying", "\\u001b[32mpassed\\u001b[0m"]
NOUNS = """request handler session template cart invoice account payment search index mailer worker queue cache
locale storage gateway customer product report schedule ledger stock shipment""".split()


def text(random):
    """About a hundred bytes as a compiler or a server writes them, escaped for JSON."""
    nouns = random.choices(NOUNS, k=4)
    return (
        f"{random.choice(VERBS)} src/{nouns[0]}/{nouns[1]}_{random.randrange(1000)}.rb -> "
        f"build/{nouns[2]}/{nouns[3]}_{random.randrange(1000)}.o in {random.random() * 90:.3f} ms, "
        f"{random.randrange(10**6)} bytes, \\\"{random.getrandbits(40):010x}\\\""
    )


def clock(millis):
    """A time of day, so many milliseconds after midnight."""
    seconds, milli = divmod(millis, 1000)
    return f"2026-11-23T{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milli:03}Z"


def build_line(seq, words, at=None):
    step = f'"[{seq // 100_000 + 1}/12] RUN make part-{seq // 100_000 + 1}"'
    return (
        f'{{"seq":{seq},"at":"{at or clock(seq)}","stream":"stdout","step":{step},"server":"worker-1",'
        f'"service":null,"pod":null,"text":"{words}"}}\n'
    )


def deploy_line(seq, words, services):
    """Every service in its turn, each on three pods."""
    service = services[seq % len(services)]
    return (
        f'{{"seq":{seq},"at":"{clock(seq)}","stream":"stdout","step":null,"server":"node-{seq % 7}",'
        f'"service":"{service}","pod":"{service}-{seq // len(services) % 3}","text":"{words}"}}\n'
    )


def write_log(path, lines, line_of, special=None):
    """A log as a file of NDJSON; `special` is the text of the lines of some seqs."""
    source, special = random.Random(1), special or {}
    # A few thousand texts, which repeat as those of a build do.
    texts = [text(source) for _ in range(20_000)]
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line_of(seq, special.get(seq) or source.choice(texts)) for seq in range(lines))


def appends(path):
    """The log in the file as bodies of appends, compressed as a worker does it."""
    pieces, held = [], b""
    with open(path, "rb") as file:
        while piece := file.read(APPEND - len(held)):
            whole, _, rest = (held + piece).rpartition(b"\n")
            pieces.append(whole + b"\n")
            held = rest
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compress, pieces))


def compress(lines):
    return subprocess.run(["zstd", "-1", "-q", "-c"], input=lines, capture_output=True, check=True).stdout


def send(host, token, path, bodies, start=0.0):
    """Appends one body after the other, from the time `start` on; when each was sent and answered."""
    client, answered = Client(host, token), []
    time.sleep(max(0.0, start - time.monotonic()))
    for body in bodies:
        sent = time.monotonic()
        client.append(path, body)
        answered.append((sent, time.monotonic()))
    return answered


def in_processes(function, arguments):
    """Calls `function` once for each tuple of arguments, all at once; the results in their order."""
    with PROCESSES.Pool(len(arguments)) as pool:
        return pool.starmap(function, arguments, chunksize=1)


def peak(process):
    """The highest resident memory so far, in MiB: proc(5), VmHWM."""
    for line in Path(f"/proc/{process.child.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel does not tell VmHWM")


@contextlib.contextmanager
def background(function, *arguments):
    """Calls `function` in a process of its own; yields what will have its result."""
    with PROCESSES.Pool(1) as pool:
        yield pool.apply_async(function, arguments)
