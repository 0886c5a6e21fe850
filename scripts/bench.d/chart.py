"""The figures of BuildGrid beside the script as a picture, SVG, for a page that is light or dark."""

from html import escape

WIDTH, LEFT, BAR, GAP, ROOM = 820, 250, 13, 14, 150
OURS, SCRIPT, TEXT = "#2f81c7", "#a0a0a0", "#808080"
FONT = 'font-family="system-ui, sans-serif" font-size="12"'
OUTSIDE = "outside the engine's build"
PARTS = [("fetch", 1.0), ("publish", 0.55)]


def draw(rows):
    """The picture, if there are such figures: for each scenario the time outside the engine's build, of which fetch and
    publish are parts, as a share of the longer one's."""
    scenarios = {}
    for row in rows:
        what = row.figure.partition(", median")[0]
        if what != row.figure:
            scenarios.setdefault(row.scenario, {})[what] = row
    scenarios = {name: figures for name, figures in scenarios.items() if OUTSIDE in figures}
    if not scenarios:
        return None
    step = 2 * BAR + GAP
    height = 46 + step * len(scenarios)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        "<title>Seconds from a commit to an image that can be pulled, without the engine's own build</title>",
        legend(),
    ]
    top = 40
    for name, figures in scenarios.items():
        lines.append(text(LEFT - 10, top + BAR + 4, name, "end"))
        longest = max(figures[OUTSIDE].ours, figures[OUTSIDE].peer)
        for side, colour, offset in [("ours", OURS, 0), ("peer", SCRIPT, BAR)]:
            lines += bar(figures, side, colour, top + offset, longest)
        top += step
    return "\n".join([*lines, "</svg>"]) + "\n"


def bar(figures, side, colour, top, longest):
    scale = (WIDTH - LEFT - ROOM) / longest
    whole, at = getattr(figures[OUTSIDE], side), LEFT
    for part, opacity in PARTS:
        seconds = getattr(figures[part], side)
        yield box(at, top, seconds * scale, colour, opacity)
        at += seconds * scale
    # What the two leave: the way of the event, and to the engine.
    yield box(at, top, max(0.0, LEFT + whole * scale - at), colour, 0.25)
    ratio = f" ({figures[OUTSIDE].ratio:.2f})" if side == "ours" else ""
    yield text(LEFT + whole * scale + 6, top + BAR - 2, f"{whole:.2f} s{ratio}", "start")


def legend():
    parts, at = [], LEFT
    for label, colour, opacity in [
        ("BuildGrid: fetch", OURS, 1.0),
        ("publish", OURS, 0.55),
        ("rest", OURS, 0.25),
        ("git clone, docker push", SCRIPT, 1.0),
    ]:
        parts += [box(at, 12, BAR, colour, opacity), text(at + BAR + 5, 23, label, "start")]
        at += BAR + 22 + 7 * len(label)
    return "\n".join(parts)


def box(x, y, width, colour, opacity):
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR - 1}" fill="{colour}" fill-opacity="{opacity}"/>'


def text(x, y, words, anchor):
    return f'<text x="{x:.1f}" y="{y}" {FONT} fill="{TEXT}" text-anchor="{anchor}">{escape(words)}</text>'
