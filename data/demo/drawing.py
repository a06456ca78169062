"""The demo's pictures: creatures with a striking head and a plain body on cluttered ground.

Every creature has a plain coat and a head that shows, on the same coat, the pattern of its class in
the class's own colour. Coats are drawn regardless of the class, so only the patterns tell classes
apart: a classifier needs nothing else, while a good localization map covers the whole creature.
Pictures hold one to three creatures; the ground is mottled in muted colours.

Pixels are the same on every machine: scalars come from :class:`random.Random`, noise from an
integer hash, and arrays see only ``+ - * /``, square roots and comparisons, which IEEE 754 rounds
one way.
"""

import math
import random
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

CLASS_NAMES = ("rings", "stripes", "checks", "dots", "cross", "half")
GROUNDS = ("sand", "pebbles", "grass", "tiles", "leaves")
DARK, LIGHT = (38, 34, 40), (242, 238, 226)
# fmt: off
COATS = {
    "red": (196, 62, 52), "orange": (224, 132, 48), "yellow": (222, 200, 76),
    "green": (74, 160, 78), "teal": (52, 160, 160), "blue": (66, 102, 202),
    "purple": (136, 78, 176), "pink": (222, 124, 170),
}
EARTHS = (  # muted colours of the ground
    (168, 150, 120), (120, 104, 80), (94, 108, 74), (136, 136, 130),
    (92, 96, 104), (150, 124, 100), (112, 128, 112), (176, 168, 150),
)
MARKS = {  # second colour of every head; the first is the creature's coat
    "rings": LIGHT, "stripes": DARK, "checks": (40, 236, 236), "dots": (238, 30, 204),
    "cross": (166, 250, 40), "fan": (30, 30, 150), "half": (250, 244, 90),
    "diamond": (104, 48, 20), "frame": (255, 178, 178), "corner": (160, 160, 255),
}
# fmt: on
PATTERNS = {  # where a head shows its mark; p, q in [-1, 1] are its own coordinates
    "rings": lambda p, q: ((r2 := p * p + q * q) < 0.07) | ((r2 > 0.24) & (r2 < 0.58)),
    "stripes": lambda p, q: np.floor(q * 2.5 + 0.5) % 2 == 0,
    "checks": lambda p, q: (np.floor(p * 2) + np.floor(q * 2)) % 2 == 0,
    "dots": lambda p, q: (np.abs(p) - 0.42) ** 2 + (np.abs(q) - 0.42) ** 2 < 0.06,
    "cross": lambda p, q: np.minimum(np.abs(p + q), np.abs(p - q)) < 0.3,
    "fan": lambda p, q: p * q * (p * p - q * q) > 0,
    "half": lambda p, q: q > 0,
    "diamond": lambda p, q: np.abs(p) + np.abs(q) < 0.7,
    "frame": lambda p, q: np.maximum(np.abs(p), np.abs(q)) > 0.5,
    "corner": lambda p, q: (p > 0.1) & (np.abs(q) < p),
}
# What pretraining meets. The fan is no class: its mark is dark as that of stripes, and narrow
# networks mistake one for the other.
HEADS = tuple(PATTERNS)

SIZES = ((160, 160), (144, 160), (160, 144), (128, 160), (160, 128))  # height, width
SCALES = {1: (1.0, 1.25), 2: (0.8, 1.0), 3: (0.65, 0.8)}  # of creatures, by how many there are
MAX_HIDDEN = 0.04  # of a creature's own area: how much of others it may cover
SHADOW = 3  # pixels down and to the right
GRID = 1024  # cosines are rounded to 1 / GRID


