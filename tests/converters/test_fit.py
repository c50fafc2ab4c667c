"""Which family and arch a file is of, from names and shapes alone."""
import pytest
import torch

from mmvssd.converters.fit import candidates, closest_fit
from mmvssd.families import every_arch

ALL = [(family.name, arch) for family, arch in every_arch()]


@pytest.mark.parametrize('part', ['backbone', 'classifier'])
def test_every_published_model_is_found(published, part):
    fit = closest_fit(published.names(part), candidates())
    assert (fit.family, fit.arch, fit.differences) == (published.family, published.arch, 0)
    # the arXiv version's Base is the ICCV 2025 version's too: no file can tell
    assert fit.twins == (['base-iccv2025'] if published.arch == 'base' else [])
    outputs = dict(backbone='', classifier='012')[part]  # a classifier has the last norm alone
    assert fit.fresh == [f'backbone.norm{i}.{name}' for i in outputs
                         for name in ('weight', 'bias')]


SOME = pytest.mark.parametrize('published', [('vssd', 'micro'), ('vmamba', 'v0-tiny')],
                               ids='-'.join, indirect=True)


@SOME
def test_a_backbone_without_output_norms(published):
    names = {name: value for name, value in published.names('backbone').items()
             if not name.startswith('outnorm')}
    fit = closest_fit(names, candidates())
    assert (fit.arch, fit.differences, len(fit.fresh)) == (published.arch, 0, 8)


@SOME
def test_a_damaged_file_is_compared_with_what_it_was(published):
    names = published.names('classifier')
    name = next(name for name in names if name.startswith('layers.1'))
    del names[name]
    names['layers.9.surprise'] = torch.zeros(1)
    names['head.bias' if 'head.bias' in names else 'classifier.head.bias'] = torch.zeros(3)
    fit = closest_fit(names, candidates())
    assert (fit.family, fit.arch, fit.differences) == (published.family, published.arch, 3)
    assert fit.conversion.unknown == ['layers.9.surprise']
    assert len(fit.mismatch.missing) == len(fit.mismatch.shapes) == 1


def test_candidates():
    assert candidates() == ALL
    assert candidates('vmamba') == [pair for pair in ALL if pair[0] == 'vmamba']
    assert candidates(arch='v0-tiny') == candidates('vmamba', 'v0-tiny') == [('vmamba', 'v0-tiny')]


@pytest.mark.parametrize(('choice', 'message'), [
    (dict(family='swin'), "family: unknown name 'swin'; known: vssd, vmamba"),
    (dict(arch='huge'),
     r"arch: unknown name 'huge'; known: micro, .*\(vssd\); v0-tiny, .*\(vmamba\)"),
    (dict(family='vmamba', arch='micro'), "arch: unknown name 'micro'; known: v0-tiny"),
])
def test_unknown_choices(choice, message):
    with pytest.raises(ValueError, match=message):
        candidates(**choice)


@pytest.mark.parametrize('names', [
    ['foo.weight'], ['norm.weight', 'head.weight', 'head.bias'], ['neck.conv.weight'],
    ['backbone.stages.0.0.mixer.D']])
def test_a_file_of_nothing_that_is_known(names):
    state = dict.fromkeys(names, torch.zeros(1))
    with pytest.raises(ValueError, match=rf'holds no published backbone, its names: {names[0]}'
                                         r'.*what fits: micro, .*\(vssd\); v0-tiny.*\(vmamba\)'):
        closest_fit(state, candidates())
