"""VSSD: vision with non-causal state space duality.

arXiv 2407.18559, and its ICCV 2025 version (``*-iccv2025``), which normalizes the op, grows the
state from stage to stage and has plainer stems and downsamples.
"""
from dataclasses import dataclass, fields
from typing import Optional, Sequence, Tuple, Union

from torch import nn

from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.models.layers import DOWNSAMPLES, STEMS, Attention, Block, NCSSDMixer
from mmvssd.registry import MODELS

MIXERS = ('nc_ssd', 'attention')


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f'{what}: unknown name {name!r}; known: {", ".join(known)}')


@dataclass(frozen=True)
class VSSDArch:
    """Settings of a VSSD; a dict given as ``arch`` has these keys.

    Attributes:
        embed_dims: Width C of stage 0; stage i is ``C * 2**i`` wide.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        d_state: State size S, one for all stages or one for each (of no meaning to attention).
        expansion: Inner width of the state-space mixer over the stage's width.
        mlp_ratio: Hidden width of the MLP over the stage's width.
        mixers: Mixer of each stage, of :data:`MIXERS`; None: ``nc_ssd``, attention in the last.
        normalize: Use the normalized op.
        stem: Name of a stem, 'residual', 'plain' or 'simple'.
        downsample: Name of a downsample, 'inverted', 'plain' or 'simple'.
        n_groups: Groups G of the state's input and output projections.
        negative_decay: Turn the sign of the token weights (the ``tiny_na`` ablation).
        drop_path_rate: Drop path rate of the last block, where the backbone names none.
    """

    embed_dims: int
    depths: Sequence[int]
    num_heads: Sequence[int]
    d_state: Union[int, Sequence[Optional[int]]] = 64
    expansion: float = 2
    mlp_ratio: float = 4
    mixers: Optional[Sequence[str]] = None
    normalize: bool = False
    stem: str = 'residual'
    downsample: str = 'inverted'
    n_groups: int = 1
    negative_decay: bool = False
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        num_stages = len(self.depths)
        mixers = self.mixers or ['nc_ssd'] * (num_stages - 1) + ['attention']
        states = (self.d_state if isinstance(self.d_state, (list, tuple))
                  else [self.d_state] * num_stages)
        for name, value in (('num_heads', self.num_heads), ('mixers', mixers),
                            ('d_state', states)):
            if len(value) != num_stages:
                raise ValueError(f'arch: {name} has {len(value)} entries {tuple(value)}, '
                                 f'expected {num_stages}, one for each of depths')
        for mixer in mixers:
            _check_name('mixers', mixer, MIXERS)
        _check_name('stem', self.stem, STEMS)
        _check_name('downsample', self.downsample, DOWNSAMPLES)
        # frozen: what was left open is filled in once, here
        object.__setattr__(self, 'mixers', tuple(mixers))
        object.__setattr__(self, 'd_state', tuple(states))
        self._check_widths()

    def _check_widths(self) -> None:
        for i, (mixer, dim, heads) in enumerate(zip(self.mixers, self.dims, self.num_heads)):
            width = dim if mixer == 'attention' else int(self.expansion * dim)
            if heads < 1 or width % heads:
                raise ValueError(f'arch: num_heads of stage {i} is {heads}, expected a number '
                                 f'that divides the width {width}')
            if mixer == 'nc_ssd':
                self._check_state(i, heads)

    def _check_state(self, stage: int, heads: int) -> None:
        S, multiple = self.d_state[stage], 4 if self.normalize else 1
        if not isinstance(S, int) or S < 1 or S % multiple:
            raise ValueError(f'arch: d_state of stage {stage} is {S}, expected a positive '
                             f'multiple of {multiple}')
        if self.n_groups < 1 or heads % self.n_groups or (self.normalize and self.n_groups > 1):
            fits = '1, since normalize is set' if self.normalize else f'a divisor of {heads} heads'
            raise ValueError(f'arch: n_groups is {self.n_groups}, expected {fits}')

    @property
    def dims(self) -> Tuple[int, ...]:
        """Width of each stage."""
        return tuple(self.embed_dims * 2**i for i in range(len(self.depths)))


