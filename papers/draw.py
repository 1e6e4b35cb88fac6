"""Draws the notes' pictures from the networks themselves: python papers/draw.py

The shapes are those of a forward pass (`zoo.profile`), so a picture cannot disagree with the code; a test
compares the files with what this script draws.  Pictures are 480 units wide with letters of 12 and more, so
that a phone shows them readably, and follow the reader's light or dark scheme.
"""

from pathlib import Path
from xml.sax.saxutils import escape

import torch

import zoo
from zoo.profile import Stage, profile

STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2328 }
  .name { font-weight: 700; font-size: 15px }
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


class Canvas:
    """An SVG of boxes, arrows and words, 480 units wide."""

    def __init__(self, height: int, title: str) -> None:
        tips = "".join(
            f'<marker id="{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'markerUnits="userSpaceOnUse" orient="auto">'
            f'<path class="{kind}-tip" d="M0 0.5 8 4 0 7.5Z"/></marker>'
            for kind in ("copy", "down", "up", "head")
        )
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{tips}</defs>",
            f'<rect class="page" width="480" height="{height}" rx="8"/>',
        ]

    def box(self, x: float, y: float, w: float, h: float, name: str, shape: str, css: str = "map") -> None:
        """A feature map: its name over its shape, (x, y) the upper left corner."""
        self.parts.append(f'<rect class="{css}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="4"/>')
        self.words(x + w / 2, y + h / 2 - 3, name, "name mid")
        self.words(x + w / 2, y + h / 2 + 14, shape, "mid")

    def arrow(self, kind: str, path: str) -> None:
        """`path` in SVG's own letters; kind is copy, down, up or head."""
        self.parts.append(f'<path class="{kind}" d="{path}" marker-end="url(#{kind})"/>')

    def words(self, x: float, y: float, text: str, css: str = "") -> None:
        """One line of text with its baseline at y."""
        self.parts.append(f'<text class="{css}" x="{x:g}" y="{y:g}">{escape(text)}</text>')

    def svg(self) -> str:
        """The file."""
        return "\n".join([*self.parts, "</svg>", ""])


def shape(stage: Stage) -> str:
    """C×H×W."""
    return "×".join(map(str, stage.shape))


