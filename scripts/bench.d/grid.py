"""What the benches run: worker, registry, git server and stock registry, each a process of ours on a
loopback port that was free, with its data below one folder."""

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
# Debian's client. One that is newer than the engine needs a plugin to build with BuildKit.
DOCKER = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Process:
    """A process in the background, what it says in a file."""

    def __init__(self, command, log, **options):
        self.log = log
        with open(log, "wb") as output:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
            )

    def await_page(self, url, limit=30.0, pause=0.002):
        deadline = time.monotonic() + limit
        while not answers(url):
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{url} is not ready; the log ends with:\n{tail(self.log)}")
            time.sleep(pause)

    def await_words(self, words, limit=30.0, pause=0.002):
        """Until the log says this."""
        deadline = time.monotonic() + limit
        while words not in self.log.read_text(errors="replace"):
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the log does not say {words!r}; it ends with:\n{tail(self.log)}")
            time.sleep(pause)

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Grid:
    """BuildGrid under measurement: `grid.worker(…)`, `grid.registry()` and `grid.up(…)` start it."""

    def __init__(self, binary, vhost, folder):
        self.binary, self.vhost, self.folder = binary, vhost, Path(folder)
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

    def configure(self, slots):
        self.config.write_text(
            f"""\
[worker]
name = "bench"
data_dir = "{self.data}"
slots = {slots}
status_listen = "{self.worker_status}"
{self.credentials()}

[queue]
url = "amqp://guest:guest@127.0.0.1:5672/{self.vhost}"

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
    def registry(self):
        process = Process([self.binary, "--config", self.config, "registry"], self.folder / "registry.log")
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
        command = [self.binary, "--config", self.config, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr}")
        return done.stdout

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


class GitServer:
    """Bare repositories below a folder, over smart HTTP."""

    def __init__(self, folder):
        self.root = Path(folder)
        self.root.mkdir(parents=True)
        self.server = subprocess.Popen([SCRIPTS / "git-serve", self.root], stdout=subprocess.PIPE, text=True)
        self.url = self.server.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.terminate()
        self.server.wait()

    def repository(self, name):
        return Repository(self.root, name, f"{self.url}/{name}.git")


class Repository:
    def __init__(self, root, name, url):
        self.url, self.tree = url, root / f"{name}.checkout"
        bare = root / f"{name}.git"
        git("init", "--quiet", "--bare", "--initial-branch=main", bare)
        git("clone", "--quiet", bare, self.tree, stderr=subprocess.DEVNULL)
        git("-C", self.tree, "symbolic-ref", "HEAD", "refs/heads/main")

    def commit(self, files):
        """Commits the files (name to bytes) and pushes; the commit's id."""
        for name, content in files.items():
            (self.tree / name).write_bytes(content)
        identity = ["-c", "user.name=Bench", "-c", "user.email=bench@example.com", "-c", "commit.gpgsign=false"]
        git("-C", self.tree, "add", ".")
        git("-C", self.tree, *identity, "commit", "--quiet", "--message", "Next")
        git("-C", self.tree, "push", "--quiet", "origin", "main")
        return git("-C", self.tree, "rev-parse", "HEAD", stdout=subprocess.PIPE).stdout.decode().strip()


def git(*arguments, **options):
    return subprocess.run(["git", *arguments], check=True, **options)


@contextlib.contextmanager
def stock_registry(folder):
    """Debian's docker-registry (CNCF Distribution), writable; its host."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    host = f"127.0.0.1:{free_port()}"
    config = folder / "config.yml"
    config.write_text(
        f"""\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder / "store"}}}}}
http: {{addr: {host}}}
"""
    )
    process = Process(["docker-registry", "serve", config], folder / "log")
    try:
        process.await_page(f"http://{host}/v2/")
        yield host
    finally:
        process.stop()


def deploy_event(build_id, commit, url=None, namespace="acme", app="shop", **fields):
    """The body of a deploy event."""
    event = {"version": 1, "id": build_id, "namespace": namespace, "app": app, "commit": commit, **fields}
    if url:
        event |= {"repository": {"url": url}, "ref": "refs/heads/main"}
    return json.dumps(event).encode()


def answers(url, headers=None, method="GET"):
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    # Never through a proxy: everything measured is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def percentile(values, share):
    """The smallest value that at least `share` (0 to 1) of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def tail(path, lines=15):
    with contextlib.suppress(OSError):
        return "\n".join(Path(path).read_text(errors="replace").splitlines()[-lines:])
    return ""
