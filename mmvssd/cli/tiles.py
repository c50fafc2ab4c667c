"""Large images in tiles: where these lie, and how what was found in them is put together."""
import math
from itertools import pairwise
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from mmvssd.errors import ConfigError

#: Boxes of two tiles are of one object if they overlap that much in what both tiles see.
SAME = 0.5
#: A box that ends so near to a tile's edge, as a share of its side, may be cut there.
NEAR = 0.01


class Window(NamedTuple):
    """A part of an image, in pixels; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def box(self) -> np.ndarray:
        """Its edges, as a box (4,)."""
        return np.array(self, np.float64)


class Grid:
    """Tiles of one size that cover an image, spread evenly.

    Args:
        shape: Height and width of the image.
        tile: Side of a tile; an image's shorter side shortens it.
        overlap: What neighbours share at least.

    Attributes:
        rows, columns: Where tiles start, from the top and from the left.
        height, width: Of a tile.
    """

    def __init__(self, shape: Tuple[int, int], tile: int, overlap: int):
        self.shape, self.overlap = shape, overlap
        self.height, self.width = (min(tile, side) for side in shape)
        self.rows, self.columns = (_starts(side, tile, overlap) for side in shape)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def windows(self) -> Iterator[Window]:
        """Give out the tiles, row by row."""
        for top in self.rows:
            for left in self.columns:
                yield Window(left, top, left + self.width, top + self.height)

    def blended(self) -> Tuple[List['Ramp'], List['Ramp']]:
        """Return the parts of tiles' rows and columns that are blended."""
        return (_ramps(self.rows, self.height, self.shape[0], self.overlap),
                _ramps(self.columns, self.width, self.shape[1], self.overlap))


def check_grid(tile: int, overlap: int) -> None:
    """Raise ConfigError unless tiles of a size and an overlap cover an image."""
    if tile < 1:
        raise ConfigError(f'--tile: got {tile}, expected a number of pixels')
    if not 0 <= overlap <= tile // 2:
        raise ConfigError(f'--overlap: got {overlap}, expected 0 to half of the tiles, '
                          f'{tile // 2}')


