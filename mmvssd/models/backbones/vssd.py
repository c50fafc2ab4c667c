"""VSSD: vision with non-causal state space duality.

arXiv 2407.18559, and its ICCV 2025 version (``*-iccv2025``), which normalizes the op, grows the
state from stage to stage and has plainer stems and downsamples.
"""
from dataclasses import dataclass
from typing import Any, Dict, Sequence

from torch import nn

from mmvssd.models.arguments import (
    check_flag,
    check_integer,
    check_name,
    check_number,
    check_sequence,
)
from mmvssd.models.backbones.arch import Arch, check_mlp_ratio
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.models.layers import DOWNSAMPLES, STEMS, Attention, Block, NCSSDMixer, SSDMixer
from mmvssd.models.layers.mixers import check_halves
from mmvssd.registry import MODELS

MIXERS = ('nc_ssd', 'ssd', 'bi_ssd', 'attention')
#: Those in which a token reads the state of the tokens up to itself.
CAUSAL = ('ssd', 'bi_ssd')


@dataclass(frozen=True)
class VSSDArch(Arch):
    """Settings of a VSSD; a dict given as ``arch`` has these keys and those of :class:`Arch`.

    Attributes:
        num_heads: Heads of each stage.
        d_state: State size S, one for all stages or one for each (of no meaning to attention).
        expansion: Inner width of the state-space mixer over the stage's width.
        mlp_ratio: Hidden width of the MLP over the stage's width.
        mixers: Mixer of each stage, of :data:`MIXERS`; None: ``nc_ssd``, attention in the last.
            'ssd' is causal, as Mamba-2; 'bi_ssd' runs half of its heads in reverse.
        normalize: Use the normalized op; not beside causal mixers.
        stem: A name of :data:`~mmvssd.models.layers.STEMS`; published: 'residual', 'plain' and
            'simple'.
        downsample: A name of :data:`~mmvssd.models.layers.DOWNSAMPLES`; published: 'inverted',
            'plain' and 'simple'.
        n_groups: Groups G of the state's input and output projections.
        negative_decay: Turn the sign of the token weights (the ``tiny_na`` ablation); not beside
            causal mixers, whose states would grow.
        drop_path_rate: Drop path rate of the last block, if the backbone names none.
    """

    num_heads: Sequence[int]
    d_state: Any = 64  # an integer or a sequence; once checked, a tuple of one a stage
    expansion: float = 2
    mlp_ratio: float = 4
    mixers: Sequence[str] = None  # type: ignore[assignment]  # filled in if it is open
    normalize: bool = False
    stem: str = 'residual'
    downsample: str = 'inverted'
    n_groups: int = 1
    negative_decay: bool = False
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._settle_stages()
        for name in ('normalize', 'negative_decay'):
            self.settle(name, check_flag(f'arch: {name}', getattr(self, name)))
        self.settle('n_groups', check_integer('arch: n_groups', self.n_groups, 1))
        self.settle('expansion', check_number(
            'arch: expansion', self.expansion, f'an inner width expansion * {self.embed_dims} of '
            '1 or more', least=1 / self.embed_dims))
        self.settle('mlp_ratio', check_mlp_ratio(self.mlp_ratio, self.embed_dims))
        check_name('stem', self.stem, STEMS)
        check_name('downsample', self.downsample, DOWNSAMPLES)
        self._check_widths()

    def _settle_stages(self) -> None:
        """Check what has an entry for each stage, and fill in what was left open."""
        length, of = len(self.depths), 'one for each of depths'
        mixers = (['nc_ssd'] * (length - 1) + ['attention'] if self.mixers is None
                  else self.mixers)
        states = (self.d_state if isinstance(self.d_state, (list, tuple))
                  else [self.d_state] * length)
        heads = check_sequence('arch: num_heads', self.num_heads, length, of)
        self.settle('num_heads', tuple(
            check_integer(f'arch: num_heads of stage {i}', count, 1)
            for i, count in enumerate(heads)))
        self.settle('mixers', check_sequence('arch: mixers', mixers, length, of))
        self.settle('d_state', check_sequence('arch: d_state', states, length, of))
        for mixer in self.mixers:
            check_name('mixers', mixer, MIXERS)

    def _check_widths(self) -> None:
        for i, (mixer, dim, heads) in enumerate(zip(self.mixers, self.dims, self.num_heads)):
            width = dim if mixer == 'attention' else int(self.expansion * dim)
            if width % heads:
                raise ValueError(f'arch: num_heads of stage {i} is {heads}, expected a number '
                                 f'that divides the width {width}')
            if mixer != 'attention':
                self._check_state(i, heads)
            if mixer in CAUSAL:
                self._check_causal(i, mixer, heads)

    def _check_state(self, stage: int, heads: int) -> None:
        multiple = 4 if self.normalize else 1
        S = check_integer(f'arch: d_state of stage {stage}', self.d_state[stage], 1)
        if S % multiple:
            raise ValueError(f'arch: d_state of stage {stage}: got {S}, expected a positive '
                             f'multiple of {multiple}, since normalize is set')
        self.settle('d_state', (*self.d_state[:stage], S, *self.d_state[stage + 1:]))
        if heads % self.n_groups or (self.normalize and self.n_groups > 1):
            fits = '1, since normalize is set' if self.normalize else f'a divisor of {heads} heads'
            raise ValueError(f'arch: n_groups is {self.n_groups}, expected {fits}')

    def _check_causal(self, stage: int, mixer: str, heads: int) -> None:
        for name in ('normalize', 'negative_decay'):
            if getattr(self, name):
                raise ValueError(f'arch: {name} is set, and stage {stage} has the mixer {mixer!r}; '
                                 'it goes with nc_ssd and attention only')
        if mixer == 'bi_ssd':
            check_halves(heads, self.n_groups, f'arch: stage {stage} has bi_ssd')


