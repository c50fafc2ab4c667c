"""Pictures of tests: each image has its own, in every host."""
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from mmengine.visualization import Visualizer

from mmvssd.engine.record import PredictionDrawingHook
from mmvssd.errors import ConfigError


def detection(path):
    structures = pytest.importorskip('mmdet.structures')
    found = InstanceData(bboxes=torch.tensor([[1., 1., 9., 9.]]), labels=torch.tensor([1]),
                         scores=torch.tensor([0.9]))
    return structures.DetDataSample(metainfo=dict(img_path=path), pred_instances=found)


def segmentation(path):
    structures = pytest.importorskip('mmseg.structures')
    return structures.SegDataSample(metainfo=dict(img_path=path), pred_sem_seg=PixelData(
        data=torch.ones(1, 12, 16, dtype=torch.long)))


def classification(path):
    structures = pytest.importorskip('mmpretrain.structures')
    sample = structures.DataSample().set_pred_score(torch.tensor([0.1, 0.9])).set_pred_label(1)
    if path:
        sample.set_metainfo(dict(img_path=path))
    return sample


SAMPLES = {'mmdet': detection, 'mmseg': segmentation, 'mmpretrain': classification}


class Images:
    """A data set of some images."""

    metainfo = dict(classes=('a', 'b'), palette=[(0, 0, 0), (9, 99, 199)])

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, index):
        return dict(img_path=self.paths[index])


def draw(scope, dataset, batches, out_dir):
    """Run the hook as a test does, with a config that names no visualizer."""
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset),
                             visualizer=Visualizer())
    hook = PredictionDrawingHook(str(out_dir), scope)
    hook.before_test(runner)
    for index, samples in enumerate(batches):
        inputs = [torch.full((3, 12, 16), 90, dtype=torch.uint8) for _ in samples]
        hook.after_test_iter(runner, index, dict(inputs=inputs), samples)
    return sorted(str(file.relative_to(out_dir)) for file in out_dir.rglob('*') if file.is_file())


@pytest.mark.parametrize('scope', SAMPLES)
def test_images_of_one_name_in_several_folders(scope, tmp_path):
    paths = [str(tmp_path / 'in' / name) for name in ('cam0/0.jpg', 'cam1/0.jpg', 'cam1/1.jpg')]
    for path in paths:
        mmcv.imwrite(np.full((12, 16, 3), 90, np.uint8), path)
    samples = [SAMPLES[scope](path) for path in paths]
    end = '.png' if scope == 'mmpretrain' else ''
    assert draw(scope, Images(paths), [samples[:2], samples[2:]], tmp_path / 'out') == [
        f'cam0/0.jpg{end}', f'cam1/0.jpg{end}', f'cam1/1.jpg{end}']
    picture = mmcv.imread(str(tmp_path / 'out' / f'cam0/0.jpg{end}'))
    assert picture.shape == (12, 32 if scope == 'mmdet' else 16, 3)
    assert (picture != 90).any()
    samples = [SAMPLES[scope](path) for path in paths]
    names = draw(scope, Images(paths[1:]), [samples[1:]], tmp_path / 'flat')
    assert names == [f'0.jpg{end}', f'1.jpg{end}']


def test_images_without_files(tmp_path):
    """As CIFAR's are, which MMPreTrain reads as arrays."""
    samples = [classification(None) for _ in range(3)]
    names = draw('mmpretrain', Images([None] * 3), [samples[:2], samples[2:]], tmp_path)
    assert names == ['image0.png', 'image1.png', 'image2.png']


def test_a_data_set_of_somebody_elses(tmp_path):
    mmcv.imwrite(np.full((12, 16, 3), 90, np.uint8), str(tmp_path / 'in' / 'a.jpg'))
    sample = segmentation(str(tmp_path / 'in' / 'a.jpg'))
    dataset = SimpleNamespace(metainfo=Images.metainfo)
    assert draw('mmseg', dataset, [[sample]], tmp_path / 'out') == ['image0.png']


def test_a_sample_that_does_not_say_where_its_image_is(tmp_path):
    sample = classification(None)
    hook = PredictionDrawingHook(str(tmp_path), 'mmpretrain')
    hook.before_test(SimpleNamespace(test_dataloader=SimpleNamespace(dataset=Images([None])),
                                     visualizer=Visualizer()))
    with pytest.raises(ConfigError, match='add img_path to meta_keys'):
        hook.after_test_iter(None, 0, dict(inputs=[['of an augmented test']]), [sample])
