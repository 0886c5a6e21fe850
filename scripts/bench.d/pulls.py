"""Pulls, with a login, beside those from the stock registry without one. Both serve the same store, in turns, each first in
every other round: a large layer by 1, 8 and 64 clients, and by 1 and 8 by TLS, whose bytes the kernel throws away as they
come; a manifest by its tag, as fast as 16 connections can ask and 2000 times a second; and 500 pulls at once, each as slow
as it likes."""

import base64
import contextlib
import json
import os
import resource
import socket
import ssl
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from grid import issue_certificate, percentile, stock_registry
from meter import forget_peak, peak
from report import row
from tree import image

NAME = "pulls"
LAYER = 256 << 20
REPOSITORY, TAG = "bench/app.pulls", "1" * 40
ACCEPT = "application/vnd.oci.image.manifest.v1+json"
CLIENTS = [1, 8, 64]
CLIENTS_BY_TLS = [1, 8]
# What docker and the stock registry agree on, in the version in which this client can choose it; by its own choice the two
# sides would be asked for different ones.
CIPHER = "ECDHE-ECDSA-AES128-GCM-SHA256"
# Layers that all clients of a round pull together.
PULLS = 16
ROUNDS = 5
AT_ONCE = 500
PIECE = 4 << 20


@dataclass
class Served:
    """A registry under measurement."""

    host: str
    process: object
    # Of a request, each ended.
    headers: str
    by_tls: bool = False

    def processor(self):
        """Seconds that it has used."""
        fields = Path(f"/proc/{self.process.child.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def measure(grid):
    grid.configure(1)
    store = grid.folder / "stock" / "store"
    _, [layer] = image(store, REPOSITORY, [os.urandom(LAYER)], TAG)
    (grid.folder / "store").symlink_to(store)
    login = json.loads(grid.run("credential", "add", "bench", "--json"))
    token = base64.b64encode(f"{login['user']}:{login['password']}".encode()).decode()
    # Each pull holds two file descriptors.
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * AT_ONCE, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    environment = {**os.environ, "BUILDGRID_REGISTRY__MAX_CONNECTIONS": str(2 * AT_ONCE)}
    with grid.registry(env=environment) as ours, stock_registry(grid.folder / "stock") as (host, stock):
        sides = [
            Served(grid.registry_host, ours, f"Authorization: Basic {token}\r\n"),
            Served(host, stock, ""),
        ]
        blob = f"/v2/{REPOSITORY}/blobs/{layer}"
        for clients in CLIENTS:
            if grid.wants(scenario := f"layer of {LAYER >> 20} MiB, {clients} clients"):
                yield from throughput(scenario, sides, blob, clients)
        if grid.wants("manifest"):
            yield from manifests(grid.folder, sides)
        if grid.wants("at once"):
            yield from at_once(sides[0], blob)
    tls = issue_certificate(grid.folder)
    environment["BUILDGRID_REGISTRY__TLS"] = f'{{ certificate = "{tls[0]}", key = "{tls[1]}" }}'
    with grid.registry(env=environment) as ours, stock_registry(grid.folder / "stock", tls) as (host, stock):
        sides = [
            Served(grid.registry_host, ours, f"Authorization: Basic {token}\r\n", by_tls=True),
            Served(host, stock, "", by_tls=True),
        ]
        for clients in CLIENTS_BY_TLS:
            if grid.wants(scenario := f"layer of {LAYER >> 20} MiB by TLS, {clients} clients"):
                yield from throughput(scenario, sides, blob, clients)


def throughput(scenario, sides, path, clients):
    speeds, seconds = ([], []), ([], [])
    for number in range(ROUNDS):
        for side in (0, 1) if number % 2 else (1, 0):
            used, began = sides[side].processor(), time.monotonic()
            pull_all(sides[side], path, clients)
            speeds[side].append(PULLS * LAYER / (time.monotonic() - began) / 1e9)
            seconds[side].append((sides[side].processor() - used) / (PULLS * LAYER / 1e9))
    ours, stock = map(statistics.median, speeds)
    yield row(NAME, scenario, f"throughput, median of {ROUNDS}", "GB/s", ours, stock, "docker-registry", ratio_at_least=0.9)
    ours, stock = map(statistics.median, seconds)
    yield row(NAME, scenario, "processor seconds per GB", "s", ours, stock, "docker-registry", ratio_below=1.0)


def pull_all(side, path, clients):
    """The clients pull until it has been pulled so many times."""
    left, taking, failed = [PULLS], threading.Lock(), []

    def client():
        try:
            with contextlib.nullcontext() if side.by_tls else Connection(side) as connection:
                while True:
                    with taking:
                        if left[0] == 0:
                            return
                        left[0] -= 1
                    if side.by_tls:
                        pull_by_tls(side, path)
                    else:
                        connection.pull(path)
        except Exception as error:  # noqa: BLE001: any is a pull that failed
            failed.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(f"{len(failed)} pulls failed: {failed[0]}")


class Connection:
    """A client that keeps its connection."""

    def __init__(self, side):
        self.side = side
        host, _, port = side.host.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self.buffer = bytearray(PIECE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, path):
        """Sends a request; the body's length, and how much of it has come with the head."""
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {self.side.host}\r\n{self.side.headers}\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := self.socket.recv(1024)):
                raise RuntimeError(f"{path}: the connection ended after {head!r}")
            head += more
        head, _, body = head.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        if " 200 " not in status:
            raise RuntimeError(f"{path}: {status}")
        length = next(field for field in fields if field.lower().startswith("content-length:"))
        return int(length.partition(":")[2]), len(body)

    def pull(self, path):
        """A whole body, whose bytes are thrown away where they are (tcp(7), MSG_TRUNC): what is measured is the server."""
        length, got = self.ask(path)
        while got < length:
            taken = self.socket.recv_into(self.buffer, min(PIECE, length - got), socket.MSG_TRUNC)
            if taken == 0:
                raise RuntimeError(f"{path}: the body ended after {got} of {length} bytes")
            got += taken


