"""MESA: a classifier that its own moving average teaches."""
from typing import List, Optional

import torch
import torch.nn.functional as F
from mmpretrain.models import ImageClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmvssd.host_internals import head_losses


class MESAClassifier(ImageClassifier):
    r"""MMPreTrain's ImageClassifier with MESA, memory-efficient sharpness-aware training.

    The student has the logits :math:`z`, the moving average of its weights :math:`\bar z`. For N
    images of the same augmented batch and a weight :math:`\lambda`, the loss is

    .. math::
        L = L_{CE} - \frac{\lambda}{N} \sum_n \sum_c
            \mathrm{softmax}(\bar z_n)_c \log \mathrm{softmax}(z_n)_c

    :math:`L_{CE}` being the head's own. No gradient goes through :math:`\bar z`. So the cross
    entropy has the gradient of the KL divergence of `Sharpness-Aware Training for Free
    <https://arxiv.org/abs/2205.14083>`_, Du et al. 2022, at temperature 1. `VSSD
    <https://arxiv.org/abs/2407.18559>`_ trains with it from a quarter of the epochs on, with
    :math:`\lambda` 1.0, 1.5 and 2.0 for Tiny, Small and Base.

    :class:`mmvssd.engine.MESAHook` hands over the average and says when to begin. The log has
    ``loss_ce`` and, from then on, ``loss_mesa``; ``loss`` is their sum. In testing and for
    checkpoints the model is an ImageClassifier with the same names.

    Args:
        mesa_weight: :math:`\lambda`, not negative.
        backbone, neck, head, pretrained, train_cfg, data_preprocessor, init_cfg: As in
            ImageClassifier; the head takes its loss from its logits, as a LinearClsHead does.
    """

    def __init__(self, backbone: dict, mesa_weight: float, neck: Optional[dict] = None,
                 head: Optional[dict] = None, pretrained: Optional[str] = None,
                 train_cfg: Optional[dict] = None, data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[dict] = None):
        super().__init__(backbone=backbone, neck=neck, head=head, pretrained=pretrained,
                         train_cfg=train_cfg, data_preprocessor=data_preprocessor,
                         init_cfg=init_cfg)
        if mesa_weight < 0:
            raise ValueError(f'mesa_weight: got {mesa_weight}, expected 0 or more')
        # another way to the loss might not be the one from the logits that are shared here
        if getattr(type(self.head), 'loss', None) is not ClsHead.loss:
            raise TypeError(f'head: got {type(self.head).__name__}, expected one that has its loss '
                            'from ClsHead, such as LinearClsHead')
        self.mesa_weight = mesa_weight
        self.set_teacher(None)

    def set_teacher(self, teacher: Optional[nn.Module]) -> None:
        """Have a classifier of the same classes teach this one from now on; None for no one.

        It is put into eval mode, and is no part of this module. The module's state dict and
        parameters have no entries of it, and copies of the module have no teacher.
        """
        if teacher is not None:
            teacher.eval()
        object.__setattr__(self, '_teacher', teacher)  # past nn.Module, which would register it

    def __getstate__(self) -> dict:
        # of copies and pickles
        return {**self.__dict__, '_teacher': None}

    def loss(self, inputs: Tensor, data_samples: List[DataSample]) -> dict:
        """Compute the losses of a batch.

        Args:
            inputs: Augmented images (N, C, H, W).
            data_samples: N of them, with labels or, after mixup and cutmix, scores.

        Returns:
            The head's losses, its ``loss`` as ``loss_ce``; with a teacher also ``loss_mesa``, a
            float32 scalar, weighted.
        """
        soft = None
        if self._teacher is not None:
            with torch.no_grad():  # first: it frees its memory before the student's is held
                soft = self._teacher(inputs, mode='tensor').float().softmax(-1)
        logits = self.head(self.extract_feat(inputs))
        losses = head_losses(self.head, logits, data_samples)
        losses['loss_ce'] = losses.pop('loss')
        if soft is not None:
            losses['loss_mesa'] = self.mesa_weight * F.cross_entropy(logits.float(), soft)
        return losses
