"""Errors of pipelines and data sets: raised once, with the file, the annotation and the step."""
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
    with pytest.raises(DataError, match=r"a\.jpg: the step function .*KeyError: 'missing'"):
        Compose([dict, plain])(dict(SAMPLE))


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
