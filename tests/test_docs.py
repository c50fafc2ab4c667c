"""The code of README and docs runs, or loads and builds if it is a config."""
import re
import shlex
from statistics import median

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmvssd.datasets import make_sample_data
from mmvssd.families import FAMILIES
from mmvssd.models import VSSD
from mmvssd.new_recipe import new_recipe
from mmvssd.paths import configs_dir, project_root

DOCS = project_root() / 'docs'
CONFIGS = re.findall(r'`mine/(\w+)\.py`:\n\n```python\n(.*?)```',
                     (DOCS / 'finetune.md').read_text(), re.DOTALL)


@pytest.fixture
def converted(tmp_path):
    """A converted classifier, as far as names go, where the pages expect one."""
    (tmp_path / 'checkpoints').mkdir()
    backbone = VSSD('micro', out_indices=(3, ))
    weights = {f'backbone.{name}': value for name, value in backbone.state_dict().items()}
    weights.update({'head.fc.weight': torch.ones(1000, 384), 'head.fc.bias': torch.zeros(1000)})
    torch.save(dict(state_dict=weights), tmp_path / 'checkpoints' / 'vssd-micro_in1k.pth')


@pytest.fixture
def trained(tmp_path):
    """A recipe of new_recipe's and its checkpoint, where a page expects them."""
    for name in ('cat', 'dog'):
        (tmp_path / 'photos' / name).mkdir(parents=True)
        for index in range(2):
            Image.new('RGB', (64, 64)).save(tmp_path / 'photos' / name / f'{index}.jpg')
    recipe = str(tmp_path / 'mine' / 'recipe.py')
    new_recipe(str(tmp_path / 'photos'), recipe, arch='vssd-nano')
    settings = Config.fromfile(recipe).model.backbone
    settings.pop('type')
    weights = {f'backbone.{name}': value for name, value in VSSD(**settings).state_dict().items()}
    (tmp_path / 'work_dirs' / 'recipe').mkdir(parents=True)
    torch.save(dict(state_dict=weights), tmp_path / 'work_dirs' / 'recipe' / 'epoch_5.pth')
    return weights


def run_blocks(page):
    """Run a page's blocks of Python, in their order; return the names that they leave."""
    names = {}
    for block in re.findall(r'```python\n(.*?)```', (DOCS / page).read_text(), re.DOTALL):
        exec(compile(block, page, 'exec'), names)
    return names