def pull_by_tls(side, path):
    """A whole body on a connection of its own, which is not decrypted but thrown away: as little of the machine as can be
    goes to the client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHER)
    come, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(come, going)
    with Connection(side) as connection:
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.socket.sendall(going.read())
                come.write(connection.socket.recv(16 << 10))
        head = f"GET {path} HTTP/1.1\r\nHost: {side.host}\r\nConnection: close\r\n{side.headers}\r\n"
        session.write(head.encode())
        connection.socket.sendall(going.read())
        got = 0
        while taken := connection.socket.recv_into(connection.buffer, PIECE, socket.MSG_TRUNC):
            got += taken
    # Head and records are less than a hundredth of it.
    if not LAYER < got < LAYER * 1.01:
        raise RuntimeError(f"{path}: {got} bytes have come of a layer of {LAYER}")


def manifests(folder, sides):
    path = f"/v2/{REPOSITORY}/manifests/{TAG}"
    rates, late = ([], []), ([], [])
    for number in range(ROUNDS):
        for side in (0, 1) if number % 2 else (1, 0):
            times, elapsed = load(folder, sides[side], path, "--clients=16", "--duration=3")
            rates[side].append(len(times) / elapsed)
    ours, stock = map(statistics.median, rates)
    yield row(NAME, "manifest", "requests a second", "/s", ours, stock, "docker-registry without login", ratio_at_least=10)
    for side in (0, 1):
        times, _ = load(folder, sides[side], path, "--clients=20", "--rps=100", "--duration=5")
        late[side].append(percentile(times, 0.99) / 1000)
    yield row(NAME, "manifest, 2000 a second", "p99", "ms", late[0][0], late[1][0], "docker-registry without login", below=20)


def load(folder, side, path, *options):
    """Microseconds of each request that h2load has made, and the seconds from the first to the last."""
    log = folder / "requests.tsv"
    log.unlink(missing_ok=True)
    headers = [f"--header={field}" for field in [f"Accept: {ACCEPT}", *side.headers.split("\r\n")] if field]
    command = ["h2load", "--h1", "--threads=1", f"--log-file={log}", *headers, *options, f"http://{side.host}{path}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    requests = [line.split("\t") for line in log.read_text().splitlines()]
    if refused := [status for _, status, _ in requests if status != "200"]:
        raise RuntimeError(f"{len(refused)} of {len(requests)} answers were not 200 but {refused[0]}")
    began = [int(start) for start, _, _ in requests]
    return [int(time) for _, _, time in requests], (max(began) - min(began)) / 1e6


def at_once(side, path):
    """Memory with one pull, and with so many that are all half way at once."""
    peaks = []
    for clients in (1, AT_ONCE):
        forget_peak(side.process)
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(Connection(side)) for _ in range(clients)]
            # None takes more than its head: each fills what is between it and the registry.
            for connection in connections:
                connection.ask(path)
            time.sleep(2)
            peaks.append(peak(side.process))
    yield row(NAME, f"{AT_ONCE} pulls at once", "peak resident memory", "MiB", peaks[1], peaks[0], "with one pull", below=64)
