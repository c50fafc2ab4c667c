"""Padding counts as absent in every op that takes a mask, whatever implementation runs."""
import itertools
from typing import NamedTuple

import pytest
import torch

import mmvssd_kernels
from mmvssd_kernels import description, dispatch
from mmvssd_kernels.cross_scan import PATTERNS
from mmvssd_kernels.selective_scan import reference as selective_scan_reference


class Form(NamedTuple):
    """An op with settings of its own, and an implementation."""

    op: str
    options: dict
    impl: str

    def __str__(self):
        options = [f'{name}={value}' for name, value in self.options.items()]
        return ' '.join([self.op, *options, self.impl])

    @property
    def axes(self):
        """Axes of the inputs, of the output 'y' and of the mask, by name."""
        op = description.description_of(self.op)
        return {'y': op.output, 'mask': op.mask,
                **{name: one.axes for name, one in op.inputs.items()}}

    def run(self, tensors, mask, size=None):
        """The op's output; ``size``: height and width, if not those of the whole grid."""
        options = dict(self.options)
        if options.get('normalize'):
            options['grid'] = size or GRID
        return getattr(mmvssd_kernels, self.op)(**tensors, **options, mask=mask, impl=self.impl)


OPTIONS = {
    'nc_ssd': [dict(), dict(normalize=True)],
    # more than one chunk
    'ssd': [dict(chunk_size=8), dict(chunk_size=8, reverse=True)],
    'selective_scan': [dict(), dict(delta_softplus=False)],
    'selective_scan_2d': [dict(pattern=pattern) for pattern in PATTERNS],
}
FORMS = [Form(op, options, impl) for op in dispatch.ops() if description.description_of(op).mask
         for options in OPTIONS[op] for impl in dispatch.names(op)]
forms = pytest.mark.parametrize('form', FORMS, ids=str)
# kernels take the patterns by the same code, which the outputs tell
DIFFERENT = pytest.mark.parametrize(
    'form', [form for form in FORMS if form.impl == 'reference'
             or form.options.get('pattern', 'cross') == 'cross'], ids=str)
SEQUENCES = pytest.mark.parametrize(
    'form', [form for form in FORMS if form.op != 'selective_scan_2d' and 'normalize' not in
             form.options], ids=str)
ONE_OF_EACH = pytest.mark.parametrize(
    'form', [form for form in FORMS if form.options == OPTIONS[form.op][0]], ids=str)
#: 21 tokens: more than one chunk of each implementation.
GRID = (3, 7)
#: Height and width of images in a batch: one that fills the grid, a smaller one, nothing.
SIZES = [(3, 7), (2, 5), (0, 0)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(selective_scan_reference, 'STEPS', 4)
    monkeypatch.setattr(selective_scan_reference, 'BLOCK', 100)


@pytest.fixture
def device(form):
    """Where the form runs: the kernels on a GPU if there is one, else in the interpreter."""
    if form.impl != 'triton':
        return 'cpu'
    pytest.importorskip('triton')
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def make_tensors(form, device, N, **sizes):
    dtype = torch.float64 if device == 'cpu' else torch.float32
    H, W = GRID
    op = description.description_of(form.op)
    sizes = {**dict(N=N, H=H, W=W, L=H * W, h=2, P=3, S=4, D=4, K=4, G=1), **sizes}
    tensors = {name: t.to(device, dtype) for name, t in op.tensors(seed=1, **sizes).items()}
    if form.options.get('delta_softplus') is False:
        tensors.update(delta=tensors['delta'].abs(), delta_bias=tensors['delta_bias'].abs())
    return tensors


def at_tokens(t, axes, number):
    """A view (N, L, ...) or (N, H, W, ...) of a tensor with these axes, for ``number`` of both."""
    axes = axes.split()
    first = axes.index('L' if 'L' in axes else 'H')
    return t.movedim(tuple(range(first, first + number - 1)), tuple(range(1, number)))


def poison(form, tensors, mask):
    """Write what no sum survives where padding is."""
    values = itertools.cycle((torch.nan, torch.inf, -torch.inf))
    for name, t in tensors.items():
        if form.axes[name].startswith('N'):
            at_tokens(t, form.axes[name], mask.dim())[~mask] = next(values)


def leaves(tensors):
    return {name: t.clone().requires_grad_() for name, t in tensors.items()}


def compare(form, tensors, mask, alone):
    """Hold a batch to its images by themselves.

    ``alone(t, axes, n)`` is what image n has of a tensor, of which nothing is padding.
    """
    poison(form, tensors, mask)
    batch = leaves(tensors)
    y = form.run(batch, mask)
    weights = torch.arange(y.numel(), device=y.device).cos().view(y.shape).to(y.dtype)
    at_tokens(weights, form.axes['y'], mask.dim())[~mask] = torch.nan
    y.backward(weights)
    assert (at_tokens(y, form.axes['y'], mask.dim())[~mask] == 0).all()
    shared = {name: torch.zeros_like(t) for name, t in tensors.items()
              if not form.axes[name].startswith('N')}
    for name in tensors.keys() - shared.keys():
        gradient = at_tokens(batch[name].grad, form.axes[name], mask.dim())
        assert (gradient[~mask] == 0).all(), name
    for n in range(len(mask)):
        own = leaves({name: t if name in shared else alone(t, form.axes[name], n)
                      for name, t in tensors.items()})
        expected = form.run(own, None, SIZES[n])
        torch.testing.assert_close(alone(y, form.axes['y'], n), expected)
        expected.backward(alone(weights, form.axes['y'], n))
        for name, t in own.items():
            if name in shared:
                shared[name] += t.grad
            else:
                torch.testing.assert_close(alone(batch[name].grad, form.axes[name], n), t.grad,
                                           msg=name)
    for name, total in shared.items():
        torch.testing.assert_close(batch[name].grad, total, msg=name)


@forms
def test_an_image_has_what_it_has_alone(form, device):
    """Outputs and gradients, whatever padding holds, and whatever gradient comes back to it."""
    tensors = make_tensors(form, device, N=len(SIZES))
    grid = torch.zeros(len(SIZES), *GRID, dtype=torch.bool, device=device)
    for image, (H, W) in zip(grid, SIZES):
        image[:H, :W] = True
    mask = grid if 'H' in form.axes['mask'] else grid.flatten(1)

    def alone(t, axes, n):
        axes, (H, W) = axes.split(), SIZES[n]
        image = t[n:n + 1]
        if 'L' in axes:
            kept = grid[n].flatten().nonzero()[:, 0]
            return image.index_select(axes.index('L'), kept)
        row = axes.index('H')
        return image.narrow(row, 0, H).narrow(row + 1, 0, W)

    compare(form, tensors, mask, alone)


@SEQUENCES
def test_padding_may_lie_anywhere(form, device):
    """A sequence has what it has without the tokens that are padding."""
    tensors = make_tensors(form, device, N=2)
    places = torch.arange(21, device=device)
    mask = torch.stack([places % 3 > 0, (places > 4) & (places < 19)])

    def alone(t, axes, n):
        return t[n:n + 1].index_select(axes.split().index('L'), mask[n].nonzero()[:, 0])

    compare(form, tensors, mask, alone)


def make_mask(form, device, N):
    """The last two columns are padding."""
    columns = (torch.arange(GRID[1], device=device) < GRID[1] - 2).expand(N, *GRID)
    return columns if 'H' in form.axes['mask'] else columns.flatten(1)


def with_gradients(form, tensors, mask):
    given = leaves(tensors)
    y = form.run(given, mask)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), list(given.values()))]


