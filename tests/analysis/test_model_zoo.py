"""The model-zoo tables: in step with the metafiles, which are in step with the recipes."""
import shutil

import pytest
from mmengine.fileio import dump, load

from mmvssd.analysis.model_zoo import ModelZooError, load_zoo, update_documents
from mmvssd.paths import project_root

FOLDERS = {'classification', 'detection', 'segmentation'}


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the tables are made from and written into."""
    root = project_root()
    shutil.copy(root / 'model-index.yml', tmp_path)
    for name in ('docs', 'configs'):
        shutil.copytree(root / name, tmp_path / name)
    return tmp_path


def change(checkout, folder, edit):
    """Apply ``edit`` to the models of a folder's metafile."""
    file = checkout / 'configs' / folder / 'metafile.yml'
    metafile = load(file)
    edit(metafile['Models'])
    dump(metafile, file)


def test_tables_are_up_to_date():
    assert update_documents(project_root(), check=True) == [], 'run python tools/model_zoo.py'


def test_documents_hold_the_tables():
    root = project_root()
    zoo = load_zoo(root)
    assert set(zoo) == FOLDERS
    everything = (root / 'docs' / 'model_zoo.md').read_text()
    for folder, models in zoo.items():
        readme = (root / 'configs' / folder / 'README.md').read_text()
        for model in models:
            assert f'[{model["Name"]}]({model["Name"]}.py)' in readme
            assert f'[{model["Name"]}](../{model["Config"]})' in everything


def test_scores_and_their_absence_are_written():
    text = (project_root() / 'docs' / 'model_zoo.md').read_text()
    rows = {line.split(']')[0].strip('| ['): line.split(' | ')[1:] for line in text.splitlines()
            if line.startswith('| [')}
    assert rows['mask-rcnn_vssd-tiny_fpn_ms-3x_coco'] == [
        '43.91 M', '265.28', '48.8 box AP, 43.6 mask AP', 'not trained here |']
    assert rows['upernet_vssd-tiny_4xb4-160k_ade20k-512x512'][2] == '47.9 mIoU, 48.7 mIoU(ms+flip)'
    assert rows['mask-rcnn_vmamba-small-s2l15_fpn_1x_coco'] == [
        '69.65 M', '384', '48.7 box AP, 43.7 mask AP', 'not trained here |']
    without = {name for name, row in rows.items() if row[2] == 'no published score'}
    vssd = ('iccv2025', 'vssd-base', 'upernet_vssd-small')
    vmamba = ('s1l20', 'v0-base_fpn_ms-3x', 'base-s2l15_fpn_ms-3x')
    dense = {name for name in without if not name.startswith(('vssd', 'vmamba'))}
    assert dense == {name for name in rows if not name.startswith(('vssd', 'vmamba'))
                     and any(part in name for part in vssd + vmamba)}
    # published with MESA, or without it
    assert without - dense == {
        'vssd-tiny-iccv2025_8xb128_mesa_in1k', 'vssd-small-iccv2025_8xb128_mesa_in1k',
        'vssd-base-iccv2025_8xb256_in1k'}
    mesa = {name.split('_')[0]: row[2] for name, row in rows.items()
            if '_mesa_' in name and name not in without}
    assert mesa == {'vssd-tiny': '84.1 Top 1 Accuracy', 'vssd-small': '84.5 Top 1 Accuracy',
                    'vssd-base': '85.4 Top 1 Accuracy', 'vssd-base-iccv2025': '85.4 Top 1 Accuracy'}


def test_a_new_score_is_written_and_nothing_else(checkout):
    assert update_documents(checkout) == []

    def measure(models):
        models[0]['Results'][0]['Measured'] = {'mIoU': 45.5}

    change(checkout, 'segmentation', measure)
    documents = [checkout / 'docs' / 'model_zoo.md',
                 checkout / 'configs' / 'segmentation' / 'README.md']
    before = {document: document.read_text() for document in documents}
    assert update_documents(checkout, check=True) == documents
    assert {document: document.read_text() for document in documents} == before
    assert update_documents(checkout) == documents
    for document in documents:
        row, = [line for line in before[document].splitlines() if '[upernet_vssd-micro' in line]
        expected = row.replace('not trained here', '45.5 mIoU')
        assert document.read_text() == before[document].replace(row, expected)
    assert update_documents(checkout) == []
    assert not list(checkout.rglob('*.partial'))


def test_a_recipe_without_an_entry(checkout):
    recipe = checkout / 'configs' / 'detection' / 'new_model.py'
    recipe.write_text('')
    with pytest.raises(ModelZooError, match='configs/detection/new_model.py: a recipe that no'):
        update_documents(checkout)


def test_an_entry_without_a_recipe(checkout):
    (checkout / 'configs' / 'detection' / 'mask-rcnn_vssd-tiny_fpn_1x_coco.py').unlink()
    with pytest.raises(ModelZooError, match='vssd-tiny_fpn_1x_coco.py: named by a metafile, but'):
        update_documents(checkout)


def test_an_entry_twice(checkout):
    change(checkout, 'segmentation', lambda models: models.append(models[0]))
    with pytest.raises(ModelZooError, match='named by 2 entries of metafiles, expected one'):
        update_documents(checkout)


def test_a_name_that_is_not_the_recipes(checkout):
    change(checkout, 'classification', lambda models: models[0].update(Name='vssd-nano'))
    with pytest.raises(ModelZooError, match='called vssd-nano, expected vssd-micro_8xb128_in1k'):
        update_documents(checkout)


def test_a_result_that_does_not_say_what_was_measured(checkout):
    change(checkout, 'classification', lambda models: models[1]['Results'][0].pop('Measured'))
    with pytest.raises(ModelZooError, match='vssd-tiny_8xb128_in1k: Measured of Image Classif'):
        update_documents(checkout)


def test_a_metafile_that_is_not_there(checkout):
    (checkout / 'configs' / 'segmentation' / 'metafile.yml').unlink()
    with pytest.raises(ModelZooError, match='imports configs/segmentation/metafile.yml, which is'):
        update_documents(checkout)


@pytest.mark.parametrize(('text', 'message'), [
    ('<!-- model zoo: pose -->\n<!-- end of model zoo -->\n', 'asks for the table of pose'),
    ('<!-- model zoo: detection -->\n', 'the table of detection does not end'),
    ('<!-- model zoo: detection -->\n<!-- model zoo: detection -->\n<!-- end of model zoo -->\n',
     'the table of detection does not end'),
])
def test_markers_that_do_not_fit(checkout, text, message):
    (checkout / 'docs' / 'other.md').write_text(text)
    with pytest.raises(ModelZooError, match=message):
        update_documents(checkout)


def test_the_command(run_tool):
    assert 'all tables are up to date' in run_tool('model_zoo.py', '--check')
