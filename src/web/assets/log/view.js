// What is in sight: a log of any length has no more of its lines on the page than fill a few screens. Above and
// below them stand empty pictures, as high as what is missing; until lines have been seen, one row each is taken
// for them. Whatever turns out to be higher moves what is below, and never what somebody reads.

// Rows that are made and measured together, and how high one is that is not wrapped.
const ROWS = 50;
const ROW = 20;
// How long rows may be made that are not in sight yet, in milliseconds of each frame.
const SPARE = 4;
// Rows of a section at most: a page that is higher than browsers can count is of no use. Others are a click away.
const SPAN = 500000;
// Lines that are shown of a failing step before its end.
const CONTEXT = 20;

const log = $("log");
const root = $("lines");
const outline = new Outline();
const store = new Lines(log.dataset.api, asking, () => redraw());
const start = Date.parse(log.dataset.start);

// Whose log it is: the attempt that counted when it was first asked for. A successor has a log of its own, which
// the head of the page leads to.
let attempt = null;

// What is asked for in every request: the filters.
function asking() {
  const query = new URLSearchParams(log.dataset.query);
  if (attempt) query.set("attempt", attempt);
  return query;
}

const view = {
  // The lines that the address names, and the one that is looked at of those that were found.
  linked: [0, -1],
  current: -1,
  pattern: null,
  wrap: true,
  absolute: "absolute" in log.dataset,
  // Whether lines say where they come from.
  origins: "origins" in log.dataset,
  // Whether the end stays in sight, and whether more may come.
  following: false,
  live: "open" in log.dataset,
  // Whether the page's own lines have given way.
  ready: false,
};

// Drawing

let drawing = 0;
function redraw() {
  drawing ||= requestAnimationFrame(draw);
}

// Where the log begins to be seen, below the toolbar.
const ceiling = () => Math.max(0, $("tools").getBoundingClientRect().bottom);

// The first line or heading that is seen, which stays where it is.
function anchor() {
  const top = ceiling();
  for (const section of outline.sections) {
    if (!section.node || section.node.getBoundingClientRect().bottom <= top) continue;
    for (const chunk of section.body.querySelectorAll(":scope > .chunk")) {
      if (chunk.getBoundingClientRect().bottom <= top) continue;
      for (const line of chunk.children) {
        const box = line.getBoundingClientRect();
        if (line.id && box.bottom > top) return { id: line.id, top: box.top };
      }
    }
    const box = section.node.getBoundingClientRect();
    return { node: section.node, top: box.top };
  }
  return null;
}

let kept = null;
function hold() {
  if (!kept || view.following) return;
  const node = kept.node ?? $(kept.id);
  const moved = node ? node.getBoundingClientRect().top - kept.top : 0;
  if (Math.abs(moved) >= 1) shift(moved);
}

// Scrolls without being taken for a reader who scrolls.
function shift(by) {
  scrollBy({ top: by, behavior: "instant" });
  view.last = scrollY;
}

function draw() {
  drawing = 0;
  const until = performance.now() + SPARE;
  const seen = kept && !view.following && scrollY > 0 ? kept : null;
  const open = outline.sections.filter((section) => section.open && section.node);
  // All that is asked of the page, before anything in it is changed.
  const tops = open.map((section) => section.above.getBoundingClientRect().top);
  let later = [];
  open.forEach((section, index) => later.push(...show(section, tops[index])));
  later = later.filter(([shown, section]) => {
    if (performance.now() > until) return true;
    fill(shown, section);
    return false;
  });
  for (const section of outline.sections) {
    if (!section.open && section.shown?.size) {
      for (const { node } of section.shown.values()) node.remove();
      section.shown.clear();
    }
  }
  store.fetch();
  let changed = false;
  for (const section of open) {
    let other = false;
    for (const { chunk, node, whole } of section.shown.values()) {
      if (!whole) continue;
      const measured = node.getBoundingClientRect().height;
      if (Math.abs(height(chunk) - measured) < 0.5 && chunk.known?.rows === chunk.rows) continue;
      chunk.known = { height: measured, rows: chunk.rows };
      heights.set(chunk.key, chunk.known);
      other = true;
    }
    if (!other) continue;
    measure(section);
    pad(section);
    changed = true;
  }
  if (view.following) toEnd();
  else if (seen) hold();
  kept = anchor();
  rule();
  markStep();
  if (changed || later.length) redraw();
}

