// Keys, and the beginning of it all.

const steps = () => outline.sections.filter((section) => section.step !== null);

// The step at the top of the screen, or the one whose heading has the focus.
function here() {
  const focused = document.activeElement?.closest?.(".run")?.section;
  if (focused?.step != null) return focused;
  const top = ceiling() + 1;
  return steps().find((section) => section.node.getBoundingClientRect().bottom > top) ?? steps().at(-1);
}

function toStep(by) {
  const all = steps();
  const now = all.indexOf(here());
  const next = all[Math.max(0, Math.min(all.length - 1, now + by))];
  if (!next) return;
  setFollowing(false);
  const heading = next.node.querySelector("summary");
  heading.focus({ preventScroll: true });
  const { top, bottom } = heading.getBoundingClientRect();
  if (top < ceiling() || bottom > innerHeight) shift(next.node.getBoundingClientRect().top - ceiling());
}

function foldAll() {
  const open = steps().some((section) => !section.open);
  // As many as a page can be high.
  let room = SPAN;
  for (const section of steps()) {
    fold(section, open && room > 0);
    room -= Math.min(section.rows, SPAN);
  }
  redraw();
}

async function nextFailure() {
  const failed = failures();
  if (!failed.length) return say("No step has failed");
  const now = view.linked[0] <= view.linked[1] ? view.linked[0] : -1;
  const seq = failed.find((seq) => seq > now) ?? failed[0];
  history.replaceState(history.state, "", `#L${seq + 1}`);
  view.linked = [seq, seq];
  setFollowing(false);
  await reveal(seq);
  for (const line of root.querySelectorAll(".l")) mark(line);
}

const KEYS = {
  f: () => field.select(),
  n: () => step(1),
  N: () => step(-1),
  j: () => toStep(1),
  k: () => toStep(-1),
  o: () => here() && unfold(here(), !here().open),
  O: foldAll,
  e: nextFailure,
  l: () => setFollowing(!view.following),
  w: () => setWrap(!view.wrap),
  t: () => setTimes(!view.absolute),
  y: () => document.querySelector(".image [data-copy]")?.click(),
  "?": () => $("keys").showModal(),
  Escape: clearSearch,
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey && !event.altKey && !event.shiftKey && event.key === "f") {
    event.preventDefault();
    return field.select();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  if (event.target.closest?.("input, textarea, select")) return;
  if (event.key === "End" && view.live) {
    event.preventDefault();
    return setFollowing(true);
  }
  const act = Object.hasOwn(KEYS, event.key) && KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

$("help").addEventListener("click", () => $("keys").showModal());
$("wrap").addEventListener("click", () => setWrap(!view.wrap));

// What is open at first: the step that has failed, of a live log the one that runs, the only one.
function openFirst() {
  const all = steps();
  const failing = all.find(isFailing) ?? all.findLast((section) => section.failed.length);
  if ("endedBadly" in log.dataset && (failing ?? all.at(-1))) {
    const section = failing ?? all.at(-1);
    section.open = true;
    if (section.rows > 2 * CONTEXT) section.skip = section.rows - CONTEXT;
  } else if (all.length && (view.live || all.length === 1 || view.absolute)) {
    (all.findLast((section) => section.rows) ?? all.at(-1)).open = true;
  }
}

async function begin() {
  try {
    await look();
  } catch {
    // What the page came with stays; it is read by its links.
    return;
  }
  openFirst();
  const far = linked() ?? [];
  // The lines that are seen first come before those that the page came with go.
  await Promise.allSettled(ending().map((block) => store.ready(block)));
  for (const plain of document.querySelectorAll(".part.plain")) plain.remove();
  view.ready = true;
  arrange();
  count();
  for (const id of ["wrap", "help", ...(view.live ? ["follow"] : [])]) $(id).hidden = false;
  log.append(made("div", "track", ruler));
  log.classList.add("viewer");
  if (view.live) listen();
  setFollowing(view.live && !far.length && !field.value);
  draw();
  log.dataset.ready = "";
  if (far.length) await goLinked();
  if (field.value) await find(field.value, !far.length);
}
addEventListener("hashchange", () => view.ready && goLinked());
if (!("gone" in log.dataset)) begin();
