"""Dividing, schedules and literals by themselves."""
from pathlib import Path

import pytest

from mmvssd.datasets.formats import (
    CLASSIFICATION,
    DETECTION,
    SEGMENTATION,
    WHOLE,
    Data,
    Found,
    Item,
    Part,
)
from mmvssd.engine.data.findings import STOP, Findings
from mmvssd.new_recipe.dividing import divide
from mmvssd.new_recipe.literals import WIDTH, literal, sequence
from mmvssd.new_recipe.painting import painted, to_segmentation
from mmvssd.new_recipe.schedule import NORMS, choose
from mmvssd.new_recipe.survey import Survey
from mmvssd.new_recipe.text import colours, scale_of


def detected(*classes):
    """An image with an object of each class."""
    return [dict(category_id=label, iscrowd=0) for label in classes]


def test_no_class_is_lost_to_validation():
    items = [Item(Path(f'{index}.jpg'), objects=detected(index % 5)) for index in range(9)]
    items += [Item(Path(f'empty{index}.jpg')) for index in range(10)]
    for seed in range(20):
        trained, validated = divide(items, 0.4, seed)
        assert set().union(*(item.classes for item in trained)) == set(range(5))
        assert any(item.classes for item in validated)
        assert sum(not item.classes for item in validated) == 4
        assert sorted(map(id, trained + validated)) == sorted(map(id, items))


@pytest.mark.parametrize(('count', 'fits'), [(254, True), (255, False), (300, False)])
def test_label_maps_have_room_for_the_classes(count, fits):
    """Of 8 bits, of which 255 stands for what is not labelled, and 0 for the background."""
    one = dict(category_id=count - 1, iscrowd=0, area=9, segmentation=[[0, 0, 4, 0, 4, 4, 0, 4]])
    item, findings = Item(Path('a.jpg'), (4, 4), objects=[one]), Findings()
    data = Data(DETECTION, [f'c{index}' for index in range(count)], {WHOLE: Part([item])})
    to_segmentation(data, 'data', findings)
    assert [f'{count + 1} classes' in str(fault) for fault in findings.of(STOP)] == [
        True] * (not fits)
    if fits:
        assert set(painted(item, data.background).flat) == {254}


def test_at_least_one_image_validates():
    for items in ([Item(Path('a'), objects=detected(0)), Item(Path('b'), objects=detected(1))],
                  [Item(Path('a'), label=0), Item(Path('b'), label=1)],
                  [Item(Path('a'), objects=detected(0)), Item(Path('b'))]):
        trained, validated = divide(items, 0.01, 0)
        assert len(trained) == len(validated) == 1
    assert trained[0].classes  # the image without an object validates


@pytest.mark.parametrize('task', [DETECTION, SEGMENTATION, CLASSIFICATION])
def test_schedules(task):
    """Few images are seen often, many as often as the published recipe has it at the least."""
    norm = NORMS[task]
    published = dict(rate=1e-3, rate_batch=64, pretrained=True)
    few, many = (choose(task, images, **published) for images in (10, 1_000_000))
    assert (few.epochs, many.epochs) == (norm.most, norm.fewest)
    for schedule in (few, many):
        assert 2 <= schedule.warm_up <= max(2, 0.1 * schedule.steps)
        assert 1 <= schedule.log_interval <= max(1, schedule.steps_per_epoch / 4)
        assert schedule.interval <= schedule.epochs
    assert choose(task, 1, **published).batch == (2 if task == SEGMENTATION else 1)
    assert choose(task, 1000, batch=64, **published).rate == 1e-3
    assert choose(task, 1000, batch=16, **published).rate == 5e-4


def test_literals_are_values():
    values = ['{{{ $X }}}', "'", '"', '\\{{', 'a\nb', '한', '\udcff', ('x', 1), '{', 'x' * 300]
    for value in values:
        text = literal(value)
        assert eval(text) == value
        assert '{{' not in text
        text.encode()
    for opening, closing, kind in (('(', ')', tuple), ('[', ']', list)):
        for count in (1, 2, 3, 60):
            given = kind(f'name {index}' for index in range(count))
            text = f'classes = {sequence(given, opening, closing, 4)}'
            names = {}
            exec(text, names)
            assert names['classes'] == given
            assert max(map(len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize(('size', 'scale'), [
    ((1920, 400), (1843, 384)), ((400, 1920), (1843, 384)), ((640, 480), (800, 480)),
    ((1333, 800), (1333, 800)), ((4000, 3000), (1333, 800)), ((64, 48), (427, 256)),
    ((20000, 512), (2083, 512))])
def test_images_are_resized_to_about_their_own_size(size, scale):
    """Long ones too, within the pixels of COCO's recipe."""
    survey = Survey(Path(), 'coco', Found([], ''), Data(DETECTION, [], {}), [size] * 3, '')
    assert scale_of(survey) == scale


def test_colours_differ():
    assert len(set(colours(200))) == 200
