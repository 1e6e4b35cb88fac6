"""A posed hand as a radiograph: thickness of flesh, bone and metal summed, then one exponential.

Only the picture is made here; what the masks hold is settled before (zoo/core/phantom.py) and does not depend
on anything below.  Lengths are pixels of the 512 px frame; `zoom` is the picture's size over the frame's.
"""

from functools import lru_cache
from itertools import pairwise
from math import ceil, floor

import cv2
import numpy as np

from zoo.core.hand import DIGITS, FRAME, HAMATE, LUNATE, RADIUS, SCAPHOID, ULNA, Array, Build, Hand, Stream

Polygons = list[tuple[int, Array]]

GRID = 256  # flesh is smooth: it is shaped on this grid whatever the picture's size
SHIFT = 4  # cv2 takes corners in 1/16 px
# Half the thickness of a finger at its joints, from the wrist to the tip.
FINGER, THUMB = (24.0, 19.0, 15.5, 13.5, 11.8), (26.0, 21.0, 17.5, 14.5)
FLESH_GREY = (235, 150, 125, 110)  # its depth, 255 the palm's, along the metacarpal and the phalanges


def expose(
    hand: Hand, person: Build, polygons: Polygons, bits: np.ndarray, stream: Stream, outlier: str
) -> np.ndarray:
    """The picture, as large as the bits; the outlier is '', 'ring', 'screw' or 'plate'."""
    size = len(bits)
    depth = _bones(hand, person, polygons, bits, stream)
    _small_parts(depth, hand, stream)
    depth = cv2.GaussianBlur(depth, (0, 0), _focus(size / FRAME))
    _add_flesh(depth, hand, person, stream)
    _add_plate(depth, stream)
    if outlier:
        _add_metal(depth, hand, person, stream, outlier)
    if stream.chance(0.35):
        _add_letter(depth, hand, stream)
    return _develop(depth, stream)


def _fixed(points: Array, zoom: float) -> np.ndarray:
    """Points of the frame in a picture `zoom` times as large, as cv2's fixed-point corners."""
    return np.rint(((points + 0.5) * zoom - 0.5) * (1 << SHIFT)).astype(np.int32)


def _focus(zoom: float) -> float:
    """Deviation in pixels of the blur of source and film: less than it grows, so a large picture is crisp."""
    return 0.65 * max(zoom, 0.7) ** 0.7


@lru_cache(maxsize=4)
def _texture(size: int) -> np.ndarray:
    """Trabecular grain, deviation 1, larger than the picture by a quarter so that it can be shifted."""
    zoom, side = size / FRAME, size + size // 4
    noise = Stream(20, size).octets(side, side).astype(np.float32)
    grain: np.ndarray = cv2.GaussianBlur(noise, (0, 0), sigmaX=0.5 * zoom, sigmaY=1.1 * zoom)
    grain -= cv2.GaussianBlur(grain, (0, 0), sigmaX=1.3 * zoom, sigmaY=2.6 * zoom)
    return grain / grain.std()


