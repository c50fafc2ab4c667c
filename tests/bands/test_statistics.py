"""Mean and deviation of bands, to the last digits, and what is said of data that have none."""
import ast
import runpy
import sys

import numpy as np
import pytest

from mmvssd.bands import LoadBands
from mmvssd.bands.statistics import Statistics
from mmvssd.errors import DataError
from mmvssd.paths import project_root

TOOL = str(project_root() / 'tools' / 'dataset_tools' / 'band_statistics.py')
RECIPE = """
default_scope = 'mmpretrain'
train_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(
    type='CustomDataset', data_root='data', extensions=('.npy', ),
    pipeline=[dict(type='mmvssd.LoadBands', SETTINGS), dict(type='PackInputs')]))
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Three images of different sizes, five bands, a mean that is large beside the deviation."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = []
    for index, (height, width) in enumerate([(20, 24), (33, 7), (8, 50)]):
        images.append(rng.normal([1e6, 10., -5., 1., 7.], [0.5, 2., 3., 0.01, 1.],
                                 (height, width, 5)) + index)
        folder = tmp_path / 'data' / 'ab'[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f'{index}.npy', images[-1])
    return np.concatenate([image.reshape(-1, 5) for image in images])


def run(settings, capsys, *options, recipe=RECIPE):
    """Run the tool; return its two lines as settings, and all else that it prints."""
    pytest.importorskip('mmpretrain')
    with open('recipe.py', 'w') as file:
        file.write(recipe.replace('SETTINGS', settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [TOOL, 'recipe.py', *options])
        try:
            runpy.run_path(TOOL, run_name='__main__')
        except SystemExit as error:
            return None, str(error.code) + capsys.readouterr().err
    printed = capsys.readouterr()
    names = dict(line.split('=', 1) for line in printed.out.strip().splitlines())
    return {name: ast.literal_eval(value.rstrip(',')) for name, value in names.items()}, printed.err


def test_they_are_exact(data, tmp_path):
    statistics = Statistics(LoadBands())
    for path in sorted((tmp_path / 'data').rglob('*.npy')):
        statistics.add(str(path))
    for band, values in zip(statistics.bands(), data.T):
        np.testing.assert_allclose(band.mean, values.mean(), rtol=1e-14)
        # float64's last digit, times a mean of a million deviations; squares alone give 1e-4
        np.testing.assert_allclose(band.std, values.std(), rtol=1e-9)
        assert (band.low, band.high) == (values.min(), values.max())
        assert (band.count, band.missing) == (len(values), 0)


def test_the_command_prints_what_is_pasted(data, capsys):
    # what stands there now plays no part, neither does its length
    found, said = run('mean=[1., 2.], std=[1., 1.]', capsys)
    np.testing.assert_allclose(found['mean'], data.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found['std'], data.std(0), rtol=1e-6)
    assert '3 images in' in said
    LoadBands(**found)
    found, _ = run('bands=[3, 1]', capsys)
    np.testing.assert_allclose(found['mean'], data.mean(0)[[3, 1]], rtol=1e-6)
    found, said = run('', capsys, '--images', '1')
    assert '1 image in' in said


def test_no_data_is_left_out(data, tmp_path, capsys):
    first = tmp_path / 'data' / 'a' / '0.npy'
    image = np.load(first)
    rest = data[len(image.reshape(-1, 5)):]
    image[:2], image[2:4] = np.nan, -3.4028234663852886e38
    np.save(first, image)
    found, said = run("nodata=['nan', -3.4028235e38]", capsys)
    expected = np.concatenate([image[4:].reshape(-1, 5), rest])
    np.testing.assert_allclose(found['mean'], expected.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found['std'], expected.std(0), rtol=1e-6)
    assert f'{96 / len(data):.2%}' in said
    found, said = run('', capsys)
    assert found is None
    assert 'a/0.npy: 48 values are not finite, in band 0' in said


def test_images_that_cannot_be_read_are_left_out_and_named(data, tmp_path, capsys):
    (tmp_path / 'data' / 'a' / 'broken.npy').write_bytes(b'x')
    found, said = run('', capsys)
    np.testing.assert_allclose(found['mean'], data.mean(0), rtol=1e-6)
    assert 'left out: data/a/broken.npy: cannot be read' in said.replace('\n', '')
    for file in (tmp_path / 'data').rglob('*.npy'):
        file.write_bytes(b'x')
    assert 'none of the 4 images can be read' in run('', capsys)[1]


@pytest.mark.parametrize(('settings', 'message'), [
    ('bands=[5]', 'LoadBands takes band 5'), ('bands=[]', 'bands=[]')])
def test_what_cannot_be_computed_is_said(settings, message, data, capsys):
    found, said = run(settings, capsys)
    assert found is None
    assert message in said


def test_bands_that_differ_or_tell_nothing_are_named(data, tmp_path, capsys):
    np.save(tmp_path / 'data' / 'b' / '9.npy', np.zeros((20, 20, 4)))
    found, said = run('', capsys)
    assert found is None
    assert 'b/9.npy: has 4 bands, the images before it have 5' in said
    for file in (tmp_path / 'data').rglob('*.npy'):
        np.save(file, np.full((20, 20, 2), (7, 1)))
    found, said = run('nodata=7', capsys)
    assert found is None
    assert 'band 0: all of its values stand for no data' in said
    found, said = run('bands=[1]', capsys)
    assert found == dict(mean=[1], std=[0])
    assert 'band 1 has one value throughout' in said


def test_a_recipe_without_the_step_is_told_of_it(data, capsys):
    recipe = RECIPE.replace('mmvssd.LoadBands', 'LoadImageFromFile')
    found, said = run('', capsys, recipe=recipe)
    assert found is None
    assert "let it begin with dict(type='mmvssd.LoadBands')" in said


def test_a_band_without_values_is_no_statistic(tmp_path):
    statistics = Statistics(LoadBands(nodata=0))
    np.save(tmp_path / 'a.npy', np.zeros((4, 4, 1)))
    statistics.add(str(tmp_path / 'a.npy'))
    with pytest.raises(DataError, match='band 0: all of its values'):
        statistics.bands()
