"""The figures: one table for people, one JSON file for programs."""

import json
from dataclasses import asdict, dataclass


@dataclass
class Row:
    bench: str
    scenario: str
    figure: str
    unit: str
    ours: float
    peer: float | None = None
    peer_name: str | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None


def row(bench, scenario, figure, unit, ours, peer=None, peer_name=None, below=None, at_least=None, ratio_below=None, ratio_at_least=None):
    """A row with its ratio (ours / peer), and its goal: to be below a value, at least one, or the same of the ratio."""
    goal = met = None
    if below is not None:
        goal, met = f"< {below:g}", ours < below
    if at_least is not None:
        goal, met = f">= {at_least:g}", ours >= at_least
    ratio = round(ours / peer, 3) if peer else None
    if ratio_below is not None:
        goal, met = f"ratio < {ratio_below:g}", ratio < ratio_below
    if ratio_at_least is not None:
        goal, met = f"ratio >= {ratio_at_least:g}", ratio >= ratio_at_least
    rounded = [value if value is None else round(value, 3) for value in (ours, peer)]
    return Row(bench, scenario, figure, unit, rounded[0], rounded[1], peer_name, ratio, goal, met)


HEADINGS = ["bench", "scenario", "figure", "ours", "unit", "peer", "ratio", "goal", ""]
RIGHT = {"ours", "ratio"}


def table(rows):
    lines = [HEADINGS] + [cells_of(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            text.rjust(width) if heading in RIGHT else text.ljust(width)
            for heading, text, width in zip(HEADINGS, line, widths)
        ).rstrip()
        for line in lines
    )


def cells_of(row):
    peer = "" if row.peer is None else f"{number(row.peer)} {row.peer_name}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    verdict = {None: "", True: "met", False: "MISSED"}[row.met]
    return [row.bench, row.scenario, row.figure, number(row.ours), row.unit, peer, ratio, row.goal or "", verdict]


def line(row):
    """A figure as it comes, before there is a table."""
    _, scenario, figure, ours, unit, peer, ratio, *_ = cells_of(row)
    beside = f" ({peer}: {ratio})" if peer else ""
    return f"{scenario}: {figure}: {ours} {unit}{beside}"


def number(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
