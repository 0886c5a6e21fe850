"""What must hold when all is over: every event ended once, every image pulls, every log is whole, and
nothing is left."""

import base64
import hashlib
import json
import subprocess
import urllib.error
from pathlib import Path

from load import NAMESPACE
from running import fetch

FINAL = {"published", "failed", "rejected", "cancelled"}


class Verdict:
    def __init__(self):
        self.lost, self.doubled, self.torn, self.left = [], [], [], []
        self.by_faults = 0


class Timeline:
    def __init__(self, host, token):
        self.base, self.headers = f"http://{host}/api/v1", {"Authorization": f"Bearer {token}"}

    def build(self, identity):
        """The build, if the service knows it."""
        try:
            return json.loads(fetch(f"{self.base}/builds/{identity}", self.headers)[0])
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def log(self, identity, attempt):
        url = f"{self.base}/builds/{identity}/log?attempt={attempt}"
        body, _ = fetch(url, self.headers | {"Accept": "application/x-ndjson"})
        return [json.loads(line) for line in body.splitlines()]


def events(verdict, load, results, timeline):
    """Each event has one end, in the result events and in the service, which is the one that it must have."""
    for event in load:
        ends = {(r["state"], r["digest"]) for r in results.get(event.id, []) if r["state"] in FINAL}
        build = timeline.build(event.id)
        if not ends or build is None or build["state"] not in FINAL:
            state = build and build["state"]
            verdict.lost.append(f"{event.id} has no end: results {sorted(ends)}, timeline {state}")
            continue
        if len(ends) > 1:
            verdict.doubled.append(f"{event.id} ended as {sorted(map(str, ends))}")
            continue
        [(state, digest)] = ends
        if (build["state"], build["digest"]) != (state, digest):
            verdict.torn.append(f"{event.id} is {state} {digest} by its results, {build['state']} {build['digest']} in the timeline")
        allowed = event.expected | ({"cancelled"} if event.cancelled else set())
        if state not in allowed:
            if state == "failed" and build["kind"] == "infrastructure":
                verdict.by_faults += 1
            else:
                verdict.torn.append(f"{event.id} is {state} ({build['reason']}) instead of {sorted(allowed)}")
        log(verdict, event, build, timeline)


def log(verdict, event, build, timeline):
    """The log of the attempt that counts has each line once, in order, from the first to the last."""
    if build["attempt"] is None:
        return
    attempt = next(one for one in build["attempts"] if one["id"] == build["attempt"])
    entries = timeline.log(event.id, build["attempt"])
    if not attempt["complete"]:
        # One whose worker died after the outcome was written elsewhere has no end; its lines must be in order.
        if build["state"] != "cancelled":
            verdict.torn.append(f"{event.id}: the log of its attempt {attempt['number']} has no end")
    if [entry["seq"] for entry in entries] != list(range(len(entries))):
        verdict.torn.append(f"{event.id}: its log has gaps or repeats")
    texts = [entry["text"] for entry in entries if entry["stream"] == "stdout"]
    # An attempt after the end says so, and has no more to say.
    reused = build["reused"] or any(" already" in entry["text"] for entry in entries)
    cached = event.real and any(entry["text"] == "cached" for entry in entries)
    if texts == event.lines or (not texts and (reused or cached)):
        return
    if event.cancelled and build["state"] == "cancelled" and texts == event.lines[: len(texts)]:
        return
    verdict.torn.append(f"{event.id}: {len(texts)} lines of {len(event.lines)} in its log, or others")


def images(verdict, load, results, registry, login):
    """Every image that was said to be published is served whole."""
    encoded = base64.b64encode(f"{login['user']}:{login['password']}".encode()).decode()
    headers = {"Authorization": f"Basic {encoded}", "Accept": "application/vnd.oci.image.manifest.v1+json"}
    seen, pulled = set(), 0

    def blob(name, descriptor):
        if descriptor["digest"] in seen:
            return
        body, _ = fetch(f"{registry}/v2/{name}/blobs/{descriptor['digest']}", headers)
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != descriptor["digest"] or len(body) != descriptor["size"]:
            raise ValueError(f"blob {descriptor['digest']} is not what it is called")
        seen.add(descriptor["digest"])

    for event in load:
        for result in results.get(event.id, []):
            if result["state"] != "published":
                continue
            name, tag = result["image"].split("/", 1)[1].rsplit(":", 1)
            try:
                body, _ = fetch(f"{registry}/v2/{name}/manifests/{tag}", headers)
                digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
                if digest != result["digest"]:
                    raise ValueError(f"the tag is {digest}, the result {result['digest']}")
                manifest = json.loads(body)
                for descriptor in [manifest["config"], *manifest["layers"]]:
                    blob(name, descriptor)
                pulled += 1
            except (OSError, ValueError) as error:
                verdict.torn.append(f"{event.id}: {result['image']} cannot be pulled: {error}")
            break
    return pulled


def directories(verdict, folders, store):
    """Build directories hold what is kept, and nothing that was under way."""
    for folder in folders:
        for build in sorted((folder / "builds").iterdir()):
            for path in build.iterdir():
                temporary = path.name == "spool" or path.name.startswith(".")
                if temporary:
                    verdict.left.append(str(path))
                if path.name.startswith("report") and json.loads(path.read_bytes())["closed"] is None:
                    verdict.left.append(f"{path} is not told whole")
    verdict.left += [str(path) for path in sorted((store / "buildgrid/tmp").iterdir())]


def engine(verdict, docker):
    tags = subprocess.run(
        [docker, "images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"label=net.buildgrid.namespace={NAMESPACE}"],
        check=True, capture_output=True, text=True,
    )
    verdict.left += [f"{tag} on the engine" for tag in tags.stdout.split() if "soak" in tag or "buildgrid.local" in tag]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes()
        except OSError:
            continue
        if b'cat /word > /copy' in command:
            verdict.left.append(f"process {process.parent.name} of a build's step")
