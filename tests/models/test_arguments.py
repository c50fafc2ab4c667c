"""Wrong arguments of backbones, ops and converters: one ValueError each, naming the argument."""
import inspect

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from mmvssd.converters import from_official
from mmvssd.models import VSSD, VMamba
from mmvssd.ops import cross_merge, cross_scan, nc_ssd, selective_scan, ssd

NAN, INF = float('nan'), float('inf')
VSSD_NANO = dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4), d_state=8)
VMAMBA_NANO = dict(embed_dims=16, depths=(1, 1, 1, 1))
FAMILIES = [(VSSD, VSSD_NANO), (VMamba, VMAMBA_NANO)]


@pytest.fixture(autouse=True)
def _no_memory():
    """Nothing here computes: models are shapes only."""
    with torch.device('meta'):
        yield


def wrong(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert type(caught.value) is ValueError
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('family', [VSSD, VMamba])
@pytest.mark.parametrize(('name', 'hint'), [
    ('in_chans', 'it is called in_channels here'), ('in_channel', 'did you mean in_channels?'),
    ('use_checkpoint', 'it is called with_cp here'), ('img_size', 'images may be of any size'),
    ('num_classes', 'a backbone has no classifier'), ('pretrained', 'weights are loaded with'),
    ('depths', 'arch=dict(...) has it'), ('foo', 'known: arch, in_channels, out_indices')])
def test_names_of_other_packages(family, name, hint):
    start = f'^{family.__name__}: there is no argument {name}; '
    with pytest.raises(TypeError, match=start) as error:
        family(**{name: 3})
    assert hint in str(error.value)
    assert 'in_channels' in inspect.signature(family).parameters


@pytest.mark.parametrize(('family', 'nano'), FAMILIES)
@pytest.mark.parametrize(('arch', 'message'), [
    (5, 'arch: got 5, expected a name'), ([], r'arch: got \[\]'), (NAN, 'arch: got nan'),
    (b'tiny', 'arch: got b'), ({}, r"unknown keys \[\], missing keys \['embed_dims'"),
    ({1: 2}, r'unknown keys \[1\]'), ({1: 2, 'a': 3}, r"unknown keys \[1, 'a'\]"),
    (dict(embed_dim=16, depths=(1, )), 'embed_dim is called embed_dims here'),
    (dict(embed_dimz=16, depths=(1, )), 'did you mean embed_dims'),
    (dict(dims=16, depths=(1, ), ssm_d_state=1), 'dims is called .*ssm_d_state is called d_state'),
    ('Tiny-S2L5', 'unknown name|did you mean'),
])
def test_archs(family, nano, arch, message):
    wrong(lambda: family(arch), message)


def test_similar_names_are_suggested():
    wrong(lambda: VSSD('Tiny'), r"arch: unknown name 'Tiny'; .*; did you mean tiny\?")
    wrong(lambda: VMamba('tiny-s218'), r'did you mean tiny-s1l8|did you mean tiny-s2l5')
    wrong(lambda: VSSD(dict(VSSD_NANO, stem='residul')), 'did you mean residual')
    wrong(lambda: VSSD(dict(VSSD_NANO, mixers=('nc-ssd', ) * 4)), 'did you mean nc_ssd')


@pytest.mark.parametrize(('family', 'nano'), FAMILIES)
@pytest.mark.parametrize(('name', 'values'), [
    ('embed_dims', (0, 1, -24, 24., '24', None, True, [16, 32], NAN, torch.tensor(16.))),
    ('depths', ((), [], 4, '1111', None, (-1, 1, 1, 1), (1.5, 1, 1, 1),
                (True, 1, 1, 1), ('1', 1, 1, 1), (None, ) * 4, ((1, ), 1, 1, 1), {0: 1})),
    ('drop_path_rate', (1, -0.1, '0.1', NAN, INF, True, (0.1, ), [0.1])),
    ('d_state', (0, -1, 1.5, '8', True, NAN)),
])
def test_settings_of_both(family, nano, name, values):
    for value in values:
        wrong(lambda value=value: family(dict(nano, **{name: value})), f'arch: {name}')


@pytest.mark.parametrize(('name', 'values'), [
    ('num_heads', (5, '2244', None, (2, 2, 4), (2., 2, 4, 4), (0, 2, 4, 4), (-2, 2, 4, 4),
                   (True, 2, 4, 4), ('2', 2, 4, 4), (3, 2, 4, 4))),
    ('d_state', ((), (8, 8), None, (8, 8, 8., None), (8, 8, True, None))),
    ('expansion', (0, -1, 0.01, '2', None, True, NAN, INF, (2, ))),
    ('mlp_ratio', (-1, 0.01, '4', None, True, NAN, INF, [4])),
    ('mixers', ('nc_ssd', ('a', ) * 4, (None, ) * 4, (1, ) * 4, ('nc_ssd', ), (), 3)),
    ('n_groups', (0, -1, 3, 1., '1', None, True)),
    ('normalize', ('no', 1, 0, None, 'True')),
    ('negative_decay', ('no', 1, None)),
    ('stem', (None, 'x', 1, ['residual'])),
    ('downsample', (None, 'x', 1, ['plain'])),
])
def test_settings_of_vssd(name, values):
    for value in values:
        wrong(lambda value=value: VSSD(dict(VSSD_NANO, **{name: value})), name)


@pytest.mark.parametrize(('name', 'values'), [
    ('ssm_ratio', (0, -1, 0.01, '2', None, True, NAN, INF, [2])),
    ('version', (None, 'v9', 0, ['v0'])),
    ('pattern', (None, 'zigzag', 0, ['cross'])),
    ('d_state', (None, (8, 8, 8, 8), [8])),
    ('num_heads', (2, )),
])
def test_settings_of_vmamba(name, values):
    for value in values:
        wrong(lambda value=value: VMamba(dict(VMAMBA_NANO, **{name: value})), name)


@pytest.mark.parametrize(('family', 'nano'), FAMILIES)
@pytest.mark.parametrize(('name', 'values'), [
    ('in_channels', (0, -1, '3', 3., None, True, (3, ), NAN)),
    ('out_indices', (4, -5, (), [], (3, 2), (4, ), (-5, ), (-1, 3), (0, 0), (0., ), (True, ), '0',
                     ('0', ), ([0], ), (0, '1'), None, {0, 1}, (None, ), (NAN, ))),
    ('drop_path_rate', (1, 1.5, -1, '0.1', NAN, INF, True, (0.1, ))),
    ('frozen_stages', (5, -2, 1.5, '1', None, True, (1, ))),
    ('norm_eval', (1, 0, 'no', None)),
    ('with_cp', (1, 'yes', None)),
    ('mask_padding', (1, 'no', None)),
    ('init_cfg', ('x.pth', 5, {}, dict(checkpoint='x.pth'), dict(type='Pretrained'),
                  dict(type='Pretrained', checkpoint=None), dict(type='Pretrained', checkpoint=5),
                  dict(type='Pretrained', checkpoint='x', prefx='backbone.'),
                  dict(type='Pretrained', checkpoint='x', prefix=5), dict(type='Foo'), [{}],
                  ['x.pth'])),
])
def test_arguments_of_backbones(family, nano, name, values):
    for value in values:
        wrong(lambda value=value: family(nano, **{name: value}), name)


@pytest.mark.parametrize(('family', 'nano'), FAMILIES)
def test_numpys_integers_and_numbers_are_taken(family, nano):
    plain = family(nano, out_indices=(1, 3), drop_path_rate=0.5, frozen_stages=1)
    arch = dict(nano, embed_dims=np.int64(16), depths=np.array([1, 1, 1, 1]),
                d_state=np.int32(nano.get('d_state', 1)))
    same = family(arch, out_indices=np.array([1, 3]), drop_path_rate=np.float32(0.5),
                  frozen_stages=np.int8(1), in_channels=np.uint8(3), norm_eval=np.bool_(False))
    assert [(name, value.shape) for name, value in plain.state_dict().items()] == [
        (name, value.shape) for name, value in same.state_dict().items()]
    assert same.out_indices == (1, 3)
    assert type(same.frozen_stages) is int


def test_what_recipes_give_is_taken():
    """Lists, a config's dicts, a state for each stage, attention without one, no MLP, no prefix."""
    VSSD(ConfigDict(VSSD_NANO, depths=[1, 1, 1, 1], num_heads=[2, 2, 4, 4]), out_indices=[0, 3])
    VSSD(dict(VSSD_NANO, d_state=(8, 8, 8, None), mlp_ratio=0), drop_path_rate=0)
    VSSD(dict(VSSD_NANO, embed_dims=25, num_heads=(1, 1, 1, 1)), out_indices=range(4))
    VSSD(VSSD_NANO, init_cfg=[dict(type='Pretrained', checkpoint='x.pth', prefix=None)])
    VSSD(VSSD_NANO, init_cfg=dict(type='Kaiming', layer='Conv2d'))
    VMamba(dict(VMAMBA_NANO, ssm_ratio=0.5))


@pytest.mark.parametrize(('family', 'nano'), FAMILIES)
@pytest.mark.parametrize(('image', 'message'), [
    (None, 'of type NoneType'), (np.zeros((1, 3, 32, 32)), 'of type ndarray'),
    ([[1.]], 'of type list'), (torch.zeros(3, 32, 32), r'of shape \(3, 32, 32\)'),
    (torch.zeros(1, 3, 0, 32), r'of shape \(1, 3, 0, 32\)'),
    (torch.zeros(1, 3, 32, 0), r'of shape \(1, 3, 32, 0\)'),
    (torch.zeros(1, 3, 32, 32, 1), 'of shape'), (torch.zeros(1, 4, 32, 32), 'of shape'),
    (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 'of torch.uint8, expected floating point'),
    (torch.zeros(1, 3, 32, 32, dtype=torch.bool), 'of torch.bool'),
    (torch.zeros(1, 3, 32, 32, dtype=torch.complex64), 'of torch.complex64'),
])
def test_images(family, nano, image, message):
    model = family(nano)
    wrong(lambda: model(image), f'{family.__name__}: got an input {message}')


@pytest.mark.parametrize('sizes', [
    [(1, 1)] * 2, [(99, 1)], [(0, 1)], [(-1, 4)], 'ab', [(16.5, 16.)], 5, [(3, 32, 32)], [], [5],
    [('16', '16')], [None], [(NAN, 1)], [(True, True)], {}, object()])
def test_sizes_of_images(sizes):
    with torch.device('cpu'):
        model = VSSD(VSSD_NANO)
        wrong(lambda: model(torch.zeros(1, 3, 32, 32), sizes=sizes), 'sizes: got ')


@pytest.mark.parametrize('sizes', [
    [(16, 16)], ((16, 16), ), [[16, 16]], torch.tensor([[16, 16]], device='cpu'),
    np.array([[16, 16]])])
def test_sizes_that_fit(sizes):
    with torch.device('cpu'):
        model = VSSD(VSSD_NANO).eval()
        outputs = model(torch.zeros(1, 3, 32, 32), sizes=sizes)
        assert outputs[0].shape == (1, 16, 8, 8)
        assert (outputs[0][..., 4:] == 0).all()


def duality(**changes):
    with torch.device('cpu'):
        arguments = dict(x=torch.zeros(1, 4, 2, 8), dt=torch.ones(1, 4, 2), A=-torch.ones(2),
                         B=torch.zeros(1, 4, 1, 4), C=torch.zeros(1, 4, 1, 4))
    return dict(arguments, **changes)


@pytest.mark.parametrize(('op', 'changes', 'message'), [
    (nc_ssd, dict(x=None), 'x: got NoneType'),
    (nc_ssd, dict(normalize='no'), "normalize: got 'no'"),
    (nc_ssd, dict(normalize=1), 'normalize: got 1'),
    *((nc_ssd, dict(normalize=True, grid=grid), 'grid: got ') for grid in (
        None, 4, '22', (2., 2.), ('2', '2'), (2, ), (2, 2, 1), (-2, -2), (True, 4), (None, 2),
        (NAN, 2), ([2], 2))),
    *((op, dict(impl=impl), 'impl') for op in (nc_ssd, ssd) for impl in (
        None, 'cuda', [], 1, '', {})),
    *((ssd, dict(chunk_size=size), 'chunk_size: got ') for size in (
        0, -1, 16., 'a', None, True, (16, ), NAN)),
    *((ssd, dict(reverse=flag), 'reverse: got ') for flag in (2, 1, 'no', None)),
    (ssd, dict(mask=torch.ones(1, 4, device='cpu')), 'mask: got dtype'),
    (ssd, dict(A=[1., 2.]), 'A: got list'),
    (ssd, dict(B=torch.zeros(1, 4, 1, 4, device='meta')), 'B: got device meta'),
])
def test_ops(op, changes, message):
    wrong(lambda: op(**duality(**changes)), message)


def test_scans():
    x = torch.zeros(1, 2, 3, 4)
    for pattern in (None, 'x', 'Cross', 1, ['cross']):
        wrong(lambda pattern=pattern: cross_scan(x, pattern), 'pattern: unknown name')
    wrong(lambda: cross_scan(x, 'cros'), "did you mean 'cross'")
    for grid in ((5, 5), 12, (-3, -4), ('3', '4'), (3., 4.), None, (12, ), 'ab'):
        wrong(lambda grid=grid: cross_merge(torch.zeros(1, 4, 2, 12), grid), 'grid: got ')
    u, A, B = torch.zeros(1, 2, 3), torch.zeros(2, 1), torch.zeros(1, 1, 1, 3)
    for flag in (1, 'no', None):
        wrong(lambda flag=flag: selective_scan(u, u, A, B, B, delta_softplus=flag),
              'delta_softplus: got ')


def test_ops_take_numpys_integers_and_strided_tensors():
    with torch.device('cpu'):
        arguments = duality()
        expected = ssd(**arguments)
        strided = {name: value.mT.contiguous().mT if value.dim() > 1 else value
                   for name, value in arguments.items()}
        assert not strided['x'].is_contiguous()
        assert (ssd(**strided, chunk_size=np.int64(2)) == expected).all()
        normal = nc_ssd(**arguments, normalize=True, grid=(np.int64(2), np.int32(2)))
        assert (normal == nc_ssd(**arguments, normalize=True, grid=[2, 2])).all()


@pytest.mark.parametrize(('state', 'family', 'message'), [
    (None, 'vssd', 'state_dict: got NoneType'), ([], 'vssd', 'state_dict: got list'),
    ('x.pth', 'vssd', 'state_dict: got str'), ({1: torch.zeros(1)}, 'vssd', 'state_dict: got 1'),
    ({'norm.weight': None}, 'vssd', "got 'norm.weight' with NoneType"),
    ({'norm.weight': {}}, 'vmamba', "got 'norm.weight' with dict"),
    ({}, 'VSSD', "family: unknown name 'VSSD'"), ({}, None, 'family: unknown name None'),
    ({}, ['vssd'], 'family: unknown name'), ({}, 1, 'family: unknown name 1'),
])
def test_converter(state, family, message):
    wrong(lambda: from_official(state, family), message)
