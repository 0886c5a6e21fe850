"""Images on the engine that a bench makes and takes away again."""

import contextlib
import subprocess

from running import DOCKER, SCRIPTS


@contextlib.contextmanager
def base_image(name="buildgrid-bench/base"):
    subprocess.run([SCRIPTS / "base-image", name], check=True)
    try:
        yield name
    finally:
        docker("image", "rm", "--force", name, check=False)


def docker(*arguments, check=True, **options):
    done = subprocess.run([DOCKER, *arguments], capture_output=True, text=True, **options)
    if check and done.returncode != 0:
        raise RuntimeError(f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout
