"""Draws scenes of handwritten digits, and knows for every pixel which digit is seen there.

The digits are the 1797 real ones of 8x8 pixels that come with scikit-learn. Blown up, they get
crisp outlines; turned, sheared and coloured, they are laid one over the other on a textured ground.
"""
from functools import lru_cache
from typing import Any, NamedTuple, Optional

import cv2
import numpy as np

BACKGROUND = -1  # in Scene.owner: no digit here

_VAL_FRACTION = 0.2
_UPSCALE = 8  # a digit is blown up this much before it is turned
_SUPERSAMPLE = 3  # outlines are drawn this much finer, then averaged into edge coverage
_SMOOTH, _SURROUND, _SHARPEN = 0.25, 1.0, 0.8  # two blurs, in scanned pixels, and their weight
_INK = 0.1  # of the sharpened ink: what counts as inside the outline
_MAX_TURN = 18.  # degrees, either way
_MAX_SHEAR = 0.2
_ASPECT = (0.85, 1.2)  # width over the natural width
_MIN_VISIBLE = 0.6  # of a digit's area; a later digit may not hide more
_PLACE_TRIES = 20
# Colours are RGB of 0..255. Grounds are dark and digits light: a small net that has to learn both
# polarities needs far more pictures than a sample has.
_GROUND_MAX = 110.
_GROUND_SPREAD = 70.  # the most that one channel varies over a ground
_LUMA = np.array([0.299, 0.587, 0.114])
_MIN_DIGIT_LUMA = 150.
_MIN_DIGIT_GAP = 80.  # Euclidean, between the colours of digits that may overlap
_COLOUR_TRIES = 100
_SHADE = 18.  # a digit's fill runs from this much darker to this much lighter
_GRAIN = 3.  # standard deviation of the noise on every pixel


class Digits(NamedTuple):
    """A pool of digits to draw from.

    Attributes:
        images: (n, 8, 8) float32, ink from 0 to 1.
        labels: (n,) int, the digit, 0 to 9.
        sources: (n,) int, the row in scikit-learn's set.
    """

    images: np.ndarray
    labels: np.ndarray
    sources: np.ndarray


class Scene(NamedTuple):
    """A picture and what is in it; instance ``i`` is seen where ``owner == i``.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        owner: (H, W) int16, the instance seen at the pixel, ``BACKGROUND`` for none.
        labels: the digit of each instance, 0 to 9.
        sources: the row of each instance in scikit-learn's set.
    """

    image: np.ndarray
    owner: np.ndarray
    labels: tuple[int, ...]
    sources: tuple[int, ...]


def load_digits(split: str) -> Digits:
    """Load the digits of one split, 'train' or 'val'.

    scikit-learn's rows come writer by writer, so that the last fifth, held out, is of other hands.
    """
    digits = _all_digits()
    first_val = round(len(digits.target) * (1 - _VAL_FRACTION))
    rows = {'train': np.arange(first_val), 'val': np.arange(first_val, len(digits.target))}[split]
    return Digits((digits.images[rows] / 16).astype(np.float32), digits.target[rows], rows)


@lru_cache(maxsize=1)
def _all_digits() -> Any:
    """Read scikit-learn's digits, once for both splits: they lie in a compressed table of text."""
    try:
        from sklearn import datasets  # here, as it takes a second that only drawing is worth
    except ImportError as error:
        raise ImportError(
            'the sample data is drawn from the digits in scikit-learn: pip install scikit-learn'
        ) from error
    return datasets.load_digits()


def draw_scene(
    digits: Digits,
    picks: np.ndarray,
    shape: tuple[int, int],
    sizes: tuple[float, float],
    rng: np.random.Generator,
) -> Scene:
    """Lay digits on a textured ground, later ones over earlier ones.

    A digit lies wholly inside the picture and leaves every earlier one at least 60 % visible. One
    that finds no such place is left out; the first always finds one.

    Args:
        digits: the pool.
        picks: (n,) int, which of the pool to lay, in this order.
        shape: (H, W) of the picture, each at least ``sizes[1] + 2``.
        sizes: the range of a digit's longer side in pixels, usually its height.
        rng: all that is random is drawn from here.
    """
    image, owner = _draw_ground(shape, rng), np.full(shape, BACKGROUND, np.int16)
    areas, colours, placed = [], [], []
    for pick in picks:
        # log-uniform: as many small digits as large ones by ratio, as in natural scenes
        size = np.exp(rng.uniform(*np.log(sizes)))
        cover = _draw_digit(digits.images[pick], size, rng)
        corner = _find_place(cover >= 0.5, owner, areas, rng)
        if corner is None:
            continue
        window = tuple(slice(o, o + s) for o, s in zip(corner, cover.shape))
        colours.append(_digit_colour(colours, rng))
        fill = colours[-1] + _SHADE * (2 * _gradient(cover.shape, rng)[..., None] - 1)
        image[window] += cover[..., None] * (fill - image[window])
        owner[window][cover >= 0.5] = len(placed)
        areas.append(np.count_nonzero(cover >= 0.5))
        placed.append(pick)
    image += rng.normal(0, _GRAIN, image.shape)
    return Scene(
        np.clip(image, 0, 255).astype(np.uint8),
        owner,
        tuple(int(digits.labels[p]) for p in placed),
        tuple(int(digits.sources[p]) for p in placed),
    )


