"""Which patches there are, which are in effect, and what leaves them out."""
import importlib
import logging
import re
import types
from pathlib import Path

import pytest

from mmvssd import compat
from mmvssd.errors import ConfigError

DOCS = Path(__file__).parents[2] / 'docs' / 'compat.md'
FOLDER = Path(compat.__file__).parent

#: Files beside the patches.
HELPERS = {'__init__', 'checkpoint_classes', 'checkpoint_contents', 'devices', 'patching',
           'versions'}


def kind_of(name):
    """Return what a patch's docstring says that it is, 'Fix' or 'Feature', and the rest of that."""
    file = FOLDER / f'{name}.py'
    text = (file if file.is_file() else FOLDER / name / '__init__.py').read_text()
    docstring = text.split('"""')[1]
    (found, ) = re.findall(r'^(Fix|Feature): (.+?\.)$', docstring, re.MULTILINE | re.DOTALL)
    return found[0], ' '.join(found[1].split())


def rows():
    """The table of patches in docs/compat.md, by name."""
    cells = [[cell.strip() for cell in line.strip('|').split('|')]
             for line in DOCS.read_text().splitlines() if line.startswith('| `')]
    return {row[0].strip('`'): row[1:] for row in cells if len(row) == 5}


def test_every_file_is_a_patch():
    files = {path.stem for path in FOLDER.iterdir() if path.suffix == '.py'}
    folders = {path.name for path in FOLDER.iterdir() if (path / '__init__.py').is_file()}
    assert (files | folders) - HELPERS == set(compat.PATCHES)


@pytest.mark.parametrize('name', compat.PATCHES)
def test_the_docs_say_of_each_what_it_is(name):
    kind, sentence = kind_of(name)
    assert kind == 'Feature' or sentence.startswith('retire ')
    documented, _problem, _done, ends = rows()[name]
    assert (documented, ends) == (kind.lower(), sentence if kind == 'Fix' else '')


def test_the_docs_list_no_other():
    assert list(rows()) == sorted(compat.PATCHES)


def test_none_waits_for_a_module_that_is_gone():
    """All are applied in a process that has imported everything."""
    for name, module in compat.PATCHES.items():
        pytest.importorskip(module)
        assert compat._wanted[name]._file is not None
        assert not compat._wanted[name]._failure
    assert set(compat.in_effect()) | set(compat.idle()) == set(compat.PATCHES)


def test_one_that_fails_is_said_and_stops_nothing(monkeypatch, caplog):
    patch = compat.Patch('amp', 'mmengine.optim')
    monkeypatch.setattr('mmvssd.compat.amp.wrap_once', lambda *args: 1 / 0)
    assert patch.idle() == 'mmengine.optim is not imported'
    with caplog.at_level(logging.WARNING, 'mmvssd'):
        patch(None)
    assert [record.getMessage() for record in caplog.records] == [
        'patch amp failed: ZeroDivisionError: division by zero']
    assert patch.idle() == 'failed: ZeroDivisionError: division by zero'


def test_one_whose_problem_is_absent_is_not_in_effect(monkeypatch):
    patch = compat.Patch('amp', 'mmengine.optim')
    monkeypatch.setattr('mmvssd.compat.devices.get_device', lambda: 'cuda')
    patch(importlib.import_module('mmengine.optim'))
    assert patch.idle() == 'MMEngine runs on cuda'
    monkeypatch.setattr('mmvssd.compat.devices.get_device', lambda: 'cpu')
    assert patch.idle() is None


@pytest.mark.parametrize(('setting', 'left_out'), [
    ('', []), ('off', list(compat.PATCHES)), ('-amp', ['amp']),
    (' -amp , -amp_ops,', ['amp', 'amp_ops'])])
def test_settings(setting, left_out):
    assert compat._left_out(setting) == left_out


@pytest.mark.parametrize('setting', ['amp', 'OFF', '0', '-amp,-ampops', '-'])
def test_a_setting_that_is_not_understood(setting):
    with pytest.raises(ConfigError, match=re.escape(f'got {setting!r}, expected off, or a list')):
        compat._left_out(setting)


@pytest.mark.slow
def test_off_and_a_backbone_still_works(python):
    """With MMEngine as it is."""
    done = python('-c', """
import torch, mmengine.runner
from mmengine.fileio import LocalBackend
from mmvssd import compat
from mmvssd.models import VMamba, VSSD
arch = dict(embed_dims=16, depths=(1, 1), num_heads=(2, 2))
print(VSSD(arch=arch, out_indices=(1, ))(torch.zeros(1, 3, 32, 32))[0].shape)
print(hasattr(LocalBackend.put, '__wrapped__'), hasattr(torch.load, '__wrapped__'))
print(compat.in_effect(), compat.idle(), compat.left_out() == list(compat.PATCHES))
""", env={'MMVSSD_PATCHES': 'off'})
    assert done.stdout.splitlines() == ['torch.Size([1, 32, 4, 4])', 'False False', '[] {} True'
                                        ], done.stderr


