// A log by its steps, from the outline that the service gives: what there is, where, and how much of it the
// filters leave. It knows no line.

// Sections at most. Lines of more steps than these stand in the last one.
const SECTIONS = 2000;

// Parts of a block, at most.
const MAX_PARTS = 256;

class Outline {
  blocks = [];
  sections = [];
  // Entries that are stored, and of these the ones that are shown.
  next = 0;
  shown = 0;
  complete = false;
  // What is known of a section (whether it is open, its element) outlives a change.
  #known = new Map();

  // Takes an answer of the service, whose blocks stand in the place of those from the first of them on.
  take({ next_seq, complete, blocks }) {
    const first = blocks.length ? blocks[0].first_seq : Infinity;
    while (this.blocks.length && this.blocks.at(-1).first_seq >= first) this.blocks.pop();
    for (const block of blocks) this.blocks.push(block);
    this.next = Math.max(this.next, next_seq);
    this.complete = complete;
    this.#arrange();
  }

  // The lines of a step stand together, wherever they are in the log. Lines of no step stand between the
  // beginnings of steps.
  #arrange() {
    const sections = [];
    const steps = new Map();
    this.shown = 0;
    for (const block of this.blocks) {
      block.parts.forEach((part, index) => {
        const last = sections.at(-1);
        let section = part.step === null ? (last?.step === null ? last : null) : steps.get(part.step);
        if (!section && sections.length === SECTIONS) section = last;
        if (!section) {
          section = this.#section(part, last);
          sections.push(section);
          if (part.step !== null) steps.set(part.step, section);
        }
        section.parts.push({ block, index, before: section.rows });
        section.entries += part.entries;
        section.rows += part.matching;
        section.firstAt = Math.min(section.firstAt, part.first_at);
        section.lastAt = Math.max(section.lastAt, part.last_at);
        section.end = part.end ?? section.end;
        for (const seq of part.failed) section.failed.push(seq);
        part.section = section;
        this.shown += part.matching;
      });
    }
    this.sections = sections;
  }

  #section(part, last) {
    const key = part.step === null ? `after ${last?.key ?? ""}` : `step ${part.step}`;
    const section = this.#known.get(key) ?? { key, step: part.step, open: part.step === null, skip: 0, fresh: true };
    this.#known.set(key, section);
    return Object.assign(section, {
      parts: [],
      entries: 0,
      rows: 0,
      firstAt: Infinity,
      lastAt: -Infinity,
      end: null,
      failed: [],
    });
  }

  blockOf(seq) {
    let low = 0;
    let high = this.blocks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.blocks[middle].first_seq <= seq) low = middle + 1;
      else high = middle;
    }
    const block = this.blocks[low - 1];
    return block && seq < block.first_seq + block.entries ? block : null;
  }

  // The part of its block that an entry is counted in, by the rule of log/outline.rs.
  static partOf(block, entry) {
    const last = block.parts.length - 1;
    if (entry.step === null && block.parts.length === MAX_PARTS && block.parts[last].first_seq <= entry.seq) return last;
    if (entry.step === null && block.parts[last].rest && block.parts[last].first_seq <= entry.seq) return last;
    const found = block.parts.findLastIndex((part) =>
      entry.step === null ? part.step === null && part.first_seq <= entry.seq : part.step === entry.step,
    );
    return found < 0 ? last : found;
  }
}
