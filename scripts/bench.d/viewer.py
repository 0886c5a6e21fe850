"""A log of a million lines in a real browser: how long it takes to open, to jump and to search, how smoothly it
scrolls, what the page and the service keep; and the same while it grows by 5,000 lines a second.

Opened: from the click to lines on the screen, as the page's own clock has it."""

import random
import re
import time
from statistics import median

from browser import Browser
from report import row
from timeline import Client, appends, background, build_line, peak, send, text, write_log

NAME = "viewer"
LINES = 1_000_000
RUNS = 5
RATE, PARTS, SECONDS = 5000, 10, 12
MIB = 1 << 20
WORD = "Zugzwang"
RARE = {seq: f"the rarest of words is {WORD}" for seq in (17, LINES // 2, LINES - 5)}

# Notes when the first lines of the log are on the screen.
NOTED = """new MutationObserver((_, observer) => {
    if (!document.querySelector('#log[data-ready] .l')) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => (window.opened = performance.now())));
}).observe(document, {subtree: true, childList: true, attributes: true});"""

# Scrolls through all of a log; the longest time without a frame, in milliseconds.
SCROLLED = """let last = performance.now(), longest = 0, at = 0;
const end = document.documentElement.scrollHeight - innerHeight;
const frame = (now) => {
    longest = Math.max(longest, now - last);
    last = now;
    at += 1;
    if (at > 300) return done(longest);
    scrollTo(0, at % 3 ? scrollY + 900 : (end * at) / 300);
    requestAnimationFrame(frame);
};
requestAnimationFrame(frame);"""


def measure(grid):
    file = grid.folder / "build.ndjson"
    write_log(file, LINES, build_line, RARE)
    bodies = appends(file)
    with grid.up() as up, Browser() as browser:
        said = (grid.folder / "up.log").read_text()
        browser.devtools("Page.enable")
        browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=NOTED)
        url = f"http://{grid.timeline_host}"
        browser.sign_in(url, "admin", re.search(r"admin, password (\S+)", said)[1])
        path = Client(grid.timeline_host, grid.token("worker")).claim("viewed")
        send(grid.timeline_host, grid.token("worker"), path, bodies)
        before = peak(up)
        yield from opened(browser, f"{url}/builds/viewed")
        yield row(NAME, f"{LINES} lines", "service, more than before, peak", "MiB", peak(up) - before, below=64)
        yield from followed(browser, grid, up, url)


def opened(browser, page):
    scenario = f"{LINES} lines"
    times, jumps = [], []
    for run in range(RUNS):
        browser.open(f"{page}?run={run}")
        times.append(browser.until("the log", "return window.opened"))
    yield row(NAME, scenario, "opened, median", "ms", median(times))
    yield row(NAME, scenario, f"opened, slowest of {RUNS}", "ms", max(times), below=1000)
    for line in random.Random(1).sample(range(1, LINES), 10):
        started = time.monotonic()
        browser.run(f"location.hash = '#L{line}'")
        browser.until(f"line {line}", f"""const line = document.querySelector('#L{line}.linked'), box = line?.getBoundingClientRect();
            return box && box.top > 0 && box.bottom < innerHeight""")
        jumps.append((time.monotonic() - started) * 1000)
    yield row(NAME, scenario, "to any line, slowest of 10", "ms", max(jumps), below=1000)
    started = time.monotonic()
    browser.open(f"{page}?q={WORD.lower()}")
    browser.until("the hit", "return document.querySelector('#L18.sought mark') && document.querySelector('#hit-count').textContent === '1 of 3'")
    yield row(NAME, scenario, "a rare word, page and hits", "s", time.monotonic() - started, below=3)
    browser.open(page)
    browser.until("the log", "return window.opened")
    browser.run("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'O', bubbles: true}))")
    browser.until("steps are open", "return document.querySelectorAll('details.run[open]').length > 3")
    yield row(NAME, scenario, "scrolled through, longest frame", "ms", browser.run_async(SCROLLED), below=100)
    # In the midst of an open step.
    browser.run("scrollTo(0, document.documentElement.scrollHeight / 4)")
    browser.until("lines are in sight", "return document.querySelectorAll('.l').length > 50")
    yield row(NAME, scenario, "page, elements", "", browser.run("return document.querySelectorAll('*').length"), below=20_000)
    yield row(NAME, scenario, "page, scripts' memory", "MiB", browser.heap() / MIB, below=48)


def followed(browser, grid, up, url):
    scenario = f"live, {RATE} lines a second"
    client = Client(grid.timeline_host, grid.token("worker"))
    path = client.claim("followed")
    browser.open(f"{url}/builds/followed")
    browser.until("the log", "return document.querySelector('#log[data-ready]')")
    heaps, late = [], []
    with background(write, grid.timeline_host, grid.token("worker"), path) as written:
        for second in range(1, SECONDS + 1):
            time.sleep(1)
            shown = browser.run("return Number([...document.querySelectorAll('.l')].at(-1)?.id.slice(1) ?? 0)")
            stored = Client(grid.timeline_host, grid.token("local")).call("GET", "builds/followed/log/outline?after=1000000000")
            late.append((int(re.search(rb'"next_seq":(\d+)', stored)[1]) - shown) / RATE * 1000)
            if second in (SECONDS // 3, SECONDS):
                heaps.append(browser.heap() / MIB)
        total = written.get(60)
    browser.until("the last line", f"return document.querySelector('#L{total}')")
    yield row(NAME, scenario, "behind what is stored, median", "ms", median(late))
    yield row(NAME, scenario, "behind what is stored, at most", "ms", max(late), below=1500)
    yield row(NAME, scenario, "page, elements", "", browser.run("return document.querySelectorAll('*').length"), below=20_000)
    yield row(NAME, scenario, "page, scripts' memory, growth", "MiB", heaps[1] - heaps[0], below=16)
    yield row(NAME, scenario, "service, peak resident memory", "MiB", peak(up), below=200)


def write(host, token, path):
    """Sends lines as a worker does, ten times a second; answers how many."""
    client, source, started, part = Client(host, token), random.Random(1), time.monotonic(), RATE // PARTS
    for number in range(SECONDS * PARTS):
        time.sleep(max(0.0, started + number / PARTS - time.monotonic()))
        lines = (build_line(seq, text(source)) for seq in range(number * part, (number + 1) * part))
        client.append(path, "".join(lines).encode(), "identity")
    return SECONDS * PARTS * part
