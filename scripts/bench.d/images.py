"""Images on an engine that a bench makes and takes away again."""

import contextlib
import os
import subprocess
from pathlib import Path

from running import DOCKER, SCRIPTS

MB = 1_000_000
# Where programs, libraries and texts are on every machine.
SYSTEM = ["/usr/bin", "/usr/lib", "/usr/share"]
SAMPLES = [1, 10, 100]


@contextlib.contextmanager
def base_image(name="buildgrid-bench/base", environment=None):
    subprocess.run([SCRIPTS / "base-image", name], check=True, env=environment)
    try:
        yield name
    finally:
        subprocess.run([DOCKER, "image", "rm", "--force", name], env=environment, capture_output=True)


def system_images(engine, folder, tiny, size=650 * MB):
    """Two images of so many bytes of this machine's files: in one layer, and in four. A part of them is in /samples, by
    megabytes."""
    folder.mkdir()
    files = system_files(size)
    samples = {}
    for megabytes in SAMPLES:
        samples[megabytes], files = spread(files, megabytes * MB)
    names = []
    for number, part in enumerate(split(files, [0.45, 0.25, 0.2, 0.1])):
        names.append(f"part-{number}.tar")
        pack(folder / names[-1], part)
    for megabytes, sample in samples.items():
        pack(folder / names[0], sample, under=f"samples/{megabytes}")
    images = {}
    for layers, steps in [
        ("four layers", [f"ADD {name} /" for name in names]),
        ("one layer", ["COPY --from=four / /"]),
    ]:
        image = f"buildgrid-bench/{layers.replace(' ', '-')}"
        dockerfile = folder / "Dockerfile"
        four = f"FROM {images['four layers']} AS four\n" if images else ""
        dockerfile.write_text(f"{four}FROM {tiny if not images else 'scratch'}\n" + "\n".join(steps) + "\n")
        engine.docker("build", "--quiet", "--network", engine.network, "--tag", image, folder)
        images[layers] = image
    for name in names:
        (folder / name).unlink()
    return images


def system_files(size):
    """Files with their lengths, always the same ones of a machine, until they have the size."""
    files, total = [], 0
    for top in SYSTEM:
        for path, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                file = Path(path, name)
                with contextlib.suppress(OSError):
                    if file.is_symlink() or not file.is_file():
                        continue
                    files.append((file, file.stat().st_size))
    # Each so-manieth, so that all kinds are among them.
    step = max(1, sum(length for _, length in files) // size)
    chosen = []
    for start in range(step):
        for file, length in files[start::step]:
            if total + length <= size:
                chosen.append((file, length))
                total += length
    if total < 0.95 * size:
        raise RuntimeError(f"{', '.join(SYSTEM)} have {total} bytes of files, and {size} are needed")
    return chosen


def spread(files, size):
    """Files of altogether that size, of all kinds, and the others."""
    step = max(1, sum(length for _, length in files) // size)
    taken, total = set(), 0
    for file, length in files[::step] + files:
        if file not in taken and total + length <= size:
            taken.add(file)
            total += length
    return [one for one in files if one[0] in taken], [one for one in files if one[0] not in taken]


def split(files, shares):
    """Parts of the files, each with about that share of the bytes."""
    whole = sum(length for _, length in files)
    parts, ends = [[]], [sum(shares[: number + 1]) * whole for number in range(len(shares) - 1)]
    total = 0
    for file in files:
        if ends and total >= ends[0]:
            ends.pop(0)
            parts.append([])
        parts[-1].append(file)
        total += file[1]
    return parts


def pack(archive, files, under=""):
    """Adds files to a tar, with the folders that they are in."""
    transform = ["--transform", f"s,^,{under}/,"] if under else []
    names = "".join(f"{str(file).lstrip('/')}\0" for file, _ in files)
    command = ["tar", "--append", "--file", archive, "--directory", "/", "--null", "--files-from", "-", *transform]
    subprocess.run(command, input=names.encode(), check=True)
