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
