"""What benches and soak run: the program, git servers and others, each a process of ours on a loopback port that
was free."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
# Debian's client. One that is newer than the engine needs a plugin to build with BuildKit.
DOCKER = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"


def free_port():
    """A port that is free now and below the range that the system gives to outgoing connections: one from within
    may be somebody else's local end when it is wanted."""
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        # Where that range is nearly all, there is no better port than any.
        port = random.randrange(10_000, given) if given > 10_000 else 0
        with contextlib.suppress(OSError):
            with socket.create_server(("127.0.0.1", port)) as server:
                return server.getsockname()[1]


def run(binary, config, *arguments):
    """A command of BuildGrid; its standard output."""
    command = [binary, "--config", config, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr}")
    return done.stdout


class Process:
    """A process in the background, what it says in a file."""

    def __init__(self, command, log, stdin=subprocess.DEVNULL, **options):
        self.log = log
        with open(log, "wb") as output:
            self.child = subprocess.Popen(command, stdin=stdin, stdout=output, stderr=output, **options)

    def await_page(self, url, limit=30.0, pause=0.002):
        self.await_true(lambda: answers(url), f"{url} is not ready", limit, pause)

    def await_true(self, condition, otherwise, limit=30.0, pause=0.002):
        deadline = time.monotonic() + limit
        while not condition():
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{otherwise}; the log ends with:\n{tail(self.log)}")
            time.sleep(pause)

    def await_words(self, words, limit=30.0, pause=0.002):
        """Until the log says this."""
        said = lambda: words in self.log.read_text(errors="replace")  # noqa: E731
        self.await_true(said, f"the log does not say {words!r}", limit, pause)

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


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

    def link(self, name, to):
        """Another URL of a repository."""
        with contextlib.suppress(FileExistsError):
            (self.root / f"{name}.git").symlink_to(f"{to}.git")
        return Linked(name, f"{self.url}/{name}.git")


@dataclass
class Linked:
    name: str
    url: str


class Repository:
    def __init__(self, root, name, url):
        self.name, self.url, self.tree = name, url, root / f"{name}.checkout"
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
        git("-C", self.tree, *identity, "commit", "--quiet", "--allow-empty", "--message", "Next")
        git("-C", self.tree, "push", "--quiet", "origin", "main")
        return git("-C", self.tree, "rev-parse", "HEAD", stdout=subprocess.PIPE).stdout.decode().strip()


def git(*arguments, **options):
    return subprocess.run(["git", *arguments], check=True, **options)


def answers(url, headers=None, method="GET"):
    try:
        with ask(url, headers, method, limit=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def fetch(url, headers=None):
    """The response's body and headers."""
    with ask(url, headers, limit=60) as response:
        return response.read(), response.headers


def ask(url, headers=None, method="GET", limit=60):
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    # Never through a proxy of the environment: everything that is asked is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(request, timeout=limit)


def tail(path, lines=15):
    with contextlib.suppress(OSError):
        return "\n".join(Path(path).read_text(errors="replace").splitlines()[-lines:])
    return ""
