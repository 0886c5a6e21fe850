"""BuildGrid as the benches run it, each part on a loopback port that was free, with its data below one folder."""

import contextlib
import json
import math
import shutil
import socket
import subprocess
import time
from pathlib import Path

import running
from running import Process, free_port, tail


class Grid:
    """BuildGrid under measurement: `grid.worker(…)`, `grid.registry()` and `grid.up(…)` start it."""

    def __init__(self, binary, vhost, folder, only=()):
        self.binary, self.vhost, self.folder = binary, vhost, Path(folder)
        # Words, one of which the scenarios' names have that are measured; none: all are.
        self.only = only
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.worker_status = f"127.0.0.1:{free_port()}"
        self.registry_host = f"127.0.0.1:{free_port()}"
        self.registry_status = f"127.0.0.1:{free_port()}"
        self.timeline_host = f"127.0.0.1:{free_port()}"
        # Where workers are told that the timeline service is.
        self.timeline_url = ""
        self.data = self.folder / "worker"
        self.up_data = self.folder / "up"
        self.config = self.folder / "worker-config.toml"
        # An engine of the bench's own; else this machine's.
        self.engine = None

    def wants(self, scenario):
        return not self.only or any(words in scenario for words in self.only)

    def configure(self, slots):
        self.config.write_text(
            f"""\
[worker]
name = "bench"
data_dir = "{self.data}"
slots = {slots}
status_listen = "{self.worker_status}"
{self.credentials()}
{self.engine_section()}

[queue]
url = "amqp://guest:guest@127.0.0.1:5672/{self.vhost}"

[disk]
# How full this machine's disk is besides must not count.
high = "1 GiB"
low = "1100 MiB"

[source]
allow_private_addresses = ["127.0.0.1"]

[store]
path = "{self.folder / "store"}"

[registry]
host = "{self.registry_host}"
listen = "{self.registry_host}"
status_listen = "{self.registry_status}"

[timeline]
url = "{self.timeline_url}"
listen = "{self.timeline_host}"

[up]
data_dir = "{self.up_data}"
"""
        )

    def engine_section(self):
        return f'[engine]\nhost = "{self.engine.host}"\nnetwork = "{self.engine.network}"' if self.engine else ""

    def credentials(self):
        """The builds' secrets, where a bench has made some."""
        secrets = self.folder / "secrets"
        return f'credentials_dir = "{secrets}"' if secrets.is_dir() else ""

    @contextlib.contextmanager
    def worker(self, slots=2):
        self.configure(slots)
        process = Process([self.binary, "--config", self.config, "worker"], self.folder / "worker.log")
        try:
            process.await_page(f"http://{self.worker_status}/readyz")
            # Said once the queues are declared: before that, an event would be refused.
            process.await_words("worker started")
            yield process
        finally:
            process.stop()

    @contextlib.contextmanager
    def registry(self, **options):
        command = [self.binary, "--config", self.config, "registry"]
        process = Process(command, self.folder / "registry.log", **options)
        try:
            process.await_page(f"http://{self.registry_status}/readyz")
            yield process
        finally:
            process.stop()

    @contextlib.contextmanager
    def up(self, slots=2):
        """Everything in one process, the timeline among it."""
        self.configure(slots)
        process = Process([self.binary, "--config", self.config, "up"], self.folder / "up.log")
        try:
            process.await_page(f"http://{self.worker_status}/readyz")
            yield process
        finally:
            process.stop()

    def token(self, name):
        """A token that `up` has made: "worker" for a worker's calls, "local" for all others."""
        return (self.up_data / "tokens" / f"{name}.token").read_text().strip()

    def run(self, *arguments):
        """A command of BuildGrid; its standard output."""
        return running.run(self.binary, self.config, *arguments)

    def build(self, build_id):
        return self.data / "builds" / build_id

    def outcome(self, build_id, limit=600.0):
        """The outcome of a build, once there is one; it must be an image."""
        path = self.build(build_id) / "outcome.json"
        deadline = time.monotonic() + limit
        while not path.exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{build_id} has no outcome; the worker's log ends with:\n{tail(self.folder / 'worker.log')}")
            time.sleep(0.002)
        outcome = json.loads(path.read_bytes())
        if outcome["state"] != "published":
            raise RuntimeError(f"{build_id} is {outcome['state']}: {outcome['reason']}")
        return outcome

    def clear(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def issue_certificate(folder):
    """A certificate for 127.0.0.1 that has signed itself, of the kind that most servers have, and its key."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return certificate, key


@contextlib.contextmanager
def stock_registry(folder, tls=None):
    """Debian's docker-registry (CNCF Distribution), writable, perhaps by TLS, with a certificate and its key; its host and
    process."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    config = folder / "config.yml"
    secured = f", tls: {{certificate: {tls[0]}, key: {tls[1]}}}" if tls else ""
    config.write_text(
        f"""\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder / "store"}}}}}
http: {{addr: {host}{secured}}}
"""
    )
    process = Process(["docker-registry", "serve", config], folder / "log")
    try:
        if tls:
            process.await_true(lambda: listens(host), f"{host} does not listen")
        else:
            process.await_page(f"http://{host}/v2/")
        yield host, process
    finally:
        process.stop()


def listens(host):
    address, _, port = host.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((address, int(port))):
        return True
    return False


def deploy_event(build_id, commit, url=None, namespace="acme", app="shop", **fields):
    """The body of a deploy event."""
    event = {"version": 1, "id": build_id, "namespace": namespace, "app": app, "commit": commit, **fields}
    if url:
        event |= {"repository": {"url": url}, "ref": "refs/heads/main"}
    return json.dumps(event).encode()


def percentile(values, share):
    """The smallest value that at least `share` (0 to 1) of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
