"""Lines cleaned and masked with 50 secrets in all their forms, beside sed with the 50 words alone."""

import random
import string
import subprocess
import time

from report import row
from timeline import NOUNS, VERBS

NAME = "masking"
SECRETS = 50
LINES = 600_000


def measure(grid):
    source = random.Random(1)
    secrets = ["".join(source.choices(string.ascii_letters + string.digits + "+/", k=40)) for _ in range(SECRETS)]
    names = grid.folder / "secrets"
    names.write_text("\n".join(secrets) + "\n")
    log = grid.folder / "log"
    write(log, secrets, source)
    command = ["cargo", "bench", "--locked", "--quiet", "--bench", "masking", "--", names.absolute(), log.absolute()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    speed = float(done.stdout.split()[-1])
    yield row(NAME, f"{SECRETS} secrets of 40 bytes", "speed", "MB/s", speed, sed(names, log), "sed", at_least=200)


def write(log, secrets, source):
    """Lines as compilers write them; one of a thousand has a secret."""
    texts = [line(source) for _ in range(20_000)]
    with open(log, "w", encoding="utf-8") as file:
        for number in range(LINES):
            text = source.choice(texts)
            file.write(f"{text} token={source.choice(secrets)}\n" if number % 1000 == 0 else f"{text}\n")


def line(source):
    nouns = source.choices(NOUNS, k=4)
    return (
        f"{source.choice(VERBS[:-1])} src/{nouns[0]}/{nouns[1]}_{source.randrange(1000)}.rb -> "
        f"build/{nouns[2]}/{nouns[3]}_{source.randrange(1000)}.o in {source.random() * 90:.3f} ms, "
        f'{source.randrange(10**6)} bytes, "{source.getrandbits(40):010x}"'
    )


def sed(names, log):
    """What `sed` masks in a second, which knows the words and none of their other forms, in MB."""
    script = names.with_name("script")
    script.write_text("".join(f"s|{secret.replace('/', '[/]')}|***|g\n" for secret in names.read_text().split()))
    begun = time.monotonic()
    with open(log, "rb") as text:
        subprocess.run(["sed", "-f", script], stdin=text, stdout=subprocess.DEVNULL, check=True)
    return log.stat().st_size / (time.monotonic() - begun) / 1e6
