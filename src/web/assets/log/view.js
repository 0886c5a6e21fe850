// What is in sight: a log of any length has no more of its lines on the page than fill a few screens. Above and
// below them stand empty pictures, as high as what is missing; until lines have been seen, one row each is taken
// for them. Whatever turns out to be higher moves what is below, and never what somebody reads.

// Rows that are made and measured together, and how high one is that is not wrapped.
const ROWS = 100;
const ROW = 20;
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

// Sections

function build(section) {
  if (section.step === null) {
    section.node = made("div", "run");
  } else {
    section.node = $("run").content.firstElementChild.cloneNode(true);
    const step = printable(section.step);
    const split = step.startsWith("[") ? step.indexOf("] ") + 2 : 0;
    const [mark, command] = section.node.querySelector(".step").children;
    mark.textContent = step.slice(0, split > 1 ? split : 0);
    command.textContent = step.slice(split > 1 ? split : 0);
    section.node.open = section.open;
    section.node.addEventListener("toggle", () => {
      if (section.open !== section.node.open) unfold(section, section.node.open);
    });
  }
  section.node.section = section;
  section.before = made("button", "part bare-part");
  section.before.hidden = true;
  section.after = section.before.cloneNode();
  section.before.addEventListener("click", () => {
    section.skip = Math.max(0, section.skip - SPAN);
    section.stale = true;
    redraw();
  });
  section.after.addEventListener("click", () => {
    section.skip += SPAN / 2;
    section.stale = true;
    redraw();
  });
  section.above = space();
  section.below = space();
  section.shown = new Map();
  section.body = made("div", "body", section.before, section.above, section.below, section.after);
  section.node.append(section.body);
}

function space() {
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("class", "space");
  picture.setAttribute("aria-hidden", "true");
  return picture;
}

function unfold(section, open) {
  // Folding from within, under a heading that sticks, leads back to the heading.
  const top = section.node.getBoundingClientRect().top;
  section.open = open;
  if (section.step !== null) section.node.open = open;
  if (!open && top < ceiling()) scrollBy({ top: top - ceiling(), behavior: "instant" });
  redraw();
}

// Whether the build failed at this step.
const isFailing = (section) => section.step !== null && printable(section.step) === log.dataset.failing;

// The lines at which steps failed; of one that has not said so, the last.
function failures() {
  return outline.sections.flatMap((section) =>
    section.failed.length || !isFailing(section) ? section.failed : [section.parts.at(-1).block.parts[section.parts.at(-1).index].last_seq],
  );
}

// Headings say what is known now.
function head(section, last) {
  if (section.step === null) return;
  const { node, end, rows, entries } = section;
  const hidden = entries - rows;
  const count = node.querySelector(".count");
  count.textContent =
    hidden && !rows ? `${lineCount(hidden)} hidden by the filter` : hidden ? `${rows.toLocaleString("en-US")} of ${lineCount(entries)}` : lineCount(entries);
  node.classList.toggle("hollow", !rows);
  const failing = isFailing(section);
  node.classList.toggle("failing", failing || end?.kind === "failed");
  const kind = failing ? "failed" : (end?.kind ?? (view.live && section === last ? "live" : ""));
  const icon = node.querySelector(".icon");
  if (icon.dataset.end !== kind) {
    const known = $("ends").content.querySelector(`[data-end="${kind}"]`);
    const fresh = known ? known.cloneNode(true) : made("span", "icon");
    fresh.dataset.end = kind;
    icon.replaceWith(fresh);
  }
  const took = node.querySelector(".took");
  const span = section.lastAt > section.firstAt && kind !== "live" ? offset(section.lastAt - section.firstAt) : "";
  const words = end ? printable(end.took ?? "") || (end.kind === "cached" ? "cached" : span) : span;
  if (took.textContent !== words) took.replaceChildren(words === "cached" ? made("span", "tag", words) : words);
}

// Brings the sections to where the outline is.
function arrange() {
  const last = outline.sections.findLast((section) => section.step !== null);
  let previous = null;
  for (const section of outline.sections) {
    if (!section.node) build(section);
    head(section, last);
    section.stale = true;
    const place = previous ? previous.node.nextElementSibling : root.firstElementChild;
    if (place !== section.node) root.insertBefore(section.node, place);
    previous = section;
  }
  // What was there before the script, and sections that are no more.
  while (previous ? previous.node.nextElementSibling : root.firstElementChild) root.lastElementChild.remove();
  const digits = `digits-${String(Math.max(999, outline.next)).length}`;
  log.className = `card log viewer ${digits}${view.wrap ? "" : " unwrapped"}${view.absolute ? " absolute" : ""}`;
}

// Chunks: rows that are made together

const heights = new Map();

