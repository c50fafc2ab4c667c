"""The ops within the transforms of torch.func: gradients, batches of calls, forward mode."""
import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

import mmvssd_kernels
from mmvssd_kernels import description, dispatch

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
CASES = [pytest.param(op, impl, id=f'{op}-{impl}') for op in description.ops()
         for impl in dispatch.names(op)]

pytestmark = pytest.mark.filterwarnings('ignore:There is a performance drop')


class Call:
    """An example of an op, whose result is a function of its tensors."""

    def __init__(self, op, impl):
        described = description.description_of(op)
        self.op, self.impl, self.linear = getattr(mmvssd_kernels, op), impl, described.linear
        self.inputs = [t.float().to(DEVICE) for t in described.tensors().values()]
        self.options = described.options(described.whole_sizes())
        self.weight = torch.rand_like(self(*self.inputs).float())

    def __call__(self, *inputs):
        return self.op(*inputs, **self.options, impl=self.impl)

    def loss(self, *inputs):
        return (self(*inputs) * self.weight).square().sum()


@pytest.fixture
def call(request):
    op, impl = request.param
    try:
        return Call(op, impl)
    except dispatch.CannotRun as error:
        pytest.skip(str(error))


calls = pytest.mark.parametrize('call', [
    pytest.param(case.values, id=case.id) for case in CASES], indirect=True)


@calls
def test_gradients(call):
    every = tuple(range(len(call.inputs)))
    inputs = [t.clone().requires_grad_() for t in call.inputs]
    expected = torch.autograd.grad(call.loss(*inputs), inputs)
    for gradient, other in zip(grad(call.loss, argnums=every)(*call.inputs), expected):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


@calls
def test_many_calls_at_once(call):
    """Results and gradients of calls that differ in the first input."""
    if call.impl == 'triton' and call.op.__name__.startswith('selective') and DEVICE == 'cpu':
        pytest.skip('interpreted, the scans of many calls take minutes')
    first, *others = call.inputs
    firsts = torch.stack([first, 2 * first + 1])
    y = vmap(lambda x: call(x, *others))(firsts)
    gradients = vmap(grad(lambda x: call.loss(x, *others)))(firsts)
    per_call = vmap(grad(lambda other, x: call.loss(x, *others[:-1], other)),
                    in_dims=(None, 0))(others[-1], firsts) if others else None
    for i, x in enumerate(firsts):
        torch.testing.assert_close(y[i], call(x, *others), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradients[i], grad(lambda x: call.loss(x, *others))(x),
                                   rtol=1e-4, atol=1e-4)
        if others:
            expected = grad(lambda other, x=x: call.loss(x, *others[:-1], other))(others[-1])
            torch.testing.assert_close(per_call[i], expected, rtol=1e-4, atol=1e-4)


@calls
def test_forward_mode_is_right_or_refused(call):
    """PyTorch would leave out the tangents that an operator does not know, without a word."""
    first, *others = [t.double() for t in call.inputs]
    direction = torch.randn_like(first)
    step = 1e-6
    with torch.no_grad():
        expected = (call(first + step * direction, *others)
                    - call(first - step * direction, *others)) / (2 * step)

    def by_jvp():
        return jvp(lambda x: call(x, *others), (first, ), (direction, ))[1]

    def by_dual_numbers():
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(call(forward_ad.make_dual(first, direction),
                                               *others)).tangent

    for compute in (by_jvp, by_dual_numbers):
        try:
            tangent = compute()
        except (NotImplementedError, RuntimeError) as error:
            assert 'forward' in str(error) or 'jvp' in str(error)  # noqa: PT017
        else:
            torch.testing.assert_close(tangent.double(), expected, rtol=1e-4, atol=1e-4)
