"""The anatomy of a phantom: 29 bone outlines of one hand, posed and placed in a 512 px frame.

Lengths are pixels of that frame (1.5 to the millimetre), x to the right, y down.  Everything is laid out as
a right hand on a postero-anterior radiograph: fingers up, thumb (the radial side) on the left; a left hand is
its mirror image.  An outline is a closed Catmull-Rom curve through control points; bones vary by length,
width, flare, bow and a smooth displacement along the normal, hands by pose and place.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FRAME = 512
CARPALS = ("Trapezium", "Trapezoid", "Capitate", "Hamate", "Scaphoid", "Lunate", "Triquetrum", "Pisiform")
NAMES = (*(f"finger-{i}" for i in range(1, 20)), *CARPALS, "Radius", "Ulna")
DIGITS = ((2, 1, 0), (6, 5, 4, 3), (10, 9, 8, 7), (14, 13, 12, 11), (18, 17, 16, 15))  # from the wrist out
TRAPEZIUM, TRAPEZOID, CAPITATE, HAMATE, SCAPHOID, LUNATE, TRIQUETRUM, PISIFORM, RADIUS, ULNA = range(19, 29)
BONES, VERTICES = len(NAMES), 80

# Each digit's bones from the wrist out: length, half the width of the shaft.
SIZES = (
    ((70, 7.0), (49, 6.3), (34, 5.0)),
    ((103, 6.5), (62, 6.4), (37, 5.6), (27, 3.9)),
    ((100, 6.5), (69, 6.7), (43, 5.7), (30, 4.1)),
    ((89, 5.7), (64, 6.2), (40, 5.3), (29, 3.9)),
    ((83, 5.7), (51, 5.4), (29, 4.6), (25, 3.5)),
)
BASES = ((-44.5, -26.0), (-22.0, -25.5), (0.0, -22.5), (18.0, -21.5), (33.5, -16.5))  # of the metacarpals
FAN = (-38.0, -8.0, 0.0, 7.5, 16.0)  # degrees of the metacarpals from the middle finger's, clockwise
CLOSED = (-27.0, -2.0, 0.0, 2.0, 6.0)  # degrees of the fingers held together
OPEN = (-27.0, -17.0, -2.0, 11.0, 27.0)  # and spread
GAPS = (2.6, 2.3, 2.0)  # cartilage at the knuckle, the middle and the last joint
CURL = (0.04, 0.10, 0.12)  # foreshortening of the phalanges of a curled finger
WRIST_PIVOT, PALM = (0.0, 12.0), (0.0, -60.0)  # the head of the capitate; where a hand is turned about
ROOM = ((22.0, 24.0), (490.0, 446.0))  # what fingers and wrist keep to

# Half an outline from the middle of the base to the middle of the head:
# sideways in half shaft widths, along in lengths.
PROXIMAL = (
    (0, 0.040), (0.75, 0.022), (1.38, -0.006), (1.66, 0.035), (1.60, 0.090), (1.28, 0.190), (1.08, 0.330),
    (0.98, 0.500), (0.95, 0.640), (1.00, 0.770), (1.17, 0.870), (1.30, 0.930), (1.22, 0.975), (0.85, 1.002),
    (0.40, 0.995), (0, 0.978),
)  # fmt: skip
MIDDLE = (
    (0, 0.000), (0.55, 0.022), (1.20, 0.000), (1.64, 0.030), (1.62, 0.100), (1.34, 0.220), (1.08, 0.380),
    (0.96, 0.540), (0.97, 0.680), (1.12, 0.810), (1.33, 0.900), (1.30, 0.965), (0.90, 1.003), (0.40, 0.990),
    (0, 0.968),
)  # fmt: skip
DISTAL = (
    (0, 0.000), (0.70, 0.024), (1.40, 0.000), (1.88, 0.040), (1.90, 0.130), (1.52, 0.260), (1.16, 0.400),
    (0.96, 0.540), (0.95, 0.660), (1.18, 0.760), (1.48, 0.840), (1.42, 0.920), (1.00, 0.980), (0.50, 1.005),
    (0, 1.000),
)  # fmt: skip
# Metacarpals: either side from base to head; the edge of each base, from the radial corner to the ulnar.
SHAFT = (
    (1.62, 0.085), (1.30, 0.150), (1.08, 0.240), (0.98, 0.360), (0.95, 0.480), (0.96, 0.600), (1.02, 0.710),
    (1.16, 0.790), (1.38, 0.842), (1.56, 0.882), (1.60, 0.915), (1.44, 0.952), (1.06, 0.980), (0.55, 0.997),
)  # fmt: skip
BASE_EDGES = (
    ((-1.78, 0.035), (-1.20, 0.022), (-0.45, 0.020), (0.40, -0.008), (1.10, -0.020), (1.72, 0.020)),
    ((-1.90, 0.020), (-1.45, -0.010), (-0.70, 0.018), (0.00, 0.034), (0.75, -0.006), (1.40, -0.022),
     (1.80, 0.020)),
    ((-1.75, 0.012), (-1.45, -0.034), (-0.85, -0.012), (0.00, 0.004), (0.90, 0.002), (1.60, 0.018)),
    ((-1.60, 0.010), (-1.10, -0.008), (-0.30, 0.004), (0.50, 0.000), (1.20, 0.002), (1.60, 0.022)),
    ((-1.60, 0.004), (-1.00, -0.012), (-0.20, -0.002), (0.70, 0.012), (1.50, 0.032), (1.95, 0.060)),
)
# Wrist and forearm, about the middle of the capitate, clockwise.
WRIST = {
    TRAPEZIUM: (
        (-26, -8), (-24, -13), (-24, -20), (-27, -26), (-31, -27.5), (-36, -26.5), (-40, -22),
        (-45, -19.5), (-48, -15), (-46, -9.5), (-41, -5.5), (-35, -3.5), (-30, -4.5),
    ),
    TRAPEZOID: (
        (-28.5, -20), (-26, -25), (-22, -24), (-17, -27.5), (-12, -25), (-8, -20.5), (-7.5, -14),
        (-10, -8), (-15, -5), (-21, -5), (-26, -7), (-28.5, -12),
    ),
    CAPITATE: (
        (-11, -18), (-4, -20), (4, -19.5), (10.5, -18), (11.5, -11), (10, -4), (8.7, 3), (9.3, 9),
        (7.5, 15.5), (2.5, 19.3), (-3.5, 19), (-8.5, 15), (-9.8, 9), (-8.7, 2.5), (-9.2, -4),
        (-11.5, -11),
    ),
    HAMATE: (
        (9.5, -16), (14, -19), (20, -18.5), (26, -16.5), (32, -13), (35, -8), (32, -2.5), (27, 2),
        (22, 7.5), (16, 13), (11.5, 14.5), (10.3, 9), (9.8, 2), (11, -5), (10, -11),
    ),
    SCAPHOID: (
        (-11.5, 22.5), (-12.2, 15.5), (-13, 9), (-15.5, 3.5), (-19, -2), (-23.5, -6), (-29, -7),
        (-33.5, -4), (-34.5, 1.5), (-31.5, 7), (-29, 12.5), (-28, 18.5), (-25.5, 25), (-20.5, 30.5),
        (-15.5, 31.5), (-12.5, 28),
    ),
    LUNATE: (
        (-9.7, 20.5), (-6, 20.2), (-2, 22), (3, 22.2), (8, 20), (11.5, 15.5), (14.5, 14.5),
        (16.8, 18.5), (17.2, 25), (13.5, 31.5), (7, 35.5), (0, 36.3), (-6, 34.8), (-10, 31),
        (-11.5, 25.5),
    ),
    TRIQUETRUM: (
        (17, 15), (20.5, 10.5), (25.5, 5.5), (30.5, 1.5), (36, 1), (40, 5.5), (40.5, 12.5),
        (37.5, 19.5), (33, 25.5), (26.5, 28.8), (20.5, 27.5), (17.5, 22),
    ),
    PISIFORM: (
        (29, 8), (33, 8.6), (35.6, 11.8), (35.8, 16), (33.6, 19.8), (29.8, 21.4), (25.8, 20),
        (23.6, 16.6), (23.6, 12.2), (25.6, 9),
    ),
    RADIUS: (
        (-37.5, 24), (-34, 25.5), (-29.5, 30), (-22.5, 33.6), (-15, 35.6), (-9, 37.6), (-2, 39.8),
        (5, 39.6), (10, 41.5), (11, 46), (9.5, 52), (7.8, 60), (5, 70), (1.5, 85), (-0.5, 105),
        (-1.5, 140), (-2, 200), (-2, 280), (-2, 360), (-12, 362), (-22, 360), (-22, 280), (-22, 200),
        (-22.5, 140), (-23.5, 105), (-26.5, 85), (-31, 70), (-35.5, 58), (-38.5, 46), (-39.8, 35),
        (-39.5, 28),
    ),
    ULNA: (
        (13.5, 50), (14.8, 45), (19, 42.8), (24.5, 42.6), (29.5, 43.2), (32.5, 40), (34.5, 35),
        (37.6, 35.4), (39, 41), (39.4, 48), (37.8, 56), (35, 66), (33, 82), (32, 105), (32, 140),
        (32.5, 200), (32.5, 280), (32.5, 360), (24, 362), (16, 360), (16, 280), (16, 200), (16, 140),
        (15.5, 105), (14.5, 82), (14, 66), (13, 57),
    ),
}  # fmt: skip


class Stream:
    """Random numbers from PCG64's raw words alone: the one stream that NumPy promises never to change."""

    def __init__(self, *key: int):
        self._bits = np.random.PCG64(key)

    def words(self, count: int) -> NDArray[np.uint64]:
        """Raw 64-bit words."""
        return self._bits.random_raw(count)

    def octets(self, *shape: int) -> NDArray[np.uint8]:
        """Even bytes, the same on machines of either byte order."""
        count = prod(shape)
        return self.words((count + 7) // 8).astype("<u8", copy=False).view(np.uint8)[:count].reshape(shape)

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> Array:
        """Evenly between low and high; a scalar array without a shape."""
        unit = (self.words(prod(shape)) >> np.uint64(11)) * 2.0**-53
        return low + (high - low) * unit.reshape(shape)

    def bell(self, *shape: int) -> Array:
        """Bell-shaped about 0 with deviation 1, within 3.5: the sum of four even draws."""
        a, b, c, d = self.uniform(-1.0, 1.0, 4, *shape)
        return (a + b + c + d) * 0.75**0.5

    def chance(self, share: float) -> bool:
        """True in the given share of draws."""
        return bool(self.uniform() < share)


@dataclass(frozen=True)
class Build:
    """What the two hands of one person share."""

    size: float  # of the whole hand, 1.08 on average (the tables are a small hand's)
    length: Array  # (29,) factors
    width: Array  # (29,)
    flare: Array  # (29,) how much wider than the shaft the ends are
    shape: Array  # (29, 6) amplitudes of the outline's harmonics
    flesh: float  # soft tissue around the bones, 1 on average
    density: float  # of the bone
    cortex: float  # thickness of its rim, px


@dataclass(frozen=True)
class Hand:
    """One posed hand in the 512 px frame (before rounding); arrays run over the 29 bones in order."""

    outlines: Array  # (29, VERTICES, 2)
    base: Array  # (29, 2) where each bone's axis begins, next to the wrist; the middle of a carpal bone
    tip: Array  # (29, 2) where it ends: towards the finger tip, for the forearm towards the elbow
    half: Array  # (29,) half the width where it is widest
    scale: float
    mirror: float  # +1 right, -1 left
    pose: str


def _spline(points: Array, vertices: int) -> Array:
    """Closed Catmull-Rom curve through the points, sampled evenly in its parameter."""
    t = np.arange(vertices) * (len(points) / vertices)
    k = t.astype(int)
    t = (t - k)[:, None]
    p0, p1, p2, p3 = (points[(k + step) % len(points)] for step in (-1, 0, 1, 2))
    return p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))


