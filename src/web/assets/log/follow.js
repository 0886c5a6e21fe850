// Following: the service says how far the log is; the outline is asked for what is new of it, and lines are
// fetched where somebody looks. The end stays in sight until the reader scrolls up.

// Between two looks at a log that grows, and after one that failed, in milliseconds.
const PAUSE = 150;
const LATER = 3000;

async function look() {
  const query = asking();
  const last = outline.blocks.at(-1);
  if (last && last.first_seq > 0) query.set("after", last.first_seq - 1);
  const known = new Set(outline.sections.map((section) => section.key));
  const rows = outline.shown;
  for (;;) {
    const answer = await fetch(`${log.dataset.api}/outline?${query}`);
    if (!answer.ok) throw new Refused("the outline", answer.status);
    const found = await answer.json();
    outline.take(found);
    attempt ??= found.attempt;
    const last = found.blocks.at(-1);
    // A log that is outlined at great length is told of in several answers.
    if (!last || last.first_seq + last.entries >= found.next_seq) break;
    query.set("after", last.first_seq + last.entries - 1);
  }
  if (!view.ready) return;
  if (view.live) unfoldNew(known);
  // The end is shown once its lines are here: until then what is on the screen is the newest that there is.
  if (view.following) await Promise.all(ending().map((block) => store.ready(block)));
  arrange();
  missed = view.following ? 0 : missed + outline.shown - rows;
  count();
  redraw();
}

// The blocks that the end of what is open lies in.
function ending() {
  const open = outline.sections.filter((section) => section.open && section.rows).slice(-2);
  return [...new Set(open.flatMap((section) => section.parts.slice(-2).map(({ block }) => block)))];
}

// Only the running step is open, unless somebody is reading.
function unfoldNew(known) {
  const fresh = outline.sections.filter((section) => section.step !== null && !known.has(section.key));
  if (!fresh.length) return;
  for (const section of outline.sections) {
    if (view.following && section.step !== null && !isFailing(section)) fold(section, false);
  }
  fold(fresh.at(-1), true);
}

function fold(section, open) {
  section.open = open;
  if (section.node && section.step !== null) section.node.open = open;
}

function count() {
  const all = outline.sections.reduce((sum, section) => sum + section.entries, 0);
  const words = outline.shown < all ? `${outline.shown.toLocaleString("en-US")} of ${lineCount(all)}` : lineCount(all);
  $("count").textContent = words;
  const pill = $("pill");
  pill.hidden = view.following || !view.live || missed === 0;
  pill.lastElementChild.textContent = missed === 1 ? "1 new line" : `${missed.toLocaleString("en-US")} new lines`;
}

// Lines that have come while nobody followed.
let missed = 0;

function setFollowing(on) {
  view.following = on && view.live;
  $("follow").setAttribute("aria-pressed", view.following);
  if (!view.following) return count();
  missed = 0;
  count();
  const last = outline.sections.findLast((section) => section.step !== null);
  if (last && !outline.sections.some((section) => section.open && section.step !== null)) fold(last, true);
  toEnd();
  redraw();
}
$("follow").addEventListener("click", () => setFollowing(!view.following));
$("pill").addEventListener("click", () => setFollowing(true));

view.last = scrollY;
addEventListener("scroll", () => {
  const bottom = document.documentElement.scrollHeight - innerHeight;
  // What is folded brings the end nearer, which is no reader's doing.
  if (view.following && scrollY < view.last - 1 && scrollY < bottom - 1) setFollowing(false);
  view.last = scrollY;
  kept = anchor();
  redraw();
}, { passive: true });

// The page without its lines, for what stands around them.
function headOnly() {
  const address = new URL(log.dataset.page, location.href);
  const now = new URLSearchParams(location.search);
  for (const [name, value] of now) address.searchParams.set(name, value);
  // What stands around the lines is said of their attempt, also when another counts by now.
  if (attempt) address.searchParams.set("attempt", attempt);
  address.searchParams.set("from", 1e12);
  return address.href;
}
let asked = 0;
function soon() {
  clearTimeout(asked);
  asked = setTimeout(async () => {
    try {
      if (!(await refresh(headOnly()))) halt();
      count();
      redraw();
    } catch {
      // The service is away for a moment; what is on the page stays.
    }
  }, 200);
}
const unfinished = () => $("head").hasAttribute("data-open");

// Nothing more is asked for: the service has refused it, and will do so again.
function halt() {
  source?.close();
  clearTimeout(looking);
  if (view.live) $("rest").textContent = "no longer live";
  [view.live, again, halted] = [false, false, true];
  $("cut").hidden = true;
  setFollowing(false);
  $("follow").hidden = true;
}
function stop(status) {
  stale(status);
  halt();
}
let halted = false;

let source = null;
let looking = 0;
let again = false;

// One look at a time, and a pause between them, however fast the log grows.
function grown(pause = PAUSE) {
  if (looking || halted) return (again = !halted);
  looking = setTimeout(async () => {
    again = false;
    let next = PAUSE;
    try {
      await look();
      await findMore();
    } catch (error) {
      looking = 0;
      if (isFinal(error.status)) return stop(error.status);
      [again, next] = [true, LATER];
    }
    looking = 0;
    if (again) grown(next);
    else if (over) finish();
  }, pause);
}

// Nothing more will come: a last look, to the end of it.
let over = false;
function end() {
  source.close();
  over = true;
  $("cut").hidden = true;
  grown();
}

function finish() {
  draw();
  view.live = false;
  setFollowing(false);
  $("follow").hidden = true;
  arrange();
  redraw();
  soon();
  if (unfinished()) poll(headOnly, unfinished);
}

function listen() {
  const address = new URL(`${log.dataset.api}/outline`, location.href);
  address.search = log.dataset.query;
  // From the beginning: a place in this attempt's log is none in the next one's.
  source = new EventSource(address);
  source.addEventListener("open", () => ($("cut").hidden = true));
  source.addEventListener("grown", (event) => {
    const { attempt: of } = JSON.parse(event.data);
    attempt ??= of;
    if (of === attempt) return grown();
    end();
  });
  source.addEventListener("state", soon);
  source.addEventListener("end", end);
  source.addEventListener("error", () => {
    $("cut").hidden = false;
    if (source.readyState !== EventSource.CLOSED) return;
    // The service has refused it, which may pass: it is asked again, but not at once.
    soon();
    setTimeout(() => view.live && listen(), LATER);
  });
}