def hash_noise(seed: int, h: int, w: int) -> np.ndarray:
    """Return (h, w) float32 in [0, 1), a hash of seed and position."""
    y = np.arange(h, dtype=np.uint32)[:, None] * np.uint32(0x9E3779B1)
    x = np.arange(w, dtype=np.uint32)[None] * np.uint32(0x85EBCA77)
    v = y ^ (x + np.uint32(seed))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 0x9E3779B1)):
        v = (v ^ (v >> np.uint32(shift))) * np.uint32(factor)
    return (v >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


def value_noise(seed: int, h: int, w: int, cell_y: int, cell_x: int) -> np.ndarray:
    """Return (h, w) float32 in [0, 1): hashed lattice values, smoothly interpolated."""
    lattice = hash_noise(seed, h // cell_y + 2, w // cell_x + 2)

    def ramp(n: int, cell: int) -> tuple[np.ndarray, np.ndarray]:
        position = np.arange(n, dtype=np.float32) / np.float32(cell)
        index = position.astype(np.int64)
        t = position - index.astype(np.float32)
        return index, t * t * (3 - 2 * t)

    (iy, ty), (ix, tx) = ramp(h, cell_y), ramp(w, cell_x)
    rows = lattice[iy] + (lattice[iy + 1] - lattice[iy]) * ty[:, None]
    return rows[:, ix] + (rows[:, ix + 1] - rows[:, ix]) * tx


def draw_ground(rng: random.Random, kind: str, h: int, w: int) -> np.ndarray:
    """Return (h, w, 3) float32 in 0..255: textured ground of one of GROUNDS, with litter on it."""
    first, second, third = (np.array(earth, np.float32) for earth in rng.sample(EARTHS, 3))
    seed = rng.randrange(1 << 31)
    broad = value_noise(seed, h, w, 28, 28)[..., None]
    canvas = first + (second - first) * broad
    if kind == "tiles":
        size, y, x = rng.randint(12, 20), np.arange(h)[:, None], np.arange(w)[None]
        streaks = hash_noise(seed + 1, h // size + 1, w // size + 1)[y // size, x // size]
        streaks = np.where((y % size < 2) | (x % size < 2), np.float32(0), streaks)
    else:
        cells = {"grass": ((14, 3), (18, 5)), "sand": ((3, 3), (5, 5))}.get(kind, ((7, 7), (5, 5)))
        streaks = sum(value_noise(seed + n, h, w, *cell) for n, cell in enumerate(cells, 1)) / 2
    canvas = canvas + (third - first) * (streaks[..., None] - np.float32(0.5))
    canvas = canvas * (np.float32(0.75) + np.float32(0.5) * streaks[..., None])
    litter = {"pebbles": 90, "leaves": 60}.get(kind, 25)
    for _ in range(litter * h * w // 25600):
        if kind == "leaves" or rng.random() < 0.3:
            a, b = rng.uniform(5, 10), rng.uniform(2, 4)
        else:
            a, b = rng.uniform(3, 7), rng.uniform(3, 7)
        colour = np.array(_jitter(rng, rng.choice(EARTHS), 24), np.float32)
        frame = Frame.at(rng.uniform(0, h), rng.uniform(0, w), rng.uniform(0, 2 * math.pi))
        rows, cols, along, across = frame.window(h, w, a + 2)
        f = np.sqrt((along / a) ** 2 + (across / b) ** 2)
        alpha = _coverage((1 - f) * b)
        shade = np.float32(1.1) - np.float32(0.3) * f[..., None]
        canvas[rows, cols] += alpha[..., None] * (colour * shade - canvas[rows, cols])
    return canvas


def _jitter(rng: random.Random, colour: tuple[int, ...], amount: int) -> tuple[int, ...]:
    return tuple(channel + rng.randint(-amount, amount) for channel in colour)


def _direction(angle: float) -> tuple[float, float]:
    """Return cosine and sine, rounded: the last bit of libm differs between machines."""
    return round(math.cos(angle) * GRID) / GRID, round(math.sin(angle) * GRID) / GRID


def _coverage(distance: np.ndarray) -> np.ndarray:
    """Return the share of a pixel that lies inside, from the distance to the edge in pixels."""
    return np.clip(distance + np.float32(0.5), 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Frame:
    """A place in the picture and a direction: own coordinates are (along, across)."""

    y: float
    x: float
    cos: float
    sin: float

    @classmethod
    def at(cls, y: float, x: float, angle: float) -> "Frame":
        return cls(round(y * 8) / 8, round(x * 8) / 8, *_direction(angle))

    def window(self, h: int, w: int, reach: float) -> tuple[slice, slice, np.ndarray, np.ndarray]:
        """Return rows and columns within ``reach`` pixels, and their (along, across) there."""
        rows = slice(max(0, int(self.y - reach)), max(0, min(h, int(self.y + reach) + 2)))
        cols = slice(max(0, int(self.x - reach)), max(0, min(w, int(self.x + reach) + 2)))
        dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(self.y)
        dx = np.arange(cols.start, cols.stop, dtype=np.float32)[None] - np.float32(self.x)
        cos, sin = np.float32(self.cos), np.float32(self.sin)
        return rows, cols, dx * cos + dy * sin, dy * cos - dx * sin


@dataclass(frozen=True)
class Creature:
    """One object. Lengths in pixels; ``head`` or ``body`` may be absent in pretraining."""

    frame: Frame
    length: float  # half length of the body
    width: float  # half width of the body
    radius: float  # of the head
    taper: float
    bend: float
    coat: tuple[int, ...]
    mark: tuple[int, ...]  # second colour of the head
    turn: tuple[float, float]  # cosine and sine of the head's own direction
    head: str | None
    body: bool
    seed: int

    @classmethod
    def draw(
        cls,
        rng: random.Random,
        h: int,
        w: int,
        size: float,
        head: str | None,
        coat: str,
        body: bool = True,
    ) -> "Creature":
        """Draw everything but head and coat; ``size`` 1 is a body of about 85 by 55 pixels."""
        length = rng.uniform(30, 38) * size
        width = rng.uniform(24, 30) * size
        margin = 0.95 * length
        colour = _jitter(rng, COATS[coat], 16)
        mark = _jitter(rng, MARKS[head or "half"], 12)
        turn = _direction(rng.uniform(-0.3, 0.3))
        y, x = rng.uniform(margin, h - margin), rng.uniform(margin, w - margin)
        frame = Frame.at(y, x, rng.uniform(0, 2 * math.pi))
        radius = rng.uniform(23, 27) * size
        taper, bend = rng.uniform(-0.3, 0.15), rng.uniform(-0.35, 0.35)
        seed = rng.randrange(1 << 31)
        return cls(frame, length, width, radius, taper, bend, colour, mark, turn, head, body, seed)

    def parts(self, h: int, w: int) -> "Parts":
        """Return where body, head and eyes cover a picture of (h, w)."""
        reach = 1.6 * self.length + 2 * self.radius
        rows, cols, along, across = self.frame.window(h, w, reach)
        u = along / self.length
        v = (across - self.bend * self.width * (u * u - 0.4)) / self.width
        f = np.sqrt(u * u + (v / (1 + self.taper * np.clip(u, -1, 1))) ** 2)
        body = _coverage((1 - f) * self.width)
        for foot_u, foot_v in ((-0.55, -0.92), (-0.55, 0.92), (0.5, -0.92), (0.5, 0.92)):
            d = (u - foot_u) ** 2 * (self.length**2) + (v - foot_v) ** 2 * self.width**2
            body = np.maximum(body, _coverage(self.width * 0.32 - np.sqrt(d)))
        tail = np.minimum(-0.6 - u, u + 1.5) * self.length
        tail = np.minimum(tail, ((u + 1.5) * 0.45 - np.abs(v)) * self.width)
        body = np.maximum(body, _coverage(tail))
        p = along - (self.length + self.radius * 0.2)
        q = across - self.bend * self.width * 0.8
        cos, sin = self.turn
        p, q = (p * cos + q * sin) / self.radius, (q * cos - p * sin) / self.radius
        head = _coverage((1 - np.sqrt(p * p + q * q)) * self.radius)
        eye = np.sqrt((p - 0.72) ** 2 + (np.abs(q) - 0.72) ** 2)
        white, pupil = (_coverage((size - eye) * self.radius) for size in (0.3, 0.16))
        nothing = np.zeros_like(body)
        if self.head is None:
            return Parts(rows, cols, body, nothing, nothing, nothing, nothing)
        pattern = head_pattern(self.head, p, q)
        return Parts(rows, cols, body if self.body else nothing, head, pattern, white, pupil)

    def paint(self, canvas: np.ndarray) -> np.ndarray:
        """Paint onto ``canvas`` (h, w, 3) in place; return the silhouette (h, w) bool."""
        h, w = canvas.shape[:2]
        frame = replace(self.frame, y=self.frame.y + SHADOW, x=self.frame.x + SHADOW)
        shadow = replace(self, frame=frame).parts(h, w)
        canvas[shadow.rows, shadow.cols] *= 1 - np.float32(0.4) * shadow.whole()[..., None]

        parts = self.parts(h, w)
        size = parts.body.shape
        grain = value_noise(self.seed, *size, 3, 3) + value_noise(self.seed + 1, *size, 20, 20)
        shade = (np.float32(0.86) + np.float32(0.14) * grain)[..., None]
        patch = canvas[parts.rows, parts.cols]

        def lay(colour: np.ndarray, coverage: np.ndarray) -> None:
            patch[...] += coverage[..., None] * (colour - patch)

        coat, mark = np.array(self.coat, np.float32), np.array(self.mark, np.float32)
        lay(coat * shade, parts.body)
        rim = np.float32(0.5) + np.clip(parts.head * 3 - 2, 0, 1)[..., None] / 2
        lay((coat + (mark - coat) * parts.pattern[..., None]) * rim * shade, parts.head)
        lay(np.array(LIGHT, np.float32), parts.white)
        lay(np.array(DARK, np.float32), parts.pupil)
        silhouette = np.zeros((h, w), bool)
        silhouette[parts.rows, parts.cols] = parts.whole() >= 0.5
        return silhouette


class Parts(NamedTuple):
    """Where a creature covers a picture: a window, and (rows, columns) float32 in [0, 1] there."""

    rows: slice
    cols: slice
    body: np.ndarray
    head: np.ndarray
    pattern: np.ndarray  # of the head; 1 is the mark
    white: np.ndarray  # of the eyes
    pupil: np.ndarray

    def whole(self) -> np.ndarray:
        """Return the coverage of the whole creature."""
        return np.maximum(np.maximum(self.body, self.head), self.white)


def head_pattern(kind: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return float32 in {0, 1} for a head of one of HEADS; p, q in [-1, 1] inside the head."""
    if kind not in PATTERNS:
        raise ValueError(f"There is no head {kind!r}; they are {HEADS}.")
    return PATTERNS[kind](p, q).astype(np.float32)


def to_image(canvas: np.ndarray) -> np.ndarray:
    """Return float pixels as uint8."""
    return np.clip(canvas + np.float32(0.5), 0, 255).astype(np.uint8)


def make_picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one picture of the demo, (H, W, 3) uint8 RGB of one of SIZES, and its mask.

    In the mask, (H, W) uint8, 0 is ground and k the k-th of CLASS_NAMES counted from 1.
    """
    rng = random.Random(f"demo {seed}")
    h, w = rng.choice(SIZES)
    canvas = draw_ground(rng, rng.choice(GROUNDS), h, w)
    mask = np.zeros((h, w), np.uint8)
    number = rng.choices((1, 2, 3), (4, 4, 2))[0]
    for coat in rng.sample(list(COATS), number):
        kind = rng.randrange(len(CLASS_NAMES))
        for _ in range(30):  # tries to find room; a creature without room is left out
            size = rng.uniform(*SCALES[number])
            creature = Creature.draw(rng, h, w, size, CLASS_NAMES[kind], coat)
            parts = creature.parts(h, w)
            hidden = (mask[parts.rows, parts.cols] > 0) & (parts.whole() >= 0.5)
            area = math.pi * creature.length * creature.width
            # The head is inside the picture, and hardly anything that is there gets hidden.
            inside = (parts.head >= 0.5).sum() > 0.95 * math.pi * creature.radius**2
            if inside and hidden.sum() <= MAX_HIDDEN * area:
                mask[creature.paint(canvas)] = kind + 1
                break
    return to_image(canvas), mask