def unet() -> str:
    """Fig. 1 of the paper: down on the left, up on the right, copies in between; its input of 572×572."""
    with torch.device("meta"):
        stages = profile(zoo.build("unet"), 572)
    wide, high, gap, top = 164, 46, 54, 88
    left, right = 16, 300
    canvas = Canvas(662, "U-Net: feature maps for an input of 1×572×572")

    def y(level: int) -> int:
        return top + (level - 1) * (high + gap)

    canvas.box(left, 12, wide, high, "input", "1×572×572", "out")
    canvas.box(right, 12, wide, high, "logits", shape(stages["head"]), "out")
    down, up = left + wide // 2, right + wide // 2
    canvas.arrow("head", f"M{down} {12 + high}V{top - 1}")
    canvas.arrow("head", f"M{up} {top}V{12 + high + 1}")
    for level in (1, 2, 3, 4):
        above, below = y(level), y(level) + high
        enc, dec, risen = (stages[f"{part}{level}"] for part in ("enc", "dec", "up"))
        canvas.box(left, above, wide, high, f"enc{level}", shape(enc))
        canvas.box(right, above, wide, high, f"dec{level}", shape(dec))
        canvas.arrow("copy", f"M{left + wide} {above + high // 2}H{right - 1}")
        canvas.words(240, above + 16, f"crop {(enc.shape[1] - risen.shape[1]) // 2}", "mid")
        canvas.words(240, above + 40, shape(risen), "mid")
        channels, height, width = enc.shape
        canvas.words(down + 8, below + 24, "max 2×2")
        canvas.words(down + 8, below + 39, f"{channels}×{height // 2}×{width // 2}")
        canvas.words(up - 8, below + 24, "up-conv 2×2", "end")
        canvas.words(up - 8, below + 39, shape(risen), "end")
        if level < 4:
            canvas.arrow("down", f"M{down} {below}V{y(level + 1) - 1}")
            canvas.arrow("up", f"M{up} {y(level + 1)}V{below + 1}")
    floor = y(5) + high // 2
    canvas.box(240 - wide // 2, y(5), wide, high, "bottom", shape(stages["bottom"]))
    canvas.arrow("down", f"M{down} {y(4) + high}V{floor}H{240 - wide // 2 - 1}")
    canvas.arrow("up", f"M{240 + wide // 2} {floor}H{up}V{y(4) + high + 1}")

    legend = (
        "Blue: two unpadded 3×3 convolutions, each with a ReLU;",
        "red: maximum of 2×2; green: 2×2 up-convolution, half the channels;",
        "grey: copy without its border, put before the up-convolved map;",
        "logits: a 1×1 convolution. Dropout 0.5 after enc4 and bottom.",
    )
    for row, line in enumerate(legend):
        canvas.words(16, 588 + 18 * row, line)
    return canvas.svg()


def unetpp() -> str:
    """Fig. 1a of the 2018 paper: X^{i,j} in row i, each step j to the right; for an input of 1×96×96."""
    with torch.device("meta"):
        stages = profile(zoo.build("unetpp", 1, 1, deep_supervision=True), 96)
    width, height, step, drop, top = 82, 44, 95, 92, 118
    canvas = Canvas(640, "UNet++: nodes for an input of 1×96×96")

    def corner(i: int, j: int) -> tuple[float, float]:
        return 9 + step * (j + i / 2), top + drop * i

    for j in (1, 2, 3, 4):
        x = corner(0, j)[0]
        canvas.box(x, 10, width, height, f"L{j}", shape(stages[f"heads.{j}"]), "out")
        canvas.arrow("head", f"M{x + width / 2:g} {top}V{10 + height + 1}")
    for i in range(5):
        for j in range(5 - i):
            x, y = corner(i, j)
            for k in range(j):  # row i, from X^{i,k}: the nearest straight, the others in arcs above
                from_x = corner(i, k)[0] + width
                if k == j - 1:
                    canvas.arrow("copy", f"M{from_x:g} {y + height / 2:g}H{x - 1:g}")
                else:
                    rise = 8 + 8 * (j - k)
                    start, end = from_x - 18 + 4 * (j - k), x + 22 - 5 * (j - k)
                    bend = f"C{start:g} {y - rise:g} {end:g} {y - rise:g} {end:g} {y - 1:g}"
                    canvas.arrow("copy", f"M{start:g} {y:g}{bend}")
            if j:
                below_x, below_y = corner(i + 1, j - 1)
                canvas.arrow("up", f"M{below_x + 50:g} {below_y:g}L{x + 32:g} {y + height + 1:g}")
            elif i:
                above_x, above_y = corner(i - 1, 0)
                canvas.arrow("down", f"M{above_x + 50:g} {above_y + height:g}L{x + 32:g} {y - 1:g}")
    for i in range(5):
        for j in range(5 - i):
            canvas.box(*corner(i, j), width, height, f"X {i},{j}", shape(stages[f"x.{i}{j}"]))

    legend = (
        "Blue: H, two padded 3×3 convolutions, each with a ReLU;",
        "red: D, maximum of 2×2; green: U, 2×2 up-convolution;",
        "grey: all maps before in the row, joined; yellow: 1×1 convolutions.",
        "The network Ld keeps the nodes with i + j ≤ d and the output Ld.",
    )
    for row, line in enumerate(legend):
        canvas.words(12, 574 + 18 * row, line)
    return canvas.svg()


PICTURES = {"unet.svg": unet, "unetpp.svg": unetpp}


def main() -> None:
    """Write every picture beside this script."""
    for name, draw in PICTURES.items():
        Path(__file__).with_name(name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