def _templates() -> tuple[Array, Array]:
    """Outlines (29, V, 2) as (sideways, along) from each bone's own origin, and the origins (29, 2)."""
    outlines, origins = np.zeros((BONES, VERTICES, 2)), np.zeros((BONES, 2))
    for digit, sizes in enumerate(SIZES):
        for place, (length, half) in enumerate(sizes):
            if place == 0:
                up = [(u, v) for u, v in SHAFT]
                points = [*BASE_EDGES[digit], *up, (0.0, 1.002), *((-u, v) for u, v in up[::-1])]
            else:
                profile = DISTAL if place == len(sizes) - 1 else PROXIMAL if place == 1 else MIDDLE
                points = [*profile, *((-u, v) for u, v in profile[-2:0:-1])]
            outlines[DIGITS[digit][place]] = _spline(np.array(points) * (half, length), VERTICES)
    for bone, control in WRIST.items():
        corners = np.array(control, dtype=float)
        if bone < RADIUS:
            origins[bone] = corners.mean(axis=0)
        outlines[bone] = _spline((corners - origins[bone]) * (1, -1), VERTICES)
    return outlines, origins


def _normals(outlines: Array) -> Array:
    """Unit normals pointing outwards."""
    tangent = np.roll(outlines, -1, axis=1) - np.roll(outlines, 1, axis=1)
    normal = tangent[..., ::-1] * (1, -1)
    normal /= np.sqrt((normal**2).sum(axis=2, keepdims=True))
    area = (outlines[..., 0] * tangent[..., 1] - outlines[..., 1] * tangent[..., 0]).sum(axis=1)
    return normal * np.sign(area)[:, None, None]


