"""The command line: published files in, a host's checkpoint out, or nothing at all."""
import os
import pickle
from argparse import Namespace

import pytest
import torch

from mmvssd.checkpoint import load_pretrained


@pytest.fixture
def weights(golden):
    """Published classifier of VSSD micro."""
    return {name: torch.from_numpy(value)
            for name, value in golden.official_state_dict('vssd_micro', 'classifier').items()}


@pytest.fixture
def convert(run_tool, tmp_path):
    """Save a published file, convert it in a fresh process; return the output and the result."""

    def run(content, *options, expect=0):
        torch.save(content, tmp_path / 'published.pth')
        out = run_tool('model_converters/convert_checkpoint.py', 'published.pth', 'new/ours.pth',
                       *options, expect=expect, env=dict(COLUMNS='200'))
        target = tmp_path / 'new' / 'ours.pth'
        assert target.exists() == (expect == 0)
        assert not list(tmp_path.rglob('*.partial'))
        return out, torch.load(target) if expect == 0 else None

    return run


@pytest.mark.slow
@pytest.mark.parametrize('published', [('vssd', 'micro'), ('vmamba', 'tiny-s1l8')], ids='-'.join,
                         indirect=True)
def test_classification_file(convert, published, tmp_path, golden):
    """Family and arch are found, and the numbers are the published ones."""
    family, arch = published.family, published.arch
    weights = published.weights('classifier')
    out, ours = convert(dict(model=weights, epoch=3))
    assert f'compared with {family} {arch}' in out
    assert f'{len(weights)}' in out
    assert f'ours.pth: written, {family} {arch}\n' in out
    assert (ours['meta']['family'], ours['meta']['arch']) == (family, arch)
    model = published.backbone(arch).eval()
    load_pretrained(model, tmp_path / 'new' / 'ours.pth', prefix='backbone.')
    case = published.load_cases()['classify']
    image = torch.from_numpy(golden.image(tuple(case['input_shape'])))
    head = ours['state_dict']
    with torch.no_grad():
        logits = (model(image)[3].mean((2, 3)) @ head['head.fc.weight'].T + head['head.fc.bias'])
    torch.testing.assert_close(logits, torch.from_numpy(case['logits']), rtol=1e-4, atol=1e-4)


def test_moving_average_by_choice(convert, weights):
    average = {f'module.{name}': value + 1 for name, value in weights.items()}
    for options, offset in (((), 0), (('--key', 'model_ema'), 1)):
        _, ours = convert(dict(model=weights, model_ema=average), *options)
        assert torch.equal(ours['state_dict']['head.fc.bias'], weights['head.bias'] + offset)


def hollow(published, part):
    """Every published name and shape, in a file of a few kilobytes."""
    return {name: torch.zeros(()).expand(value.shape)
            for name, value in published.names(part).items()}


@pytest.mark.parametrize(('published', 'options'), [
    (('vssd', 'micro'), ('--arch', 'micro')),
    (('vmamba', 'v0-tiny'), ('--family', 'vmamba')),
], ids=['arch', 'family'], indirect=['published'])
def test_detection_file_and_given_arch_or_family(convert, published, options):
    state = {f'backbone.{name}': value for name, value in hollow(published, 'backbone').items()}
    state['roi_head.bbox_head.fc_cls.weight'] = torch.zeros(3, 3)
    _, ours = convert(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=('a', 'b')))),
                      *options)
    assert 'roi_head.bbox_head.fc_cls.weight' in ours['state_dict']
    assert 'backbone.norm0.weight' in ours['state_dict']
    assert ours['meta']['dataset_meta'] == dict(classes=('a', 'b'))
    assert ours['meta']['arch'] == published.arch


@pytest.mark.parametrize('published', [('vssd', 'base')], ids='-'.join, indirect=True)
def test_archs_that_a_file_cannot_tell_apart(convert, published):
    state = hollow(published, 'classifier')
    out, _ = convert(dict(model=state))
    assert 'written, vssd base, as base-iccv2025 would be' in out
    out, ours = convert(dict(model=state), '--arch', 'base-iccv2025')
    assert 'written, vssd base-iccv2025\n' in out
    assert ours['meta']['arch'] == 'base-iccv2025'


class Settings(dict):
    """A training program's settings, of a class that the reader does not have."""


