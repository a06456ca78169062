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

import numpy as np
from PIL import ImageColor

CLASS_NAMES = ("rings", "stripes", "checks", "dots", "cross", "half")
SIZES = ((160, 160), (144, 160), (160, 144), (128, 160), (160, 128))  # height, width
SCALES = {1: (1.0, 1.25), 2: (0.8, 1.0), 3: (0.65, 0.8)}  # of creatures, by how many there are
MAX_HIDDEN = 0.04  # of a creature's own area: how much of others it may cover
SHADOW = 3  # pixels down and to the right

DARK, LIGHT = "#262228", "#f2eee2"
COATS = (  # red, orange, yellow, green, teal, blue, purple, pink
    "#c43e34",
    "#e08430",
    "#dec84c",
    "#4aa04e",
    "#34a0a0",
    "#4266ca",
    "#884eb0",
    "#de7caa",
)
EARTHS = (  # muted colours of the ground
    "#a89678",
    "#786850",
    "#5e6c4a",
    "#888882",
    "#5c6068",
    "#967c64",
    "#708070",
    "#b0a896",
)
MARKS = {  # second colour of every head; the first is the creature's coat
    "rings": LIGHT,
    "stripes": DARK,
    "checks": "#28ecec",
    "dots": "#ee1ecc",
    "cross": "#a6fa28",
    "fan": "#1e1e96",
    "half": "#faf45a",
    "diamond": "#683014",
    "frame": "#ffb2b2",
    "corner": "#a0a0ff",
}
PATTERNS = {  # where a head shows its mark; p, q in [-1, 1] are its own coordinates
    "rings": lambda p, q: ((r2 := p * p + q * q) < 0.07) | ((r2 > 0.24) & (r2 < 0.58)),
    "stripes": lambda p, q: np.floor(q * 2.5 + 0.5) % 2 == 0,
    "checks": lambda p, q: (np.floor(p * 2) + np.floor(q * 2)) % 2 == 0,
    "dots": lambda p, q: (abs(p) - 0.42) ** 2 + (abs(q) - 0.42) ** 2 < 0.06,
    "cross": lambda p, q: (abs(p + q) < 0.3) | (abs(p - q) < 0.3),
    "fan": lambda p, q: p * q * (p * p - q * q) > 0,
    "half": lambda p, q: q > 0,
    "diamond": lambda p, q: abs(p) + abs(q) < 0.7,
    "frame": lambda p, q: (abs(p) > 0.5) | (abs(q) > 0.5),
    "corner": lambda p, q: (p > 0.1) & (abs(q) < p),
}
# What pretraining meets. The fan is no class: its mark is dark as that of stripes, and narrow
# networks mistake one for the other.
HEADS = tuple(MARKS)
GROUNDS = ("sand", "pebbles", "grass", "tiles", "leaves")
CELLS = {"sand": ((3, 3), (5, 5)), "grass": ((14, 3), (18, 5))}  # of noise, (height, width)
LITTER = {"pebbles": 90, "leaves": 60}  # things that lie on 160 x 160 pixels; others have 25
LEAF, PEBBLE = ((5, 10), (2, 4)), ((3, 7), (3, 7))  # ranges of both half axes, pixels


def hash_noise(seed: int, h: int, w: int) -> np.ndarray:
    """Return (h, w) float32 in [0, 1), a hash of seed and position."""
    y, x = np.ogrid[:h, :w]
    v = (y * 0x9E3779B1 ^ (x * 0x85EBCA77 + seed)).astype(np.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 0x9E3779B1)):
        v = (v ^ (v >> shift)) * factor
    return (v >> 8).astype(np.float32) / (1 << 24)