_TINY = dict(embed_dims=64, depths=(2, 4, 8, 4), num_heads=(2, 4, 8, 16), drop_path_rate=0.2)
_SMALL = dict(_TINY, depths=(3, 4, 21, 5), drop_path_rate=0.4)
_BASE = dict(_SMALL, embed_dims=96, num_heads=(3, 6, 12, 24), drop_path_rate=0.6)
_ICCV2025 = dict(embed_dims=96, num_heads=(4, 4, 8, 16), expansion=1, mlp_ratio=3,
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
    """VSSD backbone.

    Args:
        arch: A name of :data:`ARCHS`, or a dict with the keys of :class:`VSSDArch`.
        in_channels: Channels of the image.
        out_indices: Stages whose output is returned, each under a LayerNorm ``norm{i}``.
        drop_path_rate: Drop path rate of the last block, growing linearly from 0 at the first;
            None takes the arch's own.
        frozen_stages: See :class:`BaseBackbone`.
        norm_eval: See :class:`BaseBackbone`.
        with_cp: See :class:`BaseBackbone`.
        mask_padding: See :class:`BaseBackbone`.
        init_cfg: See :class:`BaseBackbone`.

    Raises:
        ValueError: An unknown arch or key, or settings that don't fit together.
    """

    def __init__(self,
                 arch: Union[str, dict] = 'tiny',
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 drop_path_rate: Optional[float] = None,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 mask_padding: bool = False,
                 init_cfg: Optional[dict] = None) -> None:
        arch = resolve_arch(arch)
        rate = arch.drop_path_rate if drop_path_rate is None else drop_path_rate
        if not 0 <= rate < 1:
            raise ValueError(f'drop_path_rate: got {rate}, expected 0 <= rate < 1')
        dims = arch.dims
        super().__init__(
            stem=STEMS[arch.stem](in_channels, dims[0]),
            stages=_build_stages(arch, rate),
            downsamples=[DOWNSAMPLES[arch.downsample](*pair) for pair in zip(dims, dims[1:])],
            dims=dims,
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            mask_padding=mask_padding,
            init_cfg=init_cfg)


def resolve_arch(arch: Union[str, dict]) -> VSSDArch:
    """Turn a name of :data:`ARCHS` or a dict into settings; ValueError where it is neither."""
    if isinstance(arch, str):
        _check_name('arch', arch, ARCHS)
        return ARCHS[arch]
    known = [field.name for field in fields(VSSDArch)]
    unknown = sorted(set(arch) - set(known))
    missing = [key for key in ('embed_dims', 'depths', 'num_heads') if key not in arch]
    if unknown or missing:
        raise ValueError(f'arch: unknown keys {unknown}, missing keys {missing}; '
                         f'known: {", ".join(known)}')
    return VSSDArch(**arch)


def _build_stages(arch: VSSDArch, drop_path_rate: float) -> Sequence[Sequence[nn.Module]]:
    last = max(sum(arch.depths) - 1, 1)
    rates = iter([drop_path_rate * i / last for i in range(sum(arch.depths))])
    return [[Block(dim, _build_mixer(arch, i), arch.mlp_ratio, next(rates))
             for _ in range(depth)] for i, (dim, depth) in enumerate(zip(arch.dims, arch.depths))]


def _build_mixer(arch: VSSDArch, stage: int) -> nn.Module:
    dim, heads = arch.dims[stage], arch.num_heads[stage]
    if arch.mixers[stage] == 'attention':
        return Attention(dim, heads)
    return NCSSDMixer(dim, heads, arch.d_state[stage], expansion=arch.expansion,
                      n_groups=arch.n_groups, normalize=arch.normalize,
                      negative_decay=arch.negative_decay)