OUTLINES, ORIGINS = _templates()
NORMALS = _normals(OUTLINES)
LENGTH, HALF = np.ptp(OUTLINES[..., 1], axis=1), np.ptp(OUTLINES[..., 0], axis=1) / 2
AXES = np.zeros((BONES, 2, 2))  # both ends of a bone's axis, in its own coordinates
AXES[:TRAPEZIUM, 1, 1] = LENGTH[:TRAPEZIUM]
AXES[RADIUS:] = ((-14, -38), (-12, -360)), ((26, -44), (24, -360))
_LONG = np.arange(BONES)[:, None] < TRAPEZIUM
_ALONG = np.clip(OUTLINES[..., 1] / LENGTH[:, None], 0, 1)
FLARE = np.where(_LONG, np.cos(2 * np.pi * _ALONG), 0.0)  # 1 at the ends of a long bone, -1 in its middle
BOW = np.where(_LONG, 4 * _ALONG * (1 - _ALONG), 0.0)
_AROUND = 2 * np.pi * np.arange(VERTICES) / VERTICES
WAVES = np.stack([f(k * _AROUND) for k in (2, 3, 4) for f in (np.cos, np.sin)])
ROUGH = np.where(_LONG, 0.03, 0.036) * HALF[:, None]  # amplitude of one wave, px
ROUGH[RADIUS:] = 0.6


