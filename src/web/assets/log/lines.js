// The lines of a log, block by block as they are wanted; only those looked at last are kept.

// Blocks that are kept, of up to 256 KiB each, and fetched at a time.
const KEPT = 12;
const AT_ONCE = 3;

// The entries of a block's part, each parsed when it is looked at: of a block of thousands, few are.
class Rows {
  #entries = [];

  get length() {
    return this.#entries.length;
  }

  push(entry) {
    this.#entries.push(entry);
  }

  at(index) {
    const entry = this.#entries[index];
    return typeof entry === "string" ? (this.#entries[index] = JSON.parse(entry)) : entry;
  }

  // Where the entry with this seq is; -1 where there is none.
  indexOf(seq) {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.at(middle).seq < seq) low = middle + 1;
      else high = middle;
    }
    return low < this.length && this.at(low).seq === seq ? low : -1;
  }
}

// What the service has refused to answer.
class Refused extends Error {
  constructor(what, status) {
    super(`${what}: ${status}`);
    this.status = status;
  }
}

class Lines {
  #api;
  #asking;
  #arrived;
  #kept = new Map();
  #wanted = [];
  #loading = new Map();

  // `asking` gives the query of every request; `arrived` is called when lines have come.
  constructor(api, asking, arrived) {
    this.#api = api;
    this.#asking = asking;
    this.#arrived = arrived;
  }

  // The entries of a block's part that are here. Those that are not are fetched.
  rows(block, index) {
    const kept = this.#kept.get(block.first_seq);
    if (kept) {
      this.#kept.delete(block.first_seq);
      this.#kept.set(block.first_seq, kept);
    }
    if (!kept || kept.end < block.first_seq + block.entries) this.#wanted.push(block);
    return kept?.parts.get(index) ?? null;
  }

  // Begins to fetch what has been asked for since this was called last.
  fetch() {
    const wanted = this.#wanted;
    this.#wanted = [];
    for (const block of wanted) {
      if (this.#loading.size >= AT_ONCE) return;
      if (!this.#loading.has(block.first_seq)) this.#load(block).then(this.#arrived, (error) => this.#failed(error));
    }
  }

  // What may pass is asked for again.
  #failed(error) {
    if (isFinal(error.status)) stop(error.status);
    else setTimeout(this.#arrived, 1000);
  }

  // Waits until all lines of a block are here.
  async ready(block) {
    for (;;) {
      const kept = this.#kept.get(block.first_seq);
      if (kept && kept.end >= block.first_seq + block.entries) return;
      await (this.#loading.get(block.first_seq) ?? this.#load(block));
    }
  }

  // Where an entry of a block that is here stands: the part's index, and the row within it.
  find(block, seq) {
    for (const [index, rows] of this.#kept.get(block.first_seq).parts) {
      const row = rows.indexOf(seq);
      if (row >= 0) return { index, row };
    }
    return null;
  }

  #load(block) {
    const loading = this.#read(block).finally(() => this.#loading.delete(block.first_seq));
    this.#loading.set(block.first_seq, loading);
    return loading;
  }

  async #read(block) {
    const kept = this.#kept.get(block.first_seq) ?? { end: block.first_seq, parts: new Map() };
    const end = block.first_seq + block.entries;
    const query = this.#asking();
    query.set("format", "ndjson");
    query.set("before", end);
    if (kept.end > 0) query.set("after", kept.end - 1);
    const answer = await fetch(`${this.#api}?${query}`);
    if (!answer.ok) throw new Refused("the log", answer.status);
    for (const line of (await answer.text()).split("\n")) {
      if (!line) continue;
      const alone = block.parts.length === 1;
      const entry = alone ? line : JSON.parse(line);
      const index = alone ? 0 : Outline.partOf(block, entry);
      if (!kept.parts.has(index)) kept.parts.set(index, new Rows());
      kept.parts.get(index).push(entry);
    }
    kept.end = end;
    this.#kept.set(block.first_seq, kept);
    for (const first of this.#kept.keys()) {
      if (this.#kept.size <= KEPT) break;
      if (!this.#loading.has(first)) this.#kept.delete(first);
    }
  }
}