// Puts on the page what is near the screen, which `top` is the section's distance from. Rows that are in sight are
// made at once; answers the chunks whose rows may come later.
function show(section, top) {
  const list = chunks(section);
  const offsets = section.offsets;
  const from = Math.max(0, above(offsets, -innerHeight - top) - 1);
  const to = Math.min(list.length, above(offsets, 2 * innerHeight - top));
  section.range = [Math.min(from, to), to];
  const wanted = new Set();
  for (let i = section.range[0]; i < to; i++) wanted.add(list[i].key);
  for (const [key, shown] of section.shown) {
    if (wanted.has(key)) continue;
    shown.node.remove();
    section.shown.delete(key);
  }
  const later = [];
  let place = section.above;
  for (let i = section.range[0]; i < to; i++) {
    const chunk = list[i];
    let shown = section.shown.get(chunk.key);
    if (!shown) {
      const rest = space();
      shown = { node: made("div", "chunk", rest), rest, rows: 0, whole: false };
      section.shown.set(chunk.key, shown);
    }
    shown.chunk = chunk;
    if (shown.rows < chunk.rows) {
      const seen = offsets[i + 1] + top > 0 && offsets[i] + top < innerHeight;
      if (seen) fill(shown, section);
      else if (shown.rows < available(chunk)) later.push([shown, section]);
      shown.rest.setAttribute("height", (chunk.rows - shown.rows) * ROW);
    }
    if (place.nextSibling !== shown.node) place.after(shown.node);
    place = shown.node;
  }
  pad(section);
  return later;
}

// How many rows of a chunk could be made.
function available(chunk) {
  return Math.min(chunk.rows, Math.max(0, (store.rows(chunk.block, chunk.index)?.length ?? 0) - chunk.from));
}

// The step in view: at the beginning of the log the one at the top of the screen, at its end the one at the bottom,
// so that each has its turn.
function stepInView() {
  const { sections } = outline;
  const far = document.documentElement.scrollHeight - innerHeight;
  const at = ceiling() + 1 + (innerHeight - ceiling() - 2) * (far > 0 ? Math.min(1, scrollY / far) : 0);
  let low = 0;
  let high = sections.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (!sections[middle].node || sections[middle].node.getBoundingClientRect().top > at) high = middle;
    else low = middle + 1;
  }
  const found = sections[low - 1] ?? sections[0];
  // A log that is shorter than the screen is read where it is open.
  return far > 0 ? found : (sections.find((section) => section.open && section.step !== null) ?? found);
}

// It is marked in the rail.
function markStep() {
  const rail = $("rail");
  if (!rail) return;
  const section = stepInView();
  const now = rail.querySelector("[aria-current=step]");
  const part = section?.step != null && section.parts[0];
  const next = part ? rail.querySelector(`[href="#L${part.block.parts[part.index].first_seq + 1}"]`) : null;
  if (now === next || (!now && !next)) return;
  now?.removeAttribute("aria-current");
  next?.setAttribute("aria-current", "step");
  // Within the rail alone: the page is the reader's.
  if (next && rail.scrollHeight > rail.clientHeight) {
    const [box, frame] = [next.getBoundingClientRect(), rail.getBoundingClientRect()];
    if (box.top < frame.top || box.bottom > frame.bottom) rail.scrollTop += box.top - frame.top - frame.height / 2;
  }
}

function pad(section) {
  const [from, to] = section.range;
  const { offsets } = section;
  section.above.setAttribute("height", offsets[from]);
  section.below.setAttribute("height", offsets.at(-1) - offsets[to]);
  const rest = section.rows - section.skip - SPAN;
  section.before.hidden = section.skip === 0;
  section.before.textContent = `Show ${lineCount(section.skip).replace(/ /, " earlier ")} of this step`;
  section.after.hidden = rest <= 0;
  section.after.textContent = `Show ${lineCount(Math.max(0, rest)).replace(/ /, " more ")} of this step`;
}

function toEnd() {
  scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  view.last = scrollY;
}

// Looks

function setWrap(on) {
  view.wrap = on;
  $("wrap").setAttribute("aria-pressed", on);
  log.classList.toggle("unwrapped", !on);
  heights.clear();
  for (const section of outline.sections) section.stale = true;
  redraw();
}

function setTimes(absolute) {
  view.absolute = absolute;
  log.classList.toggle("absolute", absolute);
  say(absolute ? "Time of day, UTC" : "Time since the step began");
  repaint();
}

let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) {
    width = innerWidth;
    heights.clear();
    for (const section of outline.sections) section.stale = true;
  }
  redraw();
});
// A rail that was brought up to date has to be marked anew.
if ($("rail")) new MutationObserver(redraw).observe($("rail").parentElement, { childList: true });
// What changes above the log moves nothing in it.
new ResizeObserver(() => hold()).observe($("main"));
