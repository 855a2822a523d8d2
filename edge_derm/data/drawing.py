"""One dermoscopic picture from random numbers: skin, lesion, structures, then what lies between lesion and lens.

Traits run from 0 to 1 and are drawn around a class's typical value; ``difficulty`` widens them and makes some lesions
borrow traits from another class.
"""

from __future__ import annotations

from typing import Mapping

import cv2
import numpy as np

VERSION = 1
SIZE_PX = 160
_Y, _X = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float32) / SIZE_PX - np.float32(0.5)

# Typical traits: how asymmetric, how ragged the border, how sharp it is, how many colours, and which structures.
TRAITS: Mapping[str, Mapping[str, float]] = {
    "nevus": dict(
        asymmetry=0.15,
        border=0.12,
        edge=0.35,
        colours=0.15,
        network=0.75,
        globules=0.3,
        streaks=0.0,
        veil=0.0,
        cysts=0.0,
        lacunae=0.0,
        red=0.1,
        grey=0.05,
        dark=0.45,
    ),
    "melanoma": dict(
        asymmetry=0.8,
        border=0.75,
        edge=0.6,
        colours=0.85,
        network=0.45,
        globules=0.45,
        streaks=0.6,
        veil=0.6,
        cysts=0.05,
        lacunae=0.0,
        red=0.25,
        grey=0.25,
        dark=0.75,
    ),
    "keratosis": dict(
        asymmetry=0.4,
        border=0.35,
        edge=0.9,
        colours=0.35,
        network=0.05,
        globules=0.15,
        streaks=0.0,
        veil=0.05,
        cysts=0.8,
        lacunae=0.0,
        red=0.1,
        grey=0.75,
        dark=0.35,
    ),
    "vascular": dict(
        asymmetry=0.3,
        border=0.25,
        edge=0.75,
        colours=0.25,
        network=0.0,
        globules=0.0,
        streaks=0.0,
        veil=0.15,
        cysts=0.05,
        lacunae=0.85,
        red=0.9,
        grey=0.1,
        dark=0.4,
    ),
}
SKIN = np.array([[236, 203, 186], [224, 178, 152], [205, 152, 122], [168, 116, 88]], np.float32)
BROWN = np.array([[172, 118, 78], [128, 80, 52], [84, 50, 36], [44, 28, 26]], np.float32)  # light to black
GREY, BLUE, WHITE = (np.array(c, np.float32) for c in ([150, 122, 98], [92, 104, 128], [226, 208, 202]))
RED, PURPLE = (np.array(c, np.float32) for c in ([176, 60, 58], [92, 28, 54]))


def picture(
    label: str, lesion: np.random.Generator, view: np.random.Generator, *, difficulty: float
) -> np.ndarray:
    """uint8 RGB [160, 160, 3] of one lesion (numbers from ``lesion``) in one view (numbers from ``view``)."""
    traits = draw_traits(label, lesion, difficulty)
    skin = draw_skin(lesion)
    x, y = _place(view)
    depth, radius = _shape(traits, lesion, x, y)
    canvas = skin + _mask(depth, traits)[..., None] * (
        _paint(traits, lesion, depth, radius, x, y, skin) - skin
    )
    return _look_through(canvas, view)


def draw_traits(label: str, rng: np.random.Generator, difficulty: float) -> dict[str, float]:
    """This lesion's traits in [0, 1]; an atypical one borrows about half of them from another class."""
    other = TRAITS[str(rng.choice(sorted(set(TRAITS) - {label})))]
    atypical = rng.random() < 0.28 * difficulty
    borrowed = rng.random(len(other)) < 0.55
    traits = {}
    for (name, typical), borrow in zip(TRAITS[label].items(), borrowed):
        centre = other[name] if atypical and borrow else typical
        traits[name] = float(np.clip(rng.normal(centre, 0.05 + 0.22 * difficulty), 0, 1))
    return traits


def field(rng: np.random.Generator, cells: int) -> np.ndarray:
    """A smooth random field, float32 [S, S], about −1 to 1, with ``cells`` bumps a side."""
    grid = rng.normal(0, 0.5, (cells + 3, cells + 3)).astype(np.float32)
    return cv2.resize(grid, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_CUBIC)


def draw_skin(rng: np.random.Generator) -> np.ndarray:
    """Skin of some tone with blotches, follicles and fine lines, float32 [S, S, 3]."""
    tone = rng.random() * (len(SKIN) - 1)
    low = min(int(tone), len(SKIN) - 2)
    base = SKIN[low] + (tone - low) * (SKIN[low + 1] - SKIN[low])
    blotch = field(rng, 4)[..., None] * np.array([5, 9, 9], np.float32)
    texture = (field(rng, 40) * 4 + field(rng, 90) * 3)[..., None]
    skin = base + blotch + texture
    for centre in rng.integers(0, SIZE_PX, (int(rng.integers(4, 16)), 2)):
        cv2.circle(
            skin, tuple(map(int, centre)), int(rng.integers(1, 3)), (base * 0.93).tolist(), -1, cv2.LINE_AA
        )
    return skin


