// Makes the pages live: copies names, counts running durations on, asks for what has changed. Without it
// every page is read as it is. The server alone makes markup. A log's viewer is in log/.
"use strict";

(() => {
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

  // What asking again does not mend.
  const isFinal = (status) => [401, 403, 404, 410].includes(status);

  // Says, once, that the page is no longer kept up to date, and what to do.
  function stale(status) {
    const signedOut = status === 401;
    const words = signedOut ? "You are signed out" : "This is no longer here, or no longer for this login";
    if ($("stale")) return;
    // What is not known to go on is not counted on.
    for (const element of document.querySelectorAll("[data-since]")) element.removeAttribute("data-since");
    const band = document.createElement("p");
    Object.assign(band, { id: "stale", className: "card band warn" });
    const link = document.createElement("a");
    Object.assign(link, { href: location.href, textContent: signedOut ? "Sign in" : "Reload" });
    link.addEventListener("click", (event) => {
      event.preventDefault();
      location.reload();
    });
    band.append(`${words}: the page stands as it was. `, link);
    main.prepend(band);
    say(words);
  }

  // Whoever types or has chosen something goes on where they were.
  function keepState(old, fresh) {
    if (old.localName === "details") fresh.open = old.open;
    for (const field of old.querySelectorAll("input[id]")) {
      const like = fresh.querySelector(`#${CSS.escape(field.id)}`);
      if (like) [like.checked, like.value] = [field.checked, field.value];
    }
    for (const part of old.querySelectorAll("details[id]")) {
      const like = fresh.querySelector(`#${CSS.escape(part.id)}`);
      if (like) like.open = part.open;
    }
  }

  // Answers whether it is worth while to ask again.
  async function refresh(address) {
    const answer = await fetch(address, { headers: { accept: "text/html" } });
    if (isFinal(answer.status)) {
      stale(answer.status);
      return false;
    }
    if (!answer.ok) return true;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    let more = false;
    for (const fresh of page.querySelectorAll("[data-live][id]")) {
      const old = $(fresh.id);
      more ||= !old;
      if (!old || old.isEqualNode(fresh) || held(old) || old.querySelector(".copied, .menu[open]")) continue;
      const focused = old.contains(document.activeElement) && document.activeElement;
      const state = fresh.dataset.state;
      if (state && state !== old.dataset.state) {
        say(state);
        document.title = page.title;
      }
      const taken = document.importNode(fresh, true);
      keepState(old, taken);
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

  // For the scripts of single pages.
  window.buildgrid = { $, say, copy, duration, offset, lineCount, printable, refresh, poll, isFinal, stale };
})();
