"""The sheet that the notes' pictures are drawn on, and what it needs of a network.

Pictures are 480 units wide with letters of 12 and more, so that a phone shows them readably, and follow the
reader's light or dark scheme.
"""

import inspect
from collections.abc import Sequence
from textwrap import wrap
from xml.sax.saxutils import escape

import torch
from torch import nn

from zoo.profile import Stage

STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2328 }
  .name { font-weight: 700; font-size: 15px }
  .tag { font-weight: 700; font-size: 13px }
  .mid { text-anchor: middle }
  .end { text-anchor: end }
  .page { fill: #ffffff }
  .map { fill: #ddf4ff; stroke: #0969da; stroke-width: 1.5 }
  .out { fill: #fff8c5; stroke: #9a6700; stroke-width: 1.5 }
  path { fill: none; stroke-width: 1.8 }
  .copy { stroke: #6e7781 }
  .down { stroke: #cf222e }
  .up { stroke: #1a7f37 }
  .head { stroke: #9a6700 }
  marker path { stroke: none }
  .copy-tip { fill: #6e7781 }
  .down-tip { fill: #cf222e }
  .up-tip { fill: #1a7f37 }
  .head-tip { fill: #9a6700 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .page { fill: #0d1117 }
    .map { fill: #0c2d4f; stroke: #4493f8 }
    .out { fill: #3b2e00; stroke: #d4a72c }
    .copy { stroke: #9198a1 }
    .down { stroke: #ff7b72 }
    .up { stroke: #3fb950 }
    .head { stroke: #d4a72c }
    .copy-tip { fill: #9198a1 }
    .down-tip { fill: #ff7b72 }
    .up-tip { fill: #3fb950 }
    .head-tip { fill: #d4a72c }
  }
"""

SIDE, NARROW, MAIN, WIDE = 14, 104, 126, 340  # left edge and width of two lanes
HIGH, GAP = 44, 32  # of a box, and below it


class Canvas:
    """An SVG of boxes, arrows and words, 480 units wide."""

    def __init__(self, title: str) -> None:
        self.title, self.height, self.parts = title, 0.0, list[str]()

    def box(self, x: float, y: float, w: float, h: float, name: str, shape: str, css: str = "map") -> None:
        """A feature map: its name over its shape (one line or more), (x, y) the upper left corner.

        Where the shape takes two lines the box is a narrow one, and its name has smaller letters.
        """
        self.parts.append(f'<rect class="{css}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="4"/>')
        lines = shape.split("\n")
        first = y + h / 2 + 14 - 8 * (len(lines) - 1)
        self.words(x + w / 2, first - 17, name, "name mid" if len(lines) == 1 else "tag mid")
        for n, line in enumerate(lines):
            self.words(x + w / 2, first + 16 * n, line, "mid")

    def column(self, x: float, w: float, y: float, boxes: Sequence[tuple[str, ...]]) -> float:
        """Boxes below one another, from what ends at y; returns where the last of them ends.

        A box: the arrow that leads to it ("" for none), the words beside it, name, shape, and maybe a class.
        """
        for kind, words, name, shape, *css in boxes:
            if kind:
                self.arrow(kind, f"M{x + w / 2:g} {y:g}V{y + GAP - 1:g}")
            self.words(x + w / 2 + 8, y + GAP / 2 + 4, words)
            self.box(x, y + GAP, w, HIGH, name, shape, *css)
            y += GAP + HIGH
        return y

    def fan(self, y: float, boxes: Sequence[tuple[str, str]]) -> float:
        """Boxes side by side in the main lane, from what ends at y and to what follows; returns their end."""
        w = (WIDE + 4) / len(boxes)
        for n, (name, shape) in enumerate(boxes):
            middle = MAIN + n * w + (w - 4) / 2
            self.arrow("copy", f"M{middle:g} {y:g}V{y + GAP - 1:g}")
            self.box(MAIN + n * w, y + GAP, w - 4, HIGH + 14, name, shape.replace("×", "×\n", 1))
            self.arrow("copy", f"M{middle:g} {y + GAP + HIGH + 14:g}V{y + 2 * GAP + HIGH + 13:g}")
        return y + GAP + HIGH + 14

    def arrow(self, kind: str, path: str) -> None:
        """`path` in SVG's own letters; kind is copy, down, up or head."""
        self.parts.append(f'<path class="{kind}" d="{path}" marker-end="url(#{kind})"/>')

    def words(self, x: float, y: float, text: str, css: str = "") -> None:
        """One line of text with its baseline at y."""
        self.parts.append(f'<text class="{css}" x="{x:g}" y="{y:g}">{escape(text)}</text>')

    def legend(self, y: float, text: str) -> None:
        """A paragraph that ends the picture, its first baseline at y."""
        lines = wrap(text, 70)
        for n, line in enumerate(lines):
            self.words(SIDE, y + 18 * n, line)
        self.height = y + 18 * len(lines) - 2

    def svg(self) -> str:
        """The file."""
        tips = "".join(
            f'<marker id="{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'markerUnits="userSpaceOnUse" orient="auto">'
            f'<path class="{kind}-tip" d="M0 0.5 8 4 0 7.5Z"/></marker>'
            for kind in ("copy", "down", "up", "head")
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 {self.height:g}" role="img">',
            f"<title>{escape(self.title)}</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{tips}</defs>",
            f'<rect class="page" width="480" height="{self.height:g}" rx="8"/>',
        )
        return "\n".join([*head, *self.parts, "</svg>", ""])


def shape(stage: Stage | torch.Tensor) -> str:
    """C×H×W, the last three numbers of a shape."""
    return "×".join(map(str, stage.shape[-3:]))


def default(model: nn.Module) -> str:
    """The encoder that an architecture takes by default."""
    return inspect.signature(type(model)).parameters["encoder"].default


def pyramid(model: nn.Module, size: int) -> list[str]:
    """C×H×W of each map that an encoder returns for an input of `size`."""
    return [shape(y) for y in model(torch.empty(1, 3, size, size, device="meta"))]
