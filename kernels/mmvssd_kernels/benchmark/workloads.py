"""What is timed: every op at the shapes that the published models give it.

Axes: N images, H W the grid of a stage, L = H W tokens, h heads of width P, G groups, state S; in
scans K sequences of D channels and R numbers that step sizes are made of.
"""
import math
from typing import Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mmvssd_kernels.parity import Case


class Input(NamedTuple):
    """An op's argument: its axes, and the limits that its numbers are drawn between, evenly.

    Without limits they are normal.
    """

    axes: str
    limits: Optional[Tuple[float, float]] = None


class Signature(NamedTuple):
    """An op's tensors. ``linear``: its gradient reads none of its inputs."""

    inputs: Dict[str, Input]
    output: str
    widens: bool = False  # gives float32 where inputs are narrower
    linear: bool = False


_DECAY = Input('KD S', (-16, -1))
_BIAS = Input('KD', (-7, -2))  # softplus makes it 0.001 to 0.1, as the models start
_SSD = Signature(dict(x=Input('N L h P'), dt=Input('N L h', (1e-3, 0.1)), A=Input('h', (-16, -1)),
                      B=Input('N L G S'), C=Input('N L G S'), D=Input('h')), 'N L h P')
SIGNATURES = {
    'nc_ssd': _SSD,
    'ssd': _SSD,
    'selective_scan': Signature(
        dict(u=Input('N KD L'), delta=Input('N KD L'), A=_DECAY, B=Input('N K S L'),
             C=Input('N K S L'), D=Input('KD'), delta_bias=_BIAS), 'N KD L', widens=True),
    'selective_scan_2d': Signature(
        dict(x=Input('N H W D'), dt=Input('N H W K R'), dt_weight=Input('K D R', (-0.2, 0.2)),
             A=_DECAY, B=Input('N H W K S'), C=Input('N H W K S'), D=Input('KD'), dt_bias=_BIAS),
        'N H W D', widens=True),
    'cross_scan': Signature(dict(x=Input('N D H W')), 'N K D L', linear=True),
    'cross_merge': Signature(dict(y=Input('N K D L')), 'N D H W', linear=True),
}


