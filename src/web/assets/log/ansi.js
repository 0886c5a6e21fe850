// A line of a build as text nodes, each in its looks: the same that pages/ansi.rs makes of it. Nothing that a
// build has written is ever taken for markup.

const { $, say, copy, duration, offset, lineCount, printable, refresh, poll, isFinal, stale } =
  window.buildgrid;

const COLOURS = ["dim", "red", "green", "yellow", "blue", "magenta", "cyan", null];

// Of these sequences only colours have a meaning.
const ESCAPES =
  /(\x1b\[[ -?]*[@-~]|\x1b[\]PX^_][^\0-\x1f\x7f-\x9f]*(?:\x07|\x1b\\)|\x1b[ -/]+[0-~]|\x1b[0-OQ-WYZ\\`-~])/;

function select(look, parameters) {
  const codes = parameters.split(/[;:]/).map(Number);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i];
    if (code === 0) look = {};
    else if (code >= 1 && code <= 4) look = { ...look, [["bold", "faint", "italic", "underline"][code - 1]]: true };
    else if (code === 22) look = { ...look, bold: false, faint: false };
    else if (code === 23) look = { ...look, italic: false };
    else if (code === 24) look = { ...look, underline: false };
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) look = { ...look, colour: COLOURS[code % 10] };
    else if (code === 39) look = { ...look, colour: null };
    else if (code === 38 || code === 48) {
      const kind = codes[++i];
      const colour = kind === 5 && codes[i + 1] < 16 ? COLOURS[codes[i + 1] % 8] : null;
      i += kind === 5 ? 1 : kind === 2 ? 3 : 0;
      if (code === 38) look = { ...look, colour };
    }
  }
  return look;
}

// The pieces of a text, each with its classes.
function pieces(text) {
  let look = {};
  const found = [];
  text.split(ESCAPES).forEach((part, index) => {
    if (index % 2) {
      const looks = /^\x1b\[([\d;:]*)m$/.exec(part);
      if (looks) look = select(look, looks[1]);
    } else if (part) {
      const names = [look.colour || (look.faint && "dim"), ...["bold", "italic", "underline"].filter((name) => look[name])];
      found.push({ text: printable(part), classes: names.filter(Boolean).join(" ") });
    }
  });
  return found;
}

// Puts a text into an element. What `pattern` finds is marked, across the borders of looks.
function paint(element, text, pattern) {
  const parts = pieces(text);
  const plain = pattern ? parts.map((part) => part.text).join("") : "";
  const hits = pattern ? [...plain.matchAll(pattern)].map((hit) => [hit.index, hit.index + hit[0].length]) : [];
  let at = 0;
  for (const { text, classes } of parts) {
    const end = at + text.length;
    const within = classes ? element.appendChild(made("span", classes)) : element;
    while (at < end) {
      while (hits.length && hits[0][1] <= at) hits.shift();
      const [from, to] = hits[0] ?? [end, end];
      const marked = from <= at;
      const next = Math.min(end, marked ? to : from);
      const words = text.slice(text.length - (end - at), text.length - (end - next));
      within.append(marked ? made("mark", "", words) : words);
      at = next;
    }
  }
}

function made(tag, classes, ...content) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...content);
  return element;
}
