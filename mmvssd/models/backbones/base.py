"""The base class of the hierarchical backbones."""
from typing import List, Mapping, Optional, Sequence, Tuple, Type, Union

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmvssd.checkpoint import load_pretrained
from mmvssd.models.backbones.arch import Arch, resolve_arch
from mmvssd.models.layers import DOWNSAMPLES, STEMS, Padding
from mmvssd.models.valid_sizes import follow_hosts, valid_sizes


class BaseBackbone(BaseModule):
    """A stem, stages of blocks, a downsample between stages, a LayerNorm on each output.

    This class builds and runs them, and owns output indices, freezing, norm evaluation and
    activation checkpointing. A family gives its archs and its block. Parts behind the last output
    are not kept.

    Args:
        arch: A name of :attr:`archs`, or a dict with the keys of :attr:`arch_type`; None takes
            the family's :attr:`default_arch`.
        in_channels: Channels of the image.
        out_indices: Stages whose output is returned, in rising order, each under a LayerNorm
            ``norm{i}``.
        drop_path_rate: Drop path rate of the last block, growing linearly from 0 at the first;
            None takes the arch's own.
        frozen_stages: -1 freezes nothing, 0 the stem, k >= 1 also the first k stages with their
            output norms and downsamples. What is frozen stays in evaluation mode.
        norm_eval: Keep every BatchNorm in evaluation mode while training.
        with_cp: Recompute each block's activations in backward instead of storing them.
        mask_padding: Keep the padding of a batch out of its images' features, see
            :meth:`forward`; the host's data samples say what is padding.
        init_cfg: As in MMEngine; ``dict(type='Pretrained', checkpoint=..., prefix='backbone.')``
            loads weights and stops if they are not this backbone's.

    Attributes:
        archs: Settings by name.
        arch_type: Class of the settings.
        default_arch: Name of an arch.

    Raises:
        ValueError: An unknown arch or key, or settings that don't fit together.
    """

    archs: Mapping[str, Arch]
    arch_type: Type[Arch]
    default_arch: str

    def __init__(self,
                 arch: Union[str, dict, None] = None,
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 drop_path_rate: Optional[float] = None,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 mask_padding: bool = False,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(_single(init_cfg))
        arch = resolve_arch(self.default_arch if arch is None else arch, self.archs,
                            self.arch_type)
        self.in_channels = in_channels
        self.out_indices = _check_out_indices(out_indices, len(arch.depths))
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.mask_padding = mask_padding
        if mask_padding:
            follow_hosts()
        used = self.out_indices[-1] + 1
        if not -1 <= frozen_stages <= used:
            raise ValueError(f'frozen_stages: got {frozen_stages}, expected -1 (none) to {used}')
        self.frozen_stages = frozen_stages
        self.dims = arch.dims[:used]
        self.stem = STEMS[arch.stem](in_channels, arch.embed_dims)
        rates = _drop_path_rates(arch, drop_path_rate)
        # all are drawn, so that the weights of those kept do not depend on the others
        stages = [nn.ModuleList(self.build_block(arch, i, rate) for rate in stage)
                  for i, stage in enumerate(rates)]
        downsamples = [DOWNSAMPLES[arch.downsample](*pair)
                       for pair in zip(arch.dims, arch.dims[1:])]
        self.stages = nn.ModuleList(stages[:used])
        self.downsamples = nn.ModuleList(downsamples[:used - 1])
        for i, dim in enumerate(self.dims):
            if i in self.out_indices:
                self.add_module(f'norm{i}', nn.LayerNorm(dim))
        self.apply(_init_linear)
        for module in self._frozen_modules():
            module.requires_grad_(False)

    @staticmethod
    def build_block(arch: Arch, stage: int, drop_path: float) -> nn.Module:
        """Make a block of a stage: (N, H, W, C) and a padding or None -> (N, H, W, C)."""
        raise NotImplementedError

    def forward(self, x: Tensor,
                sizes: Optional[Sequence[Tuple[int, int]]] = None) -> Tuple[Tensor, ...]:
        """Compute features of an image batch of any size.

        With ``sizes``, each image gets the features that it gets in a batch of one, and zeros
        beside them: padding adds nothing to a state or an attention, and every convolution sees at
        an image's border the zeros that it sees at the border of a batch. In training mode
        BatchNorm's statistics still run over the whole grid, as in training without it.

        Args:
            x: Images (N, in_channels, H, W), padded at the right and below.
            sizes: (height, width) of each image before padding. None takes those of the data
                samples that the host's model was called with if ``mask_padding`` is set;
                else, and without a host, every image fills the batch.

        Returns:
            One (N, C_i, H_i, W_i) tensor for each output index, contiguous: hosts hand them to
            compiled ops that read memory in that order.

        Raises:
            ValueError: A shape or a size that does not fit, or, with ``mask_padding``, a data
                sample without a size.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f'{type(self).__name__}: got an input of shape {tuple(x.shape)}, '
                             f'expected (N, {self.in_channels}, H, W)')
        if sizes is None and self.mask_padding:
            sizes = valid_sizes(x)
        padding = _padding_of(x, sizes)
        outputs = []
        x = self.stem(x, padding)
        padding = None if padding is None else self.stem.after(padding)
        for i, blocks in enumerate(self.stages):
            if i > 0:
                x = self.downsamples[i - 1](x, padding)
                padding = None if padding is None else padding.strided(2)
            for block in blocks:
                x = self._run_block(block, x, padding)
            if i in self.out_indices:
                outputs.append(self._output(i, x, padding))
        return tuple(outputs)

    def _run_block(self, block: nn.Module, x: Tensor, padding: Optional[Padding]) -> Tensor:
        if self.with_cp and self.training and torch.is_grad_enabled():
            return checkpoint(block, x, padding, use_reentrant=False)
        return block(x, padding)

    def _output(self, stage: int, x: Tensor, padding: Optional[Padding]) -> Tensor:
        y = getattr(self, f'norm{stage}')(x).permute(0, 3, 1, 2)
        if padding is not None:
            y = padding.clear(y)
        return y.contiguous()

    def init_weights(self) -> None:
        """Load pretrained weights if ``init_cfg`` names them; the rest is drawn already."""
        if self.init_cfg and self.init_cfg.get('type') == 'Pretrained':
            load_pretrained(self, self.init_cfg['checkpoint'], self.init_cfg.get('prefix', ''))
        else:
            super().init_weights()

    def train(self, mode: bool = True) -> 'BaseBackbone':
        """Set the training mode, and keep in evaluation mode what is frozen."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _frozen_modules(self) -> Sequence[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = [getattr(self, f'norm{i}') for i in self.out_indices if i < self.frozen_stages]
        return [self.stem, *self.stages[:self.frozen_stages],
                *self.downsamples[:self.frozen_stages], *norms]


def _single(init_cfg: Union[dict, Sequence[dict], None]) -> Optional[dict]:
    """Take a list of one for its entry, as MMEngine does; the backbone knows no way for more."""
    if isinstance(init_cfg, (list, tuple)):
        if len(init_cfg) != 1:
            raise ValueError(f'init_cfg: got {len(init_cfg)} entries, expected one dict')
        return init_cfg[0]
    return init_cfg


def _check_out_indices(out_indices: Sequence[int], num_stages: int) -> Tuple[int, ...]:
    indices = tuple(out_indices) if isinstance(out_indices, (list, tuple, range)) else ()
    if not indices or list(indices) != sorted(set(indices) & set(range(num_stages))):
        raise ValueError(f'out_indices: got {out_indices}, expected stages in rising order, '
                         f'each from 0 to {num_stages - 1}')
    return indices


def _drop_path_rates(arch: Arch, rate: Optional[float]) -> List[List[float]]:
    """Rate of each block of each stage, from 0 linearly to ``rate``."""
    rate = arch.drop_path_rate if rate is None else rate
    if not 0 <= rate < 1:
        raise ValueError(f'drop_path_rate: got {rate}, expected 0 <= rate < 1')
    last = max(sum(arch.depths) - 1, 1)
    rates = iter([rate * i / last for i in range(sum(arch.depths))])
    return [[next(rates) for _ in range(depth)] for depth in arch.depths]


def _padding_of(x: Tensor, sizes: Optional[Sequence[Tuple[int, int]]]) -> Optional[Padding]:
    """Return the padding of a batch (N, C, H, W), or None."""
    grid = tuple(x.shape[2:])
    if sizes is None or (all(tuple(size) == grid for size in sizes) and len(sizes) == len(x)):
        return None
    sizes = torch.as_tensor(sizes)
    if (sizes.shape != (len(x), 2) or sizes.is_floating_point()
            or not ((sizes > 0) & (sizes <= torch.tensor(grid))).all()):
        raise ValueError(f'sizes: got {sizes.tolist()}, expected (height, width) of each of the '
                         f'{len(x)} images, at most {grid}')
    return Padding(sizes.to(x.device), grid)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