@pytest.mark.slow
def test_a_runs_log_has_one_line_of_them(python, tmp_path):
    """Of a Runner that knows nothing of this package."""
    (tmp_path / 'run.py').write_text("""
import mmvssd
from mmengine.runner import Runner
from torch import nn
for number in '12':
    Runner(nn.Linear(1, 1), f'work_{number}', experiment_name=number)
""")
    done = python('run.py', cwd=tmp_path, env={'MMVSSD_PATCHES': '-amp,-failed_runs'})
    assert done.returncode == 0, done.stderr
    for number in '12':
        log, = (tmp_path / f'work_{number}').glob('*/*.log')
        line, = re.findall('Patches of mmvssd (.+)', log.read_text())
        in_effect, idle, left_out = line.split('; ')
        assert 'atomic_files, checkpoint' in in_effect
        assert 'class_names' in idle
        assert left_out == 'left out by MMVSSD_PATCHES: amp, failed_runs'


def test_class_names():
    """A data set of MMSegmentation that a config names the classes of."""
    datasets = pytest.importorskip('mmseg.datasets')
    named = datasets.BaseSegDataset(metainfo=dict(classes=('a', 'b'), palette=[[0] * 3, [1] * 3]),
                                    lazy_init=True)
    assert named.METAINFO['classes'] == ('a', 'b')
    assert datasets.BaseSegDataset.METAINFO == {}
    published = datasets.ADE20KDataset(metainfo=dict(classes=('wall', )), lazy_init=True)
    assert len(published.METAINFO['classes']) == 150


def test_figure_margins():
    """MMPreTrain's tool gives no renderer, matplotlib's own callers do."""
    tight_bbox = pytest.importorskip('matplotlib._tight_bbox')
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox
    figure = Figure()
    FigureCanvasAgg(figure)
    tight_bbox.adjust_bbox(figure, Bbox([[0, 0], [1, 2]]))
    assert figure.bbox_inches.size.tolist() == [1, 2]
    figure.savefig('/dev/null', format='png', bbox_inches='tight')


def test_figure_margins_of_an_older_matplotlib(monkeypatch):
    from mmvssd.compat import figure_margins
    monkeypatch.setattr(figure_margins, '_tight_bbox',
                        types.SimpleNamespace(adjust_bbox=lambda fig, bbox_inches: 'stock'))
    figure_margins.apply()
    assert figure_margins._tight_bbox.adjust_bbox(None, None) == 'stock'
    assert figure_margins.idle() == 'this matplotlib asks for no renderer'


def test_segmentation_pictures():
    """An image as MMSegmentation's tool makes it: out of a tensor, channels in another order."""
    visualization = pytest.importorskip('mmseg.visualization')
    import numpy as np
    import torch
    from mmengine.structures import PixelData
    image = torch.zeros(3, 32, 48, dtype=torch.uint8).permute(1, 2, 0).numpy()[..., [2, 1, 0]]
    assert not image.flags.c_contiguous
    labels = PixelData(data=torch.ones(1, 32, 48, dtype=torch.long))
    drawn = visualization.SegLocalVisualizer(alpha=1)._draw_sem_seg(
        image, labels, ['a', 'b'], [[0, 0, 0], [9, 99, 199]], with_labels=True)
    assert (drawn == np.array([9, 99, 199])).all(-1).mean() > 0.5


def test_model_complexity():
    """With both, as MMSegmentation's tool calls it, and with each."""
    import torch
    from mmengine.analysis import get_model_complexity_info
    model, inputs = torch.nn.Linear(4, 2), torch.zeros(3, 4)
    counted = [get_model_complexity_info(model, *args, **kwargs, show_table=False, show_arch=False)
               for args, kwargs in [(((4, ), ), dict(inputs=(inputs, ))), ((), dict(inputs=inputs)),
                                    (((4, ), ), {})]]
    assert [count['params'] for count in counted] == [10] * 3
    assert [count['flops'] for count in counted] == [24, 24, 8]


def test_segmentation_picture_of_one_pixel():
    """NumPy takes a tensor of one element for a number, and so the mask for an index."""
    visualization = pytest.importorskip('mmseg.visualization')
    import numpy as np
    import torch
    from mmengine.structures import PixelData
    drawn = visualization.SegLocalVisualizer(alpha=1)._draw_sem_seg(
        np.zeros((1, 1, 3), np.uint8), PixelData(data=torch.ones(1, 1, 1, dtype=torch.long)),
        ['a', 'b'], [[0, 0, 0], [9, 99, 199]], with_labels=False)
    assert drawn.tolist() == [[[9, 99, 199]]]


def test_tsne():
    """As MMPreTrain's tool calls it, and as scikit-learn wants it; its own errors stay."""
    manifold = pytest.importorskip('sklearn.manifold')
    import numpy as np
    points = np.random.default_rng(0).normal(size=(12, 5))
    for name in ('n_iter', 'max_iter'):
        found = manifold.TSNE(perplexity=2, init='random', **{name: 250}).fit_transform(points)
        assert found.shape == (12, 2)
    assert 'max_iter' in manifold.TSNE(n_iter=300).get_params()
    with pytest.raises(TypeError, match='iters'):
        manifold.TSNE(iters=250)
