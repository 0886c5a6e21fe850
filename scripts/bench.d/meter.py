"""Processor time and memory of processes: of some by their ids, and of an engine with all that it starts. From
proc(5)."""

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
INTERVAL = 0.1


class Meter:
    """Looks at the processes ten times a second while it runs."""

    def __init__(self, engine, others):
        self.engine, self.others = engine, others
        self.samples = []

    @contextlib.contextmanager
    def running(self):
        self.samples = [self.sample()]
        ended = threading.Event()

        def look():
            while not ended.wait(INTERVAL):
                self.samples.append(self.sample())

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            yield
        finally:
            ended.set()
            looking.join()
            self.samples.append(self.sample())

    def sample(self):
        """The time, processor seconds of all, and the engine's resident memory in MiB."""
        found = dict(processes())
        engine = family(found, self.engine)
        seconds = sum(found[one].seconds for one in {*engine, *self.others} if one in found)
        return time.time(), seconds, sum(found[one].memory for one in engine)

    def between(self, begin, end):
        """Processor seconds between two moments, and the engine's highest memory."""
        before = max((one for one in self.samples if one[0] <= begin), default=self.samples[0])
        after = min((one for one in self.samples if one[0] >= end), default=self.samples[-1])
        within = [memory for at, _, memory in self.samples if before[0] <= at <= after[0]]
        return after[1] - before[1], max(within)


@dataclass
class Usage:
    parent: int
    # Of processor, those of ended children included.
    seconds: float
    # Resident, in MiB.
    memory: float


def processes():
    for process in Path("/proc").glob("[0-9]*"):
        # One that has ended meanwhile counts with its parent.
        with contextlib.suppress(OSError):
            # The second field, the command's name in parentheses, may hold blanks.
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            seconds = sum(map(int, fields[11:15])) / TICK
            yield int(process.name), Usage(int(fields[1]), seconds, int(fields[21]) * PAGE / (1 << 20))


def family(found, eldest):
    """A process and its descendants."""
    members = {eldest} & found.keys()
    while more := {one for one, usage in found.items() if usage.parent in members} - members:
        members |= more
    return members


def peak(process):
    """The highest resident memory since `forget_peak`, in MiB: VmHWM."""
    for line in Path(f"/proc/{process.child.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel does not tell VmHWM")


def forget_peak(process):
    Path(f"/proc/{process.child.pid}/clear_refs").write_text("5")
