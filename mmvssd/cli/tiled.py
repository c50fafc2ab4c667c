"""Predictions on large images, tile by tile, in memory that does not grow with what is found."""
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence, Tuple

import cv2
import numpy as np
from mmengine.logging import print_log
from rich.progress import track

from mmvssd.cli.ahead import Outcome, outcomes
from mmvssd.cli.drawing import draw_instances, draw_segments
from mmvssd.cli.entries import label_map_segments
from mmvssd.cli.image_files import Limits, size_obstacle, unreadable
from mmvssd.cli.inputs import Input
from mmvssd.cli.run_lengths import placed_run_lengths
from mmvssd.cli.tile_sources import TileSource, factor_of, photograph
from mmvssd.cli.tiles import BlendedLabels, Grid, Placed, merged, placed
from mmvssd.cli.unfinished import (
    SEAMS,
    TILES,
    FoundTiles,
    KeptSeams,
    Unfinished,
    label_map_in,
)
from mmvssd.errors import ConfigError, DataError
from mmvssd.palettes import palette_of

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


class Interrupted(Exception):
    """Raised between two tiles if the run is to end."""


class Tiled:
    """Predicts on images in tiles.

    Args:
        inferencer: A detector or a segmentor, of a host or of an exported file.
        tile: Side of a tile.
        overlap: What neighbours share at least.
        limits: Sizes that a tile may have.
        unfinished: Keeps what was done of the image at hand.
        stopping: Tells whether the run is to end after the tile at hand.

    Raises:
        ConfigError: The inferencer has no results that can be put together, or tiles are too
            large.
    """

    def __init__(self, inferencer, tile: int, overlap: int, limits: Limits,
                 unfinished: Unfinished, stopping: Callable[[], bool]):
        if not hasattr(inferencer, 'whole_scores') and not hasattr(inferencer, 'detections'):
            raise ConfigError('--tile: is for detectors and segmentors; a classifier sees an image '
                              'as a whole')
        reason = size_obstacle((tile, tile), inferencer.steps, limits)
        if reason:
            raise ConfigError(f'--tile: a tile {reason}')
        self.inferencer, self.tile, self.overlap = inferencer, tile, overlap
        self.unfinished, self.stopping = unfinished, stopping
        self.open = getattr(inferencer, 'open', photograph)
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
        """Predict on images, one after the other; all that one of them raises is its outcome.

        If the run is to end in the midst of an image, there are no more outcomes.
        """
        for item in inputs:
            try:
                self.check(item)
                outcome = Outcome(item, self.predict(item, batch_size, workers))
            except Interrupted:
                return
            except Exception as error:
                outcome = Outcome(item, None, error)
            yield outcome

    def entry(self, sample: TiledSample) -> dict:
        """Return a prediction's part of the JSON."""
        return sample.entry

    def picture(self, image, sample: TiledSample) -> np.ndarray:
        """Return a prediction's picture, (H, W, 3) uint8, RGB."""
        return sample.picture

    def predict(self, item: Input, batch_size: int = 1, workers: int = 0) -> TiledSample:
        """Predict on an image, or go on with it.

        Raises:
            UnreadableImageError: It cannot be read.
            Interrupted: The run is to end.
        """
        put_together = self._segments if self.segments else self._instances
        with self.open(item) as source, self._work(item) as folder:
            factor = factor_of(source.shape)
            if factor > 1:
                print_log(f'{item.file}: the picture is made smaller {factor} times',
                          logger='current')
            grid = Grid(source.shape, self.tile, self.overlap)
            run = partial(self._predicted, item, source, grid, batch_size, workers)
            entry, draw = put_together(grid, run, folder, batch_size, factor)
            small = source.overview(factor)
        return TiledSample(entry, draw(small))

    @contextmanager
    def _work(self, item: Input) -> Iterator[Path]:
        """Give out the folder for what is done of an image; a frame's lasts for a moment."""
        if item.pixels is not None:
            with TemporaryDirectory(dir=self.unfinished.folder.parent) as folder:
                yield Path(folder)
            return
        self.unfinished.begin(item.file)
        yield self.unfinished.folder

    def _predicted(self, item: Input, source: TileSource, grid: Grid, batch_size: int,
                   workers: int, done: int) -> Iterator:
        """Give out the predictions of the tiles from a number on."""
        tiles = (Input(item.file, number, source.tile(window)) for number, window in islice(
            enumerate(grid.windows()), done, None))
        with closing(outcomes(self.inferencer, tiles, lambda tile: None, batch_size=batch_size,
                              workers=workers)) as found:
            for outcome in track(found, f'{item.file.name}: tiles', total=len(grid),
                                 completed=done):
                if outcome.error is not None:
                    raise outcome.error
                yield outcome.sample
                if self.stopping() and outcome.item.frame < len(grid) - 1:
                    raise Interrupted

    def _instances(self, grid: Grid, run: Callable, folder: Path, together: int, factor: int
                   ) -> Tuple[dict, Draw]:
        kept, windows = FoundTiles(folder / TILES, together), list(grid.windows())
        done = len(kept.tiles)
        for window, sample in zip(windows[done:], run(done), strict=True):
            kept.add(placed(window, *self.inferencer.detections(sample)))
        found = merged(windows, kept.tiles, grid.shape)
        entry = dict(instances=[_instance(one, grid.shape, self.inferencer.classes)
                                for one in found])
        return entry, lambda small: self._drawn(small, factor, found)

    def _drawn(self, small: np.ndarray, factor: int, found: Sequence[Placed]) -> np.ndarray:
        classes = self.inferencer.classes
        palette = palette_of(self.inferencer.palette, len(classes))
        for one in found:
            if one.mask is not None and one.mask.size:
                _paint(small, factor, one.corner, one.mask, palette[one.label])
        if not found:
            return small
        return draw_instances(small, np.array([one.label for one in found]),
                              np.array([one.score for one in found]),
                              np.array([one.box for one in found]) / factor, None, classes, palette)

    def _segments(self, grid: Grid, run: Callable, folder: Path, together: int, factor: int
                  ) -> Tuple[dict, Draw]:
        classes = self.inferencer.classes
        labels = label_map_in(folder, grid.shape, len(classes))
        blended = BlendedLabels(grid, labels, self.inferencer.decide)
        kept = KeptSeams(folder / SEAMS, blended)
        for sample in run(blended.number):
            blended.add(self.inferencer.whole_scores(sample, (grid.height, grid.width)))
            if blended.number % together == 0:  # so that batches are the same if it goes on there
                kept.keep()
        entry = label_map_segments(labels, classes)
        shown = np.ascontiguousarray(labels[::factor, ::factor].T)
        palette = palette_of(self.inferencer.palette, len(classes))
        return entry, lambda small: draw_segments(small, shown, classes, palette)


def _instance(one: Placed, shape, classes: Sequence[str]) -> dict:
    instance = dict(category=classes[one.label], score=one.score, bbox=one.box.tolist())
    if one.mask is not None:
        instance['segmentation'] = placed_run_lengths(one.mask, one.corner, shape)
    return instance


def _paint(picture: np.ndarray, factor: int, corner: Tuple[int, int], mask: np.ndarray,
           color: Sequence[int]) -> None:
    """Paint a mask on a picture, in place, with a white line around it."""
    left, top = corner
    # the pixels of the image that the picture shows
    mask = mask[-top % factor::factor, -left % factor::factor]
    left, top = -(-left // factor), -(-top // factor)
    part = picture[top:top + mask.shape[0], left:left + mask.shape[1]]
    mask = mask[:part.shape[0], :part.shape[1]]
    part[mask] = (part[mask] * (1 - OPACITY) + np.array(color) * OPACITY).astype(np.uint8)
    outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[-2]
    cv2.drawContours(picture, outlines, -1, (255, 255, 255), 1, offset=(left, top))