def _place(view: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the lesion's own frame: moved, turned, mirrored."""
    angle = view.random() * 2 * np.pi
    dx, dy = view.normal(0, 0.045, 2).tolist()
    zoom = float(view.uniform(0.9, 1.12))
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))  # Python floats keep the arrays float32
    x, y = (_X - dx) / zoom, (_Y - dy) / zoom
    return x * cosine - y * sine, x * sine + y * cosine


def _shape(
    traits: Mapping[str, float], rng: np.random.Generator, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, float]:
    """How deep inside the lesion each pixel lies (1 centre, 0 border, negative outside), and its mean radius."""
    radius = float(rng.uniform(0.2, 0.36))
    stretch = float(1 + 0.45 * rng.random() * (0.4 + traits["asymmetry"]))
    theta = np.arctan2(y * stretch, x)
    border = np.ones_like(theta)
    for order in range(1, 9):
        rough = traits["asymmetry"] * 0.22 if order <= 2 else traits["border"] * 0.3 / order**0.6
        border += np.float32(rough * rng.normal(0, 0.6)) * np.cos(
            order * theta + np.float32(rng.uniform(0, 2 * np.pi))
        )
    border += field(rng, 14) * 0.12 * traits["border"]
    return 1 - np.hypot(x, y * stretch) / (radius * np.maximum(border, 0.25)), radius


def _mask(depth: np.ndarray, traits: Mapping[str, float]) -> np.ndarray:
    """Opacity of the lesion, soft or sharp at its border."""
    return np.clip(depth / (0.05 + 0.45 * (1 - traits["edge"])) + 0.35, 0, 1)


def _paint(
    traits: Mapping[str, float],
    rng: np.random.Generator,
    depth: np.ndarray,
    radius: float,
    x: np.ndarray,
    y: np.ndarray,
    skin: np.ndarray,
) -> np.ndarray:
    """The lesion's colours and structures over its whole square, float32 [S, S, 3]."""
    shade = np.clip(
        0.6 + 2.2 * traits["dark"] + field(rng, 5) * (0.25 + 1.5 * traits["colours"]) + depth * 0.5, 0, 2.99
    )
    low = shade.astype(np.int32)
    colour = BROWN[low] + (shade - low)[..., None].astype(np.float32) * (BROWN[low + 1] - BROWN[low])
    colour = _blend(colour, 0.72 * GREY + 0.28 * skin, 0.75 * traits["grey"])
    colour = _blend(colour, RED + 0.12 * skin, 0.8 * traits["red"] ** 1.5)
    colour = _blend(colour, BLUE, _spots(rng, 3, 0.35) * traits["veil"])
    colour = _blend(colour, WHITE, _spots(rng, 4, 0.75) * 0.8 * max(0.0, traits["colours"] - 0.35))
    colour = _network(colour, traits, rng, x, y)
    colour = _lacunae(colour, traits, rng)
    colour = _dots(colour, rng, int(26 * traits["globules"]), BROWN[3], (1, 3), 0.9)
    colour = _dots(colour, rng, int(24 * traits["cysts"]), WHITE, (1, 3), 0.95)
    colour = _dots(colour, rng, int(10 * traits["cysts"]), BROWN[2], (2, 4), 0.8)
    return _streaks(colour, traits, rng, depth, x, y) + (field(rng, 60) * 5)[..., None]


