"""Pictures of segmentations, one for each image."""
from pathlib import Path
from typing import Optional, Sequence

from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement

from mmvssd.registry import HOOKS


@HOOKS.register_module()
class SegmentationDrawingHook(Hook):
    """Draw predictions in testing, beside the annotations where the pipeline loads them.

    MMSegmentation's own hook hands its pictures to the visualizer's backends, which keep them
    among the run's logs and add to their names. Here each has the name of its image.

    Args:
        out_dir: Folder for the pictures; it is made.
    """

    def __init__(self, out_dir: str):
        self.out_dir = Path(out_dir)

    def after_test_iter(self, runner, batch_idx: int, data_batch: Optional[dict] = None,
                        outputs: Optional[Sequence[BaseDataElement]] = None) -> None:
        """Draw a batch of MMSegmentation's data samples, with its visualizer."""
        import mmcv  # here: a backbone alone needs no host, and so no mmcv
        for sample in outputs:
            name = Path(sample.img_path).name
            image = mmcv.imread(sample.img_path, channel_order='rgb')
            runner.visualizer.add_datasample(name, image, sample,
                                             out_file=str(self.out_dir / name))