function chunks(section) {
  if (!section.stale) return section.chunks;
  section.stale = false;
  const list = [];
  const end = Math.min(section.rows, section.skip + SPAN);
  for (const { block, index, before } of section.parts) {
    const rows = block.parts[index].matching;
    const to = Math.min(rows, end - before);
    for (let from = Math.max(0, section.skip - before); from < to; from += ROWS) {
      list.push({ key: `${block.first_seq}.${index}.${from}`, block, index, from, rows: Math.min(ROWS, to - from) });
    }
  }
  section.chunks = list;
  measure(section);
  return list;
}

// Where each chunk begins; the last number is where the section ends.
function measure(section) {
  const offsets = new Float64Array(section.chunks.length + 1);
  section.chunks.forEach((chunk, index) => (offsets[index + 1] = offsets[index] + height(chunk)));
  section.offsets = offsets;
}

function height(chunk) {
  const known = heights.get(chunk.key);
  return known ? known.height + (chunk.rows - known.rows) * ROW : chunk.rows * ROW;
}

// The first of `offsets` that is greater than `at`.
function above(offsets, at) {
  let low = 0;
  let high = offsets.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (offsets[middle] <= at) low = middle + 1;
    else high = middle;
  }
  return low;
}

function fill(shown, section) {
  const { chunk, node } = shown;
  const rows = store.rows(chunk.block, chunk.index);
  const there = rows ? rows.slice(chunk.from + shown.rows, chunk.from + chunk.rows) : [];
  there.forEach((entry, index) => {
    const before = rows[chunk.from + shown.rows + index - 1];
    node.insertBefore(row(entry, section, before), shown.rest);
  });
  shown.rows += there.length;
  const missing = chunk.rows - shown.rows;
  shown.rest.setAttribute("height", missing * ROW);
  shown.whole = missing === 0;
}

function row(entry, section, before) {
  const number = entry.seq + 1;
  const own = entry.stream === "status" && (entry.step === null || !/^failed after /.test(entry.text));
  const failed = entry.stream === "status" && !own;
  const line = made("div", `l${failed ? " fail" : own ? " own" : ""}`);
  line.id = `L${number}`;
  line.seq = entry.seq;
  const link = made("a", "n", String(number));
  link.href = `#L${number}`;
  const time = made("span", "t", moment(entry, section));
  line.append(link, time);
  if (!view.origins && (entry.pod !== null || entry.service !== null)) {
    view.origins = true;
    setTimeout(repaint);
  }
  if (view.origins) line.append(origin(entry));
  if (before && before.pod === entry.pod && before.service === entry.service) line.classList.add("same");
  const text = made("span", "x");
  paint(text, entry.text, view.pattern);
  line.append(text);
  mark(line);
  return line;
}

// Service and pod, of which the end tells it from the others.
function origin({ service, pod }) {
  const from = made("span", "p");
  if (service !== null) from.append(made("span", tint(service), printable(service)));
  if (pod !== null) from.append(service === null ? printable(pod) : `·${printable(pod.split("-").at(-1))}`);
  from.title = printable(pod ?? service ?? "");
  return from;
}

function moment(entry, section) {
  if (view.absolute) return entry.at.slice(11, 23);
  return offset(Date.parse(entry.at) - (section.step === null ? start : section.firstAt));
}

// Services take turns in two colours, by the order in which they were seen.
const tints = new Map();
function tint(service) {
  if (!tints.has(service)) tints.set(service, ["teal", "purple"][tints.size % 2]);
  return tints.get(service);
}

function mark(line) {
  line.classList.toggle("linked", line.seq >= view.linked[0] && line.seq <= view.linked[1]);
  line.classList.toggle("sought", line.seq === view.current);
}

// Makes every row anew, in other looks.
function repaint() {
  for (const section of outline.sections) {
    for (const { node } of section.shown?.values() ?? []) node.remove();
    section.shown?.clear();
  }
  redraw();
}

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
  const seen = kept && !view.following && scrollY > 0 ? kept : null;
  const open = outline.sections.filter((section) => section.open && section.node);
  // All that is asked of the page, before anything in it is changed.
  const tops = open.map((section) => section.above.getBoundingClientRect().top);
  open.forEach((section, index) => show(section, tops[index]));
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
      const known = heights.get(chunk.key);
      if (Math.abs(height(chunk) - measured) < 0.5 && known?.rows === chunk.rows) continue;
      heights.set(chunk.key, { height: measured, rows: chunk.rows });
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
  if (changed) redraw();
}

// Puts on the page what is near the screen, which `top` is the section's distance from.
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
    if (shown.rows < chunk.rows) fill(shown, section);
    if (place.nextSibling !== shown.node) place.after(shown.node);
    place = shown.node;
  }
  pad(section);
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

// Going somewhere

// The section and the row of an entry; none where the filters hide it, or it is not there.
async function locate(seq) {
  const block = outline.blockOf(seq);
  if (!block) return null;
  await store.ready(block);
  const found = store.find(block, seq);
  if (!found) return null;
  const { section } = block.parts[found.index];
  const part = section.parts.find((part) => part.block.first_seq === block.first_seq && part.index === found.index);
  return part ? { section, row: part.before + found.row } : null;
}