_TINY: Dict[str, Any] = dict(
    embed_dims=64, depths=(2, 4, 8, 4), num_heads=(2, 4, 8, 16), drop_path_rate=0.2)
_SMALL: Dict[str, Any] = dict(_TINY, depths=(3, 4, 21, 5), drop_path_rate=0.4)
_BASE: Dict[str, Any] = dict(_SMALL, embed_dims=96, num_heads=(3, 6, 12, 24), drop_path_rate=0.6)
_ICCV2025: Dict[str, Any] = dict(
    embed_dims=96, num_heads=(4, 4, 8, 16), expansion=1, mlp_ratio=3,
    d_state=(12, 24, 48, None), normalize=True, stem='plain', downsample='plain')

ARCHS = {
    'micro': VSSDArch(embed_dims=48, depths=(2, 2, 8, 4), num_heads=(2, 4, 8, 16), d_state=48,
                      drop_path_rate=0.1),
    'tiny': VSSDArch(**_TINY),
    'small': VSSDArch(**_SMALL),
    'base': VSSDArch(**_BASE),
    'tiny-iccv2025': VSSDArch(depths=(2, 2, 8, 2), drop_path_rate=0.2, **_ICCV2025),
    'small-iccv2025': VSSDArch(depths=(2, 4, 15, 4), drop_path_rate=0.4, **_ICCV2025),
    # the ICCV 2025 version's Base is the arXiv version's
    'base-iccv2025': VSSDArch(**_BASE),
}


@MODELS.register_module()
class VSSD(BaseBackbone):
    """VSSD backbone; :class:`BaseBackbone` has its arguments, :data:`ARCHS` its archs."""

    archs = ARCHS
    arch_type = VSSDArch
    default_arch = 'tiny'

    @staticmethod
    def build_block(arch: VSSDArch, stage: int, drop_path: float) -> Block:
        """Make a block of a stage: its mixer, position convolutions, MLP."""
        return Block(arch.dims[stage], _build_mixer(arch, stage), arch.mlp_ratio, drop_path,
                     position_convs=True)


def _build_mixer(arch: VSSDArch, stage: int) -> nn.Module:
    dim, heads = arch.dims[stage], arch.num_heads[stage]
    if arch.mixers[stage] == 'attention':
        return Attention(dim, heads)
    if arch.mixers[stage] in CAUSAL:
        return SSDMixer(dim, heads, arch.d_state[stage], expansion=arch.expansion,
                        n_groups=arch.n_groups, bidirectional=arch.mixers[stage] == 'bi_ssd')
    return NCSSDMixer(dim, heads, arch.d_state[stage], expansion=arch.expansion,
                      n_groups=arch.n_groups, normalize=arch.normalize,
                      negative_decay=arch.negative_decay)