def _bones(hand: Hand, person: Build, polygons: Polygons, bits: np.ndarray, stream: Stream) -> np.ndarray:
    """Thickness of bone: a rounded body of sponge, denser towards the joints, within a rim of cortex."""
    size = len(bits)
    zoom = size / FRAME
    depth, texture = np.zeros((size, size), dtype=np.float32), _texture(size)
    down, right = (int(x) for x in stream.uniform(0, size // 4, 2))
    for bone, polygon in polygons:
        (x0, y0), (x1, y1) = polygon.min(axis=0).tolist(), polygon.max(axis=0).tolist()
        x0, y0 = max(floor(x0) - 1, 0), max(floor(y0) - 1, 0)
        x1, y1 = min(ceil(x1) + 2, size), min(ceil(y1) + 2, size)
        inside = ((bits[y0:y1, x0:x1] >> bone) & 1).astype(np.uint8)
        wrist = 19 <= bone < RADIUS
        ends = np.float32(1) if wrist else _ends(hand, bone, x0, y0, inside.shape, zoom)
        radius = max(float(hand.half[bone]), 3.0)
        cortex = person.cortex * (0.6 if wrist else 0.75 if bone < RADIUS else 1.2)
        edge = cv2.distanceTransform(inside, cv2.DIST_L2, 3) * np.float32(1 / zoom)  # px of the frame
        m = np.minimum(edge, np.float32(radius))
        body = np.sqrt(m * (np.float32(2 * radius) - m)) * (1 / radius)
        sponge = 0.66 if wrist else 0.36 + 0.40 * ends
        rim = cv2.exp(-(((edge - 1.6) * (1 / cortex)) ** 2)) * np.minimum(edge, 1)
        grain = 0.13 * texture[down + y0 : down + y1, right + x0 : right + x1] + 1
        thick = body * sponge * grain + rim * (0.42 if wrist else 0.62 - 0.26 * ends)
        depth[y0:y1, x0:x1] += thick * (person.density * (radius / 9.0) ** 0.35)
    return depth


def _ends(hand: Hand, bone: int, x0: int, y0: int, shape: tuple[int, ...], zoom: float) -> np.ndarray:
    """0 in the shaft of a long bone, 1 at its joints (the forearm's lower ends are out of the picture)."""
    axis = hand.tip[bone] - hand.base[bone]
    along = axis / (axis @ axis)
    x = ((np.arange(shape[1]) + (x0 + 0.5)) / zoom - 0.5 - hand.base[bone][0]) * along[0]
    y = ((np.arange(shape[0]) + (y0 + 0.5)) / zoom - 0.5 - hand.base[bone][1]) * along[1]
    t = x.astype(np.float32) + y.astype(np.float32)[:, None]
    if bone >= RADIUS:
        return cv2.exp(np.maximum(t, 0) * np.float32(-8))
    t = (2 * t - 1) ** 2
    return np.minimum(t * t, 1)


def _small_parts(depth: np.ndarray, hand: Hand, stream: Stream) -> None:
    """What every radiograph has and nobody labels: the hamate's hook, the thumb's two sesamoids."""
    zoom = len(depth) / FRAME
    thumb = hand.tip[2] - hand.base[2]
    thumb = thumb / np.sqrt(thumb @ thumb) * hand.scale
    across = np.array([-thumb[1], thumb[0]])
    spots = [(hand.base[HAMATE] + np.array([2.5 * hand.mirror, -4.0]) * hand.scale, 5.0, 3.4, 0.30)]
    spots += [(hand.tip[2] - thumb * 5 + across * s + stream.bell(2), 3.4, 2.7, 0.34) for s in (-4.5, 5.0)]
    for centre, a, b, strength in spots:
        reach = ceil((a + 3) * zoom * hand.scale)
        x, y = np.rint((centre + 0.5) * zoom - 0.5).astype(int).tolist()
        if not (reach <= x < len(depth) - reach and reach <= y < len(depth) - reach):
            continue
        at = (np.arange(-reach, reach + 1, dtype=np.float32) / np.float32(zoom * hand.scale)) ** 2
        r = np.sqrt(at / (a * a) + (at / (b * b))[:, None])
        shell = np.clip(3.0 - 3.0 * r, 0, 1) * (0.55 + 0.45 * r * r)
        depth[y - reach : y + reach + 1, x - reach : x + reach + 1] += np.float32(strength) * shell


class _Canvas:
    """The flesh's outline and its depth, drawn side by side on the coarse grid."""

    def __init__(self, scale: float):
        self.scale = scale
        self.outline = np.zeros((GRID, GRID), dtype=np.uint8)
        self.inner = np.zeros((GRID, GRID), dtype=np.uint8)

    def patch(self, points: list[Array], grey: int) -> None:
        """A polygon."""
        corners = _fixed(np.stack(points), GRID / FRAME)
        cv2.fillPoly(self.outline, [corners], 255, shift=SHIFT)
        cv2.fillPoly(self.inner, [corners], grey, shift=SHIFT)

    def capsule(self, p: Array, q: Array, rp: float, rq: float, grey: int) -> None:
        """Two discs and what lies between."""
        rp, rq = rp * self.scale, rq * self.scale
        side = (q - p)[::-1] * (-1, 1)
        side = side / max(float(np.sqrt(side @ side)), 1e-6)
        self.patch([p + side * rp, q + side * rq, q - side * rq, p - side * rp], grey)
        for centre, r in ((p, rp), (q, rq)):
            (x, y), radius = _fixed(centre, GRID / FRAME).tolist(), round(r * (GRID / FRAME * (1 << SHIFT)))
            cv2.circle(self.outline, (x, y), radius, 255, -1, shift=SHIFT)
            cv2.circle(self.inner, (x, y), radius, grey, -1, shift=SHIFT)


def _draw_flesh(hand: Hand, person: Build) -> _Canvas:
    """Capsules around the bones' axes, webs between the fingers, the two muscle pads of the palm."""
    base, tip = hand.base, hand.tip
    canvas = _Canvas(hand.scale * person.flesh)
    canvas.capsule(base[RADIUS], tip[RADIUS], 37, 42, 210)
    canvas.capsule(base[ULNA], tip[ULNA], 29, 40, 210)
    chains = []
    for bones in DIGITS:
        last = bones[-1]
        along = (tip[last] - base[last]) / max(float(np.linalg.norm(tip[last] - base[last])), 1e-6)
        chains.append([*(base[b] for b in bones), tip[last] - along * 4 * hand.scale])
        radii = THUMB if len(bones) == 3 else FINGER
        for k in range(len(bones), 0, -1):
            canvas.capsule(chains[-1][k - 1], chains[-1][k], radii[k - 1], radii[k], FLESH_GREY[k - 1])
    thumb, index, _, _, little = chains
    for left, right in pairwise(chains[1:]):
        web = [0.66 * left[1] + 0.34 * left[2], 0.66 * right[1] + 0.34 * right[2]]
        canvas.patch([left[0], left[1], *web, right[1], right[0]], 215)
    web = [0.1 * thumb[0] + 0.9 * thumb[1], 0.28 * index[0] + 0.72 * index[1]]
    canvas.patch([thumb[0], *web, index[0]], 235)
    out = (little[0] - index[0]) * 0.14
    canvas.capsule(little[0] + out * 1.2, 0.3 * little[0] + 0.7 * little[1] + out * 0.6, 23, 20, 240)
    canvas.capsule(thumb[0], base[RADIUS], 23, 36, 225)
    canvas.capsule(base[SCAPHOID], base[RADIUS], 33, 36, 225)
    canvas.capsule(little[0] + out, base[ULNA], 24, 29, 225)
    canvas.capsule(base[LUNATE], base[SCAPHOID], 30, 30, 240)
    return canvas


def _add_flesh(depth: np.ndarray, hand: Hand, person: Build, stream: Stream) -> None:
    """Flesh, rounded off towards the skin, a little uneven."""
    canvas = _draw_flesh(hand, person)
    outline = cv2.GaussianBlur(canvas.outline.astype(np.float32), (19, 19), 3.0) * np.float32(2 / 255) - 1
    inner = cv2.resize(canvas.inner, (GRID // 4, GRID // 4), interpolation=cv2.INTER_AREA).astype(np.float32)
    inner = cv2.GaussianBlur(inner, (11, 11), 1.75) * np.float32(0.50 * person.flesh / 255)
    bumps = stream.uniform(0.86, 1.14, 10, 10).astype(np.float32)
    inner *= cv2.resize(bumps, inner.shape, interpolation=cv2.INTER_CUBIC)
    inner = cv2.resize(inner, (GRID, GRID), interpolation=cv2.INTER_CUBIC)
    size = depth.shape
    x = np.maximum(cv2.resize(outline, size, interpolation=cv2.INTER_LINEAR), 0)
    rounded = cv2.sqrt(np.minimum(x * 3, 1)) * np.float32(0.62)
    rounded += x * np.float32(0.38)
    depth += rounded * cv2.resize(inner, size, interpolation=cv2.INTER_LINEAR)


def _add_plate(depth: np.ndarray, stream: Stream) -> None:
    """What the plate itself shows: exposure falling off, and often a collimator's edge across one border."""
    size = len(depth)
    at = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    low, right, down, bowl = stream.uniform(0, 1, 4) * (0.033, 0.06, 0.06, 0.08) - (-0.012, 0.03, 0.03, 0.02)
    depth += (right * at + bowl * at * at).astype(np.float32)
    depth += (low + down * at + bowl * at * at).astype(np.float32)[:, None]
    if stream.chance(0.6):
        side, strength = int(stream.uniform(0, 4)), stream.uniform(0.2, 0.7)
        offset, slope = stream.uniform(0.455, 0.495), stream.uniform(-0.05, 0.05)
        a, b = (at[None, :], at[:, None]) if side % 2 else (at[:, None], at[None, :])
        tilted = (160 * (b * slope - offset) + 0.5).astype(np.float32)
        line = a * np.float32(160 if side < 2 else -160) + tilted
        depth += np.clip(line, 0, 1, out=line) * np.float32(strength)


class _Metal:
    """What the plate sees of metal: one canvas on which a ring, a screw or a plate is painted."""

    def __init__(self, hand: Hand, person: Build, stream: Stream, size: int):
        self.hand, self.person, self.stream, self.zoom = hand, person, stream, size / FRAME
        self.canvas = np.zeros((size, size), dtype=np.uint8)

    def pick(self, bones: tuple[int, ...], tilt: float) -> tuple[int, Array, Array, float]:
        """One of the bones; unit vectors along it (tilted by some degrees) and across; its length."""
        bone = bones[int(self.stream.uniform(0, len(bones)))]
        axis = self.hand.tip[bone] - self.hand.base[bone]
        length = float(np.sqrt(axis @ axis))
        a = np.deg2rad(self.stream.uniform(-tilt, tilt))
        along = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ axis / length
        return bone, along, np.array([-along[1], along[0]]), length

    def paint(self, points: Array, value: int) -> None:
        """A polygon of the frame; 255 is opaque."""
        cv2.fillPoly(self.canvas, [_fixed(points, self.zoom)], value, lineType=cv2.LINE_AA, shift=SHIFT)

    def bolt(self, centre: Array, along: Array, length: float, half: float) -> None:
        """A screw seen from the side: head, threaded shaft, point."""
        turns = np.arange(0, length, 1.1 * half) - length / 2
        thread = half * (1 - 0.28 * (np.arange(len(turns)) % 2))
        edge = list(zip(turns, thread, strict=True))
        top, wide = -length / 2 - 1.6 * half, 1.8 * half
        shape = [*edge, (length / 2, 0.0), *((t, -h) for t, h in edge[::-1])]
        shape += [(-length / 2, -wide), (top, -wide), (top, wide), (-length / 2, wide)]
        self.paint(centre + np.array(shape) @ np.array([along, (-along[1], along[0])]), 235)

    def ring(self) -> None:
        """A band about a proximal phalanx, most often the ring finger's; thicker where seen edge on."""
        bone, along, across, length = self.pick((5, 9, 13, 13, 13, 17), tilt=6)
        centre = self.hand.base[bone] + along * length * self.stream.uniform(0.48, 0.64)
        half = 15.0 * self.hand.scale * self.person.flesh
        band, sag = self.stream.uniform(1.8, 3.6) * self.hand.scale, self.stream.uniform(-2, 2)
        for wide, value in ((1.0, 245), (0.86, 185)):
            t = np.linspace(-wide, wide, 13)[:, None]
            middle = centre + t * half * across + sag * (1 - t**2) * along
            self.paint(np.concatenate([middle + band * along, (middle - band * along)[::-1]]), value)

    def screw(self) -> None:
        """One screw inside a metacarpal or a proximal phalanx."""
        bone, along, _, length = self.pick((2, 6, 10, 14, 18, 5, 9, 13), tilt=22)
        axis = self.hand.tip[bone] - self.hand.base[bone]
        centre = self.hand.base[bone] + axis * self.stream.uniform(0.35, 0.65)
        scale = self.hand.scale
        self.bolt(centre, along, min(0.45 * length, 36 * scale), float(self.stream.uniform(1.7, 2.3)) * scale)

    def plate(self) -> None:
        """A plate on the radius, T-shaped, or along a metacarpal; its screws are seen nearly end on."""
        bone, along, across, length = self.pick((RADIUS, RADIUS, 6, 10, 14, 18), tilt=4)
        scale, radius = self.hand.scale, bone == RADIUS
        half, reach, start = (5.2, 70, 12) if radius else (3.8, 0.62 * length / scale, 0.19 * length / scale)
        half, reach, start = half * scale, reach * scale, start * scale
        head, end = 2.3 if radius else 1.0, reach / half
        corners = [(0, head), (0.8, 1.05 * head), (1.5 * head, 1.05 * head), (2.4 * head, 1), (end, 1)]
        corners += [(end + 0.6, 0.5)]
        shape = np.array([*corners, *((t, -h) for t, h in corners[::-1])]) * half
        origin = self.hand.base[bone] + along * start
        self.paint(origin + shape @ np.array([along, across]), 130)
        for place in np.linspace(1.4 * half, reach - 0.6 * half, 5):
            turn = np.deg2rad(self.stream.uniform(50, 130))
            lean = np.cos(turn) * along + np.sin(turn) * across
            self.bolt(origin + place * along, lean, 3 * half, 0.24 * half)


def _add_metal(depth: np.ndarray, hand: Hand, person: Build, stream: Stream, kind: str) -> None:
    """The outlier: metal stops nearly everything."""
    metal = _Metal(hand, person, stream, len(depth))
    {"ring": metal.ring, "screw": metal.screw, "plate": metal.plate}[kind]()
    blurred = cv2.GaussianBlur(metal.canvas, (0, 0), _focus(metal.zoom))
    depth += blurred.astype(np.float32) * np.float32(3.2 / 255)


LETTERS = {  # strokes in heights of the letter
    "L": (((0, 0), (0, 1), (0.6, 1)),),
    "R": (
        ((0, 1), (0, 0), (0.38, 0), (0.56, 0.09), (0.62, 0.26), (0.56, 0.43), (0.38, 0.52), (0, 0.52)),
        ((0.34, 0.52), (0.66, 1)),
    ),
}


def _add_letter(depth: np.ndarray, hand: Hand, stream: Stream) -> None:
    """The lead letter that says which hand it is, in the upper corner on the thumb's side."""
    zoom, right = len(depth) / FRAME, hand.mirror > 0
    height, x, y, tilt = stream.uniform(0, 1, 4) * (12, 34, 34, 0.32) + (20, 26, 26, -0.16)
    corner = np.array([x if right else FRAME - x - height, y])
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]) * height
    canvas = np.zeros(depth.shape, dtype=np.uint8)
    for stroke in LETTERS["R" if right else "L"]:
        points = _fixed(np.array(stroke) @ turn + corner, zoom)
        cv2.polylines(canvas, [points], False, 255, max(round(3.4 * zoom), 1), cv2.LINE_AA, SHIFT)
    depth += canvas * np.float32(stream.uniform(0.7, 1.6) / 255)


def _develop(depth: np.ndarray, stream: Stream) -> np.ndarray:
    """Grey values: bright where the rays did not come through; then the grain of the exposure."""
    size = len(depth)
    grain = cv2.GaussianBlur(stream.octets(size, size), (3, 3), 0.6).astype(np.float32)
    grain -= np.float32(127.5)
    grey = cv2.exp(-depth)
    grey *= np.float32(-1)
    grey += np.float32(1)
    grey *= np.float32(stream.uniform(225, 262)) + grain * np.float32(0.16)
    grey += grain * np.float32(0.03)
    return cv2.convertScaleAbs(np.maximum(grey, 0, out=grey))
