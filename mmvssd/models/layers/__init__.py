"""Layers of the state-space backbones.

Between the stem and a backbone's outputs every tensor is (N, H, W, C). Linear layers and norms work
on the last axis. A convolution sees the same memory as channels-last (N, C, H, W). So nothing is
copied from one layout to another.
"""
from mmvssd.models.layers.attention import Attention
from mmvssd.models.layers.block import Block
from mmvssd.models.layers.conv import ConvNormAct, ConvSequence, GridConv2d, PositionConv
from mmvssd.models.layers.downsample import DOWNSAMPLES
from mmvssd.models.layers.drop_path import DropPath
from mmvssd.models.layers.linear import GridLinear, SplitLinear
from mmvssd.models.layers.mixers import NCSSDMixer, SSDMixer
from mmvssd.models.layers.mlp import MLP
from mmvssd.models.layers.padding import Padding
from mmvssd.models.layers.ss2d import SS2D
from mmvssd.models.layers.stem import STEMS

__all__ = [
    'DOWNSAMPLES', 'SS2D', 'STEMS', 'Attention', 'Block', 'ConvNormAct', 'ConvSequence', 'DropPath',
    'GridConv2d', 'GridLinear', 'MLP', 'NCSSDMixer', 'Padding', 'PositionConv', 'SSDMixer',
    'SplitLinear'
]
