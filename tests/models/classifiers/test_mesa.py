"""MESA's loss, against one written by hand, and what the teacher is and is not."""
import copy

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmpretrain')
from mmpretrain.structures import DataSample

ARCH = dict(embed_dims=16, depths=(1, 2), num_heads=(2, 2), d_state=8)
WEIGHT = 1.5


def build(kind='mmvssd.MESAClassifier', drop_path=0.5, **settings):
    """A small classifier of five classes that drops paths in training."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    if kind == 'mmvssd.MESAClassifier':
        settings.setdefault('mesa_weight', WEIGHT)
    model = MODELS.build(dict(
        type=kind,
        backbone=dict(type='mmvssd.VSSD', arch=ARCH, out_indices=(1, ), drop_path_rate=drop_path),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=32,
                  loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
        **settings))
    torch.nn.init.normal_(model.head.fc.weight, std=0.5)
    return model


@pytest.fixture
def batch():
    """Images, and scores as mixup leaves them."""
    torch.manual_seed(1)
    scores = torch.rand(4, 5).softmax(-1)
    return torch.randn(4, 3, 32, 32), [DataSample().set_gt_score(score) for score in scores]


@pytest.fixture
def pair():
    """A student in training and its teacher, which has other weights."""
    student = build()
    teacher = copy.deepcopy(student).requires_grad_(False)
    for parameter in teacher.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    student.set_teacher(teacher)
    return student.train(), teacher


def watch(model):
    """Logits that a model's head will give."""
    logits = []
    model.head.register_forward_hook(lambda module, inputs, output: logits.append(output))
    return logits


def by_hand(logits, teachers):
    """The soft cross entropy of a few images, number by number."""
    total = 0.
    for z, t in zip(logits.double(), teachers.double()):
        target = t.exp() / t.exp().sum()
        total -= sum(p * (s - z.exp().sum().log()) for p, s in zip(target, z))
    return WEIGHT * total / len(logits)


def test_value(pair, batch):
    student, teacher = pair
    expected = teacher(batch[0])  # in eval mode: no path is dropped
    logits, teachers = watch(student), watch(teacher)
    losses = student(*batch, mode='loss')
    assert len(logits) == len(teachers) == 1
    torch.testing.assert_close(teachers[0], expected)
    value = losses['loss_mesa'].double()
    torch.testing.assert_close(value, by_hand(logits[0], expected), rtol=1e-6, atol=0)
    assert value > WEIGHT * 0.5
    head = student.head._get_loss(logits[0], batch[1])['loss']
    torch.testing.assert_close(losses['loss_ce'], head, rtol=0, atol=0)
    total, log = student.parse_losses(losses)
    torch.testing.assert_close(total, losses['loss_ce'] + losses['loss_mesa'], rtol=0, atol=0)
    assert list(log) == ['loss', 'loss_ce', 'loss_mesa']
    assert log['loss'] == total


def test_gradient_is_the_students_alone(pair, batch):
    student, teacher = pair
    for parameter in teacher.parameters():  # it would take one
        parameter.requires_grad_(True)
    logits, teachers = watch(student), watch(teacher)
    student(*batch, mode='loss')['loss_mesa'].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(module.training for module in student.modules())
    assert not any(module.training for module in teacher.modules())
    # d L / d z = weight (softmax(z) - softmax(z of the teacher)) / N
    expected = WEIGHT * (logits[0].softmax(-1) - teachers[0].softmax(-1)).sum(0) / 4
    torch.testing.assert_close(student.head.fc.bias.grad, expected)
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


def test_without_teacher_it_is_the_hosts(batch):
    ours, hosts = build(drop_path=0.), build('ImageClassifier', drop_path=0.)
    assert list(ours.state_dict()) == list(hosts.state_dict())
    losses = ours.train()(*batch, mode='loss')
    assert list(losses) == ['loss_ce']
    expected = hosts.train()(*batch, mode='loss')['loss']
    torch.testing.assert_close(losses['loss_ce'], expected, rtol=0, atol=0)
    for mode in ('tensor', 'predict'):
        given, wanted = (model.eval()(batch[0], mode=mode) for model in (ours, hosts))
        for one, other in zip(given, wanted):
            one, other = (x if mode == 'tensor' else x.pred_score for x in (one, other))
            assert torch.equal(one, other)


def test_the_teacher_is_no_part(pair):
    student, teacher = pair
    alone = build()
    assert list(student.state_dict()) == list(alone.state_dict())
    assert len(list(student.modules())) == len(list(alone.modules()))
    assert len(list(student.parameters())) == len(list(alone.parameters()))
    student.double()
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}
    assert student._teacher is teacher
    assert copy.deepcopy(student)._teacher is None
    student.set_teacher(None)
    assert student._teacher is None


def test_mixed_precision(pair, batch):
    student, teacher = pair
    logits, teachers = watch(student), watch(teacher)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = student(*batch, mode='loss')
    assert logits[0].dtype == teachers[0].dtype == torch.bfloat16
    value = losses['loss_mesa']
    assert value.dtype == torch.float32
    # from these logits in full precision: bfloat16 would be off by 0.4 %
    expected = by_hand(logits[0], teachers[0])
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    value.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in student.head.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize(('settings', 'error', 'message'), [
    (dict(mesa_weight=-1.), ValueError, 'mesa_weight: got -1.0, expected 0 or more'),
    (dict(head=dict(type='MultiLabelLinearClsHead', num_classes=5, in_channels=32)), TypeError,
     'head: got MultiLabelLinearClsHead, expected one that has its loss from ClsHead'),
    (dict(head=None), TypeError, 'head: got NoneType'),
])
def test_what_does_not_fit(settings, error, message):
    init_default_scope('mmpretrain')
    arguments = dict(mesa_weight=1.,
                     head=dict(type='LinearClsHead', num_classes=5, in_channels=32))
    arguments.update(settings)
    with pytest.raises(error, match=message):
        MODELS.build(dict(type='mmvssd.MESAClassifier', backbone=dict(
            type='mmvssd.VSSD', arch=ARCH, out_indices=(1, )), **arguments))