def test_backbone_page(converted, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    names = run_blocks('backbone.md')
    printed = capsys.readouterr().out
    assert '(2, 48, 50, 84)\n(2, 96, 25, 42)\n(2, 192, 13, 21)\n(2, 384, 7, 11)\n' in printed
    for family in (FAMILIES['vssd'], FAMILIES['vmamba']):
        assert ', '.join(family.backbone.archs) in printed
    assert '[(1, 24, 16, 20), (1, 48, 8, 10), (1, 96, 4, 5), (1, 192, 2, 3)]' in printed
    assert '(1, 24, 32, 32)\n(2, 24, 3, 3, 3)\n' in printed
    assert '(2, 21, 96, 120)' in printed.replace('[', '(').replace(']', ')')
    assert torch.isfinite(names['loss'])
    own = names['own'].state_dict()
    assert len(own) == len(trained)
    assert all(torch.equal(own[name.removeprefix('backbone.')], trained[name]) for name in trained)
    assert FAMILIES.pop('mine').type == 'mmvssd.Mine'


def test_widths_of_the_backbone_page():
    """The table has the four widths of every published arch."""
    page = (DOCS / 'backbone.md').read_text().partition('## Architectures')[2]
    for family in (FAMILIES['vssd'], FAMILIES['vmamba']):
        rows = page.partition(f'of {family.backbone.__name__} |')[2].partition('\n\n')[0]
        shown = {arch: cells for names, cells in re.findall(r'^\| (`.*?) \| ([\d, ]+) \|', rows,
                                                            re.MULTILINE)
                 for arch in re.findall('`(.*?)`', names)}
        with torch.device('meta'):
            assert shown == {arch: ', '.join(map(str, family.backbone(arch).dims))
                             for arch in family.backbone.archs}


def test_timm_page(tmp_path, monkeypatch, capsys):
    pytest.importorskip('timm')
    monkeypatch.chdir(tmp_path)
    names = run_blocks('timm.md')
    printed = capsys.readouterr().out
    assert "'vssd_tiny_iccv2025'" in printed
    assert 'torch.Size([2, 10])\ntorch.Size([2, 384, 7, 7])\n' in printed
    assert '[96, 384, 768] [4, 16, 32]\n' in printed
    assert '[(2, 96, 56, 56), (2, 384, 14, 14), (2, 768, 7, 7)]\nTrue\n' in printed
    assert len(names['other'].head.fc.bias) == 5
    if 'unet' in names:
        assert 'torch.Size([2, 4, 224, 224])\n' in printed


@pytest.mark.parametrize(('name', 'text'), CONFIGS, ids=[name for name, _ in CONFIGS])
def test_config_of_the_fine_tuning_page(name, text, tmp_path):
    (tmp_path / 'configs').symlink_to(configs_dir())
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / f'{name}.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine' / f'{name}.py')
    pytest.importorskip(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    classes = dict(classifier=10, detector=10, segmentor=11)[name]
    assert model.backbone.frozen_stages == 2
    assert cfg.train_dataloader.dataset.data_root.startswith('data/sample_digits')
    assert cfg.test_dataloader.dataset == cfg.val_dataloader.dataset
    if name == 'segmentor':
        assert model.decode_head.num_classes == model.auxiliary_head.num_classes == classes
    elif name == 'detector':
        assert model.roi_head.bbox_head.num_classes == classes
        assert model.roi_head.mask_head.num_classes == classes
    else:
        assert model.head.num_classes == cfg.data_preprocessor.num_classes == classes


def test_the_speed_page_names_every_option():
    tool = (project_root() / 'tools' / 'benchmarks' / 'backbone_speed.py').read_text()
    options = re.findall(r"add_argument\('(--[\w-]+)'", tool)
    assert '--kernels' in options
    page = (DOCS / 'speed.md').read_text()
    assert [option for option in options if not re.search(rf'{option}\b', page)] == []


def test_what_is_said_of_the_sample_scenes(tmp_path, monkeypatch, capsys):
    """The page shows what the command really says, as far as it is of data and training."""
    page = (DOCS / 'your_data.md').read_text()
    shown = re.search(r'```text\n(Format: .*?)^Written: ', page, re.DOTALL | re.MULTILINE)[1]
    make, write = (shlex.split(line)[2:] for line in re.search(
        r'```bash\n(python .*make_sample_data.py .*\n)(python .*)\n```', page).groups())
    monkeypatch.chdir(tmp_path)
    root, scenes, (train, val, size) = make[0], make[1], (int(make[i]) for i in (2, 3, 5))
    assert (scenes, make[4]) == ('--num-scenes', '--image-size')
    make_sample_data(root, num_scenes=(train, val), num_crops=(1, 1), image_size=size,
                     progress=False)
    assert write[1::2] == ['--arch', '--out']
    new_recipe(write[0], write[4], arch=write[2])
    assert shown in capsys.readouterr().out


def test_the_readmes_config_builds(tmp_path):
    pytest.importorskip('mmdet')
    readme = (DOCS.parent / 'README.md').read_text()
    (text, ) = re.findall(r'```python\n(_base_ = .*?)```', readme, re.DOTALL)
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        assert MODELS.build(cfg.model).backbone.dims == (64, 128, 256, 512)


def test_the_readme_activates_the_environment_first():
    """A command of the package fails before: setup.sh installs into an environment of its own."""
    lines = (project_root() / 'README.md').read_text().splitlines()
    uses = [number for number, line in enumerate(lines) if line.startswith('python ')]
    activations = [number for number, line in enumerate(lines) if line.startswith('source ')]
    assert activations[0] < uses[0]


def test_git_passes_over_what_the_pages_commands_leave():
    patterns = (project_root() / '.gitignore').read_text().splitlines()
    page = (project_root() / 'README.md').read_text()
    for name in ('mine/recipe.py', 'check.html', 'report.html', 'model.onnx'):
        assert f'--out {name}' in page
        folder, ending = name.rpartition('/')[0], name[name.rindex('.'):]
        assert (f'/{folder}/' if folder else f'/*{ending}') in patterns
    code = (DOCS / 'notebooks' / 'finetune.ipynb').read_text()
    for folder in ('data', 'work_dirs'):
        assert f"'{folder}/" in code
        assert f'/docs/notebooks/{folder}/' in patterns


def test_there_is_a_config_for_each_host():
    assert [name for name, _ in CONFIGS] == ['classifier', 'detector', 'segmentor']


#: What people read.
PAGES = sorted({DOCS.parent / 'README.md', DOCS.parent / 'CONTRIBUTING.md', *DOCS.rglob('*.md'),
                *configs_dir().rglob('README.md'), DOCS.parent / 'kernels' / 'README.md'})


def sentences(text):
    """Return the numbers of words of a page's sentences, without tables, code and headings."""
    text = re.sub(r'^( *)```.*?^ *```', '', text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r'^ *[|#<].*$', '', text, flags=re.MULTILINE)
    text = re.sub(r'\]\([^)]*\)', ']', text)
    found = []
    for part in re.split(r'\n\s*\n|^ *(?:[-*]|\d+\.) ', text, flags=re.MULTILINE):
        for sentence in re.split(r'(?<=[.!?:])\s+(?=[A-Z`"*\[])', ' '.join(part.split())):
            found.append((len(re.findall(r"[\w`'./%-]+", sentence)), sentence))
    return [(words, sentence) for words, sentence in found if words > 2]


def test_sentences_are_short():
    """A median of at most 17 words and none above 30: see docs/contributing/style.md."""
    for page in PAGES:
        found = sentences(page.read_text())
        assert [sentence for words, sentence in found if words > 30] == [], page
        assert not found or median(words for words, _ in found) <= 17, page


def test_long_sentences_are_found():
    text = ('# Heading\n\nOne two three four. ' + 'Word ' * 31 + 'end.\n\n| ' + 'cell ' * 40 + '|\n'
            '\n```bash\n' + 'code ' * 40 + '\n```\n\n- a b c\n- d e f g\n')
    assert [words for words, _ in sentences(text)] == [4, 32, 3, 4]


def anchors(page):
    """Return the anchors of a page's headings."""
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
            if '://' not in link:
                path, _, anchor = link.partition('#')
                target = page.parent / path if path else page
                assert target.exists(), (page, link)
                assert not anchor or anchor in anchors(target), (page, link)
