"""Label maps: form, size and values, and what the host makes of each."""
import re
from types import SimpleNamespace

import numpy as np
import pytest

from mmvssd.engine.data.findings import STOP, WARN, Findings
from mmvssd.engine.data.label_maps import LabelMaps, label_of

IMAGE = dict(size=[7, 3], mode='RGB', orientation=1)


def fact(values, mode='L', size=(7, 3), **more):
    return dict(size=list(size), mode=mode, orientation=1, values=values, **more)


def look(*maps, classes='abc', reduced=False, mapping=None, ignored=255, image=IMAGE, turned=True,
         backend='pillow', complete=True):
    findings = Findings()
    dataset = SimpleNamespace(reduce_zero_label=reduced, label_map=mapping,
                              metainfo=dict(classes=tuple(classes)))
    paths = {f'{index}.png': one for index, one in enumerate(maps)}
    LabelMaps(dataset, SimpleNamespace(imdecode_backend=backend), len(classes), ignored, 'val',
              findings).check({'a.jpg': image}, paths, [('a.jpg', path) for path in paths], turned,
                              complete)
    return [[str(found) for found in findings.of(severity)] for severity in (STOP, WARN)]


@pytest.mark.parametrize(('maps', 'settings'), [
    ([fact([0, 1, 2])], {}), ([fact([0, 1, 2, 255])], {}), ([fact([0]), fact([1, 2])], {}),
    ([fact([0, 1, 2, 3])], dict(reduced=True)), ([fact([1, 2, 3, 255])], dict(reduced=True)),
    ([fact([0, 1, 2], 'P')], {}), ([fact([0, 1], '1')], dict(classes='ab')),
    ([fact([0, 1, 2], 'I;16')], {}), ([fact([0, 1, 2, 255], 'I')], {}),
    ([fact([0, 255])], dict(classes='a')),  # one class
    ([fact([0, 1, 9])], dict(mapping={9: 2})),
    ([fact([0, 1, 2, 9])], dict(mapping={9: 255})),
    ([fact([0, 1, 2, 7])], dict(ignored=7)),
    ([fact([0, 1, 2], size=(3, 7))], dict(image=dict(IMAGE, orientation=6))),
    ([fact([0, 1, 2])], dict(image=dict(IMAGE, orientation=6), turned=False)),
    ([fact([0, 1, 2])], dict(image=None)),  # of a format that PIL does not know
])
def test_healthy_label_maps(maps, settings):
    assert look(*maps, **settings) == [[], []]


@pytest.mark.parametrize(('maps', 'settings', 'message'), [
    ([fact([0, 255])] * 2, {}, 'all 2 label maps are 0 and 255, and 255 is ignored'),
    ([fact([0, 255])] * 2, dict(reduced=True), 'are 0 and 255'),
    ([fact([0]), fact([255])], {}, 'are 0 and 255'),
    ([fact([255])] * 2, {}, 'all pixels of all 2 label maps are ignored'),
    ([fact([0])] * 2, dict(reduced=True), 'reduce_zero_label=True ignores 0'),
    ([fact([0, 1, 3]), fact([0, 1, 2])], {}, '1 label map with values that no class has'),
    ([fact([0, 1, 4])], dict(reduced=True), '0.png: 3'),
    ([fact([0, 254])], dict(reduced=True), '0.png: 253'),
    ([fact([0, 1, 255])], dict(ignored=7), '0.png: 255'),
    ([fact([0, 256], 'I;16')], {}, 'outside 0 to 255'),
    ([fact([-1, 1], 'I')], {}, 'outside 0 to 255'),
    ([fact([0, 70000], 'I')], {}, '0.png: 70000'),
    ([fact([0., 1.], 'F')], {}, 'floating-point'),
    ([fact([0.5], 'F')], {}, 'floating-point'),
    ([dict(IMAGE, equal=True)], {}, 'mode RGB.*colours are grey: keep one'),
    ([dict(IMAGE, equal=False)], {}, 'with colours or several channels'),
    ([dict(IMAGE, mode='LA', equal=True)], {}, 'mode LA'),
    ([fact([0, 1, 2], 'P')], dict(backend='cv2'), 'with a palette'),
    ([fact([0, 1, 2], size=(3, 7))], {}, 'width and height exchanged'),
    ([fact([0, 1, 2], size=(8, 3))], {}, '0.png: 8 x 3, image 7 x 3'),
    ([fact([0, 1, 2])], dict(image=dict(IMAGE, orientation=6)), 'EXIF orientation'),
    ([None], {}, 'cannot be read as an image'),
])
def test_faults_of_label_maps(maps, settings, message):
    stops, _ = look(*maps, **settings)
    assert len(stops) == 1
    assert re.search(message, stops[0])


def test_label_maps_that_do_not_keep_their_values():
    findings = Findings()
    dataset = SimpleNamespace(reduce_zero_label=False, label_map=None, metainfo={})
    LabelMaps(dataset, None, 3, 255, 'val', findings).check(
        {}, {'a.JPG': fact([0, 1, 2])}, [('a.jpg', 'a.JPG')], True, True)
    assert 'compression changes values' in str(findings.of(WARN)[0])


def test_doubts_about_label_maps():
    stops, doubts = look(fact([0, 1]), fact([255]))
    assert not stops
    assert '1 label map of which all pixels are ignored' in doubts[0]
    assert '1 of 3 classes never occurs: c' in doubts[1]
    # of a sample nothing follows about classes
    assert len(look(fact([0, 1]), fact([255]), complete=False)[1]) == 1


@pytest.mark.parametrize('reduced', [False, True])
@pytest.mark.parametrize('mapped', [False, True])
def test_labels_are_those_that_the_host_makes(tmp_path, reduced, mapped):
    """Of every value a file can hold."""
    loading = pytest.importorskip('mmseg.datasets.transforms.loading')
    image = pytest.importorskip('PIL.Image')
    mapping = {3: 0, 0: 255, 7: 1} if mapped else None
    stored = np.arange(256, dtype=np.uint8)[None]
    image.fromarray(stored).save(tmp_path / 'a.png')
    made = loading.LoadAnnotations()(dict(
        seg_map_path=str(tmp_path / 'a.png'), reduce_zero_label=reduced, label_map=mapping,
        seg_fields=[]))['gt_seg_map']
    assert [label_of(value, reduced, mapping or {}) for value in range(256)] == made.tolist()
