"""Which classes a model has: those of its data, of a text, or none."""
import pytest
from torch import nn

from mmvssd.engine.data.batch_check import BatchCheck
from mmvssd.engine.data.heads import has_own_classes, heads_of, learner_of, sizes_of


class RPN(nn.Module):
    """As MMDetection's: it proposes objects of any class."""


class DepthEstimator(nn.Module):
    """As MMSegmentation's."""


def part(**members):
    module = nn.Module()
    for name, value in members.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize(('model', 'own'), [
    (part(bbox_head=part(num_classes=3)), True), (part(), True), (RPN(), False),
    (DepthEstimator(), False), (part(language_model=part()), False),
    (part(text_encoder=part()), False), (part(text_backbone=part()), False),
    (part(prototype=part()), False),
])
def test_models_with_the_classes_of_their_data(model, own):
    assert has_own_classes(model) == own


def test_the_student_learns():
    model = part(bbox_head=part(num_classes=3))
    assert learner_of(part(student=model, teacher=part())) is model
    assert learner_of(model) is model


def test_heads_and_the_classes_that_fit_them():
    stages = nn.ModuleList([part(num_classes=4), part(num_classes=5)])
    model = part(roi_head=part(bbox_head=stages), rpn_head=part(num_classes=1),
                 decode_head=part(num_classes=1, out_channels=1), head=part(num_classes='many'))
    found = [(path, sizes_of(head)) for path, head in heads_of(model)]
    assert found == [('roi_head.bbox_head', (4, )), ('roi_head.bbox_head', (5, )),
                     ('decode_head', (1, 2)), ('head', ())]


@pytest.mark.parametrize(('model', 'label', 'number'), [
    (part(roi_head=part(bbox_head=nn.ModuleList([part(num_classes=4)] * 3),
                        mask_head=part(num_classes=9))), 'gt_instances.labels', 4),
    (part(auxiliary_head=part(num_classes=9), decode_head=part(num_classes=1, out_channels=1)),
     'gt_sem_seg.data', 2),
    (part(head=part(num_classes=7)), 'gt_label', 7),
    (part(student=part(bbox_head=part(num_classes=6))), 'gt_instances.labels', 6),
    (part(head=part(num_classes='many')), None, None), (part(), None, None), (RPN(), None, None),
])
def test_labels_that_a_batch_is_checked_for(model, label, number):
    check = BatchCheck(model)
    assert (check.label, check.num_classes) == (label, number)
