"""The workers and the timeline service under attack: each a process that is killed and started again."""

import contextlib
import signal
import subprocess
import threading

import running
from running import Process, answers, free_port


class Daemon:
    """A process that is started again after each kill, what all of its lives say in one file."""

    def __init__(self, name, command, status, log):
        self.name, self.command, self.status = name, command, status
        self.output = open(log, "wb")
        # Held while it is killed or started: whoever stops it for good waits for that.
        self.lock = threading.Lock()
        self.kills = self.freezes = 0
        self.start()

    def start(self):
        self.child = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT
        )

    def kill(self):
        with self.lock:
            self.child.kill()
            self.child.wait()
            self.kills += 1
            self.start()

    def freeze(self, pause):
        with self.lock:
            self.child.send_signal(signal.SIGSTOP)
            pause()
            self.child.send_signal(signal.SIGCONT)
            self.freezes += 1

    def is_ready(self):
        return answers(f"http://{self.status}/readyz")

    def end(self):
        with self.lock:
            self.child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(60)
                return
            self.child.kill()
            self.child.wait()


class World:
    """One broker, timeline service, store and engine, and the workers before them."""

    def __init__(self, binary, vhost, folder):
        self.binary, self.vhost, self.folder = binary, vhost, folder
        self.timeline_host = f"127.0.0.1:{free_port()}"
        self.registry_host = f"127.0.0.1:{free_port()}"
        self.statuses = {}

    def configure(self, name, broker, timeline, token_file):
        """A configuration by which broker and timeline are reached at these addresses."""
        status = self.statuses[name] = f"127.0.0.1:{free_port()}"
        path = self.folder / f"{name}.toml"
        token = f'token_file = "{token_file}"' if token_file else ""
        path.write_text(
            f"""\
[worker]
name = "{name}"
data_dir = "{self.data(name)}"
slots = 4
status_listen = "{status}"

[queue]
url = "amqp://guest:guest@{broker}/{self.vhost}"
heartbeat = "2s"
max_attempts = 3
# The kills are the soak's doing, not the events'.
delivery_limit = 10000

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
status_listen = "127.0.0.1:{free_port()}"

[timeline]
url = "http://{timeline}"
{token}
listen = "{self.timeline_host}"
status_listen = "{status if name == "timeline" else "127.0.0.1:1"}"
data_dir = "{self.folder / "timeline"}"

[logging]
format = "text"
build_output = false
"""
        )
        return path

    def data(self, name):
        return self.folder / name

    def daemon(self, name, config, command):
        return Daemon(name, [self.binary, "--config", config, command], self.statuses[name], self.folder / f"{name}.log")

    def run(self, config, *arguments):
        return running.run(self.binary, config, *arguments)

    @contextlib.contextmanager
    def registry(self, config):
        process = Process([self.binary, "--config", config, "registry"], self.folder / "registry.log")
        try:
            process.await_words("serv", limit=30)
            yield f"http://{self.registry_host}"
        finally:
            process.stop()
