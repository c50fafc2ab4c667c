"""NC-SSD blocks between the stem and the downsamples of VMamba's first version."""
from dataclasses import dataclass

from mmvssd.models.backbones.arch import Arch
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.models.layers import Block, NCSSDMixer
from mmvssd.registry import MODELS


@dataclass(frozen=True)
class ToyArch(Arch):
    """Settings of a Toy."""

    num_heads: int
    d_state: int = 8
    stem: str = 'patch'
    downsample: str = 'merging'
    drop_path_rate: float = 0.1


@MODELS.register_module()
class Toy(BaseBackbone):
    """The backbone."""

    archs = {'mini': ToyArch(embed_dims=32, depths=(1, 2, 2, 1), num_heads=4),
             'tiny': ToyArch(embed_dims=48, depths=(1, 2, 2, 1), num_heads=4)}
    arch_type = ToyArch
    default_arch = 'mini'

    @staticmethod
    def build_block(arch: ToyArch, stage: int, drop_path: float) -> Block:
        return Block(arch.dims[stage], NCSSDMixer(arch.dims[stage], arch.num_heads, arch.d_state),
                     mlp_ratio=2, drop_path=drop_path)
