"""Chromium without a window, driven over WebDriver (W3C), for the benches of pages."""

import http.client
import json
import re
import subprocess
import tempfile
import time

ARGUMENTS = """--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking
--no-proxy-server --no-first-run --remote-debugging-pipe --enable-precise-memory-info --window-size=1280,1000""".split()


class Browser:
    """A browser with a profile of its own, until it is closed."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        for line in self.driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                break
        else:
            raise RuntimeError("chromedriver did not start")
        self.connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=120)
        arguments = [*ARGUMENTS, f"--user-data-dir={self.folder.name}"]
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}}
        self.session = ""
        self.session = f"/{self.call('POST', '', wanted)['sessionId']}"
        return self

    def __exit__(self, *_):
        try:
            self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait()
            self.folder.cleanup()

    def call(self, method, path, body=None):
        self.connection.request(method, f"/session{self.session}{path}", None if body is None else json.dumps(body))
        answer = json.loads(self.connection.getresponse().read())["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["message"])
        return answer

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """What the body of a function returns in the page."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script):
        """What a script hands to `done`."""
        script = f"const done = arguments[arguments.length - 1]; {script}"
        return self.call("POST", "/execute/async", {"script": script, "args": []})

    def until(self, what, script, limit=60.0):
        deadline = time.monotonic() + limit
        while not (answer := self.run(script)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited in vain for this: {what}")
            time.sleep(0.02)
        return answer

    def devtools(self, method, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": method, "params": parameters})

    def heap(self):
        """What the page's scripts keep, in bytes, once what is not needed has been thrown away."""
        self.devtools("HeapProfiler.collectGarbage")
        return self.devtools("Runtime.getHeapUsage")["usedSize"]

    def sign_in(self, url, user, password):
        self.open(f"{url}/sign-in")
        fill = "document.querySelector('[name=user]').value = arguments[0];"
        fill += "document.querySelector('[name=password]').value = arguments[1];"
        self.run(fill + "document.querySelector('main form').submit()", user, password)
        self.until("the sign-in", "return !document.querySelector('[name=password]')")