def _draw_digit(ink: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Cover of each pixel by the digit: (h, w) float32 of 0..1, cut to what is half covered.

    Args:
        ink: (8, 8) float32 of 0..1.
        size: max(h, w) to draw it in, to the pixel.
    """
    field = _sharpened(ink)
    turn = np.deg2rad(rng.uniform(-_MAX_TURN, _MAX_TURN))
    shear, aspect = rng.uniform(-_MAX_SHEAR, _MAX_SHEAR), rng.uniform(*_ASPECT)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotation @ np.array([[aspect, shear], [0, 1]])
    points = np.argwhere(field > _INK)[:, ::-1] @ linear.T  # (n, 2), x before y
    low, high = points.min(axis=0), points.max(axis=0)
    scale = size / (high - low).max()
    sides = np.ceil((high - low) * scale).astype(int) + 2
    offset = sides / 2 - scale * (low + high) / 2

    warp = _SUPERSAMPLE * np.column_stack([scale * linear, offset])
    fine = cv2.warpAffine(field, warp, tuple(int(s) for s in _SUPERSAMPLE * sides))
    inside = (fine > _INK).astype(np.float32)
    cover = cv2.resize(inside, tuple(int(s) for s in sides), interpolation=cv2.INTER_AREA)
    x, y, w, h = cv2.boundingRect((cover >= 0.5).astype(np.uint8))
    return cover[y:y + h, x:x + w]


def _sharpened(ink: np.ndarray) -> np.ndarray:
    """Return a digit (8, 8) blown up to (96, 96) float32, less what surrounds each stroke.

    Where strokes lie close, the scan has grey between them; the subtraction opens the loops of a 6
    or an 8 that a threshold on the ink only would fill.
    """
    # The outer rows and columns carry ink: the border lets their outlines close.
    field = cv2.resize(
        np.pad(ink / ink.max(), 2), None, fx=_UPSCALE, fy=_UPSCALE, interpolation=cv2.INTER_CUBIC)
    stroke = cv2.GaussianBlur(field, (0, 0), _SMOOTH * _UPSCALE)
    return stroke - _SHARPEN * cv2.GaussianBlur(stroke, (0, 0), _SURROUND * _UPSCALE)


def _find_place(
    mask: np.ndarray, owner: np.ndarray, areas: list[int], rng: np.random.Generator
) -> Optional[tuple[int, int]]:
    """Return a (top, left) corner at which earlier digits stay visible enough, or None."""
    visible = np.bincount(owner.ravel() + 1, minlength=len(areas) + 1)[1:]
    for _ in range(_PLACE_TRIES):
        top, left = (int(rng.integers(o - s + 1)) for o, s in zip(owner.shape, mask.shape))
        under = owner[top:top + mask.shape[0], left:left + mask.shape[1]][mask]
        hidden = np.bincount(under + 1, minlength=len(areas) + 1)[1:]
        if np.all(visible - hidden >= _MIN_VISIBLE * np.array(areas)):
            return top, left
    return None


def _digit_colour(taken: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return a light colour (3,) that stands off from those taken, or the best of some tries."""
    tries = rng.uniform(_SHADE, 255 - _SHADE, (_COLOUR_TRIES, 3))
    tries = tries[tries @ _LUMA >= _MIN_DIGIT_LUMA]
    if not taken:
        return tries[0]
    gaps = np.linalg.norm(tries[:, None] - np.array(taken), axis=-1).min(axis=1)
    # the first that is far enough rather than the farthest, which would always be a pure colour
    return tries[np.argmax(np.minimum(gaps, _MIN_DIGIT_GAP))]


def _draw_ground(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw a textured ground between two dark colours: (H, W, 3) float64."""
    start = rng.uniform(0, _GROUND_MAX, 3)
    spread = rng.uniform(-_GROUND_SPREAD, _GROUND_SPREAD, 3)
    end = np.clip(start + spread, 0, _GROUND_MAX)
    texture = _TEXTURES[rng.integers(len(_TEXTURES))](shape, rng)
    # a large, faint gradient as of uneven light, so that no two corners look the same
    blend = 0.8 * texture + 0.2 * _gradient(shape, rng)
    return start + blend[..., None] * (end - start)


def _gradient(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a ramp in a random direction: (H, W) of 0..1."""
    return _stretch(_along(rng.uniform(0, 2 * np.pi), shape))


def _stripes(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Soft stripes, bent by noise: (H, W) of 0..1."""
    angle, period, phase = rng.uniform((0, 6, 0), (np.pi, 24, 2 * np.pi))
    bend = 1.5 * _noise(shape, rng, cell=40)
    return 0.5 + 0.5 * np.sin(2 * np.pi / period * _along(angle, shape) + phase + bend)


def _checks(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return two crossing sets of stripes, as of woven cloth: (H, W) of 0..1."""
    return _stretch(_stripes(shape, rng) + _stripes(shape, rng))


def _clouds(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Noise of several coarsenesses, the coarse ones the strongest: (H, W) of 0..1."""
    return _stretch(sum(cell * _noise(shape, rng, cell) for cell in (4, 8, 16, 32)))


def _speckles(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return blots with clear edges, as of gravel: (H, W) of 0..1."""
    return 1 / (1 + np.exp(-6 * _noise(shape, rng, cell=rng.uniform(4, 12))))


_TEXTURES = (_stripes, _checks, _clouds, _speckles)


def _noise(shape: tuple[int, int], rng: np.random.Generator, cell: float) -> np.ndarray:
    """Smooth noise (H, W) float64 of about unit variance, whose spots are ``cell`` pixels wide."""
    coarse = rng.normal(size=[int(np.ceil(s / cell)) + 2 for s in shape])
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _along(angle: float, shape: tuple[int, int]) -> np.ndarray:
    """Return each pixel's distance along a direction, in pixels: (H, W)."""
    rows, columns = np.ogrid[:shape[0], :shape[1]]
    return np.cos(angle) * columns + np.sin(angle) * rows


def _stretch(field: np.ndarray) -> np.ndarray:
    """Shift and scale a field to 0..1."""
    return (field - field.min()) / (field.max() - field.min())
