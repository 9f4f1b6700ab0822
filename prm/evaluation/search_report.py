"""The report of `prm decode`: what the searches cost and found, and search trees drawn, in one HTML file.

Like the report of `prm evaluate` it has no script and no outside address, and what comes from the data is
escaped. A tree is an SVG: a step is a circle between orange (score 0) and blue (score 1), a cross where the
database refused it, a ring where the answer ends; the way to the chosen answer is thick. The text of a step
shows when the pointer rests on it, and stands in the list below the drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from prm.evaluation.report import template

#: Trees in the report; all of them are in the file of `--trees`.
N_TREES = 40
#: Steps of one tree that are drawn, and characters of a step that are shown.
MAX_DRAWN, MAX_CHARS = 400, 600
_ACROSS, _DOWN, _RADIUS, _EDGE = 88, 22, 6.5, 26

Tree = dict[str, Any]


def render(statistics: dict[str, Any], trees: Sequence[Tree]) -> str:
    """The page; `statistics` is what `prm decode` writes to `<output>.stats.json`, `trees` what `--trees`
    does."""
    shown = [
        {name: tree.get(name) for name in ("id", "question", "failed")}
        | {"drawing": draw(tree), "steps": _steps(tree), "n": len(tree["nodes"]) - 1}
        for tree in _spread(trees, N_TREES)
    ]
    return template("search.html").render(s=statistics, trees=shown, n_trees=len(trees))


def _spread(trees: Sequence[Tree], n: int) -> list[Tree]:
    """At most `n` of them, evenly over the file."""
    if len(trees) <= n:
        return list(trees)
    return [trees[i * len(trees) // n] for i in range(n)]


def draw(tree: Tree) -> Markup:
    """A search tree from left to right; every leaf has a line of its own."""
    nodes = {node["id"]: node for node in tree["nodes"][:MAX_DRAWN]}
    children: dict[int, list[int]] = {}
    for node in nodes.values():
        if node["parent"] is not None:
            children.setdefault(node["parent"], []).append(node["id"])
    depth: dict[int, int] = {}
    line: dict[int, float] = {}
    leaves = 0
    todo = [(0, False)]
    while todo:  # parents before children for the depth, after them for the line
        at, seen = todo.pop()
        below = children.get(at, [])
        if seen:
            line[at] = (line[below[0]] + line[below[-1]]) / 2
            continue
        parent = nodes[at]["parent"]
        depth[at] = 0 if parent is None else depth[parent] + 1
        if below:
            todo += [(at, True), *((child, False) for child in reversed(below))]
        else:
            line[at], leaves = float(leaves), leaves + 1
    way = set()
    at = tree["chosen"]
    while at is not None and at in nodes:
        way.add(at)
        at = nodes[at]["parent"]
    width = 2 * _EDGE + _ACROSS * max(depth.values()) + 40
    height = 2 * _EDGE + _DOWN * max(leaves - 1, 0)

    def place(node: int) -> tuple[float, float]:
        return _EDGE + _ACROSS * depth[node], _EDGE + _DOWN * line[node]

    edges, marks = [], []
    for number, node in nodes.items():
        x, y = place(number)
        if node["parent"] is not None:
            px, py = place(node["parent"])
            middle = (x + px) / 2
            kind = "way" if number in way else "ahead" if node.get("lookahead") else "edge"
            curve = Markup('<path class="{}" d="M{:.1f},{:.1f} C{:.1f},{:.1f} {:.1f},{:.1f} {:.1f},{:.1f}"/>')
            edges.append(curve.format(kind, px, py, middle, py, middle, y, x, y))
        marks.append(_mark(node, x, y, number in way))
    drawing = Markup(
        '<svg class="tree" viewBox="0 0 {} {}" style="max-width:{}px" role="img">{}</svg>'
    ).format(width, height, width, Markup("").join([*edges, *marks]))
    more = len(tree["nodes"]) - len(nodes)
    if more:
        drawing += Markup('<p class="note">{} more steps are not drawn.</p>').format(more)
    return drawing


def _mark(node: dict[str, Any], x: float, y: float, chosen: bool) -> Markup:
    title = Markup("<title>{}</title>").format(_told(node))
    if node["parent"] is None:
        square = Markup('<rect class="root" x="{:.1f}" y="{:.1f}" width="9" height="9"/>')
        return square.format(x - 4.5, y - 4.5)
    if node["state"] == "dropped":
        cross = Markup('<g class="dropped">{}<path d="M{:.1f},{:.1f} l8,8 m0,-8 l-8,8"/></g>')
        return cross.format(title, x - 4, y - 4)
    score = node["score"]
    kinds = "".join(
        f" {kind}" for kind, is_so in (("finished", node["state"] == "finished"), ("chosen", chosen)) if is_so
    )
    circle = Markup(
        '<circle class="step{}" style="--p:{}%" cx="{:.1f}" cy="{:.1f}" r="{}">{}</circle>'
    ).format(kinds, 0 if score is None else round(100 * score), x, y, _RADIUS, title)
    if score is None:
        return circle
    return circle + Markup('<text x="{:.1f}" y="{:.1f}">{:.2f}</text>').format(x + 5, y - 8, score)


def _told(node: dict[str, Any]) -> str:
    text = (node["text"] or "(nothing)")[:MAX_CHARS]
    return text if node["error"] is None else f"{text}\n\n{node['error'][:MAX_CHARS]}"


def _steps(tree: Tree) -> list[dict[str, Any]]:
    """The steps of the chosen answer, then those that were dropped."""
    nodes = {node["id"]: node for node in tree["nodes"]}
    way, at = [], tree["chosen"]
    while at is not None and nodes[at]["parent"] is not None:
        way.append(nodes[at])
        at = nodes[at]["parent"]
    dropped = [node for node in tree["nodes"] if node["state"] == "dropped"]
    rows = [("chosen", node) for node in reversed(way)] + [("dropped", node) for node in dropped[:10]]
    return [{"kind": kind, "score": node["score"], "text": _told(node)} for kind, node in rows]