class Malicious:
    """Pickles to a call that makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f'touch {self.file}', )


def test_settings_beside_the_weights_are_not_loaded(convert, weights):
    settings = Settings(lr=1, nested=Settings(a=[1]))
    _, ours = convert(dict(model=weights, config=settings, args=Namespace(lr=1)))
    assert len(ours['state_dict']) == len(weights)


def test_a_malicious_file_runs_nothing(convert, weights, tmp_path):
    marker = tmp_path / 'executed'
    out, _ = convert(dict(model=weights, extra=Malicious(marker)), expect=2)
    assert 'not safe to load' in ' '.join(out.split())
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malicious(marker)))
    assert marker.exists()  # it would have run


def test_unknown_name_stops_it(convert, weights):
    out, _ = convert(dict(model={**weights, 'layers.9.surprise': torch.zeros(1)}), expect=2)
    assert 'layers.9.surprise' in out
    assert 'is not written' in out


def test_missing_name_stops_it(convert, weights):
    del weights['layers.1.blocks.0.attn.A_log']
    out, _ = convert(dict(model=weights), expect=2)
    assert 'missing' in out
    assert 'stages.1.0.mixer.A_log' in out


def test_wrong_shape_stops_it(convert, weights):
    weights['layers.1.blocks.0.attn.A_log'] = torch.zeros(7)
    out, _ = convert(dict(model=weights), expect=2)
    assert 'stages.1.0.mixer.A_log: (7,), expected (4,)' in out


@pytest.mark.parametrize(('change', 'message'), [
    (lambda w: w.update({'head.weight': torch.zeros(7, 9)}), 'head.fc.weight: (7, 9), expected'),
    (lambda w: w.pop('head.weight'), 'head.fc.weight'),
    (lambda w: w.pop('norm.weight'), 'backbone.norm3.weight'),
    (lambda w: w.update({'outnorm3.weight': torch.zeros(384)}), 'outnorm3.weight'),
])
def test_a_broken_head_stops_it(convert, weights, change, message):
    change(weights)
    out, _ = convert(dict(model=weights), expect=2)
    assert message in out


def test_a_target_that_cannot_be_written(run_tool, tmp_path, weights):
    torch.save(dict(model=weights), tmp_path / 'published.pth')
    (tmp_path / 'folder').mkdir()
    out = run_tool('model_converters/convert_checkpoint.py', 'published.pth', 'folder', expect=2)
    assert 'folder: cannot be written' in out
    assert [path.name for path in tmp_path.iterdir()] in (
        ['folder', 'published.pth'], ['published.pth', 'folder'])


@pytest.mark.parametrize(('options', 'message'), [
    (('--arch', 'tiny'), 'does not fit vssd tiny'),
    (('--arch', 'v0-tiny'), 'does not fit vmamba v0-tiny'),
    (('--family', 'vmamba'), 'does not fit vmamba'),
])
def test_another_arch_or_family_stops_it(convert, weights, options, message):
    out, _ = convert(dict(model=weights), *options, expect=2)
    assert message in out


@pytest.mark.parametrize(('content', 'options', 'message'), [
    (dict(model=dict()), (), 'holds no weights; its entries: model'),
    (dict(net=dict(a=torch.zeros(1))), ('--key', 'ema'), "no weights under 'ema'"),
    (dict(model=dict(a=torch.zeros(1))), ('--arch', 'huge'),
     "--arch: unknown name 'huge'; known: micro"),
    (dict(model=dict(a=torch.zeros(1))), ('--family', 'vmamba', '--arch', 'micro'),
     "--arch: unknown name 'micro'; known: v0-tiny"),
    (dict(model=dict(a=torch.zeros(1))), (), 'published.pth: holds no published backbone, its '
     'names: a; what fits: micro, '),
    ([1, 2], (), 'holds a list, expected a dict'),
])
def test_bad_files(convert, content, options, message):
    out, _ = convert(content, *options, expect=2)
    assert message in ' '.join(out.split())


def test_missing_and_truncated_files(run_tool, tmp_path, weights):
    tool = 'model_converters/convert_checkpoint.py'
    assert 'no such checkpoint file' in run_tool(tool, 'nothing.pth', 'ours.pth', expect=2)
    torch.save(dict(model=weights), tmp_path / 'whole.pth')
    whole = (tmp_path / 'whole.pth').read_bytes()
    (tmp_path / 'part.pth').write_bytes(whole[:len(whole) // 2])
    assert 'truncated' in run_tool(tool, 'part.pth', 'ours.pth', expect=2)
    assert not (tmp_path / 'ours.pth').exists()


def test_one_kind_of_weights_of_a_training(run_tool, tmp_path):
    """As MMEngine's EMAHook saves them: the average under the name of the weights."""
    names = {'backbone.stem.weight': torch.full((2, ), 1.), 'head.fc.bias': torch.full((3, ), 2.)}
    training = dict(state_dict=names, optimizer=dict(), meta=dict(dataset_meta=dict(classes='ab')),
                    ema_state_dict={'steps': torch.tensor(4), **{
                        f'module.{name}': -value for name, value in names.items()}})
    torch.save(training, tmp_path / 'epoch_1.pth')
    tool = 'model_converters/convert_checkpoint.py'
    for kind, sign in dict(ema=1, raw=-1).items():
        run_tool(tool, 'epoch_1.pth', f'new/{kind}.pth', '--weights', kind)
        plain = torch.load(tmp_path / 'new' / f'{kind}.pth')
        assert list(plain) == ['state_dict', 'meta']
        assert plain['meta']['weights'] == kind
        assert plain['meta']['dataset_meta'] == dict(classes='ab')
        assert list(plain['state_dict']) == list(names)
        for name, value in names.items():
            assert torch.equal(plain['state_dict'][name], sign * value)
    for arguments, message in (
            (('new/raw.pth', 'again.pth', '--weights', 'ema'), 'holds no moving average'),
            (('epoch_1.pth', 'again.pth'), '--weights ema or --weights raw'),
            (('epoch_1.pth', 'again.pth', '--weights', 'ema', '--arch', 'tiny'),
             '--weights: the names stay'),
    ):
        assert message in ' '.join(run_tool(tool, *arguments, expect=2).split())
        assert not (tmp_path / 'again.pth').exists()
