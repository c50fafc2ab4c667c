"""Which image an annotation file means, if several have its name."""
import importlib.util
import json
from pathlib import Path

import pytest

from mmvssd.datasets.formats import FORMATS, Tree
from mmvssd.engine.data.findings import STOP, Findings

FILE = Path(__file__).parents[2] / 'new_recipe' / 'made_data.py'
spec = importlib.util.spec_from_file_location('made_data', FILE)
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


def pairs(root, images, files, form, named='0.jpg'):
    """The image of each annotation file, relative, and the faults."""
    for image in images:
        made.picture(root / image)
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps(made.labelme_content(named)) if form == 'labelme'
                                 else made.voc_xml(named))
    tree, findings = Tree(root), Findings()
    data = FORMATS[form].read(tree, FORMATS[form].find(tree), findings)
    return ({tree.relative(Path(item.source)): tree.relative(item.image) for item in data.items},
            findings.of(STOP))


@pytest.mark.parametrize('form', ['labelme', 'voc'])
def test_the_nearest_image_is_meant(form, tmp_path):
    end = 'json' if form == 'labelme' else 'xml'
    images = ['train/images/0.jpg', 'val/images/0.jpg']
    only_val = {f'val/labels/0.{end}': 'val/images/0.jpg'}
    assert pairs(tmp_path / 'a', images, only_val, form) == (only_val, [])
    both = {**only_val, f'train/labels/0.{end}': 'train/images/0.jpg'}
    assert pairs(tmp_path / 'b', images, both, form) == (both, [])
    sites = {f'siteB/Annotations/0.{end}': 'siteB/JPEGImages/0.jpg'}
    images = ['siteA/JPEGImages/0.jpg', 'siteB/JPEGImages/0.jpg', 'siteB/SegmentationClass/0.png']
    assert pairs(tmp_path / 'c', images, sites, form) == (sites, [])
    images = ['0.jpg', 'JPEGImages/0.jpg', 'JPEGImages/0.png']
    beside = {f'Annotations/0.{end}': 'JPEGImages/0.jpg'}
    assert pairs(tmp_path / 'e', images, beside, form) == (beside, [])
    named = {f'annotations/0.{end}': 'siteB/0.jpg'}
    assert pairs(tmp_path / 'd', ['siteA/0.jpg', 'siteB/0.jpg'], named, form,
                 'C:\\data\\siteB\\0.jpg') == (named, [])


@pytest.mark.parametrize('form', ['labelme', 'voc'])
def test_no_other_image_is_taken(form, tmp_path):
    """Neither one of another part nor one of several that are equally near."""
    file = [f'val/labels/0.{"json" if form == "labelme" else "xml"}']
    found, (fault, ) = pairs(tmp_path / 'a', ['train/images/0.jpg'], file, form)
    assert not found
    assert 'no image' in str(fault)
    found, (fault, ) = pairs(tmp_path / 'b', ['siteA/0.jpg', 'siteB/0.jpg'], file, form)
    assert not found
    assert 'siteA/0.jpg' in str(fault)
    assert 'siteB/0.jpg' in str(fault)
