"""Predictions on large images, tile by tile, in memory that does not grow with what is found."""
from pathlib import Path
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence, Tuple

import cv2
import numpy as np
from mmengine.logging import print_log
from rich.progress import track

from mmvssd.cli.ahead import Outcome, outcomes
from mmvssd.cli.drawing import draw_instances, draw_segments
from mmvssd.cli.entries import label_map_segments
from mmvssd.cli.image_files import Limits, size_obstacle, unreadable
from mmvssd.cli.image_steps import read_image
from mmvssd.cli.inputs import Input
from mmvssd.cli.run_lengths import placed_run_lengths
from mmvssd.cli.tiles import (
    BlendedLabels,
    Grid,
    Placed,
    map_in_file,
    merged,
    placed,
)
from mmvssd.errors import ConfigError, DataError
from mmvssd.palettes import palette_of

#: Longest side of a picture of predictions; a larger image is made smaller for it.
LONGEST_SIDE = 3072
#: How much of a mask's color its pixels take.
OPACITY = 0.5

#: Draws a prediction on a picture (H, W, 3) uint8 in RGB.
Draw = Callable[[np.ndarray], np.ndarray]


class TiledSample(NamedTuple):
    """A prediction on a whole image.

    Attributes:
        entry: Its part of the JSON.
        picture: Drawn, (H, W, 3) uint8 in RGB.
    """

    entry: dict
    picture: np.ndarray


class Tiled:
    """Predicts on images in tiles.

    Args:
        inferencer: A detector or a segmentor, of a host or of an exported file.
        tile: Side of a tile.
        overlap: What neighbours share at least.
        folder: Where the label map of the image at hand is kept, in a file without a name.
        limits: Sizes that a tile may have.

    Raises:
        ConfigError: The inferencer has no results that can be put together, or tiles are too
            large.
    """

    def __init__(self, inferencer, tile: int, overlap: int, folder: Path, limits: Limits):
        if not hasattr(inferencer, 'whole_scores') and not hasattr(inferencer, 'detections'):
            raise ConfigError('--tile: is for detectors and segmentors; a classifier sees an image '
                              'as a whole')
        reason = size_obstacle((tile, tile), inferencer.steps, limits)
        if reason:
            raise ConfigError(f'--tile: a tile {reason}')
        self.inferencer, self.tile, self.overlap, self.folder = inferencer, tile, overlap, folder
        self.picture_suffix = inferencer.picture_suffix
        self.segments = hasattr(inferencer, 'whole_scores')
        if self.segments:
            inferencer.keeps_scores = True

    def check(self, item: Input) -> None:
        """Raise DataError for a file that is no image."""
        reason = unreadable(item.file) if item.pixels is None else None
        if reason:
            raise DataError(reason)

    def outcomes(self, inputs: Iterable[Input], batch_size: int, workers: int
                 ) -> Iterator[Outcome]:
        """Predict on images, one after the other; all that one of them raises is its outcome."""
        for item in inputs:
            try:
                self.check(item)
                yield Outcome(item, self.predict(item, batch_size, workers))
            except Exception as error:
                yield Outcome(item, None, error)

    def entry(self, sample: TiledSample) -> dict:
        """Return a prediction's part of the JSON."""
        return sample.entry

    def picture(self, image, sample: TiledSample) -> np.ndarray:
        """Return a prediction's picture, (H, W, 3) uint8, RGB."""
        return sample.picture

    def predict(self, item: Input, batch_size: int = 1, workers: int = 0) -> TiledSample:
        """Predict on an image.

        Raises:
            UnreadableImageError: It cannot be read.
        """
        image = read_image(str(item.file)) if item.pixels is None else item.pixels
        grid = Grid(image.shape[:2], self.tile, self.overlap)
        tiles = (Input(item.file, number, image[top:bottom, left:right])
                 for number, (left, top, right, bottom) in enumerate(grid.windows()))
        found = outcomes(self.inferencer, tiles, lambda tile: None, batch_size=batch_size,
                         workers=workers)
        samples = (_sample(outcome) for outcome in track(
            found, f'{item.file.name}: tiles', total=len(grid)))
        small, factor = reduced(image)
        if factor > 1:
            print_log(f'{item.file}: the picture is made smaller {factor} times', logger='current')
        put_together = self._segments if self.segments else self._instances
        entry, draw = put_together(grid, samples, factor)
        del image  # drawing takes as much memory
        return TiledSample(entry, draw(small))

    def _instances(self, grid: Grid, samples: Iterable, factor: int) -> Tuple[dict, Draw]:
        windows, tiles = list(grid.windows()), []
        for window, sample in zip(windows, samples, strict=True):
            tiles.append(placed(window, *self.inferencer.detections(sample)))
        found = merged(windows, tiles, grid.shape)
        entry = dict(instances=[_instance(one, grid.shape, self.inferencer.classes)
                                for one in found])
        return entry, lambda small: self._drawn(small, factor, found)

    def _drawn(self, small: np.ndarray, factor: int, found: Sequence[Placed]) -> np.ndarray:
        classes = self.inferencer.classes
        palette = palette_of(self.inferencer.palette, len(classes))
        for one in found:
            if one.mask is not None and one.mask.size:
                _paint(small, factor, one, palette[one.label])
        if not found:
            return small
        return draw_instances(small, np.array([one.label for one in found]),
                              np.array([one.score for one in found]),
                              np.array([one.box for one in found]) / factor, None, classes, palette)

    def _segments(self, grid: Grid, samples: Iterable, factor: int) -> Tuple[dict, Draw]:
        classes = self.inferencer.classes
        with map_in_file(self.folder, grid.shape, len(classes)) as labels:
            blended = BlendedLabels(grid, labels, self.inferencer.decide)
            for sample in samples:
                blended.add(self.inferencer.whole_scores(sample, (grid.height, grid.width)))
            entry = label_map_segments(labels, classes)
            shown = np.ascontiguousarray(labels[::factor, ::factor].T)
        palette = palette_of(self.inferencer.palette, len(classes))
        return entry, lambda small: draw_segments(small, shown, classes, palette)