def value_noise(seed: int, h: int, w: int, cell_y: int, cell_x: int) -> np.ndarray:
    """Return (h, w, 1) float32 in [0, 1): hashed lattice values, smoothly interpolated."""
    values = hash_noise(seed, h // cell_y + 2, w // cell_x + 2)
    for length, cell in ((h, cell_y), (w, cell_x)):  # the rows, and then the columns as rows
        t, row = np.modf(np.arange(length, dtype=np.float32)[:, None] / cell)
        before, after = (values[row[:, 0].astype(int) + step] for step in (0, 1))
        values = (before + (after - before) * (t * t * (3 - 2 * t))).T
    return values[..., None]


def draw_ground(rng: random.Random, kind: str, h: int, w: int) -> np.ndarray:
    """Return (h, w, 3) float32 in 0..255: textured ground of one of GROUNDS, with litter on it."""
    first, second, third = (_near(earth) for earth in rng.sample(EARTHS, 3))
    seed = rng.randrange(1 << 31)
    y, x, _ = np.ogrid[:h, :w, :1]
    if kind == "tiles":
        side = rng.randint(12, 20)
        streaks = hash_noise(seed + 1, h // side + 1, w // side + 1)[y // side, x // side]
        streaks[(y % side < 2) | (x % side < 2)] = 0
    else:
        fine, coarse = CELLS.get(kind, ((7, 7), (5, 5)))
        streaks = value_noise(seed + 1, h, w, *fine) + value_noise(seed + 2, h, w, *coarse)
        streaks /= 2
    canvas = first + (second - first) * value_noise(seed, h, w, 28, 28)
    canvas += (third - first) * (streaks - 0.5)
    canvas *= 0.75 + 0.5 * streaks
    for _ in range(LITTER.get(kind, 25) * h * w // 25600):
        axes = LEAF if kind == "leaves" or rng.random() < 0.3 else PEBBLE
        a, b = (rng.uniform(*ends) for ends in axes)
        colour = _near(rng.choice(EARTHS), rng, 24)
        top, left, angle = _place(rng, h, w)
        rows, cols = (slice(max(0, int(at - (a + 2))), int(at + a) + 4) for at in (top, left))
        along, across = _turn(x[:, cols] - left, y[rows] - top, angle)
        f = np.sqrt((along / a) ** 2 + (across / b) ** 2)
        patch = canvas[rows, cols]
        patch += _coverage((1 - f) * b) * (colour * (1.1 - 0.3 * f) - patch)
    return canvas


def _near(colour, rng=None, amount=0):
    """Return RGB, float32 (3,) in 0..255, of which every channel moved at random by an amount."""
    moves = [rng.randint(-amount, amount) if rng else 0 for _ in range(3)]
    return np.add(ImageColor.getrgb(colour), moves, dtype=np.float32)


def _place(rng, h, w, margin=0):
    """Return a point (y, x) so far from the border, in eighths of a pixel, and an angle."""
    y, x = (round(rng.uniform(margin, side - margin) * 8) / 8 for side in (h, w))
    return y, x, rng.uniform(0, 2 * math.pi)


def _turn(x, y, angle):
    """Return the coordinates along and across a direction, float32."""
    # The last bit of libm differs between machines, so it is rounded away.
    cos, sin = (round(f(angle) * 1024) / 1024 for f in (math.cos, math.sin))
    return np.float32(x * cos + y * sin), np.float32(y * cos - x * sin)


def _coverage(distance):
    """Return the share of a pixel that lies inside, from the distance to the edge in pixels."""
    return np.clip(distance + 0.5, 0, 1)


class Creature:
    """One object in a picture of (h, w), drawn at random but for what the arguments say.

    Args:
        size: 1 is a body of about 85 by 55 pixels.
        head: one of HEADS, or None for a body alone.
        coat: one of COATS.
        body: False is for a head alone.

    Attributes:
        parts: coverage of the picture by body, head, eyes and pupils, float32 (4, h, w, 1).
        silhouette: bool (h, w), the pixels that show it.
        area, head_area: of body and head, in pixels.
    """

    def __init__(
        self,
        rng: random.Random,
        h: int,
        w: int,
        size: float,
        head: str | None,
        coat: str,
        body: bool = True,
    ) -> None:
        length = rng.uniform(30, 38) * size  # half length and half width of the body, pixels
        width = rng.uniform(24, 30) * size
        self.coat = _near(coat, rng, 16)
        self.mark = _near(MARKS[head or "half"], rng, 12)
        turn = rng.uniform(-0.3, 0.3)
        y, x, angle = _place(rng, h, w, 0.95 * length)
        radius = rng.uniform(23, 27) * size  # of the head
        taper = rng.uniform(-0.3, 0.15)
        bend = rng.uniform(-0.35, 0.35) * width
        self.seed = rng.randrange(1 << 31)
        reach = 1.6 * length + 2 * radius
        self.corner = [max(0, int(centre - reach)) for centre in (y, x)]
        self.area, self.head_area = math.pi * length * width, math.pi * radius**2

        # The shadow is the whole creature, moved, so all is seen from SHADOW before the picture on.
        ys, xs, _ = np.ogrid[-SHADOW:h, -SHADOW:w, :1]
        along, across = _turn(xs - x, ys - y, angle)
        u = along / length
        v = (across - bend * (u * u - 0.4)) / width
        p, q = _turn(along - (length + radius * 0.2), across - bend * 0.8, turn)
        p, q = p / radius, q / radius
        eye = np.sqrt((p - 0.72) ** 2 + (abs(q) - 0.72) ** 2)
        heads = np.stack([1 - np.sqrt(p * p + q * q), 0.3 - eye, 0.16 - eye]) * radius
        parts = _coverage(np.stack([_body(u, v, length, width, taper), *heads]))
        if not body:
            parts[0] = 0
        if head is None:
            parts[1:] = 0
        self.marked = PATTERNS[head or "half"](p, q)[SHADOW:, SHADOW:]
        self.parts = parts[:, SHADOW:, SHADOW:]
        self.silhouette = self.parts.max(0)[..., 0] >= 0.5
        self.shadow = parts.max(0)[:-SHADOW, :-SHADOW]

    def paint(self, canvas: np.ndarray) -> None:
        """Paint onto ``canvas``, float32 (h, w, 3), in place."""
        h, w, _ = canvas.shape
        canvas *= 1 - 0.4 * self.shadow
        grain = value_noise(self.seed, h, w, 3, 3) + value_noise(self.seed + 1, h, w, 20, 20)
        shade = 0.86 + 0.14 * np.roll(grain, self.corner, (0, 1))
        rim = 0.5 + np.clip(self.parts[1] * 3 - 2, 0, 1) / 2
        head = np.where(self.marked, self.mark, self.coat) * rim * shade
        colours = (self.coat * shade, head, _near(LIGHT), _near(DARK))
        for part, colour in zip(self.parts, colours, strict=True):
            canvas += part * (colour - canvas)


def _body(u, v, length, width, taper):
    """Return pixels to the edge of trunk, feet and tail, above 0 inside; the trunk has u, v ± 1."""
    trunk = 1 - np.sqrt(u * u + (v / (1 + taper * np.clip(u, -1, 1))) ** 2)
    beside = (abs(v) - 0.92) ** 2 * width**2
    feet = [np.sqrt((u - foot) ** 2 * length**2 + beside) for foot in (-0.55, 0.5)]
    tail = np.minimum(-0.6 - u, u + 1.5) * length
    tip = ((u + 1.5) * 0.45 - abs(v)) * width
    return np.max([trunk * width, width * 0.32 - np.min(feet, 0), np.minimum(tail, tip)], 0)


def to_image(canvas: np.ndarray) -> np.ndarray:
    """Return float pixels as uint8."""
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def make_picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one picture of the demo, (H, W, 3) uint8 RGB of one of SIZES, and its mask.

    In the mask, (H, W) uint8, 0 is ground and k the k-th of CLASS_NAMES counted from 1.
    """
    rng = random.Random(f"demo {seed}")
    h, w = rng.choice(SIZES)
    canvas = draw_ground(rng, rng.choice(GROUNDS), h, w)
    mask = np.zeros((h, w), np.uint8)
    number = rng.choices((1, 2, 3), (4, 4, 2))[0]
    for coat in rng.sample(COATS, number):
        kind = rng.randrange(len(CLASS_NAMES))
        for _ in range(30):  # tries to find room; a creature without room is left out
            size = rng.uniform(*SCALES[number])
            creature = Creature(rng, h, w, size, CLASS_NAMES[kind], coat)
            # The head is inside the picture, and hardly anything that is there gets hidden.
            head = (creature.parts[1] >= 0.5).sum() > 0.95 * creature.head_area
            hidden = (mask[creature.silhouette] > 0).sum()
            if head and hidden <= MAX_HIDDEN * creature.area:
                creature.paint(canvas)
                mask[creature.silhouette] = kind + 1
                break
    return to_image(canvas), mask
