"""Heads of the hosts' models: how many classes fit them, and where their labels are."""
from operator import attrgetter
from typing import Iterator, Tuple

from torch import nn

#: Heads whose classes are those of the data, by their path in a model, each with the place of its
#: labels in a data sample; None if another head has the same ones.
HEADS = {
    'roi_head.bbox_head': 'gt_instances.labels',
    'roi_head.mask_head': None,
    'bbox_head': 'gt_instances.labels',
    'decode_head': 'gt_sem_seg.data',
    'auxiliary_head': None,
    'head': 'gt_label',
}

#: Parts of models that are told their classes, in words or by images.
TOLD = ('language_model', 'text_encoder', 'text_backbone', 'prototype')


def learner_of(model: nn.Module) -> nn.Module:
    """Return the student of semi-supervised training; of other training the model itself."""
    return getattr(model, 'student', model)


def heads_of(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Yield the heads whose classes are those of the data, each with its path in the model."""
    for path in HEADS:
        try:
            head = attrgetter(path)(model)
        except AttributeError:
            continue
        for one in head if isinstance(head, nn.ModuleList) else [head]:
            yield path, one


def sizes_of(head: nn.Module) -> Tuple[int, ...]:
    """Return the numbers of classes that fit a head; empty if it does not tell."""
    number = getattr(head, 'num_classes', None)
    if not isinstance(number, int):
        return ()
    # one score for two classes
    return (number, 2) if getattr(head, 'out_channels', None) == 1 else (number, )


def learns_no_classes(model: nn.Module) -> bool:
    """Tell whether a model learns something else than the classes of its data."""
    kinds = {kind.__name__ for kind in type(model).__mro__}
    # a region proposal network learns objects of any class, a depth estimator no classes
    return bool(kinds & {'RPN', 'DepthEstimator'})


def has_own_classes(model: nn.Module) -> bool:
    """Tell whether a model has the classes of its data, and is not told them or without them."""
    return not (learns_no_classes(model) or any(hasattr(model, name) for name in TOLD))
