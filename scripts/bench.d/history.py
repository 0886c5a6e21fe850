"""A repository of 10,000 commits: one of them that the worker knows nothing of, and the next one to those it has
fetched, beside `git clone --depth 1`.

The repository grows to 4,000 files of 56 MB, in 4,000 folders at most, and is packed as a forge packs it. The image has
a tenth of them.
"""

import os
import random
import subprocess

from beside import beside, rows
from engine import own_engine
from images import base_image
from running import GitServer, git

NAME = "history"
COMMITS = 10_000
FILES = 4_000
ROUNDS = 5
COLD = "10,000 commits, repository never seen"
NEXT = "10,000 commits, repository known"
KEYWORDS = "if return fn let match for in struct impl use self // = ( ) { } -> & 0 1".split()


def measure(grid):
    with own_engine(grid.folder / "engine") as engine, GitServer(grid.folder / "git") as server:
        history = History(server.root / "history.git")
        with base_image("buildgrid-bench/tiny", engine.environment) as base, beside(grid, engine) as pair:
            arguments = {"BASE": base}

            def rounds(name):
                for number in range(ROUNDS):
                    repository = server.link(name(number), "history")
                    yield pair.round(repository, history.commit(), arguments, ("ours", "script")[number % 2])

            # Another URL is another mirror.
            if grid.wants(COLD):
                yield from rows(NAME, COLD, list(rounds(lambda number: f"cold-{number}")), 1)
            if grid.wants(NEXT):
                pair.round(server.link("known", "history"), history.commit(), arguments, "ours")
                yield from rows(NAME, NEXT, list(rounds(lambda _: "known")), 1, fetch_below=0.3)


class History:
    """A bare repository that git fast-import writes: each commit changes a few lines in a few files."""

    def __init__(self, bare):
        self.bare = bare
        git("init", "--quiet", "--bare", "--initial-branch=main", bare)
        self.source = random.Random(7)
        letters = "abcdefghijklmnopqrstuvwxyz_"
        self.words = ["".join(self.source.choices(letters, k=self.source.randint(3, 12))) for _ in range(FILES)]
        self.paths = [self.path(number) for number in range(FILES)]
        self.texts, self.count = {}, 0
        dockerfile = b"ARG BASE\nFROM ${BASE}\nCOPY src/part0 /src\n"
        self.write(COMMITS, {"Dockerfile": dockerfile})
        git("-C", bare, "repack", "-a", "-d", "--quiet", "--write-bitmap-index")

    def commit(self):
        """The next commit, which changes the image, too."""
        self.write(1, {"src/part0/nonce": os.urandom(16).hex().encode()})
        return git("-C", self.bare, "rev-parse", "main", stdout=subprocess.PIPE).stdout.decode().strip()

    def write(self, commits, more):
        importing = ["git", "-C", self.bare, "fast-import", "--quiet", "--depth=50"]
        with subprocess.Popen(importing, stdin=subprocess.PIPE) as process:
            for _ in range(commits):
                files = {path: "\n".join(self.texts[path]).encode() + b"\n" for path in self.change()} | more
                message = b"Change %d" % self.count
                stream = [b"commit refs/heads/main\ncommitter Ada <ada@example.com> %d +0000\n" % (1_500_000_000 + self.count * 3600)]
                stream.append(b"data %d\n%s\n" % (len(message), message))
                if self.count > 1 and commits == 1:
                    stream.append(b"from refs/heads/main^0\n")
                for path, text in files.items():
                    stream.append(b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(text), text))
                process.stdin.write(b"".join(stream))
                more = {}
        if process.returncode != 0:
            raise RuntimeError(f"git fast-import ended with {process.returncode}")

    def change(self):
        """Changes some lines, in the first half of the time with a new file now and then; answers where."""
        self.count += 1
        source, touched = self.source, set()
        while len(self.texts) < min(FILES, 200 + self.count * (FILES - 200) * 2 // COMMITS):
            path = self.paths[len(self.texts)]
            self.texts[path] = [self.line() for _ in range(source.randint(20, 500))]
            touched.add(path)
        for _ in range(source.randint(1, 4)):
            path = self.paths[int(len(self.texts) * source.random() ** 2)]
            for _ in range(source.randint(1, 8)):
                at = source.randrange(len(self.texts[path]))
                self.texts[path][at : at + 1] = [self.line() for _ in range(source.randint(1, 3))]
            touched.add(path)
        return touched

    def line(self):
        source = self.source
        words = (
            source.choice(KEYWORDS) if source.random() < 0.4 else self.words[int(FILES * source.random() ** 3)]
            for _ in range(source.randint(2, 11))
        )
        return "    " * source.randint(0, 4) + " ".join(words)

    def path(self, number):
        first, second = self.words[number % 97], self.words[number // 97 % 61]
        return f"src/part{number % 10}/{first}/{second}/{self.words[number]}.rs"