// Opens the step of an entry and brings it into sight; answers its line.
async function reveal(seq) {
  const found = await locate(seq);
  if (!found) return null;
  const { section, row: at } = found;
  view.following = false;
  kept = null;
  if (at < section.skip || at >= section.skip + SPAN) section.skip = at < SPAN / 2 ? 0 : Math.floor(at - SPAN / 2);
  section.open = true;
  section.stale = true;
  if (section.step !== null) section.node.open = true;
  const list = chunks(section);
  let before = section.skip;
  let index = 0;
  while (index < list.length && before + list[index].rows <= at) before += list[index++].rows;
  pad(Object.assign(section, { range: section.range ?? [0, 0] }));
  const wanted = () => ceiling() + (innerHeight - ceiling()) / 3;
  for (let tries = 0; tries < 4; tries++) {
    const line = $(`L${seq + 1}`);
    const top = line
      ? line.getBoundingClientRect().top
      : section.above.getBoundingClientRect().top + section.offsets[index] + (at - before) * ROW;
    shift(top - wanted());
    kept = null;
    draw();
    if (line && Math.abs(line.getBoundingClientRect().top - wanted()) < ROW) break;
  }
  kept = anchor();
  return $(`L${seq + 1}`);
}

// Lines of the address: #L10, #L10-L20.
function linked() {
  const [, from, to] = /^#L(\d{1,15})(?:-L(\d{1,15}))?$/.exec(location.hash) ?? [];
  if (!from) return null;
  const ends = [Number(from) - 1, Number(to ?? from) - 1];
  return [Math.min(...ends), Math.max(...ends)];
}

async function goLinked() {
  const ends = linked();
  view.linked = ends ?? [0, -1];
  for (const line of root.querySelectorAll(".l")) mark(line);
  if (ends && !(await reveal(ends[0]))) say(`Line ${ends[0] + 1} is not shown`);
}

root.addEventListener("click", (event) => {
  const link = event.target.closest("a.n");
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const { seq } = link.parentElement;
  const first = view.linked[0] <= view.linked[1] ? view.linked[0] : seq;
  const [from, to] = event.shiftKey ? [Math.min(first, seq), Math.max(first, seq)] : [seq, seq];
  history.replaceState(history.state, "", to > from ? `#L${from + 1}-L${to + 1}` : `#L${from + 1}`);
  view.linked = [from, to];
  for (const line of root.querySelectorAll(".l")) mark(line);
});

// The ruler: where failures and hits are in the whole of the log

const ruler = document.createElementNS("http://www.w3.org/2000/svg", "svg");
ruler.setAttribute("class", "ruler");
ruler.setAttribute("aria-hidden", "true");
ruler.setAttribute("width", 12);

// Where an entry is in the log's height, near enough for a mark.
function depth(seq, top) {
  const part = outline.blockOf(seq)?.parts.find((part) => part.first_seq <= seq && seq <= part.last_seq && part.matching);
  const section = part?.section;
  if (!section?.node?.isConnected) return null;
  const head = section.node.getBoundingClientRect().top - top + 16;
  if (!section.open || !section.offsets) return head;
  const own = section.parts.find((own) => own.block.parts[own.index] === part);
  const within = own.before + (part.matching * (seq - part.first_seq)) / (part.last_seq - part.first_seq + 1);
  const share = (within - section.skip) / Math.max(1, Math.min(section.rows - section.skip, SPAN));
  return head + Math.max(0, Math.min(1, share)) * section.offsets.at(-1);
}

let ruled = "";
function rule() {
  const box = root.getBoundingClientRect();
  const tall = Math.max(0, Math.min(box.height, innerHeight - ceiling()));
  const marks = new Map();
  const put = (seqs, kind) => {
    for (const seq of seqs) {
      const at = depth(seq, box.top);
      if (at !== null) marks.set(`${Math.round((at / box.height) * (tall - 6))}`, `${kind}:${seq}`);
    }
  };
  // More marks than pixels say nothing.
  put(search.seqs.slice(0, 2000), "hit");
  put(failures(), "failure");
  const now = [tall, ...marks].join();
  if (now === ruled) return;
  ruled = now;
  ruler.setAttribute("height", tall);
  const rects = [...marks].map(([y, what]) => {
    const [kind, seq] = what.split(":");
    const rect = document.createElementNS(ruler.namespaceURI, "rect");
    for (const [name, value] of Object.entries({ class: kind, x: 1, y, width: 9, height: kind === "hit" ? 3 : 5 })) {
      rect.setAttribute(name, value);
    }
    rect.addEventListener("click", () => reveal(Number(seq)));
    return rect;
  });
  ruler.replaceChildren(...rects);
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
// What changes above the log moves nothing in it.
new ResizeObserver(() => hold()).observe($("main"));
