"""Names of classes: recipe, file, phases and heads."""
from types import SimpleNamespace

import pytest
from torch import nn

from mmvssd.engine.data import names
from mmvssd.engine.data.coco import Summary
from mmvssd.engine.data.findings import STOP, WARN, Findings


def texts(findings):
    return [[str(found) for found in findings.of(severity)] for severity in (STOP, WARN)]


def compare(classes, categories):
    findings = Findings()
    dataset = SimpleNamespace(ann_file='a.json', metainfo=dict(classes=classes))
    summary = Summary('a.json', list(enumerate(categories, 1)), 1, 1, {}, [])
    names.check_categories(dataset, summary, 'train', findings)
    return texts(findings)


@pytest.mark.parametrize(('classes', 'categories'), [
    (('cat', 'dog'), ('cat', 'dog')),
    (('cat', 'dog'), ('cat', 'cow', 'dog')),  # some of the file's
    (('dog', ), ('cat', 'cow', 'dog')),
    (('cat', 'dog'), ()),  # said elsewhere
    (None, ('cat', )),
])
def test_names_that_agree(classes, categories):
    assert compare(classes, categories) == [[], []]


def test_names_in_another_order():
    """MMDetection numbers them as the file does, and names them as the recipe does."""
    (stop, ), doubts = compare(('dog', 'cat'), ('cat', 'cow', 'dog'))
    assert 'boxes of cat would be named dog' in stop
    assert "Set classes=('cat', 'dog')" in stop
    assert not doubts


def test_mmdetection_numbers_classes_as_the_file_does(tmp_path):
    """What the checks above rest on."""
    coco = pytest.importorskip('mmdet.datasets').CocoDataset
    (tmp_path / 'a.json').write_text('{"images": [], "annotations": [], "categories": ['
                                     '{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}]}')
    dataset = coco(ann_file=str(tmp_path / 'a.json'), metainfo=dict(classes=('cat', 'dog')),
                   test_mode=True, serialize_data=False)
    assert dataset.cat2label == {5: 0, 2: 1}


def test_a_misspelt_name_moves_all_later_ones():
    (stop, ), _ = compare(('cat', 'cwo', 'dog', 'pig'), ('cat', 'cow', 'dog', 'pig'))
    assert '1 of 4 classes is no category of the file: cwo' in stop
    assert 'cwo may be meant to be cow' in stop
    assert 'moves the labels of 2 others: boxes of dog would be trained and named as cwo' in stop


def test_last_names_may_be_missing():
    """A small file may list fewer categories; nothing is moved."""
    assert compare(('cat', 'dog', 'pig'), ('cat', ))[0] == []
    assert 'dog, pig' in compare(('cat', 'dog', 'pig'), ('cat', ))[1][0]


def test_a_name_twice():
    assert 'has cat more than once' in compare(('cat', 'dog', 'cat'), ('cat', 'dog'))[0][0]


def test_other_names_altogether():
    (stop, ), _ = compare(('zero', 'one'), ('cat', ))
    assert 'it has the categories cat; its classes are zero, one' in stop


@pytest.mark.parametrize(('classes', 'stops', 'doubts'), [
    ('disc', "is the text 'disc'", None), (('a', 'b', 'a'), None, 'has a more than once'),
    (('a', ' b'), None, 'blanks at an end'), (('a', 'b'), None, None), (None, None, None),
])
def test_the_setting_itself(classes, stops, doubts):
    findings = Findings()
    names.check_setting(classes, 'train', findings)
    for found, expected in zip(texts(findings), (stops, doubts)):
        assert bool(found) == bool(expected)
        assert not expected or expected in found[0]


def test_the_setting_may_be_a_file(tmp_path):
    (tmp_path / 'names.txt').write_text('a\nb\n')
    findings = Findings()
    names.check_setting(str(tmp_path / 'names.txt'), 'train', findings)
    assert texts(findings) == [[], []]


@pytest.mark.parametrize(('train', 'val', 'stops', 'doubts'), [
    ('abc', 'abc', None, None),
    ('abc', 'ac', 'c is class 1, and in the data of train class 2', None),
    ('abc', 'acb', 'c is class 1', None),
    ('ab', 'abc', 'has 3 classes', None),
    ('abc', 'ab', None, 'the classes c'),
    ('abc', 'abx', None, 'the classes c, x'),
])
def test_phases(train, val, stops, doubts):
    findings = Findings()
    names.check_phases(dict(train=[list(train)], val=[list(val)]), findings)
    for found, expected in zip(texts(findings), (stops, doubts)):
        assert bool(found) == bool(expected)
        assert not expected or expected in found[0]


def head(num_classes, **more):
    module = nn.Module()
    module.num_classes = num_classes
    for name, value in more.items():
        setattr(module, name, value)
    return module


def model(**heads):
    module = nn.Module()
    for name, value in heads.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize(('given', 'fits'), [
    (model(head=head(2)), True), (model(head=head(3)), False), (model(head=head(1)), False),
    (model(bbox_head=head(2)), True), (model(bbox_head=head(80)), False),
    (model(decode_head=head(2), auxiliary_head=head(2)), True),
    (model(decode_head=head(2), auxiliary_head=head(3)), False),
    (model(decode_head=head(2, out_channels=1)), True),
    (model(decode_head=head(1, out_channels=1)), True),
    (model(decode_head=nn.ModuleList([head(2), head(2)])), True),
    (model(roi_head=model(bbox_head=nn.ModuleList([head(2), head(3)]))), False),
    (model(roi_head=model(bbox_head=head(2), mask_head=head(1))), True),
    (model(roi_head=model(bbox_head=head(2), mask_head=head(3))), False),
    (model(decode_head=head(2), auxiliary_head=nn.ModuleList([
        head(2), head(7, boundary_threshold=.1)])), True),
    (model(rpn_head=head(1), backbone=head(1000)), True),
    (model(head=nn.Linear(1, 1)), True),
])
def test_heads(given, fits):
    findings = Findings()
    names.check_heads(given, ['a', 'b'], 'train', findings)
    assert bool(findings.of(STOP)) != fits


def test_classes_that_never_occur():
    findings = Findings()
    names.check_occurrence(dict(a=3, b=0), ['a', 'b', 'c'], 'train', findings)
    names.check_occurrence(dict(a=3), 'abcdefgh', 'train', findings)
    few, many = texts(findings)[1]
    assert '2 of 3 classes never occur: b, c' in few
    assert '7 of 8 classes never occur: b, c, d, e, f and 2 more' in many
