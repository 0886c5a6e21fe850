"""Runs a command on a network that consists of this machine alone, where one name's address changes:

    rebinding.py FOLDER SERVED ADDRESSES UID GID COMMAND...

It wants a mount and a network namespace of its own. A git server for the repositories in SERVED listens at 8.8.8.8,
which the machine has here, on port 80; nobody should come to port 80 of 127.0.0.1. Every name has the first of
ADDRESSES when it is first looked up, then the next, and the last one for ever. In the end it says how often names were
looked up and how often 127.0.0.1 was reached, and exits with the command's exit code.
"""

import os
import socket
import subprocess
import sys
import threading

folder, served, addresses, uid, gid, *command = sys.argv[1:]
addresses = addresses.split(",")
counts = {"lookups": 0, "reached": 0}


def run(*arguments):
    subprocess.run(arguments, check=True)


def answer(query):
    """Of a query for an IPv4 address, the next one; of any other, that there is none."""
    end = query.index(b"\0", 12) + 5
    question = query[12:end]
    if question[-4:-2] != b"\0\1":
        return query[:2] + b"\x81\x80\0\1\0\0\0\0\0\0" + question
    address = addresses[min(counts["lookups"], len(addresses) - 1)]
    counts["lookups"] += 1
    record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address)
    return query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question + record


def serve_names(names):
    while True:
        query, client = names.recvfrom(4096)
        names.sendto(answer(query), client)


def count_connections(listener):
    while True:
        listener.accept()[0].close()
        counts["reached"] += 1


run("ip", "link", "set", "lo", "up")
run("ip", "address", "add", "8.8.8.8/32", "dev", "lo")
with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w", encoding="ascii") as file:
    file.write("0")
resolv = os.path.join(folder, "resolv.conf")
with open(resolv, "w", encoding="ascii") as file:
    file.write("nameserver 127.0.0.1\n")
os.chmod(resolv, 0o644)
run("mount", "--bind", resolv, "/etc/resolv.conf")
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 53))
threading.Thread(target=serve_names, args=(names,), daemon=True).start()
listener = socket.create_server(("127.0.0.1", 80))
threading.Thread(target=count_connections, args=(listener,), daemon=True).start()
git = subprocess.Popen(
    ["scripts/git-serve", "--address", "8.8.8.8", "--port", "80", served], stdout=subprocess.PIPE, user=int(uid)
)
git.stdout.readline()
groups = [os.stat("/var/run/docker.sock").st_gid]
ended = subprocess.run(command, user=int(uid), group=int(gid), extra_groups=groups, check=False)
git.terminate()
print(f"lookups {counts['lookups']}, reached {counts['reached']}", file=sys.stderr)
sys.exit(ended.returncode)
