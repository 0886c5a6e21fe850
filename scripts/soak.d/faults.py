"""Who breaks things: kills and freezes workers, kills the timeline service, breaks what passes the proxies."""

import random
import threading
import time
from collections import Counter

import proxy

KILLS_A_SECOND = 2.6
FREEZE = (0.5, 3.0)


class Faults:
    def __init__(self, workers, timeline, proxies):
        self.workers, self.timeline, self.proxies = workers, timeline, proxies
        self.over = threading.Event()
        self.injected = Counter()
        jobs = [self.kill_workers, self.freeze_workers, self.kill_timeline]
        jobs += [lambda one=one: self.break_proxy(one) for one in proxies]
        self.threads = [threading.Thread(target=job) for job in jobs]

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        """Nothing is broken any more when this returns."""
        self.over.set()
        for thread in self.threads:
            thread.join()
        for one in self.proxies:
            one.set(proxy.PASS)

    def kill_workers(self):
        due = time.monotonic()
        while True:
            # By the clock, and not by pauses: what a kill itself takes must not make them fewer.
            due += random.expovariate(KILLS_A_SECOND)
            if self.over.wait(max(0, due - time.monotonic())):
                return
            random.choice(self.workers).kill()
            self.injected["kill -9 of a worker"] += 1

    def freeze_workers(self):
        while not self.over.wait(random.uniform(5, 10)):
            random.choice(self.workers).freeze(lambda: self.over.wait(random.uniform(*FREEZE)))
            self.injected["SIGSTOP of a worker"] += 1

    def kill_timeline(self):
        while not self.over.wait(random.uniform(15, 30)):
            self.timeline.kill()
            self.injected["kill -9 of the timeline service"] += 1

    def break_proxy(self, one):
        while not self.over.wait(random.uniform(1, 4)):
            mode = random.choice(one.faults)
            one.set(mode)
            self.injected[f"{one.name}: {mode}"] += 1
            self.over.wait(random.uniform(0.2, 2))
            one.set(proxy.PASS)
