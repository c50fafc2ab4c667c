"""What is timed: every op at the shapes that the published models give it.

Axes are those of :mod:`mmvssd_kernels.description`; H W is the grid of a stage.
"""
import math
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mmvssd_kernels.description import Description, Input, description_of, shape
from mmvssd_kernels.numerics import sum_dtype
from mmvssd_kernels.parity import Case


def _vssd(C: int, heads: Sequence[int], states: Sequence[int], expansion: int) -> list:
    """Return the widths of the stages with a state-space mixer; the last stage has attention."""
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
#: Inputs that the models split from one tensor: what their last axes hold lies side by side there.
SPLIT = {
    'nc_ssd': ('x', 'B', 'C'),
    'ssd': ('x', 'B', 'C'),
    'selective_scan_2d': ('dt', 'B', 'C'),
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
        """Read ``BATCHxHEIGHTxWIDTH``, or raise ValueError."""
        numbers = text.split('x')
        if len(numbers) != 3 or not all(n.isdigit() and int(n) for n in numbers):
            raise ValueError(f'images: got {text!r}, expected BATCHxHEIGHTxWIDTH, such as '
                             '128x224x224')
        return cls(*map(int, numbers))


#: Training a classifier, and a detector's images.
IMAGES = (Images(128, 224, 224), Images(2, 800, 1333))


class ModelCase(Case):
    """Arguments as the models have them: some are float32 beside half tokens."""

    def cast(self, dtype: torch.dtype, device='cpu') -> Dict[str, Optional[Tensor]]:
        """The tensors as leaves on a device."""
        inputs = description_of(self.op).inputs
        return {name: None if t is None
                else t.to(device, _input_dtype(inputs[name], dtype)).requires_grad_()
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
        if self.model == 'vssd-tiny-iccv2025':
            return dict(normalize=True, grid=(self.sizes['H'], self.sizes['W']))
        return self.description.options(self.sizes)

    @property
    def description(self) -> Description:
        """What the op takes and gives."""
        return description_of(self.op)

    def on_grid(self, batch: int, grid: Tuple[int, int]) -> 'Workload':
        """Return the same op and widths, on another batch and grid."""
        H, W = grid
        return self._replace(sizes=dict(self.sizes, N=batch, H=H, W=W, L=H * W))

    def case(self, seed: int = 0) -> Case:
        """Draw arguments for a check of the op."""
        return ModelCase(self.op, self.description.tensors(seed, **self.sizes), self.options)

    def inputs(self, dtype: torch.dtype, device: str) -> Dict[str, Tensor]:
        """Draw arguments where they are used, as leaves that take gradients.

        They lie in memory as the models' do: some are views of one tensor.
        """
        random = torch.Generator(device).manual_seed(0)
        inputs = self._empty(dtype, device)
        with torch.no_grad():
            for name, t in inputs.items():
                t.copy_(self.description.inputs[name].draw(self.sizes, random, t.dtype))
        return inputs

    def inputs_without_memory(self, dtype: torch.dtype) -> Dict[str, Tensor]:
        """Return such leaves on the meta device."""
        return self._empty(dtype, 'meta')

    def _empty(self, dtype: torch.dtype, device: str) -> Dict[str, Tensor]:
        inputs = self.description.inputs
        split = {name: inputs[name].axes.split() for name in SPLIT.get(self.op, ())}
        views = self._views(split, dtype, device) if split else {}
        return {name: (views[name] if name in views else torch.empty(
                    shape(one.axes, self.sizes), dtype=_input_dtype(one, dtype), device=device)
                       ).requires_grad_() for name, one in inputs.items()}

    def _views(self, axes: Dict[str, List[str]], dtype: torch.dtype,
               device: str) -> Dict[str, Tensor]:
        """Return tensors that are parts of one, behind the axes that they have in common."""
        common = [letters[0] for letters in zip(*axes.values()) if len({*letters}) == 1]
        shapes = [[self.sizes[axis] for axis in letters] for letters in axes.values()]
        widths = [math.prod(one[len(common):]) for one in shapes]
        whole = torch.empty((*shapes[0][:len(common)], sum(widths)), dtype=dtype, device=device)
        parts = whole.split(widths, dim=-1)
        return {name: part.view(one) for name, part, one in zip(axes, parts, shapes)}

    def output_gradient(self, dtype: torch.dtype, device: str) -> Tensor:
        """Draw a gradient of the op's output."""
        return Input(self.description.output).draw(
            self.sizes, torch.Generator(device).manual_seed(1),
            _output_dtype(self.description, dtype))

    def least_bytes(self, dtype: torch.dtype, backward: bool) -> int:
        """Return the bytes that must move between the chip and its memory.

        Forward reads each input once and writes the output once. Backward reads the output's
        gradient once and each input once again (not if the op is linear), and writes a gradient
        for each input. What lies between may stay on the chip, so this is a floor, not what an
        implementation moves.
        """
        op = self.description
        inputs = sum(_bytes(shape(one.axes, self.sizes), _input_dtype(one, dtype))
                     for one in op.inputs.values())
        output = _bytes(shape(op.output, self.sizes), _output_dtype(op, dtype))
        forward = inputs + output
        if not backward:
            return forward
        return forward + output + inputs + (0 if op.linear else inputs)


def _bytes(shape: Tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _input_dtype(one: Input, dtype: torch.dtype) -> torch.dtype:
    return sum_dtype(dtype) if one.is_wide else dtype


def _output_dtype(op: Description, dtype: torch.dtype) -> torch.dtype:
    return sum_dtype(dtype) if op.widens else dtype


def stage_grid(images: Images, stage: int) -> Tuple[int, int]:
    """Return the grid of a stage: the stem halves a side twice, each downsample once more."""
    height, width = images.height, images.width
    for _ in range(2 + stage):  # 3x3, stride 2, padding 1
        height, width = (height - 1) // 2 + 1, (width - 1) // 2 + 1
    return height, width


def workloads(images: Sequence[Images] = IMAGES) -> Iterator[Workload]:
    """Yield all that is timed, op by op."""
    for op, models in USERS.items():
        for model in models:
            for batch in images:
                for stage, widths in enumerate(MODELS[model]):
                    yield Workload(op, model, stage, batch, widths).on_grid(
                        batch.batch, stage_grid(batch, stage))