def _sample(outcome: Outcome):
    if outcome.error is not None:
        raise outcome.error
    return outcome.sample


def _instance(one: Placed, shape, classes: Sequence[str]) -> dict:
    instance = dict(category=classes[one.label], score=one.score, bbox=one.box.tolist())
    if one.mask is not None:
        instance['segmentation'] = placed_run_lengths(one.mask, one.corner, shape)
    return instance


def reduced(image: np.ndarray) -> Tuple[np.ndarray, int]:
    """Make an image (H, W, 3) in BGR smaller by a whole factor, for a picture.

    Returns:
        It in RGB, at most :data:`LONGEST_SIDE` a side, and the factor.
    """
    factor = -(-max(image.shape[:2]) // LONGEST_SIDE)
    if factor == 1:
        return np.ascontiguousarray(image[..., ::-1]), 1
    height, width = (-(-side // factor) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[..., ::-1]), factor


def _paint(picture: np.ndarray, factor: int, one: Placed, color: Sequence[int]) -> None:
    """Paint a mask on a picture, in place, with a white line around it."""
    left, top = one.corner
    # the pixels of the image that the picture shows
    mask = one.mask[-top % factor::factor, -left % factor::factor]
    left, top = -(-left // factor), -(-top // factor)
    part = picture[top:top + mask.shape[0], left:left + mask.shape[1]]
    mask = mask[:part.shape[0], :part.shape[1]]
    part[mask] = (part[mask] * (1 - OPACITY) + np.array(color) * OPACITY).astype(np.uint8)
    outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[-2]
    cv2.drawContours(picture, outlines, -1, (255, 255, 255), 1, offset=(left, top))
