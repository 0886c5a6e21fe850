"""A Docker engine of a bench's own: what is measured is its work alone, and what a bench leaves on it goes with it."""

import contextlib
import os
import subprocess
from pathlib import Path

from running import DOCKER, Process

# In namespaces of its own, so that its mounts and all of its processes are gone when the first one is, which ends with
# its standard input. It shares the network, since it pushes to a registry on loopback; with a bridge of its own, since an
# engine that is to have none removes the usual one, which this machine's engine has.
RUN = """
dockerd=dockerd
if [ "$3" ]; then
    mount --make-rprivate /
    mount --bind "$3" "$3"
    for tree in proc sys dev; do mount --rbind "/$tree" "$3/$tree"; done
    mount -t tmpfs none "$3/run"
    # With the same name inside, since the engine says where its data is.
    top=$3/$(echo "$1" | cut -d/ -f2)
    mkdir -p "$top"
    mount -t tmpfs none "$top"
    mkdir -p "$3$1"
    mount --bind "$1" "$3$1"
    dockerd="chroot $3 dockerd"
fi
busybox ip link add "$2" type bridge
busybox ip address add 172.31.254.1/24 dev "$2"
printf '{"features": {"containerd-snapshotter": %s}}' "$4" >"$1/daemon.json"
$dockerd --data-root "$1/data" --exec-root "$1/run" --pidfile "$1/docker.pid" --host "unix://$1/docker.sock" \
    --config-file "$1/daemon.json" --bridge "$2" --iptables=false --ip-forward=false --ip-masq=false &
until [ -S "$1/docker.sock" ]; do kill -0 $! && sleep 0.05 || exit; done
chmod 0666 "$1/docker.sock"
read -r _
busybox ip link delete "$2"
"""
BRIDGE = "buildgrid-bench"
# Where `scripts/setup` puts the engine of Debian 13 (scripts/lib/newer_engine.sh).
NEWER = "/var/cache/buildgrid-test/debian-13"
NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


class Engine:
    def __init__(self, folder, client):
        self.socket = folder / "docker.sock"
        self.host = f"unix://{self.socket}"
        # Its bridge leads nowhere.
        self.network = "none"
        self.environment = {
            **os.environ,
            "DOCKER_HOST": self.host,
            "DOCKER_BUILDKIT": "1",
            "DOCKER_CONFIG": str(client),
        }

    def answers(self):
        asked = subprocess.run([DOCKER, "version"], env=self.environment, capture_output=True)
        return asked.returncode == 0

    def docker(self, *arguments, **options):
        """A command of the client; its standard output."""
        options = {"env": self.environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        done = subprocess.run([DOCKER, *arguments], **options)
        if done.returncode != 0:
            said = (done.stderr or b"").decode(errors="replace")
            raise RuntimeError(f"docker {' '.join(map(str, arguments))} ended with {done.returncode}: {said}")
        return (done.stdout or b"").decode().strip()

    def pid(self):
        """Of dockerd, as this side of the namespaces knows it."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                arguments = (process / "cmdline").read_bytes().split(b"\0")
                if arguments[0] == b"dockerd" and self.host.encode() in arguments:
                    return int(process.name)
        raise RuntimeError("the engine has ended")


@contextlib.contextmanager
def own_engine(folder, newer=False):
    """This machine's version with the storage driver overlay2, or a newer one that keeps its images in containerd."""
    folder = Path(folder).resolve()
    folder.mkdir(parents=True)
    root = [] if os.geteuid() == 0 else ["sudo"]
    log = folder.with_suffix(".log")
    process = Process([*root, *NAMESPACES, "sh", "-c", RUN, "sh", folder, BRIDGE, *(("", "false"), (NEWER, "true"))[newer]], log, stdin=subprocess.PIPE)
    try:
        engine = Engine(folder, folder.with_suffix(".client"))
        process.await_true(engine.answers, "the engine does not answer", limit=60, pause=0.1)
        yield engine
    finally:
        process.child.stdin.close()
        process.child.wait()
        subprocess.run([*root, "rm", "-rf", folder], check=True)
