// The sections of a log on the page: a step's heading, which says what is known of the step now, and under it the
// rows that are in sight.

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
  let words = lineCount(entries);
  if (hidden) words = rows ? `${rows.toLocaleString("en-US")} of ${words}` : `${lineCount(hidden)} hidden by the filter`;
  if (count.textContent !== words) count.textContent = words;
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
  const time = printable(end?.took ?? "") || (end?.kind === "cached" ? "cached" : span);
  if (took.textContent !== time) took.replaceChildren(time === "cached" ? made("span", "tag", time) : time);
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