@ONE_OF_EACH
def test_a_mask_without_padding_changes_nothing(form, device):
    tensors = make_tensors(form, device, N=1)
    mask = torch.ones_like(make_mask(form, device, 1))
    for a, b in zip(with_gradients(form, tensors, None), with_gradients(form, tensors, mask)):
        torch.testing.assert_close(a, b)


@ONE_OF_EACH
def test_strides_of_the_mask_do_not_matter(form, device):
    tensors = make_tensors(form, device, N=2)
    mask = make_mask(form, device, 1)
    expanded = mask.expand(2, *mask.shape[1:])
    columns_first = expanded.transpose(0, -1).contiguous().transpose(0, -1)
    expected = with_gradients(form, tensors, expanded.contiguous())
    for other in (expanded, columns_first):
        for a, b in zip(with_gradients(form, tensors, other), expected):
            assert torch.equal(a, b)


@DIFFERENT
def test_gradcheck(form, device):
    if device == 'cuda':
        pytest.skip('float64 is computed in the interpreter only')
    tensors = {name: t.requires_grad_() for name, t in make_tensors(
        form, device, N=1, h=2, P=2, D=2, K=4 if form.op == 'selective_scan_2d' else 1).items()}
    mask = make_mask(form, device, 1)
    for name in ('A', 'delta_bias'):  # slow steps, so that states last
        if name in tensors:
            tensors[name].data /= 16

    def run(*given):
        return form.run(dict(zip(tensors, given)), mask)

    assert torch.autograd.gradcheck(run, tuple(tensors.values()), fast_mode=True)


@DIFFERENT
def test_compiles_as_one_graph(form, device):
    tensors, mask = make_tensors(form, device, N=2), make_mask(form, device, 2)
    expected = with_gradients(form, tensors, mask)
    torch._dynamo.reset()
    compiled = torch.compile(form.run, fullgraph=True, backend='aot_eager')
    given = leaves(tensors)
    y = compiled(given, mask)
    found = [y.detach(), *torch.autograd.grad(y.square().sum(), list(given.values()))]
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('form', [form for form in FORMS if form.impl == 'reference'], ids=str)
def test_shapes_on_the_meta_device(form):
    tensors = make_tensors(form, 'cpu', N=2)
    expected = form.run(tensors, make_mask(form, 'cpu', 2))
    given = leaves({name: t.to('meta') for name, t in tensors.items()})
    y = form.run(given, make_mask(form, 'meta', 2))
    assert (y.shape, y.dtype, y.device.type) == (expected.shape, expected.dtype, 'meta')
    y.sum().backward()
    assert all(t.grad.shape == t.shape for t in given.values())


@ONE_OF_EACH
def test_a_bad_mask_is_named(form):
    tensors = make_tensors(form, 'cpu', N=2)
    mask = make_mask(form, 'cpu', 2)
    for bad, message in ((mask.float(), 'mask: got dtype torch.float32, expected one of torch.b'),
                         (mask[:, :-1], r'mask: got shape \(2, .* expected \(2, '),
                         (mask.to('meta'), 'mask: got device meta, expected cpu'),
                         (mask.tolist(), 'mask: got list, expected a tensor')):
        with pytest.raises(ValueError, match=message):
            form.run(tensors, bad)
