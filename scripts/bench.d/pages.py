"""Every page of the dashboard with 10,000 builds in the database, most of them one app's: how long the service
takes for it, and what a browser loads for it."""

import http.client
import json
import re
import time
import uuid
from urllib.parse import quote

from grid import deploy_event, percentile
from report import row
from timeline import Client, in_processes

NAME = "pages"
BUILDS, APPS, SENDERS = 10_000, 50, 8
# Of ten builds, so many are of the one app.
OF_ONE = 8
RUNS = 40
SCENARIO = f"{BUILDS} builds"
NOTHING = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def measure(grid):
    with grid.up():
        host, local = grid.timeline_host, grid.token("local")
        share = BUILDS // SENDERS
        tokens = (grid.token("worker"), local)
        in_processes(fill, [(host, tokens, number * share, share) for number in range(SENDERS)])
        client = Client(host, local)
        images = [built(client, number) for number in range(2)]
        browser = Browser(host, local)
        yield from weigh(browser)
        largest = 0
        for figure, path in pages(browser, images):
            waits = []
            for _ in range(RUNS):
                started = time.monotonic()
                largest = max(largest, len(browser.get(path)))
                waits.append((time.monotonic() - started) * 1000)
            yield row(NAME, SCENARIO, f"{figure}, p95", "ms", percentile(waits, 0.95), below=100)
        yield row(NAME, SCENARIO, "the largest of these pages, HTML", "KiB", largest / 1024, below=110)


def pages(browser, images):
    app = "/smoke/shop"
    deep = app
    for _ in range(20):
        deep = following(browser.get(deep))
    return [
        ("apps", "/"),
        ("an app", app),
        ("an app, page 21", deep),
        ("an app, failed builds", f"{app}?state=failed"),
        ("an app, a state without builds", f"{app}?state=rejected"),
        ("an app, a ref", f"{app}?ref={quote('refs/heads/feature/17', safe='')}"),
        ("an app, a rare service", f"{app}?service=rare"),
        ("a service", f"{app}/web"),
        ("a service without images", f"{app}/rare"),
        ("an image", f"/images/{images[1].split('/', 1)[1]}"),
        ("a search for a commit", f"/search?q={commit_of(17)[:7]}"),
        ("a search for a commit of 1000 builds", f"/search?q={commit_of(0)}"),
        ("a search for a ref", "/search?q=feature"),
        ("a search for nothing there", "/search?q=nonsense"),
        ("a build", "/builds/page-17"),
        ("settings", "/settings/buildgrid"),
        ("the form that builds a commit", "/build?namespace=smoke&app=shop"),
    ]


def following(page):
    """The address of the next page."""
    return re.search(r'rel="next" href="([^"]+)"', page.decode())[1].replace("&#38;", "&")


def weigh(browser):
    """What a page of an app weighs in all, without compression."""
    page = browser.get("/smoke/shop")
    assets = set(re.findall(r'"(/assets/[^"]+)"', page.decode()))
    weights = {asset: len(browser.get(asset)) for asset in assets}
    styles = sum(weight for asset, weight in weights.items() if asset.endswith(".css"))
    yield row(NAME, SCENARIO, "an app, style", "KiB", styles / 1024, below=20)
    scripts = sum(weight for asset, weight in weights.items() if asset.endswith(".js"))
    yield row(NAME, SCENARIO, "an app, scripts", "KiB", scripts / 1024)
    icons = sum(weight for asset, weight in weights.items() if asset.endswith(".svg"))
    yield row(NAME, SCENARIO, "an app, icon", "KiB", icons / 1024)
    whole = len(page) + sum(weights.values())
    yield row(NAME, SCENARIO, "an app, all that is loaded", "KiB", whole / 1024, below=150)


class Browser:
    def __init__(self, host, token):
        self.connection = http.client.HTTPConnection(host, timeout=60)
        self.headers = {"Authorization": f"Bearer {token}"}

    def get(self, path):
        self.connection.request("GET", path, headers=self.headers)
        response = self.connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path} is answered {response.status}: {body.decode()}")
        return body


def commit_of(number):
    """Of ten builds, one is of the same commit as one of each other ten."""
    return f"{0 if number % 10 == 0 else number + 1:07x}{'c' * 33}"


def fill(host, tokens, first, count):
    """Takes builds down, each with its end, and for every second one a deploy."""
    worker, maestro = (Client(host, token) for token in tokens)
    for number in range(first, first + count):
        build, attempt = f"page-{number}", str(uuid.uuid4())
        app = "shop" if number % 10 < OF_ONE else f"app-{number // 10 % (APPS - 1)}"
        commit, deploy = commit_of(number), f"deploy-{number}"
        fields = {"services": ["web", "worker"] if number else ["web", "rare"], "deploy_id": deploy, "requested_by": "bench"}
        fields["ref"] = f"refs/heads/feature/{number % 100}" if number % 3 else "refs/heads/main"
        event = deploy_event(build, commit, namespace="smoke", app=app, fake={}, **fields).decode()
        claim = {"event": event, "worker": "bench", "attempt": attempt, "number": 1}
        send(worker, "PUT", f"builds/{build}", claim)
        failed = number % 7 == 0
        image = f"registry.example.com/smoke/{app}.fake:{commit}"
        result = {
            "version": 1, "id": build, "deploy_id": deploy, "attempt": 1, "namespace": "smoke", "app": app,
            "services": fields["services"], "repository": "fake", "commit": commit,
            "state": "failed" if failed else "published", "kind": "build" if failed else None, "reused": False,
            "image": None if failed else image, "digest": None if failed else f"sha256:{number:064x}",
            "size": None if failed else 98_700_000 + number, "reason": "exit code 1" if failed else None,
            "step": "[1/2] RUN make" if failed else None, "excerpt": ["no"] if failed else [], "log_url": None,
            "started_at": "2026-11-23T10:15:02.000Z", "finished_at": "2026-11-23T10:16:50.000Z", "worker": "bench",
        }
        end = {
            "state": result["state"], "at": "2026-11-23T10:16:50.000Z", "result": result,
            "log": {"count": 0, "checksum": NOTHING},
        }
        send(worker, "POST", f"builds/{build}/attempts/{attempt}/state", end)
        if number % 2:
            report = {"namespace": "smoke", "app": app, "state": "done", "services": fields["services"]}
            send(maestro, "PUT", f"deploys/{deploy}", report)


def send(client, method, path, body):
    client.call(method, path, json.dumps(body), Content_Type="application/json")


def built(client, number):
    """The image of a fake build, made the whole way."""
    fake = {"log_lines": 10, "layers": 8, "seed": number}
    event = deploy_event(f"image-{number}", f"{number + 1}" * 40, namespace="smoke", app="shop", fake=fake)
    client.call("POST", "builds", event, Content_Type="application/json")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        build = json.loads(client.call("GET", f"builds/image-{number}"))
        if build["state"] == "published":
            return build["image"]
        time.sleep(0.1)
    raise RuntimeError(f"image-{number} is not published: {build}")
