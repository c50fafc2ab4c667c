"""Focal losses: their definition and gradients."""
import pytest
import torch
import torch.nn.functional as F

from mmvssd.compat.mmcv_ops import extension


def sample(dtype=torch.float64):
    """Logits (7, 5), targets of which 5 is background."""
    torch.manual_seed(0)
    return torch.randn(7, 5, dtype=dtype) * 3, torch.tensor([0, 1, 4, 5, 2, 5, 0])


@pytest.mark.parametrize('gamma', [2., 1.5, 0.])
def test_sigmoid(own_ops, gamma):
    logits, target = sample()
    loss = own_ops.sigmoid_focal_loss(logits, target, gamma, 0.25, None, 'none')
    one_hot = F.one_hot(target, 6)[:, :5].double()
    p = torch.where(one_hot > 0, logits.sigmoid(), 1 - logits.sigmoid())
    share = torch.where(one_hot > 0, 0.25, 0.75)
    torch.testing.assert_close(loss, -share * (1 - p)**gamma * p.log())
    torch.autograd.gradcheck(
        lambda x: own_ops.sigmoid_focal_loss(x, target, gamma, 0.25, None, 'mean'),
        logits.requires_grad_())


def test_sigmoid_as_mmdetections_python(own_ops):
    """What MMDetection computes with it on a GPU, beside what it computes without on the CPU."""
    py_sigmoid_focal_loss = pytest.importorskip(
        'mmdet.models.losses.focal_loss').py_sigmoid_focal_loss
    logits, target = sample()
    expected = py_sigmoid_focal_loss(logits, F.one_hot(target, 6)[:, :5].double(),
                                     reduction='sum')
    torch.testing.assert_close(own_ops.sigmoid_focal_loss(logits, target, 2., 0.25, None, 'sum'),
                               expected)


@pytest.mark.parametrize('gamma', [2., 1.5])
def test_softmax(own_ops, gamma):
    logits, target = sample()
    target[3], target[5] = -1, 2  # -1 is ignored
    loss = own_ops.softmax_focal_loss(logits, target, gamma, 0.25, None, 'none')
    p = logits.softmax(1).gather(1, target.clamp(min=0)[:, None])[:, 0]
    expected = torch.where(target < 0, 0, -0.25 * (1 - p)**gamma * p.log())
    torch.testing.assert_close(loss, expected)
    torch.autograd.gradcheck(
        lambda x: own_ops.softmax_focal_loss(x, target, gamma, 0.25, None, 'sum'),
        logits.requires_grad_())


@pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
def test_weights_of_classes(own_ops, kind):
    logits, target = sample()
    target[target == 5] = 3
    weight = torch.arange(1., 6, dtype=torch.float64)
    loss = getattr(own_ops, f'{kind}_focal_loss')
    plain = loss(logits, target, 2., 0.25, None, 'none')
    weighted = loss(logits, target, 2., 0.25, weight, 'none')
    factor = weight[target]
    torch.testing.assert_close(weighted, plain * (factor[:, None] if kind == 'sigmoid'
                                                  else factor))
    torch.autograd.gradcheck(lambda x: loss(x, target, 2., 0.25, weight, 'sum'),
                             logits.requires_grad_())


def test_background_has_no_weight(own_ops):
    logits, target = sample()
    weight = torch.full((5, ), 2., dtype=torch.float64)
    ratio = (own_ops.sigmoid_focal_loss(logits, target, 2., 0.25, weight, 'none')
             / own_ops.sigmoid_focal_loss(logits, target, 2., 0.25, None, 'none'))
    torch.testing.assert_close(ratio[:, 0], torch.where(target == 5, 1., 2.).double())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_halves(own_ops, dtype):
    logits, target = sample()
    logits = logits.to(dtype)
    loss = own_ops.sigmoid_focal_loss(logits, target, 2., 0.25, None, 'none')
    exact = own_ops.sigmoid_focal_loss(logits.float(), target, 2., 0.25, None, 'none')
    assert torch.equal(loss, exact.to(dtype))


def test_extreme_logits_stay_finite(own_ops):
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    for target in (0, 1, 2):
        loss = own_ops.sigmoid_focal_loss(logits, torch.tensor([target]), 2., 0.25, None, 'sum')
        assert loss.isfinite()
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_no_rows(own_ops):
    logits = torch.zeros(0, 5, requires_grad=True)
    for kind in ('sigmoid', 'softmax'):
        loss = getattr(own_ops, f'{kind}_focal_loss')
        if kind == 'sigmoid':
            loss(logits, torch.zeros(0).long(), 2., 0.25, None, 'sum').backward()
    assert logits.grad.shape == (0, 5)
    extension().softmax_focal_loss_forward(logits, torch.zeros(0).long(), torch.zeros(0),
                                           torch.zeros(0), gamma=2., alpha=0.25)