def _starts(side: int, tile: int, overlap: int) -> List[int]:
    count = 1 + max(0, math.ceil((side - tile) / (tile - overlap)))
    return [number * (side - tile) // (count - 1) for number in range(count)] if count > 1 else [0]


class Ramp(NamedTuple):
    """The part of a tile's side that is blended.

    Attributes:
        start, end: In the image.
        before, after: Pixels shared with the neighbour before and with the one after.
        weights: Of each pixel, (end - start,) float32; those of all tiles add up to 1.
    """

    start: int
    end: int
    before: int
    after: int
    weights: np.ndarray


def _ramps(starts: Sequence[int], tile: int, side: int, overlap: int) -> List[Ramp]:
    """Return the blended part of each tile: up to the middle of a seam, and half of its width on.

    Seams are no wider than tiles are apart, so that three tiles never share a pixel.
    """
    if len(starts) == 1:
        return [Ramp(0, side, 0, 0, np.ones(side, np.float32))]
    width = min(overlap, int(np.diff(starts).min()))
    seams = [(before + tile + start - width) // 2 for before, start in pairwise(starts)]
    rise = (np.arange(width, dtype=np.float32) + 0.5) / max(1, width)
    ramps = []
    for number in range(len(starts)):
        start = seams[number - 1] if number else 0
        last = number == len(starts) - 1
        end = side if last else seams[number] + width
        weights = np.ones(end - start, np.float32)
        before, after = width * (number > 0), width * (not last)
        if before:
            weights[:width] = rise
        if after:
            weights[-width:] = rise[::-1]
        ramps.append(Ramp(start, end, before, after, weights))
    return ramps


class Placed(NamedTuple):
    """An instance in its image.

    Attributes:
        label: Its class.
        score: Its score.
        box: (4,), x1, y1, x2, y2 in the image's pixels.
        corner: Left and top of the mask, in the image.
        mask: The part of the image that has it, (h, w) bool; None without masks.
    """

    label: int
    score: float
    box: np.ndarray
    corner: Tuple[int, int]
    mask: Optional[np.ndarray]


def placed(window: Window, labels: np.ndarray, scores: np.ndarray, boxes: np.ndarray,
           masks: Optional[np.ndarray]) -> List[Placed]:
    """Move what was found in a tile to its place in the image.

    Args:
        window: The tile.
        labels, scores: (n,).
        boxes: (n, 4), in the tile's pixels.
        masks: (n, height, width) bool, or None.
    """
    shift = np.array([window.left, window.top] * 2, np.float64)
    found = []
    for number, (label, score, box) in enumerate(zip(labels, scores, boxes)):
        corner, mask = (0, 0), None
        if masks is not None:
            left, top, mask = _cropped(masks[number])
            corner = window.left + left, window.top + top
        found.append(Placed(int(label), float(score), box + shift, corner, mask))
    return found


def _cropped(mask: np.ndarray) -> Tuple[int, int, np.ndarray]:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, np.zeros((0, 0), bool)
    part = mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    return int(columns[0]), int(rows[0]), part.astype(bool)  # a copy: the tile's masks may go


def merged(windows: Sequence[Window], tiles: Sequence[Sequence[Placed]],
           shape: Tuple[int, int]) -> List[Placed]:
    """Return each object once, the best first.

    Instances of one class in neighbouring tiles may be the same object. For that, their boxes, cut
    to the overlap of the tiles, must have an intersection over union of :data:`SAME`. Of these the
    best that no tile's edge cuts is kept. If all are cut, they are joined: their boxes and masks
    are united, and the best score is theirs.

    Args:
        windows: The tiles.
        tiles: What was found in each.
        shape: Height and width of the image.
    """
    found = [one for tile in tiles for one in tile]
    numbers = np.cumsum([0, *map(len, tiles)])
    near = [[] for _ in found]
    boxes = [np.array([one.box for one in tile]).reshape(-1, 4) for tile in tiles]
    labels = [np.array([one.label for one in tile], int) for tile in tiles]
    for first, second, shared in _neighbours(windows):
        overlaps = _overlaps(_clipped(boxes[first], shared), _clipped(boxes[second], shared))
        alike = (overlaps >= SAME) & (labels[first][:, None] == labels[second])
        for one, other in np.argwhere(alike):
            near[numbers[first] + one].append(numbers[second] + other)
            near[numbers[second] + other].append(numbers[first] + one)
    cut = np.concatenate([_are_cut(part, window, shape)
                          for part, window in zip(boxes, windows)] or [np.zeros(0, bool)])
    return sorted(_once(found, near, cut), key=lambda one: -one.score)


def _neighbours(windows: Sequence[Window]) -> Iterator[Tuple[int, int, np.ndarray]]:
    edges = np.array(windows, np.float64).reshape(-1, 4)
    for number, window in enumerate(edges):
        later = edges[number + 1:]
        shared = np.concatenate([np.maximum(window[:2], later[:, :2]),
                                 np.minimum(window[2:], later[:, 2:])], axis=1)
        for other in np.flatnonzero((shared[:, :2] < shared[:, 2:]).all(1)):
            yield number, number + 1 + other, shared[other]


def _clipped(boxes: np.ndarray, part: np.ndarray) -> np.ndarray:
    return np.clip(boxes, np.tile(part[:2], 2), np.tile(part[2:], 2))


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return intersections over unions (n, m); 0 for boxes without area."""
    lowest = np.maximum(boxes[:, None, :2], others[None, :, :2])
    highest = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.maximum(highest - lowest, 0).prod(-1)
    areas, other_areas = ((part[:, 2:] - part[:, :2]).prod(1) for part in (boxes, others))
    return common / np.maximum(areas[:, None] + other_areas - common, 1e-9)


def _are_cut(boxes: np.ndarray, window: Window, shape: Tuple[int, int]) -> np.ndarray:
    """Return which boxes (n, 4) end at an edge of their tile that is none of the image."""
    edges, far = window.box, np.array([0, 0, shape[1], shape[0]])
    near = NEAR * max(window.right - window.left, window.bottom - window.top)
    return ((np.abs(boxes - edges) <= near) & (edges != far)).any(1)


def _once(found: Sequence[Placed], near: Sequence[Sequence[int]], cut: np.ndarray
          ) -> List[Placed]:
    order = sorted(range(len(found)), key=lambda number: -found[number].score)
    kept, gone = [], set()
    for number in (number for number in order if not cut[number]):
        if number not in gone:
            kept.append(found[number])
            gone.update(near[number])
    for number in (number for number in order if cut[number]):
        if number in gone:
            continue
        gone.add(number)
        group, waiting = [], [number]
        while waiting:
            member = waiting.pop()
            group.append(found[member])
            more = [other for other in near[member] if cut[other] and other not in gone]
            gone.update(more)
            waiting += more
        kept.append(_united(group))
    return kept


def _united(group: Sequence[Placed]) -> Placed:
    if len(group) == 1:
        return group[0]
    best = max(group, key=lambda one: one.score)
    boxes = np.array([one.box for one in group])
    box = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    parts = [(one.corner, one.mask) for one in group if one.mask is not None and one.mask.size]
    if not parts:
        return best._replace(box=box)
    left, top = (min(corner[axis] for corner, _ in parts) for axis in (0, 1))
    right, bottom = (max(corner[axis] + part.shape[1 - axis] for corner, part in parts)
                     for axis in (0, 1))
    mask = np.zeros((bottom - top, right - left), bool)
    for corner, part in parts:
        across, down = corner[0] - left, corner[1] - top
        mask[down:down + part.shape[0], across:across + part.shape[1]] |= part
    return best._replace(box=box, corner=(left, top), mask=mask)


class BlendedLabels:
    """A label map that is written tile by tile, from scores that are blended over the seams.

    Kept of the scores are those of the seams to the next tile and to the next row.

    Args:
        grid: The tiles.
        labels: Where the map is written, (width, height): column by column, as run lengths are.
        decide: Makes labels (h, w) of blended scores (channels, h, w).
    """

    def __init__(self, grid: Grid, labels: np.ndarray, decide=lambda scores: scores.argmax(0)):
        self.labels, self.decide = labels, decide
        self.rows, self.columns = grid.blended()
        self.grid, self.number = grid, 0
        self.beside: Any = None
        self.above: Any = None
        self.below: Any = None

    @property
    def seams(self) -> Dict[str, np.ndarray]:
        """What the next tiles need: the tiles so far, and the scores of their seams.

        Another one with the same map goes on if it is given them.
        """
        seams = dict(beside=self.beside, above=self.above, below=self.below)
        return dict(number=np.array(self.number),
                    **{name: part for name, part in seams.items() if part is not None})

    @seams.setter
    def seams(self, seams: Dict[str, np.ndarray]) -> None:
        self.number = int(seams['number'])
        self.beside, self.above, self.below = map(seams.get, ('beside', 'above', 'below'))

    def add(self, scores: np.ndarray) -> None:
        """Add the next tile, row by row.

        Args:
            scores: (channels, height, width) float32 of the tile, such as probabilities. Changed.
        """
        row, column = divmod(self.number, len(self.columns))
        self.number += 1
        down, across = self.rows[row], self.columns[column]
        top, left = down.start - self.grid.rows[row], across.start - self.grid.columns[column]
        scores = scores[:, top:top + len(down.weights), left:left + len(across.weights)]
        scores *= down.weights[:, None] * across.weights
        if across.before:
            scores[:, :, :across.before] += self.beside
        if across.after:
            self.beside = scores[:, :, -across.after:].copy()
        scores = scores[:, :, :scores.shape[2] - across.after]
        place = slice(across.start, across.end - across.after)
        if column == 0:
            self.above, self.below = self.below, None
        if down.before:
            scores[:, :down.before] += self.above[:, :, place]
        if down.after:
            if self.below is None:  # in half precision, for there are many classes
                self.below = np.zeros((len(scores), down.after, self.grid.shape[1]), np.float16)
            self.below[:, :, place] = scores[:, -down.after:]
        scores = scores[:, :scores.shape[1] - down.after]
        self.labels[place, down.start:down.end - down.after] = self.decide(scores).T
