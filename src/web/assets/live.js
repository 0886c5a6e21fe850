// Makes the pages live: copies names, counts running durations on, asks for what has changed, follows
// a log. Without it every page is read as it is. The server alone makes markup; what a build has
// written becomes text nodes here, in the looks that pages/ansi.rs and pages/steps.rs give it there.
"use strict";

(() => {
  // Lines kept on the page while it is followed; older ones are dropped, and the page says so.
  const KEEP = 10000;
  // Lines that wait for a frame, at most: beyond, the stream is closed and goes on later where it was.
  const WAITING = 10000;
  // Lines put on the page in one frame.
  const BATCH = 1000;

  const $ = (id) => document.getElementById(id);
  const main = $("main");
  const skew = main.dataset.now ? Date.parse(main.dataset.now) - Date.now() : 0;
  const say = (words) => ($("said").textContent = words);
  document.documentElement.classList.add("script");
  // The answer to a form that is not to be sent again by a reload.
  if ("once" in main.dataset) history.replaceState(null, "", location.href);

  // Words, as pages/words.rs has them.

  const two = (number) => String(number).padStart(2, "0");
  const lineCount = (count) => (count === 1 ? "1 line" : `${count.toLocaleString("en-US")} lines`);

  function duration(millis) {
    const seconds = Math.max(0, Math.floor(millis / 1000));
    if (seconds < 60) return `${seconds} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${two(seconds % 60)} s`;
    return `${Math.floor(seconds / 3600)} h ${two(Math.floor(seconds / 60) % 60)} m`;
  }

  const offset = (millis) =>
    millis < 59950 ? `${(Math.max(0, millis) / 1000).toFixed(1)} s` : duration(millis + 50);

  const printable = (text) =>
    text.replace(
      /[\0-\x08\x0a-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g,
      (c) => `\\u{${c.codePointAt(0).toString(16)}}`,
    );

  // Copy buttons.

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Outside of HTTPS there is only the old way.
    }
    const area = document.createElement("textarea");
    area.className = "unseen";
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button || button.classList.contains("copied")) return;
    const done = await copy(button.dataset.copy);
    button.focus({ preventScroll: true });
    if (!done) return say("The browser does not let this page copy");
    say("Copied");
    const icon = button.firstElementChild;
    const check = icon.cloneNode(false);
    check.append(document.createElementNS(icon.namespaceURI, "path"));
    check.firstChild.setAttribute("d", "m2.8 8.6 3.3 3.3 7-7.6");
    icon.replaceWith(check);
    button.classList.add("copied");
    setTimeout(() => {
      check.replaceWith(icon);
      button.classList.remove("copied");
    }, 2000);
  });

  // The key that searches.

  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const box = document.querySelector(".find input");
    if (!box) return;
    event.preventDefault();
    box.focus();
    box.select();
  });

  // Durations of what is running.

  setInterval(() => {
    for (const element of document.querySelectorAll("[data-since]")) {
      element.textContent = duration(Date.now() + skew - Date.parse(element.dataset.since));
    }
  }, 1000);

  // What has changed: the same page again, of which the marked parts take the place of ours.

  const held = (element) => {
    const selection = getSelection();
    return !selection.isCollapsed && element.contains(selection.anchorNode);
  };

  async function refresh(address) {
    const answer = await fetch(address, { headers: { accept: "text/html" } });
    if (answer.status === 401) {
      say("You are signed out");
      return false;
    }
    if (!answer.ok) return true;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    let more = false;
    for (const fresh of page.querySelectorAll("[data-live][id]")) {
      const old = $(fresh.id);
      more ||= !old;
      if (!old || old.isEqualNode(fresh) || held(old) || old.querySelector(".copied")) continue;
      const focused = old.contains(document.activeElement) && document.activeElement;
      const state = fresh.dataset.state;
      if (state && state !== old.dataset.state) {
        say(state);
        document.title = page.title;
      }
      const taken = document.importNode(fresh, true);
      old.replaceWith(taken);
      if (focused) {
        const like = (element) => element.tagName === focused.tagName && element.textContent === focused.textContent;
        [...taken.querySelectorAll("a, button")].find(like)?.focus();
      }
    }
    const news = $("news");
    if (news && more) news.hidden = false;
    return true;
  }

  function poll(address, again) {
    const running = document.querySelector("[data-running]");
    setTimeout(async () => {
      let on = true;
      try {
        if (!document.hidden) on = await refresh(address());
      } catch {
        // The service is away for a moment; what is on the page stays.
      }
      if (on && again()) poll(address, again);
    }, running ? 5000 : 30000);
  }

  if ("poll" in main.dataset) poll(() => location.href, () => true);

  // The log.

  const log = $("log");
  if (!log) return;
  const lines = $("lines");

  const linked = /^#L(\d+)$/.exec(location.hash);
  function reveal() {
    const details = document.querySelector(":target")?.closest("details");
    if (!details || details.open) return;
    details.open = true;
    document.querySelector(":target").scrollIntoView();
  }
  addEventListener("hashchange", reveal);
  reveal();
  if (linked && !$(linked[0].slice(1)) && !new URLSearchParams(location.search).has("from")) {
    const there = new URL(location.href);
    there.searchParams.set("from", Math.max(1, linked[1] - 100));
    location.replace(there);
    return;
  }

  let attempt = log.dataset.attempt || "";
  let after = log.dataset.after === undefined ? -1 : Number(log.dataset.after);

  // The page without the lines that are here.
  function head() {
    const address = new URL(log.dataset.page, location.href);
    const shown = attempt || new URLSearchParams(location.search).get("attempt");
    if (shown) address.searchParams.set("attempt", shown);
    address.searchParams.set("from", after + 2);
    return address.href;
  }
  let asked = 0;
  function soon() {
    clearTimeout(asked);
    asked = setTimeout(() => refresh(head()).then(count, () => {}), 200);
  }
  const count = () => after >= 0 && log.dataset.stream && ($("count").textContent = lineCount(after + 1));
  const unfinished = () => $("head").hasAttribute("data-open");

  if (!log.dataset.stream) {
    if (unfinished()) poll(head, unfinished);
    return;
  }

  // Following: the end stays in sight until the reader scrolls up.

  const follow = $("follow");
  const pill = $("pill");
  let following = false;
  let missed = 0;
  let last = scrollY;
  const bottom = () => document.documentElement.scrollHeight - innerHeight;

  function toEnd() {
    scrollTo({ top: bottom(), behavior: "instant" });
    last = scrollY;
  }
  function setFollowing(on) {
    following = on;
    follow.setAttribute("aria-pressed", on);
    if (!on) return;
    missed = 0;
    pill.hidden = true;
    toEnd();
    frame();
  }
  follow.hidden = false;
  follow.addEventListener("click", () => setFollowing(!following));
  pill.addEventListener("click", () => setFollowing(true));
  addEventListener("scroll", () => {
    if (following && scrollY < last - 1 && scrollY < bottom() - 1) setFollowing(false);
    last = scrollY;
  }, { passive: true });
  addEventListener("keydown", (event) => {
    if (event.key === "End" && !event.target.closest("input, textarea, select")) setFollowing(true);
  });

  // Lines.

  const COLOURS = ["dim", "red", "green", "yellow", "blue", "magenta", "cyan", null];

  function select(look, parameters) {
    const codes = parameters.split(/[;:]/).map(Number);
    for (let i = 0; i < codes.length; i++) {
      const code = codes[i];
      if (code === 0) look = {};
      else if (code >= 1 && code <= 4) look = { ...look, [["bold", "faint", "italic", "underline"][code - 1]]: true };
      else if (code === 22) look = { ...look, bold: false, faint: false };
      else if (code === 23) look = { ...look, italic: false };
      else if (code === 24) look = { ...look, underline: false };
      else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) look = { ...look, colour: COLOURS[code % 10] };
      else if (code === 39) look = { ...look, colour: null };
      else if (code === 38 || code === 48) {
        const kind = codes[++i];
        const colour = kind === 5 && codes[i + 1] < 16 ? COLOURS[codes[i + 1] % 8] : null;
        i += kind === 5 ? 1 : kind === 2 ? 3 : 0;
        if (code === 38) look = { ...look, colour };
      }
    }
    return look;
  }

  function paint(element, text) {
    let look = {};
    // Odd parts are escape sequences: of these only colours have a meaning.
    text.split(/(\x1b\[[ -?]*[@-~]|\x1b[\]PX^_][^\0-\x1f\x7f-\x9f]*(?:\x07|\x1b\\)|\x1b[ -/]+[0-~]|\x1b[0-OQ-WYZ\\`-~])/).forEach((part, index) => {
      if (index % 2) {
        const looks = /^\x1b\[([\d;:]*)m$/.exec(part);
        if (looks) look = select(look, looks[1]);
      } else if (part) {
        const names = [look.colour || (look.faint && "dim"), ...["bold", "italic", "underline"].filter((name) => look[name])];
        const classes = names.filter(Boolean).join(" ");
        if (classes) element.append(made("span", classes, printable(part)));
        else element.append(printable(part));
      }
    });
  }

  function made(tag, classes, ...content) {
    const element = document.createElement(tag);
    element.className = classes;
    element.append(...content);
    return element;
  }

  // The end of a step, as its status line tells it.
  function ending(entry) {
    if (entry.stream !== "status" || entry.step === null) return null;
    const [, word, took] = /^(cached|cancelled|done in |failed after )([^:]*)/.exec(entry.text) || [];
    return word && { kind: word.split(" ")[0], took };
  }

  let run = null;
  let size = lines.querySelectorAll(".l").length;
  if (lines.lastElementChild) {
    const node = lines.lastElementChild;
    run = { node, step: node.querySelector(".step")?.textContent ?? null, count: node.querySelectorAll(".l").length };
  }

  // Nothing turns where nothing is known to run.
  function still(within) {
    for (const icon of within.querySelectorAll("summary > .icon.live")) icon.replaceChildren();
  }

  function begin(step) {
    if (step === null) {
      run = { node: made("div", "run"), step, count: 0 };
    } else {
      const node = $("run").content.firstElementChild.cloneNode(true);
      const split = step.startsWith("[") ? step.indexOf("] ") + 2 : 0;
      const [mark, command] = node.querySelector(".step").children;
      mark.textContent = step.slice(0, split > 1 ? split : 0);
      command.textContent = step.slice(split > 1 ? split : 0);
      run = { node, step, count: 0 };
    }
    // Only the running step is open, unless somebody is reading.
    const before = lines.lastElementChild;
    if (before) still(before);
    if (following && before?.matches("details:not(.failing)")) before.open = false;
    lines.append(run.node);
  }

  function append(entry) {
    const step = entry.step === null ? null : printable(entry.step);
    if (!run || run.step !== step) begin(step);
    const number = entry.seq + 1;
    const end = ending(entry);
    const failed = end?.kind === "failed";
    const line = made("div", `l ${failed ? "fail" : entry.stream === "status" ? "own" : ""}`);
    line.id = `L${number}`;
    const link = made("a", "n", String(number));
    link.href = `#L${number}`;
    const text = made("span", "x");
    paint(text, entry.text);
    line.append(link, made("span", "t", offset(Date.parse(entry.at) - Date.parse(log.dataset.start))), text);
    run.node.append(line);
    run.count++;
    size++;
    if (end) finish(step, end);
  }

  // Every heading of the step tells its end.
  function finish(step, end) {
    const icon = $("ends").content.querySelector(`[data-end="${end.kind}"]`);
    for (const node of lines.querySelectorAll("details")) {
      if (node.querySelector(".step").textContent !== step) continue;
      if (end.kind === "failed") node.classList.add("failing");
      if (icon) node.querySelector(".icon").replaceWith(icon.cloneNode(true));
      const took = node.querySelector(".took");
      if (end.kind === "cached") took.replaceChildren(made("span", "tag", "cached"));
      else took.textContent = printable(end.took);
    }
  }

  function trim() {
    let spare = size - KEEP;
    if (spare <= 0) return;
    size = KEEP;
    $("dropped").hidden = false;
    while (spare > 0) {
      const oldest = lines.firstElementChild;
      const rows = oldest.querySelectorAll(":scope > .l");
      for (const row of [...rows].slice(0, spare)) row.remove();
      if (rows.length <= spare && oldest !== run.node) oldest.remove();
      spare -= rows.length;
    }
  }

  let waiting = [];
  let pending = false;

  function frame() {
    if (!pending) {
      pending = true;
      requestAnimationFrame(draw);
    }
  }

  function draw() {
    pending = false;
    // Nobody scrolls through this much: the rest comes when the end is wanted again.
    if (!following && size >= 2 * KEEP) {
      if (waiting.length) show();
      return;
    }
    const batch = waiting.splice(0, BATCH);
    for (const entry of batch) append(entry);
    if (run?.node.matches("details")) run.node.querySelector(".count").textContent = lineCount(run.count);
    const digits = `digits-${String(Math.max(999, after + 1)).length}`;
    if (!log.classList.contains(digits)) log.className = `card log ${digits}`;
    count();
    if (following) {
      trim();
      toEnd();
    } else {
      missed += batch.length;
      show();
    }
    if (waiting.length) frame();
    else if (!source && !ended) open();
  }

  function show() {
    const more = missed + waiting.length;
    pill.hidden = more === 0;
    pill.lastElementChild.textContent = more === 1 ? "1 new line" : `${more.toLocaleString("en-US")} new lines`;
  }

  // The stream. The browser opens it again by itself where the connection is lost, and says which entry
  // it had last.

  let source = null;
  let ended = false;

  function close() {
    source?.close();
    source = null;
  }

  function end() {
    close();
    ended = true;
    $("cut").hidden = true;
    follow.hidden = true;
    still(lines);
    soon();
    poll(head, unfinished);
  }

  function open() {
    const address = new URL(log.dataset.stream, location.href);
    if (attempt) address.searchParams.set("attempt", attempt);
    if (after >= 0) address.searchParams.set("after", after);
    source = new EventSource(address);
    source.addEventListener("open", () => ($("cut").hidden = true));
    source.addEventListener("entry", (event) => {
      const of = event.lastEventId.split(":")[0];
      attempt ||= of;
      // Another attempt has a log of its own, which the head of the page leads to.
      if (of !== attempt) return end();
      const entry = JSON.parse(event.data);
      if (entry.seq <= after) return;
      after = entry.seq;
      waiting.push(entry);
      if (waiting.length >= WAITING) close();
      frame();
    });
    source.addEventListener("state", soon);
    source.addEventListener("end", end);
    source.addEventListener("error", () => {
      $("cut").hidden = false;
      if (source?.readyState !== EventSource.CLOSED) return;
      // The service has refused it, which may pass: it is asked again, but not at once.
      close();
      soon();
      setTimeout(() => source || ended || open(), 5000);
    });
  }

  setFollowing(!linked);
  open();
})();
