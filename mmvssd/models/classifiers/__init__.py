"""Classifiers that differ from the host's own in training only."""
from typing import Any

from torch import nn

from mmvssd.registry import MODELS


@MODELS.register_module(name='MESAClassifier')
def mesa_classifier(**settings: Any) -> nn.Module:
    """Build a :class:`mmvssd.models.classifiers.mesa.MESAClassifier` from its arguments.

    The class derives from MMPreTrain's, which is imported only when one is built. The backbones
    need no host, and other hosts find them beside this entry.
    """
    from mmvssd.models.classifiers.mesa import MESAClassifier
    return MESAClassifier(**settings)


__all__ = ['mesa_classifier']
