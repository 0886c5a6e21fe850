// Going somewhere: to a line by its number, and by the address.

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
