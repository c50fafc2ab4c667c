"""Sample data, recipes and work dirs for pages, and what tells of a page whether it is whole."""
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from mmvssd.cli.launch import load_config
from mmvssd.datasets import make_sample_data
from mmvssd.processes import this_process

CLASSIFIER = 'samples/vssd-nano_1xb64_digits.py'
DETECTOR = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'
SEGMENTOR = 'samples/upernet_vssd-nano_1xb8_digits.py'
KINDS = {CLASSIFIER: 'imagenet', DETECTOR: 'coco', SEGMENTOR: 'ade20k'}


@pytest.fixture
def digits(tmp_path):
    """Folder of sample data that a test may spoil."""
    return make_sample_data(tmp_path / 'digits', num_scenes=(8, 4), num_crops=(20, 10),
                            image_size=96, crop_size=32, progress=False)


@pytest.fixture
def options(digits):
    """Settings that have a sample recipe read that folder: ``options(recipe, **more)``."""

    def settings(recipe, **more):
        root = digits / KINDS[recipe]
        found = {'model.backbone.init_cfg': None, 'train_dataloader.batch_size': 2}
        for phase in ('train', 'val', 'test'):
            found.update({f'{phase}_dataloader.{key}': value for key, value in (
                ('dataset.data_root', f'{root}/'), ('num_workers', 0),
                ('persistent_workers', False))})
            if recipe == DETECTOR and phase != 'train':
                found[f'{phase}_evaluator.ann_file'] = str(
                    root / 'annotations' / 'instances_val2017.json')
        return {**found, **{key.replace('__', '.'): value for key, value in more.items()}}

    return settings


@pytest.fixture
def recipe(options, tmp_path):
    """Read a sample recipe for that folder, with settings changed."""

    def read(name, **more):
        return load_config(name, work_dir=str(tmp_path / 'work'), options=options(name, **more))

    return read


#: Elements that are not closed.
VOID = {'meta', 'link', 'img', 'br', 'hr', 'input'}


class Page(HTMLParser):
    """A page's elements, text and pictures; it raises at one that is not closed in its turn."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.sources, self.text = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f'not closed: {self.open}'

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ('src', 'href'):
                self.sources.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f'</{tag}> closes nothing'
        assert self.open.pop() == tag

    def handle_data(self, data):
        if 'style' not in self.open:
            self.text.append(data)

    @property
    def words(self):
        """Return all text with single blanks."""
        return re.sub(r'\s+', ' ', ' '.join(self.text))


@pytest.fixture
def parsed():
    """Parse a page: it is well formed, has no script and fetches nothing."""

    def parse(html):
        page = Page(html)
        assert 'script' not in page.tags
        assert all(source.startswith('data:') for source in page.sources), page.sources
        assert 'url(' not in html
        return page

    return parse


@pytest.fixture
def work_dir(tmp_path):
    """Write a start of a run: ``work_dir(name, time, scalars, scores, log, config, **record)``."""

    def write(name='run', time='20260101_000000', scalars=(), scores=None, log='', config='',
              **record):
        folder = tmp_path / name / time
        (folder / 'vis_data').mkdir(parents=True)
        (folder / 'vis_data' / 'config.py').write_text(config)
        if scalars:
            (folder / 'vis_data' / 'scalars.json').write_text('\n'.join(map(json.dumps, scalars)))
        if scores:
            (folder / f'{time}.json').write_text(json.dumps(scores))
        (folder / f'{time}.log').write_text(log)
        content = dict(dict(
            status='finished', error=None, mode='train', started='2026-01-01T00:00:00+00:00',
            ended='2026-01-01T01:00:30+00:00', process=this_process(), config='vis_data/config.py',
            command='python tools/train.py a.py', folder=str(tmp_path), recipe='a.py',
            start=dict(checkpoint=None, pretrained=[]), work_dir=str(tmp_path / name),
            reached=dict(epoch=2, iteration=20)), **record)
        (folder / 'run.json').write_text(json.dumps(content))
        return tmp_path / name

    return write


def step(iteration, loss, **more):
    """A line that a training step writes."""
    return dict(loss=loss, lr=1e-3, time=0.1, data_time=0.01, iter=iteration, step=iteration,
                epoch=1, **more)


@pytest.fixture
def scalars():
    """Return what a training of two epochs logs: ``scalars(score, score)``."""

    def lines(*scores, key='mIoU'):
        found = [step(10, 2.0, memory=900)]
        for epoch, score in enumerate(scores, 1):
            found += [dict(step(10 * epoch, 2.0 / epoch, memory=1000), epoch=epoch),
                      {key: score, 'time': 0.1, 'step': epoch}]
        return found

    return lines


#: A class that a page would run if it took it for a part of itself.
NAME = '<script>alert("x")</script>'


@pytest.fixture
def write_details():
    """Write what a test of a classifier found into a run: ``write_details(work_dir, **more)``."""

    def write(path, **content):
        content = dict(dict(folder=str(path.parent)), **content)
        entry = dict(path='image.png', quality=0.25, truth=dict(labels=[0]),
                     predicted=dict(labels=[1, 0], scores=[0.75, 0.25]))
        content = dict(dict(
            task='classification', checkpoint='epoch_2.pth', images=4, classes=[NAME, 'b'],
            by_class=[dict(name=NAME, precision=50.0, recall=None), dict(name='b', precision=25.0)],
            confusion=dict(names=[NAME, 'b'], cells=[[0, 0, 1], [0, 1, 2], [1, 1, 1]]),
            curves=[dict(name='all classes', points=[[0, 1], [0.5, 0.5]])],
            calibration=dict(counts=[0, 4], confidence=[0, 0.7], accuracy=[0, 0.25], ece=0.45),
            worst=[entry], best=[dict(entry, path='gone.png')]), **content)
        (path / '20260101_000000' / 'test_details.json').write_text(json.dumps(content))

    return write


@pytest.fixture
def make_runs(work_dir, scalars, write_details, tmp_path):
    """Make two runs that tell all that a page shows."""

    def make():
        Image.new('RGB', (40, 30)).save(tmp_path / 'image.png')
        paths = [work_dir(name, scalars=scalars(score), config=f'lr = {score}\nx = "{name * 90}"',
                          log=f' - WARNING - Doubtful data: {"n" * 200}\n')
                 for name, score in (('a', 40.0), ('b', 50.0))]
        for path in paths:
            write_details(path)
        return paths

    return make
