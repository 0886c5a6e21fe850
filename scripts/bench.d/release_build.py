"""The first release build, from nothing but the downloaded crates. Minutes long: only when asked for."""

import os
import shutil
import subprocess
import time

from report import row
from running import SCRIPTS

NAME = "release-build"


def measure(grid):
    target = grid.folder / "target"
    subprocess.run(["cargo", "fetch", "--locked", "--quiet"], check=True, cwd=SCRIPTS.parent)
    started = time.monotonic()
    subprocess.run(
        ["cargo", "build", "--release", "--locked"],
        check=True,
        cwd=SCRIPTS.parent,
        env={**os.environ, "CARGO_TARGET_DIR": str(target)},
    )
    elapsed = time.monotonic() - started
    shutil.rmtree(target)
    yield row(NAME, f"{os.cpu_count()} cores", "cargo build --release", "s", elapsed, below=600)