def _vssd(C: int, heads: Sequence[int], states: Sequence[int], expansion: int) -> list:
    """Widths of the stages with a state-space mixer; the last stage has attention."""
    return [dict(h=h, P=expansion * C * 2**i // h, G=1, S=S)
            for i, (h, S) in enumerate(zip(heads, states))]


def _vmamba(C: int, ratio: int, S: int) -> list:
    widths = [C * 2**i for i in range(4)]
    return [dict(K=4, D=ratio * d, KD=4 * ratio * d, R=math.ceil(d / 16), S=S) for d in widths]


#: Widths of each stage of a model.
MODELS = {
    'vssd-tiny': _vssd(64, (2, 4, 8), (64, 64, 64), 2),
    'vssd-tiny-iccv2025': _vssd(96, (4, 4, 8), (12, 24, 48), 1),
    'vmamba-tiny-s2l5': _vmamba(96, 2, 1),
}
#: The models whose shapes each op is timed at. ``ssd`` takes the place of ``nc_ssd`` in one.
USERS = {
    'nc_ssd': ('vssd-tiny', 'vssd-tiny-iccv2025'),
    'ssd': ('vssd-tiny', ),
    'selective_scan': ('vmamba-tiny-s2l5', ),
    'selective_scan_2d': ('vmamba-tiny-s2l5', ),
    'cross_scan': ('vmamba-tiny-s2l5', ),
    'cross_merge': ('vmamba-tiny-s2l5', ),
}


class Images(NamedTuple):
    """A batch of images: how many, and their sides."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return 'x'.join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> 'Images':
        """Read ``BATCHxHEIGHTxWIDTH``; ValueError where it is none."""
        numbers = text.split('x')
        if len(numbers) != 3 or not all(n.isdigit() and int(n) for n in numbers):
            raise ValueError(f'images: got {text!r}, expected BATCHxHEIGHTxWIDTH, such as '
                             '128x224x224')
        return cls(*map(int, numbers))


#: Training a classifier, and a detector's images.
IMAGES = (Images(128, 224, 224), Images(2, 800, 1333))


class ModelCase(Case):
    """Arguments as the models have them: parameters are float32 beside half tokens."""

    def cast(self, dtype: torch.dtype, device='cpu') -> Dict[str, Optional[Tensor]]:
        """The tensors as leaves on a device."""
        inputs = SIGNATURES[self.op].inputs
        return {name: t.to(device, _input_dtype(inputs[name].axes, dtype)).requires_grad_()
                for name, t in self.tensors.items()}


class Workload(NamedTuple):
    """An op at a stage of a model."""

    op: str
    model: str
    stage: int
    images: Images
    sizes: Dict[str, int]

    @property
    def name(self) -> str:
        """Where the shape comes from, such as ``vssd-tiny:0:128x224x224``."""
        return f'{self.model}:{self.stage}:{self.images}'

    @property
    def options(self) -> dict:
        """The op's arguments that are no tensors."""
        grid = (self.sizes['H'], self.sizes['W'])
        if self.op == 'cross_merge':
            return dict(grid=grid)
        return dict(normalize=True, grid=grid) if self.model == 'vssd-tiny-iccv2025' else {}

    def shape(self, axes: str) -> Tuple[int, ...]:
        """Sizes of axes that are given by their letters."""
        return tuple(self.sizes[axis] for axis in axes.split())

    def on_grid(self, batch: int, grid: Tuple[int, int]) -> 'Workload':
        """The same op and widths, on another batch and grid."""
        H, W = grid
        return self._replace(sizes=dict(self.sizes, N=batch, H=H, W=W, L=H * W))

    def case(self, seed: int = 0) -> Case:
        """Random arguments for a check of the op."""
        random = torch.Generator().manual_seed(seed)
        tensors = {name: _draw(self.shape(spec.axes), spec.limits, random, torch.float64)
                   for name, spec in SIGNATURES[self.op].inputs.items()}
        return ModelCase(self.op, tensors, self.options)

    def inputs(self, dtype: torch.dtype, device: str) -> Dict[str, Tensor]:
        """Random arguments, drawn where they are used, as leaves that take gradients."""
        random = torch.Generator(device).manual_seed(0)
        return {name: _draw(self.shape(spec.axes), spec.limits, random,
                            _input_dtype(spec.axes, dtype)).requires_grad_()
                for name, spec in SIGNATURES[self.op].inputs.items()}

    def output_gradient(self, dtype: torch.dtype, device: str) -> Tensor:
        """A random gradient of the op's output."""
        signature = SIGNATURES[self.op]
        return _draw(self.shape(signature.output), None, torch.Generator(device).manual_seed(1),
                     _output_dtype(signature, dtype))

    def least_bytes(self, dtype: torch.dtype, backward: bool) -> int:
        """Bytes that must move between the chip and its memory.

        Forward reads each input once and writes the output once. Backward reads the output's
        gradient once and each input once again (not where the op is linear), and writes a gradient
        for each input. What lies between may stay on the chip, so this is a floor, not what an
        implementation moves.
        """
        signature = SIGNATURES[self.op]
        inputs = sum(_bytes(self.shape(spec.axes), _input_dtype(spec.axes, dtype))
                     for spec in signature.inputs.values())
        output = _bytes(self.shape(signature.output), _output_dtype(signature, dtype))
        forward = inputs + output
        if not backward:
            return forward
        return forward + output + inputs + (0 if signature.linear else inputs)


def _draw(shape: Tuple[int, ...], limits: Optional[Tuple[float, float]], random: torch.Generator,
          dtype: torch.dtype) -> Tensor:
    t = torch.empty(shape, dtype=dtype, device=random.device)
    return t.normal_(generator=random) if limits is None else t.uniform_(*limits,
                                                                         generator=random)


def _bytes(shape: Tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _input_dtype(axes: str, dtype: torch.dtype) -> torch.dtype:
    """Parameters are those with one or two axes."""
    return dtype if len(axes.split()) > 2 else torch.promote_types(dtype, torch.float32)


def _output_dtype(signature: Signature, dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if signature.widens else dtype


def stage_grid(images: Images, stage: int) -> Tuple[int, int]:
    """Grid of a stage: the stem halves a side twice, each downsample once more."""
    sides = images.height, images.width
    for _ in range(2 + stage):
        sides = tuple((side - 1) // 2 + 1 for side in sides)  # 3x3, stride 2, padding 1
    return sides


def workloads(images: Sequence[Images] = IMAGES) -> Iterator[Workload]:
    """All that is timed, op by op."""
    for op, models in USERS.items():
        for model in models:
            for batch in images:
                for stage, widths in enumerate(MODELS[model]):
                    yield Workload(op, model, stage, batch, widths).on_grid(
                        batch.batch, stage_grid(batch, stage))
