"""VMamba: visual state space models (arXiv 2401.10166).

``v0-*`` are the first version, with a gate and a state of 16; ``*-s2l*`` and ``*-s1l*`` the later
one, with an MLP, a state of 1 and convolutional stem and downsamples. The paper's Tables 1 to 3
are ``tiny-s2l5``, ``small-s2l15`` and ``base-s2l15``.
"""
from dataclasses import dataclass
from typing import Any, Dict, NamedTuple

from mmvssd.models.arguments import check_flag, check_integer, check_name, check_number
from mmvssd.models.backbones.arch import Arch, check_mlp_ratio
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.models.layers import DOWNSAMPLES, SS2D, STEMS, Block
from mmvssd.models.layers.ss2d import PATTERNS
from mmvssd.registry import MODELS


class Version(NamedTuple):
    """Settings that set a published version apart."""

    stem: str
    downsample: str
    gated: bool
    conv_bias: bool
    mlp_ratio: float


#: By the names that the published code gives its forward passes.
VERSIONS = {
    'v0': Version('patch', 'merging', gated=True, conv_bias=True, mlp_ratio=0),
    'v05_noz': Version('overlap', 'norm', gated=False, conv_bias=False, mlp_ratio=4),
}


@dataclass(frozen=True)
class VMambaArch(Arch):
    """Settings of a VMamba; a dict given as ``arch`` has these keys and those of :class:`Arch`.

    What is None takes the version's own setting.

    Attributes:
        ssm_ratio: Inner width of the mixer over the stage's width.
        d_state: State size S.
        version: A name of :data:`VERSIONS`.
        pattern: Orders of the scans, of :data:`~mmvssd.models.layers.ss2d.PATTERNS`.
        drop_path_rate: Drop path rate of the last block, if the backbone names none.
        gated: Multiply the mixer's result by a branch SiLU(z).
        conv: Run a depthwise 3x3 convolution before the scans; its SiLU stays without it.
        conv_bias: Give that convolution a bias.
        mlp_ratio: Hidden width of the MLP over the stage's width; 0 for no MLP.
        stem: A name of :data:`~mmvssd.models.layers.STEMS`.
        downsample: A name of :data:`~mmvssd.models.layers.DOWNSAMPLES`.
    """

    ssm_ratio: float = 2
    d_state: int = 1
    version: str = 'v05_noz'
    pattern: str = 'cross'
    drop_path_rate: float = 0.0
    # what is open is the version's
    gated: bool = None  # type: ignore[assignment]
    conv: bool = True
    conv_bias: bool = None  # type: ignore[assignment]
    mlp_ratio: float = None  # type: ignore[assignment]
    stem: str = None  # type: ignore[assignment]
    downsample: str = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name('pattern', self.pattern, PATTERNS)
        self.settle('d_state', check_integer('arch: d_state', self.d_state, 1))
        self.settle('ssm_ratio', check_number(
            'arch: ssm_ratio', self.ssm_ratio, 'an inner width ssm_ratio * '
            f'{self.embed_dims} of 1 or more', least=1 / self.embed_dims))
        self.settle('conv', check_flag('arch: conv', self.conv))
        self._settle_version()
        for name in ('gated', 'conv_bias'):
            self.settle(name, check_flag(f'arch: {name}', getattr(self, name)))
        self.settle('mlp_ratio', check_mlp_ratio(self.mlp_ratio, self.embed_dims))
        check_name('stem', self.stem, STEMS)
        check_name('downsample', self.downsample, DOWNSAMPLES)
        if self.conv_bias and not self.conv:
            raise ValueError('arch: conv_bias is set, and conv is not: there is no convolution '
                             'that could have a bias')

    def _settle_version(self) -> None:
        """Fill in what was left open."""
        own = VERSIONS[check_name('version', self.version, VERSIONS)]._asdict()
        own['conv_bias'] = own['conv_bias'] and self.conv
        for name, value in own.items():
            if getattr(self, name) is None:
                self.settle(name, value)


_V0: Dict[str, Any] = dict(d_state=16, version='v0')
_TINY: Dict[str, Any] = dict(embed_dims=96, drop_path_rate=0.2)
_SMALL: Dict[str, Any] = dict(embed_dims=96, drop_path_rate=0.3)
_BASE: Dict[str, Any] = dict(embed_dims=128)

ARCHS = {
    'v0-tiny': VMambaArch(depths=(2, 2, 9, 2), **_TINY, **_V0),
    'v0-small': VMambaArch(depths=(2, 2, 27, 2), **_SMALL, **_V0),
    'v0-base': VMambaArch(depths=(2, 2, 27, 2), drop_path_rate=0.5, **_BASE, **_V0),
    'tiny-s2l5': VMambaArch(depths=(2, 2, 5, 2), **_TINY),
    'small-s2l15': VMambaArch(depths=(2, 2, 15, 2), **_SMALL),
    'base-s2l15': VMambaArch(depths=(2, 2, 15, 2), drop_path_rate=0.6, **_BASE),
    'tiny-s1l8': VMambaArch(depths=(2, 2, 8, 2), ssm_ratio=1, **_TINY),
    'small-s1l20': VMambaArch(depths=(2, 2, 20, 2), ssm_ratio=1, **_SMALL),
    'base-s1l20': VMambaArch(depths=(2, 2, 20, 2), ssm_ratio=1, drop_path_rate=0.5, **_BASE),
}


@MODELS.register_module()
class VMamba(BaseBackbone):
    """VMamba backbone; :class:`BaseBackbone` has its arguments, :data:`ARCHS` its archs."""

    archs = ARCHS
    arch_type = VMambaArch
    default_arch = 'tiny-s1l8'

    @staticmethod
    def build_block(arch: VMambaArch, stage: int, drop_path: float) -> Block:
        """Make a block of a stage: SS2D and, in later versions, an MLP."""
        dim = arch.dims[stage]
        mixer = SS2D(dim, ssm_ratio=arch.ssm_ratio, d_state=arch.d_state, gated=arch.gated,
                     conv=arch.conv, conv_bias=arch.conv_bias, pattern=arch.pattern)
        return Block(dim, mixer, arch.mlp_ratio, drop_path)
