"""Mean and deviation of each band over the training data of a recipe."""
import math
import time
from dataclasses import dataclass
from typing import Any, Iterator, List, NamedTuple, Optional

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from rich.progress import track

from mmvssd.bands.loading import LoadBands
from mmvssd.engine.data.checks import check_data, data_sets_in, dicts_of
from mmvssd.errors import ConfigError, DataError, UnreadableImageError
from mmvssd.phrases import counted, none_of


class Band(NamedTuple):
    """One band of the data.

    Attributes:
        number: Place in the file, from 0.
        mean, std: Of its values; the deviation is that of all values, not of a sample.
        low, high: Its lowest and its highest value.
        count: Values that were there.
        missing: Values that stand for no data.
    """

    number: int
    mean: float
    std: float
    low: float
    high: float
    count: int  # type: ignore[assignment]  # it hides that of tuples
    missing: int


@dataclass
class _Sums:
    """Of the values of one band: how many, their mean, the squares of deviations from it."""

    count: int = 0
    mean: float = 0.
    squares: float = 0.
    low: float = math.inf
    high: float = -math.inf
    missing: int = 0

    def add(self, values: np.ndarray, missing: int) -> None:
        """Merge with more values, as Chan, Golub and LeVeque (1979) do.

        So a large mean takes no digits from a small deviation.
        """
        self.missing += missing
        if not values.size:
            return
        count = self.count + values.size
        mean, share = values.mean(), values.size / count
        step = mean - self.mean
        self.squares += ((values - mean) ** 2).sum() + step**2 * self.count * share
        self.mean += step * share
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
        self.count = count


class Statistics:
    """Sum up bands, image by image and band by band, in float64.

    Args:
        load: Reads the images, and says which bands and which values count.

    Attributes:
        images: How many were added.
    """

    def __init__(self, load: LoadBands):
        self.load, self.images = load, 0
        self._sums: List[_Sums] = []

    def add(self, path: str) -> None:
        """Add an image.

        Raises:
            UnreadableImageError: It cannot be read.
            DataError: It has another number of bands, or values that are not finite.
        """
        image = self.load.load(path)
        if self.images and len(self._sums) != image.shape[2]:
            raise DataError(f'{path}: has {counted(image.shape[2], "band")}, the images before '
                            f'it have {len(self._sums)}. Write the file anew, or choose bands '
                            'that all files have with bands=[...] of LoadBands')
        self._sums = self._sums or [_Sums() for _ in range(image.shape[2])]
        for place, sums in enumerate(self._sums):
            band = image[..., place:place + 1].astype(np.float64)
            missing = self.load.missing(band)
            number = self.load.bands[place] if self.load.bands else place
            self.load.check_finite(band, missing, path, [number])
            values = band.ravel() if missing is None else band[~missing]
            sums.add(values, band.size - values.size)
        self.images += 1

    def bands(self) -> List[Band]:
        """Return what was summed up.

        Raises:
            DataError: A band has no values.
        """
        found = []
        for place, sums in enumerate(self._sums):
            number = self.load.bands[place] if self.load.bands else place
            if not sums.count:
                raise DataError(f'band {number}: all of its values stand for no data; leave it out '
                                'of bands, or look at nodata of LoadBands')
            found.append(Band(number, float(sums.mean), math.sqrt(sums.squares / sums.count),
                              float(sums.low), float(sums.high), sums.count, sums.missing))
        return found


def training_images(cfg: Config) -> List[str]:
    """Return the files of a recipe's training images.

    Raises:
        ConfigError: The recipe has no training data.
        DataError: They are not there, or name no files.
    """
    check_data(cfg, 'train')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(_without_normalization(cfg.train_dataloader.dataset))
    paths = [entry['img_path'] for leaf in data_sets_in(dataset) for entry in _entries(leaf)]
    if not paths:
        raise DataError('train_dataloader: names no image files')
    return list(dict.fromkeys(paths))


def _without_normalization(node: Any) -> Any:
    """Copy settings of a data set without mean and std of LoadBands, which may be of other data."""
    if isinstance(node, dict):
        kept = {key: _without_normalization(value) for key, value in node.items()}
        return dict(kept, mean=None, std=None) if is_load_bands(node) else kept
    if isinstance(node, (list, tuple)):
        return type(node)(map(_without_normalization, node))
    return node


def _entries(dataset: Any) -> Iterator[dict]:
    if hasattr(dataset, 'get_data_info'):
        for index in range(len(dataset)):
            entry = dataset.get_data_info(index)
            if isinstance(entry, dict) and isinstance(entry.get('img_path'), str):
                yield entry


def loader(cfg: Config) -> LoadBands:
    """Return the recipe's LoadBands without mean and std.

    Raises:
        ConfigError: Its training pipeline has none, or several that differ.
    """
    found = [dict(entry, mean=None, std=None)
             for entry in dicts_of(cfg.train_dataloader) if is_load_bands(entry)]
    if not found:
        raise ConfigError("train_dataloader: its pipeline has no mmvssd.LoadBands; let it begin "
                          "with dict(type='mmvssd.LoadBands')")
    if any(entry != found[0] for entry in found):
        raise ConfigError('train_dataloader: has several LoadBands that differ; each needs its own '
                          'mean and std: name a recipe for each')
    return TRANSFORMS.build(found[0])


def is_load_bands(entry: dict) -> bool:
    """Tell whether a dict of a config is a LoadBands."""
    kind = entry.get('type')
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2] == 'LoadBands'


class Measured(NamedTuple):
    """Statistics of a recipe's training data.

    Attributes:
        bands: Of each band.
        images: How many images were read.
        unreadable: Of each image that cannot be read, which a training leaves out, what is wrong.
        seconds: Time that it took.
    """

    bands: List[Band]
    images: int
    unreadable: List[str]
    seconds: float


def measure(cfg: Config, most: Optional[int] = None) -> Measured:
    """Read all training images of a recipe, or some that are evenly spread over them.

    Args:
        cfg: The recipe.
        most: Images that are read at most; None reads all.

    Raises:
        ConfigError: Its pipeline has no LoadBands.
        DataError: The data are not there, or none can be read; or as :meth:`Statistics.add`.
    """
    start = time.monotonic()
    statistics = Statistics(loader(cfg))
    paths = training_images(cfg)
    paths = paths[::max(1, -(-len(paths) // most))] if most else paths
    unreadable = []
    for path in track(paths, 'reading'):
        try:
            statistics.add(path)
        except UnreadableImageError as error:
            unreadable.append(str(error))
    if not statistics.images:
        raise DataError(f'train_dataloader: {none_of(len(paths), "image")} can be '
                        f'read; the first: {unreadable[0]}')
    return Measured(statistics.bands(), statistics.images, unreadable, time.monotonic() - start)