def _blend(colour: np.ndarray, other: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    weight = np.asarray(share, np.float32)
    return colour + (weight[..., None] if weight.ndim == 2 else weight) * (other - colour)


def _spots(rng: np.random.Generator, cells: int, threshold: float) -> np.ndarray:
    """Soft patches that cover part of the lesion, 0 to 1."""
    return np.clip((field(rng, cells) - threshold + 0.3) * 2.5, 0, 1)


def _network(
    colour: np.ndarray, traits: Mapping[str, float], rng: np.random.Generator, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """A pigment network: dark lines around lighter holes, warped where the lesion is irregular."""
    pitch = float(2 * np.pi * rng.uniform(17, 25))
    warp = 0.012 + 0.05 * traits["border"]
    u, v = x + field(rng, 7) * warp, y + field(rng, 7) * warp
    mesh = np.maximum(np.abs(np.cos(pitch * u / 2)), np.abs(np.cos(pitch * (u / 2 + v * 0.866) / 2)))
    lines = np.clip((mesh - 0.86) * 6, 0, 1) * np.clip(field(rng, 5) * traits["colours"] + 0.9, 0, 1)
    return colour * (1 - 0.55 * np.clip(traits["network"] * 1.3 - 0.2, 0, 1) * lines)[..., None].astype(
        np.float32
    )


def _lacunae(colour: np.ndarray, traits: Mapping[str, float], rng: np.random.Generator) -> np.ndarray:
    """Red to purple lagoons with pale septa between them."""
    amount = max(0.0, traits["lacunae"] - 0.2)
    layer, alpha = colour.copy(), np.zeros((SIZE_PX, SIZE_PX), np.float32)
    for _ in range(int(34 * amount)):
        centre = rng.normal(SIZE_PX / 2, SIZE_PX * 0.15, 2)
        axes = tuple(int(a) for a in rng.integers(5, 14, 2))
        mix = rng.random()
        tint = (RED * (1 - mix) + PURPLE * mix).tolist()
        place = (int(centre[0]), int(centre[1]))
        cv2.ellipse(layer, place, axes, float(rng.uniform(0, 180)), 0, 360, tint, -1, cv2.LINE_AA)
        cv2.ellipse(alpha, place, axes, 0, 0, 360, 1.0, -1, cv2.LINE_AA)
    return _blend(colour, cv2.blur(layer, (3, 3)), 0.85 * cv2.blur(alpha, (5, 5)))


def _dots(
    colour: np.ndarray,
    rng: np.random.Generator,
    count: int,
    tint: np.ndarray,
    size: tuple[int, int],
    opacity: float,
) -> np.ndarray:
    """Round structures: globules, milia-like cysts, comedo-like openings."""
    if count == 0:
        return colour
    layer = colour.copy()
    for centre in rng.normal(SIZE_PX / 2, SIZE_PX * 0.16, (count, 2)):
        place = (int(centre[0]), int(centre[1]))
        cv2.circle(layer, place, int(rng.integers(size[0], size[1] + 1)), tint.tolist(), -1, cv2.LINE_AA)
    return _blend(colour, layer, opacity)


def _streaks(
    colour: np.ndarray,
    traits: Mapping[str, float],
    rng: np.random.Generator,
    depth: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
) -> np.ndarray:
    """Radial streaks at one side of the border."""
    theta = np.arctan2(y, x)
    side = np.clip(np.cos(theta - float(rng.uniform(0, 2 * np.pi))) * 2, 0, 1)
    rays = np.clip(np.cos(theta * int(rng.integers(24, 40))) * 2 - 0.6, 0, 1)
    rim = np.clip(1 - np.abs(depth - 0.12) / 0.2, 0, 1)
    return _blend(colour, BROWN[3], np.clip(traits["streaks"] - 0.15, 0, 1) * side * rays * rim)


def _look_through(canvas: np.ndarray, view: np.random.Generator) -> np.ndarray:
    """Light, gel, hair, ruler, lens and sensor; ends in uint8."""
    across, down = view.normal(0, 0.09, 2).tolist()
    light = 1 + across * _X + down * _Y + float(view.normal(0, 0.05))
    canvas = canvas * (light[..., None] * view.normal(1, 0.025, 3)).astype(np.float32)
    _add_hair(canvas, view)
    _add_ruler(canvas, view)
    _add_bubbles(canvas, view)
    if view.random() < 0.35:
        rim = np.hypot(_X, _Y) - float(view.uniform(0.5, 0.62))
        canvas *= np.clip(1 - rim * float(view.uniform(4, 30)), 0.05, 1)[..., None].astype(np.float32)
    canvas = cv2.GaussianBlur(canvas, (0, 0), float(view.uniform(0.4, 1.1)))
    noise = view.normal(0, view.uniform(1, 4), (SIZE_PX, SIZE_PX, 1)).astype(np.float32)
    return np.clip(np.rint(canvas + noise), 0, 255).astype(np.uint8)


def _add_hair(canvas: np.ndarray, view: np.random.Generator) -> None:
    count = int(view.integers(2, 14)) if view.random() < 0.4 else 0
    tint = (np.array([46, 34, 28]) * view.uniform(0.5, 2.4)).tolist()
    for _ in range(count):
        start, bend = view.uniform(-20, SIZE_PX + 20, 2), view.normal(0, 0.012)
        angle, points = view.uniform(0, 2 * np.pi), []
        for _ in range(14):
            points.append(start.copy())
            start = start + 12 * np.array([np.cos(angle), np.sin(angle)])
            angle += bend * 12
        curve = np.rint(np.array(points) * 8).astype(np.int32)
        cv2.polylines(canvas, [curve], False, tint, int(view.integers(1, 3)), cv2.LINE_AA, 3)


def _add_ruler(canvas: np.ndarray, view: np.random.Generator) -> None:
    if view.random() > 0.12:
        return
    edge, pitch = int(view.integers(3, 16)), int(view.integers(7, 12))
    target = canvas if view.random() < 0.5 else canvas.transpose(1, 0, 2)
    for tick in range(int(view.integers(0, 8)), SIZE_PX, pitch):
        length = 12 if (tick // pitch) % 5 == 0 else 7
        target[edge : edge + length, tick : tick + 1] *= np.float32(0.25)


def _add_bubbles(canvas: np.ndarray, view: np.random.Generator) -> None:
    for _ in range(int(view.integers(1, 6)) if view.random() < 0.2 else 0):
        place = tuple(int(v) for v in view.integers(0, SIZE_PX, 2))
        size = int(view.integers(3, 10))
        cv2.circle(canvas, place, size, (236.0, 226.0, 220.0), 1, cv2.LINE_AA)
        cv2.circle(
            canvas, (place[0] - size // 3, place[1] - size // 3), 1, (252.0, 250.0, 248.0), -1, cv2.LINE_AA
        )