def build(stream: Stream) -> Build:
    """One person."""
    length = 1 + 0.025 * stream.bell(BONES)
    for digit, factor in zip(DIGITS, 1 + 0.03 * stream.bell(5), strict=True):
        length[list(digit)] *= factor
    size, slim, flesh, density, cortex = stream.bell(5).tolist()
    return Build(
        size=1.08 + 0.05 * size,
        length=length,
        width=(1 + 0.05 * slim) * (1 + 0.04 * stream.bell(BONES)),
        flare=0.05 * stream.bell(BONES),
        shape=ROUGH * stream.bell(BONES, len(WAVES)),
        flesh=1 + 0.08 * flesh,
        density=1 + 0.10 * density,
        cortex=2.3 + 0.3 * cortex,
    )


def pose(person: Build, stream: Stream, side: str) -> Hand:
    """One hand of a person: drawn as a right hand with a straight wrist, then bent, turned and set down."""
    bent, sign = stream.chance(0.3), 1 if stream.chance(0.6) else -1  # +1: to the ulnar side
    bend = sign * float(stream.uniform(10, 25 if sign > 0 else 20) if bent else stream.uniform(0, 5))
    length = person.length * (1 + 0.008 * stream.bell(BONES))
    width = person.width * (1 + 0.01 * stream.bell(BONES))
    angle, origin = _skeleton(stream, length)

    along = OUTLINES[..., 1] * length[:, None]
    across = OUTLINES[..., 0] * width[:, None] * (1 + person.flare[:, None] * FLARE)
    across += (0.008 * LENGTH * stream.bell(BONES))[:, None] * BOW
    waves = (person.shape + 0.4 * ROUGH * stream.bell(BONES, len(WAVES))) @ WAVES
    local = np.stack([across, along], axis=-1) + NORMALS * waves[..., None]
    axes = AXES * np.where(_LONG, length[:, None], 1.0)[..., None]
    points = np.concatenate([local, axes], axis=1) @ _frame(angle) + origin[:, None]

    points[PISIFORM] = _keep_within(points[PISIFORM], points[TRIQUETRUM, :VERTICES])
    points[SCAPHOID : PISIFORM + 1] = _rotate(points[SCAPHOID : PISIFORM + 1], -0.35 * bend, WRIST_PIVOT)
    points[RADIUS:] = _rotate(points[RADIUS:], -bend, WRIST_PIVOT)
    points = _rotate(points, float(stream.uniform(-13, 13)) + 0.5 * bend, PALM)
    mirror = 1.0 if side == "R" else -1.0
    points, scale = _place(points * (mirror, 1), person.size * float(1 + 0.04 * stream.bell()), stream)
    return Hand(
        outlines=points[:, :VERTICES],
        base=points[:, VERTICES],
        tip=points[:, VERTICES + 1],
        half=HALF * width * scale,
        scale=scale,
        mirror=mirror,
        pose="bent" if bent else "straight",
    )


