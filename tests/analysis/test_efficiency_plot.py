"""Accuracy over speed: which models stand in the figure, and where."""
import pytest
from PIL import Image

from mmvssd.analysis import efficiency_plot
from mmvssd.analysis.efficiency_plot import AREA, Dot, draw, family_of, read_dots
from mmvssd.analysis.named_models import ModelName
from mmvssd.analysis.published_speed import Speed
from mmvssd.analysis.resolution_scaling import Count, Missing, Row
from mmvssd.analysis.resolution_scaling_report import write_rows
from mmvssd.errors import ConfigError

PROTOCOL = dict(machine='one', device='cuda', warmup=50, steps=30)


FAST = Speed(1000., 1500., 32)


def row(name, size=224, infer=FAST, params=24_000_000, top1=None):
    count = Count(params, 1, 1) if params else None
    return Row(ModelName.parse(name), (size, size), 32, count, dict(infer=infer), top1)


@pytest.fixture
def results(tmp_path):
    """Writes rows to a folder of their own and returns the JSON."""

    def write(*rows, **changes):
        folder = tmp_path / f'{len(list(tmp_path.iterdir()))}'
        folder.mkdir()
        write_rows(rows, dict(PROTOCOL, **changes), folder)
        return folder / 'resolution_scaling.json'

    return write


@pytest.mark.parametrize(('name', 'family'), [
    ('vssd-tiny', 'vssd'), ('vssd-micro', 'vssd'), ('vssd-tiny-iccv2025', 'vssd-iccv2025'),
    ('vmamba-tiny-s1l8', 'vmamba-s1'), ('vmamba-base-s2l15', 'vmamba-s2'),
    ('vmamba-v0-small', 'vmamba-v0'), ('resnet-50', 'resnet'), ('replknet-31b', 'replknet'),
    ('samples/vssd-nano_1xb64_digits.py', 'vssd'),
    ('mmpretrain::resnet/resnet50_8xb32_in1k.py', 'resnet50')])
def test_families(name, family):
    assert family_of(name) == family


def test_published_and_measured(results):
    file = results(row('vssd-tiny', top1=71.5), row('vssd-small', params=40_000_000),
                   row('swin-tiny', infer=Missing('out of memory', 'OOM')),
                   row('deit-small', params=None), row('vssd-tiny', size=384))
    left_out = []
    dots, title = read_dots([file], '224', 'published', left_out)
    assert dots == [Dot('vssd-tiny', 'vssd', 1000., 24., 83.6),
                    Dot('vssd-small', 'vssd', 1000., 40., 84.1)]
    assert title == '224 pixels, batch 32, one'
    assert left_out == ['swin-tiny at 224: has no speed of inference',
                        'deit-small at 224: has no count of parameters']
    dots, _ = read_dots([file], '224', 'measured', [])
    assert dots == [Dot('vssd-tiny', 'vssd', 1000., 24., 71.5)]


def test_results_that_do_not_fit(results, tmp_path):
    one, two = results(row('vssd-tiny'), row('vssd-tiny', 384)), results(row('vssd-small'))
    with pytest.raises(ConfigError, match='^--size: needed, the files have 224, 384'):
        read_dots([one, two], None, 'published', [])
    assert len(read_dots([two], None, 'published', [])[0]) == 1
    assert [dot.label for dot in read_dots([one, two], '224', 'published', [])[0]] == [
        'vssd-tiny', 'vssd-small']
    with pytest.raises(ConfigError, match='has no published top-1'):
        read_dots([one], '384', 'published', [])
    with pytest.raises(ConfigError, match='^--size: nothing is there of 512; .*224, 384'):
        read_dots([one], '512', 'published', [])
    other = results(row('vssd-base'), machine='two')
    with pytest.raises(ConfigError, match='machine is one in .*, two in '):
        read_dots([one, other], '224', 'published', [])
    many = results(row('vssd-tiny'), row('swin-tiny', infer=FAST._replace(batch=128)))
    with pytest.raises(ConfigError, match='^speeds of one batch only: .*224 .*32, 128 images'):
        read_dots([many], '224', 'published', [])
    (tmp_path / 'broken.json').write_text('{')
    for file in ('broken.json', 'none.json'):
        with pytest.raises(ConfigError, match=f'^{tmp_path}/{file} cannot be read'):
            read_dots([tmp_path / file], None, 'published', [])


DOTS = [Dot('$x_{$ tiny', 'vssd', 1000., 24., 83.6), Dot('vssd-small', 'vssd', 600., 40., 84.1),
        Dot('near', '$y_{$', 1010., 24., 83.6)]


def test_the_figure(tmp_path, monkeypatch):
    file = tmp_path / 'e.png'
    file.write_bytes(draw(DOTS, 'published', '224 pixels, one'))
    with Image.open(file) as figure:
        assert figure.width >= 800
    assert file.stat().st_size < 300_000
    drawn = []
    monkeypatch.setattr(efficiency_plot, 'compressed', drawn.append)
    draw(DOTS, 'published', '224 pixels, one')
    axes, = drawn[0].axes
    assert axes.get_xscale() == 'log'
    assert axes.get_ylabel() == 'top-1, published (%)'
    family, other = axes.collections
    assert family.get_offsets().tolist() == [[1000, 83.6], [600, 84.1]]
    assert list(family.get_sizes()) == [AREA * 24, AREA * 40]
    assert axes.get_lines()[0].get_xydata().tolist() == [[1000, 83.6], [600, 84.1]]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 3
    assert not any(one.overlaps(two) for one in boxes for two in boxes if one is not two)
