// Search: the service looks through all lines, folded ones too, and says which have the words.

const search = { words: "", seqs: [], count: 0, next: 0, at: -1, run: 0, abort: new AbortController() };
const field = $("q");

function escaped(words) {
  return words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

async function hits(after) {
  const query = asking();
  query.set("q", search.words);
  if (after >= 0) query.set("after", after);
  const answer = await fetch(`${log.dataset.api}/hits?${query}`, { signal: search.abort.signal });
  if (!answer.ok) throw new Refused("the search", answer.status);
  return answer.json();
}

// Looks for words; goes to the first hit.
async function find(words, go = true) {
  if (words === search.words) return;
  const run = ++search.run;
  // Nobody waits for the words that were looked for before, and the service need not look on for them.
  search.abort.abort();
  Object.assign(search, { words, seqs: [], count: 0, next: 0, at: -1, abort: new AbortController() });
  view.pattern = words ? new RegExp(escaped(printable(words)), "giu") : null;
  view.current = -1;
  const address = new URL(location.href);
  if (words) address.searchParams.set("q", words);
  else address.searchParams.delete("q");
  history.replaceState(history.state, "", address);
  if (words) {
    try {
      const found = await hits(-1);
      if (run !== search.run) return;
      Object.assign(search, { seqs: found.seqs, count: found.count, next: found.next_seq });
    } catch (error) {
      if (run !== search.run) return;
      if (isFinal(error.status)) stale(error.status);
      say("The search failed; try again");
    }
  }
  if (run !== search.run) return;
  repaint();
  tell();
  if (go && search.seqs.length) await step(1);
}

// What has come since: the same words in the new lines.
async function findMore() {
  if (!search.words || search.next >= outline.next) return;
  const run = search.run;
  const found = await hits(search.next - 1).catch((error) => {
    if (run === search.run) throw error;
  });
  if (run !== search.run) return;
  // Where not all were told, the next ones are those that follow the last one known.
  if (search.seqs.length === search.count) search.seqs.push(...found.seqs);
  search.count += found.count;
  search.next = found.next_seq;
  tell();
}

async function step(by) {
  if (!search.seqs.length) return;
  const run = search.run;
  let at = search.at + by;
  if (at >= search.seqs.length && search.seqs.length < search.count) {
    const found = await hits(search.seqs.at(-1));
    if (run !== search.run) return;
    search.seqs.push(...found.seqs);
  }
  at = (at + search.seqs.length) % search.seqs.length;
  search.at = at;
  view.current = search.seqs[at];
  setFollowing(false);
  tell();
  await reveal(view.current);
  for (const line of root.querySelectorAll(".l")) mark(line);
}

function tell() {
  const number = (count) => count.toLocaleString("en-US");
  $("hits").hidden = !search.words;
  $("hit-before").hidden = $("hit-after").hidden = !search.count;
  $("hit-count").textContent = search.count ? `${number(search.at + 1)} of ${number(search.count)}` : "none";
  const none = $("none");
  none.hidden = !search.words || search.count > 0;
  if (none.hidden) return;
  const [title, text] = none.querySelectorAll("p");
  title.firstElementChild.textContent = `No line has “${printable(search.words)}”`;
  const all = outline.sections.reduce((sum, section) => sum + section.entries, 0);
  const filtered = outline.shown < all;
  text.textContent = filtered ? `${number(outline.shown)} of ${lineCount(all)} searched.` : `${lineCount(all)} searched.`;
  const address = new URL(log.dataset.page, location.href);
  const fixed = new URLSearchParams(log.dataset.query);
  for (const name of ["attempt", "namespace"]) if (fixed.has(name)) address.searchParams.set(name, fixed.get(name));
  address.searchParams.set("q", search.words);
  $("search-all").href = address;
  $("search-all").hidden = !filtered;
}

let typed = 0;
field.addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => find(field.value), 250);
});
field.form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typed);
  if (field.value !== search.words) find(field.value);
  else step(1);
});
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.shiftKey) {
    event.preventDefault();
    step(-1);
  } else if (event.key === "Escape") {
    clearSearch();
    field.blur();
  }
});
function clearSearch() {
  clearTimeout(typed);
  field.value = "";
  find("");
}
$("clear").addEventListener("click", clearSearch);
$("hit-before").addEventListener("click", () => step(-1));
$("hit-after").addEventListener("click", () => step(1));