def _skeleton(stream: Stream, length: Array) -> tuple[Array, Array]:
    """Angle (29,) and origin (29, 2) of every bone; `length` of curled fingers is foreshortened in place."""
    angle, origin = 2.5 * stream.bell(BONES), ORIGINS + 0.5 * stream.bell(BONES, 2)
    angle[RADIUS:] *= 0.4
    spread, curl = float(stream.uniform(0.1, 1.05)), float(stream.uniform())
    curls, fan, aim = curl * stream.uniform(0.3, 1.0, 5), stream.bell(5), stream.bell(5)
    sway, starts = 2.2 * stream.bell(5, 4), np.array(BASES) + 0.6 * stream.bell(5, 2)
    for digit, bones in enumerate(DIGITS):
        if digit == 0:
            along = FAN[digit] + 3.5 * fan[digit]
            finger = along + 12 + 6.0 * aim[digit]
        else:
            along = FAN[digit] * (1 + 0.05 * fan[1]) + 0.8 * fan[digit]
            finger = CLOSED[digit] + (OPEN[digit] - CLOSED[digit]) * spread + 2.0 * aim[digit]
        start = starts[digit]
        for place, bone in enumerate(bones):
            if place:
                before, along = along, finger * (0.94 if place > 1 else 1.0) + sway[digit, place]
                length[bone] *= 1 - CURL[place - 1] * curls[digit]
                start = start + np.array([0, GAPS[place - 1]]) @ _frame((before + along) / 2)
            angle[bone], origin[bone] = along, start
            start = start + np.array([0, LENGTH[bone] * length[bone]]) @ _frame(along)
    return angle, origin


def _keep_within(points: Array, outline: Array) -> Array:
    """Points drawn towards the outline's middle until they are inside it (it is seen whole from there)."""
    middle = outline.mean(axis=0)
    spokes, rim = points - middle, outline - middle
    turn = np.arctan2(rim[:, 1], rim[:, 0])
    order = np.argsort(turn)
    reach = np.sqrt((rim**2).sum(axis=1))[order]
    limit = np.interp(np.arctan2(spokes[:, 1], spokes[:, 0]), turn[order], reach, period=2 * np.pi) - 1.0
    return middle + spokes * np.minimum(1, limit / np.sqrt((spokes**2).sum(axis=1)))[:, None]


def _frame(degrees: float | Array) -> Array:
    """Matrices (..., 2, 2) for row vectors (across, along) -> (x, y): along is up, turned clockwise."""
    a = np.deg2rad(degrees)
    cos, sin = np.cos(a), np.sin(a)
    return np.stack([np.stack([cos, sin], -1), np.stack([sin, -cos], -1)], -2)


def _rotate(points: Array, degrees: float, pivot: tuple[float, float]) -> Array:
    """Points (..., 2) turned clockwise about the pivot."""
    a = np.deg2rad(degrees)
    cos, sin = np.cos(a), np.sin(a)
    return (points - pivot) @ np.array([[cos, sin], [-sin, cos]]) + pivot


def _place(points: Array, scale: float, stream: Stream) -> tuple[Array, float]:
    """Scaled and set down somewhere; fingers and wrist stay in the picture, the forearm leaves it."""
    inner = points[:RADIUS].reshape(-1, 2)
    low, high = inner.min(axis=0), inner.max(axis=0)
    (left, top), (right, bottom) = ROOM
    scale = float(min(scale, *((right - left, bottom - top) / (high - low))))
    shift = (256, 262) - scale * (low + high) / 2 + (28, 20) * stream.uniform(-1, 1, 2)
    shift = np.clip(shift, (left, top) - scale * low, (right, bottom) - scale * high)
    return points * scale + shift, scale
