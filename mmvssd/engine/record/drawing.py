"""Pictures of the predictions of a test, one for each image."""
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

import numpy as np
from mmengine.dist import get_world_size, master_only
from mmengine.hooks import Hook
from mmengine.registry import VISUALIZERS as VISUALIZER_REGISTRY
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import Tensor
from torch.utils.data import Dataset

from mmvssd.engine.data.bands import loader_of
from mmvssd.engine.data.checks import data_sets_in, steps_of
from mmvssd.engine.record.pictures import picture_names
from mmvssd.errors import ConfigError
from mmvssd.registry import HOOKS

#: By default scope: the host's class of visualizers, and the method of it that draws.
VISUALIZERS = {
    'mmdet': ('mmdet.DetLocalVisualizer', 'add_datasample'),
    'mmpretrain': ('mmpretrain.UniversalVisualizer', 'visualize_cls'),
    'mmseg': ('mmseg.SegLocalVisualizer', 'add_datasample'),
}


@HOOKS.register_module()
class PredictionDrawingHook(Hook):
    """Draw predictions in testing, beside the annotations if the pipeline loads them.

    The hosts' own hooks name a picture by the last part of its image's path, so images of several
    folders overwrite each other's. Or they hand it to the visualizer's backends among the run's
    logs. Here each image has one, see :func:`~mmvssd.engine.record.pictures.picture_names`.

    MMEngine's visualizers draw in the first process only, so of a test in several processes only
    its images are drawn. The log says so.

    Args:
        out_dir: Folder for the pictures; it is made.
        scope: Default scope of the config, one of :data:`VISUALIZERS`.
    """

    def __init__(self, out_dir: str, scope: str):
        self.out_dir, self.scope = Path(out_dir), scope
        self._names: Dict[Path, Path] = {}
        self._visualizer: Optional[Visualizer] = None
        self._load = None  # the data's LoadBands
        self._seen = 0

    def before_test(self, runner) -> None:
        """Name the pictures after all images of the data set."""
        if get_world_size() > 1:
            runner.logger.warning('pictures: only the images of the first of %d processes are '
                                  'drawn', get_world_size())
        dataset = runner.test_dataloader.dataset
        self._load = next(filter(None, (loader_of(steps_of(leaf)) for leaf in data_sets_in(
            dataset))), None)
        suffix = '.png' if self.scope == 'mmpretrain' or self._load else None
        self._names = picture_names(_image_paths(dataset), suffix)
        self._visualizer = self._visualizer_of(runner)
        self._visualizer.dataset_meta = getattr(dataset, 'metainfo', {})
        self._seen = 0

    def _visualizer_of(self, runner) -> Visualizer:
        """Return the runner's visualizer; one of the host's if the config has none."""
        if type(runner.visualizer) is not Visualizer:  # MMEngine's own draws no data samples
            return runner.visualizer
        return VISUALIZER_REGISTRY.build(dict(type=VISUALIZERS[self.scope][0], name='pictures'))

    @master_only
    def after_test_iter(self, runner, batch_idx: int, data_batch: Any = None,
                        outputs: Optional[Sequence[BaseDataElement]] = None) -> None:
        """Draw a batch of the host's data samples."""
        draw = getattr(self._visualizer, VISUALIZERS[self.scope][1])
        for index, sample in enumerate(outputs or ()):
            path = sample.get('img_path')
            name = self._names.get(Path(path)) if path else None
            name = name or f'image{self._seen}.png'
            self._seen += 1
            image = self._read(path) if path else _pixels(data_batch['inputs'][index])
            draw(name=str(name), image=image, data_sample=sample,
                 out_file=str(self.out_dir / name))

    def _read(self, path: str) -> np.ndarray:
        if self._load is not None:
            return self._load.picture(path)
        import mmcv  # here: a backbone by itself needs no host, and so no mmcv
        return mmcv.imread(path, channel_order='rgb')


def _image_paths(dataset: Dataset) -> Sequence[Path]:
    if not hasattr(dataset, 'get_data_info'):  # it is none of MMEngine's
        return []
    paths = (dataset.get_data_info(index).get('img_path') for index in range(len(dataset)))
    return [Path(path) for path in paths if isinstance(path, str)]


def _pixels(image) -> np.ndarray:
    """Turn an image (3, H, W) of a data set that has no files into (H, W, 3), uint8."""
    if not isinstance(image, Tensor) or image.dim() != 3:
        raise ConfigError('--show-dir: the data samples do not say where their images are; add '
                          'img_path to meta_keys of the Pack...Inputs transform')
    return image.permute(1, 2, 0).cpu().numpy().astype(np.uint8)
