"""Inferencers of recipes whose pipelines load bands, which the hosts' inferencers do not know."""
import copy
from typing import ContextManager, Optional, Type, Union

import numpy as np
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from mmengine.structures import BaseDataElement

from mmvssd.cli.augmented import AugmentedSegmentor
from mmvssd.cli.inferencers import HOSTS, Inferencer
from mmvssd.cli.inputs import Input
from mmvssd.cli.tile_sources import NO_FRAMES, TileSource, band_image
from mmvssd.errors import UnreadableImageError


class _Bands:
    """What an :class:`Inferencer` does otherwise: it hands the host's one arrays, no files.

    Attributes:
        load: The recipe's :class:`~mmvssd.bands.LoadBands`.
    """

    picture_suffix = '.png'

    def __init__(self, cfg: Config, checkpoint: str, meta: dict, score_thr: float,
                 device: Optional[str]):
        cfg = copy.deepcopy(cfg)
        pipeline = cfg.test_dataloader.dataset.pipeline
        self.load = TRANSFORMS.build(pipeline[0])
        pipeline[0] = dict(type='LoadImageFromFile')  # the host's one looks for it
        super().__init__(cfg, checkpoint, meta, score_thr, device)  # type: ignore[call-arg]

    def prepare(self, image: Union[str, np.ndarray]) -> dict:
        """Read an image, or take a tile (h, w, bands) float32 as LoadBands makes it."""
        if isinstance(image, str):
            image = self.load(dict(img_path=image))['img']
        elif image.dtype != np.float32:
            raise UnreadableImageError(NO_FRAMES)
        return super().prepare(image)  # type: ignore[misc]

    def open(self, item: Input) -> ContextManager[TileSource]:
        """Open an image that is cut into tiles."""
        return band_image(item, self.load)

    def picture(self, image: str, sample: BaseDataElement) -> np.ndarray:
        # drawn on as a file's pixels, which come in BGR
        pixels = self.load.picture(image)[..., ::-1]
        return super().picture(pixels, sample)  # type: ignore[misc]


def inferencer_class(cfg: Config, tta: bool = False) -> Type[Inferencer]:
    """Return the class that predicts with a recipe of one of the hosts.

    Args:
        cfg: The recipe.
        tta: Whether :func:`~mmvssd.cli.augmented.augmented` made it.
    """
    kind = AugmentedSegmentor if tta else HOSTS[cfg.default_scope]
    pipeline = cfg.test_dataloader.dataset.get('pipeline') or [{}]
    first = pipeline[0].get('type')
    if str(getattr(first, '__name__', first)).rpartition('.')[2] != 'LoadBands':
        return kind
    return type(f'{kind.__name__}OfBands', (_Bands, kind), {})
