// Rows, and the chunks of them that are made and measured together.

const heights = new Map();

function chunks(section) {
  if (!section.stale) return section.chunks;
  section.stale = false;
  // The end of a section is not lost by its growth.
  while (view.following && section.rows > section.skip + SPAN) section.skip += SPAN / 2;
  const list = [];
  const end = Math.min(section.rows, section.skip + SPAN);
  for (const { block, index, before } of section.parts) {
    const rows = block.parts[index].matching;
    const to = Math.min(rows, end - before);
    for (let from = Math.max(0, section.skip - before); from < to; from += ROWS) {
      const key = `${block.first_seq}.${index}.${from}`;
      list.push({ key, block, index, from, rows: Math.min(ROWS, to - from), known: heights.get(key) });
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

function height({ known, rows }) {
  return known ? known.height + (rows - known.rows) * ROW : rows * ROW;
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

// Makes those rows of a chunk whose lines are here.
function fill(shown, section) {
  const { chunk, node } = shown;
  const rows = store.rows(chunk.block, chunk.index);
  const end = Math.min(chunk.from + chunk.rows, rows?.length ?? 0);
  const fresh = document.createDocumentFragment();
  for (let at = chunk.from + shown.rows; at < end; at++, shown.rows++) {
    fresh.append(row(rows.at(at), section, at > 0 ? rows.at(at - 1) : null));
  }
  node.insertBefore(fresh, shown.rest);
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
