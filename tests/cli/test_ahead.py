"""Batches and threads: outcomes are those of one image after the other."""
import threading
from pathlib import Path

import pytest
import torch

from mmvssd.cli.ahead import SIDE_BY_SIDE, outcomes
from mmvssd.cli.inputs import Input


class Model:
    """In the place of an inferencer: an image is its name, of which the first letter is its shape.

    What it is asked to run is noted; names with ``bad`` fail, in a batch or alone.
    """

    side_by_side = True
    sides = dict(a=8, b=16, l=SIDE_BY_SIDE)

    def __init__(self):
        self.ran, self.prepared, self.threads = [], [], set()

    def beside(self):
        return self

    def shape(self, prepared):
        side = self.sides.get(prepared[0])
        return side and (3, side, 2)

    def prepare(self, image):
        self.prepared.append(image)
        if 'unreadable' in image:
            raise OSError(image)
        return image

    def forward(self, prepared):
        self.ran.append(list(prepared))
        self.threads.add((threading.current_thread(), torch.get_num_threads()))
        if any('bad' in name for name in prepared):
            raise ValueError('bad')
        return [name.upper() for name in prepared]


def predicted(model, names, **options):
    def check(item):
        if 'large' in str(item.file):
            raise ValueError('too large')

    return [(str(outcome.item.file), outcome.sample or type(outcome.error).__name__)
            for outcome in outcomes(model, [Input(Path(name)) for name in names], check,
                                    **options)]


NAMES = ['a1', 'a2', 'b1', 'a3', 'a-unreadable', 'b2', 'a-bad', 'a4', 'a-large', 'a5', 'c1', 'c2',
         'l1', 'a6']
TRUE = {name: name.upper() for name in NAMES} | {
    'a-unreadable': 'OSError', 'a-bad': 'ValueError', 'a-large': 'ValueError'}


@pytest.mark.parametrize('batch_size', [1, 2, 3, 50])
@pytest.mark.parametrize('workers', [0, 1, 3])
def test_every_image_once(batch_size, workers):
    former = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = Model()
        results = predicted(model, NAMES, batch_size=batch_size, workers=workers)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(former)
    assert sorted(results) == sorted(TRUE.items())
    if batch_size == 1:
        assert [name for name, _ in results] == NAMES
    assert max(map(len, model.ran)) == {1: 1, 2: 2, 3: 3, 50: 7}[batch_size]
    for names in model.ran:
        assert len({name[0] for name in names}) == 1
        assert len(names) == 1 or names[0][0] in 'abl'  # c has no shape
    if workers == 3:  # two cores are shared by two models; a large image has both
        assert {threads for thread, threads in model.threads
                if thread is not threading.main_thread()} == {1}
        assert (threading.main_thread(), 2) in model.threads


@pytest.mark.parametrize('workers', [1, 3])
def test_few_images_are_read_ahead(workers):
    model = Model()
    results = outcomes(model, [Input(Path(f'a{number}')) for number in range(100)],
                       lambda item: None, batch_size=2, workers=workers)
    next(results)
    results.close()
    assert len(model.prepared) <= 4 + workers + 2 * workers
    assert not any(thread.name.startswith(('reading', 'predicting'))
                   for thread in threading.enumerate())


def test_without_threads_nothing_is_done_before_it_is_asked_for():
    model = Model()
    results = outcomes(model, [Input(Path(f'a{number}')) for number in range(9)],
                       lambda item: None)
    assert model.prepared == []
    next(results)
    assert model.ran == [['a0']]
    assert len(model.prepared) <= 2
