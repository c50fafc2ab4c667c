"""Errors of pipelines and data sets: raised once, with the file, the annotation and the step."""
from pathlib import Path

import pytest
from mmengine.dataset import BaseDataset, Compose
from torch.utils.data import DataLoader

from mmvssd.errors import DataError, UnreadableImageError

transforms = pytest.importorskip('mmcv.transforms')


class Failing(transforms.BaseTransform):
    """Fails at an annotation without mask, or at once."""

    def transform(self, results):
        for instance in results.get('instances', []):
            instance['mask']
        if 'instances' not in results:
            raise results.get('error', ValueError('of no use\nat all'))
        return results


def plain(results):
    return results['missing']


SAMPLE = dict(img_path='a.jpg')


@pytest.mark.parametrize(('pipeline', 'step'), [
    ([Failing()], 'Failing'),
    ([transforms.Compose([Failing()])], 'Failing'),
    ([transforms.RandomApply([Failing()], prob=1.)], 'Failing'),
    ([dict, Failing()], 'Failing'),
])
def test_the_innermost_step_is_named_once(pipeline, step):
    with pytest.raises(DataError) as caught:
        Compose(pipeline)(dict(SAMPLE))
    assert str(caught.value) == (f'a.jpg: the step {step} of the pipeline failed '
                                 '(ValueError: of no use at all)')
    assert isinstance(caught.value.__cause__, ValueError)  # the log keeps where


def test_a_step_that_is_a_function():
    with pytest.raises(DataError, match=r"a\.jpg: the step plain .*KeyError: 'missing'"):
        Compose([dict, plain])(dict(SAMPLE))


def load(path):
    """Load an image as inferencers do, which start from its path."""
    if 'gone' in str(path):
        raise FileNotFoundError(2, 'no such file')
    return dict(img=path)


def wrapping(results):
    try:
        raise DataError('a.jpg: has no pixels')
    except DataError as error:
        raise RuntimeError('a step failed') from error


@pytest.mark.parametrize('kind', [str, Path])
def test_a_pipeline_that_starts_from_a_path(kind):
    with pytest.raises(DataError, match=r'^gone\.jpg: the step load of .*FileNotFoundError'):
        Compose([load, Failing()])(kind('gone.jpg'))
    for pipeline in ([load, Failing()], [load, Compose([Failing()])]):
        with pytest.raises(DataError, match=r'^a\.jpg: the step Failing of .*ValueError') as caught:
            Compose(pipeline)(kind('a.jpg'))
        assert isinstance(caught.value.__cause__, ValueError)


def test_an_image_without_a_path():
    with pytest.raises(DataError, match=r'^an image without a path: the step Failing of'):
        Compose([Failing()])(dict(img=1))


def test_an_error_that_was_explained_is_not_explained_again():
    with pytest.raises(DataError) as caught:
        Compose([wrapping])(dict(SAMPLE))
    assert str(caught.value) == 'a.jpg: has no pixels'


def test_the_annotation_is_named():
    instances = [dict(mask=1, ann_id=5), dict(ann_id=7), dict(ann_id=8)]
    with pytest.raises(DataError, match=r"a\.jpg, annotation 7: the step Failing .*'mask'"):
        Compose([Failing()])(dict(SAMPLE, instances=instances))
    for instance in instances:
        instance.pop('ann_id')
    with pytest.raises(DataError, match=r'a\.jpg, its annotation number 1: '):
        Compose([Failing()])(dict(SAMPLE, instances=instances))


@pytest.mark.parametrize('error', [UnreadableImageError('b.jpg'), DataError('c'), MemoryError()])
def test_errors_that_say_it_themselves_pass(error):
    with pytest.raises(type(error)) as caught:
        Compose([Failing()])(dict(SAMPLE, error=error))
    assert caught.value is error


def test_a_pipeline_that_works():
    assert Compose([Failing()])(dict(SAMPLE, instances=[])) == dict(SAMPLE, instances=[])


class Samples(list):
    """A data set that can be sent to a worker."""

    def __getitem__(self, index):
        return Compose([Failing()])(dict(img_path=super().__getitem__(index)))


@pytest.mark.parametrize('workers', [0, 1])
def test_out_of_a_worker(workers):
    with pytest.raises(DataError) as caught:
        list(DataLoader(Samples(['a.jpg']), num_workers=workers))
    assert str(caught.value).startswith('a.jpg: the step Failing of the pipeline failed')


class Broken(BaseDataset):
    def load_data_list(self):
        raise KeyError('area')


def test_a_data_set_that_cannot_read_its_file():
    with pytest.raises(DataError, match=r"some\.json: Broken cannot read its .*'area'"):
        Broken(ann_file='some.json')
