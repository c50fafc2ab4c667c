"""Sample data and recipes for pages, and what tells of a page whether it is whole."""
import re
from html.parser import HTMLParser

import pytest

from mmvssd.cli.launch import load_config
from mmvssd.datasets import make_sample_data

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
