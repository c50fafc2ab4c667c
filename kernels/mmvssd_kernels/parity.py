"""How far an implementation is from the truth, beside how far PyTorch itself is.

The truth is the reference in float64, computed from the same rounded inputs; PyTorch itself is the
reference in the dtype at hand. An implementation may have twice its error, in the output and in
every gradient; :class:`Error` says how it is measured.
"""
import contextlib
from typing import Dict, Iterator, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

import mmvssd_kernels
from mmvssd_kernels.description import description_of

#: Results of fewer numbers, such as parameters' gradients, say little about eager's error, which
#: may be small by luck: they are held to its largest error in all results of the case.
FEW = 32


#: Errors that any implementation may have: half is rounded once, float32 a few times on the way,
#: and the truth has errors of float64 itself.
LEAST = {
    torch.float64: 1e-12,
    torch.float32: torch.finfo(torch.float32).eps,
    torch.bfloat16: torch.finfo(torch.bfloat16).eps / 2,
    torch.float16: torch.finfo(torch.float16).eps / 2,
}


class Case(NamedTuple):
    """Arguments of an op: tensors in float64 (or bool) by name, and its other options."""

    op: str
    tensors: Dict[str, Optional[Tensor]]
    options: dict = {}

    @classmethod
    def example(cls, op: str, seed: int = 0, **sizes: int) -> 'Case':
        """Draw the example of the op's description, with ``sizes`` in the place of some of it."""
        description = description_of(op)
        return cls(op, description.tensors(seed, **sizes),
                   description.options(description.whole_sizes(**sizes)))

    def cast(self, dtype: torch.dtype, device='cpu') -> Dict[str, Optional[Tensor]]:
        """Return the tensors as leaves on a device, all floats in one dtype."""
        return {name: t if t is None else t.to(device) if t.dtype == torch.bool
                else t.to(device, dtype).requires_grad_() for name, t in self.tensors.items()}

    def run(self, tensors: Dict[str, Optional[Tensor]], impl: str) -> Tensor:
        """Compute the op's output."""
        return getattr(mmvssd_kernels, self.op)(**tensors, **self.options, impl=impl)


class Error(NamedTuple):
    """Deviation of an implementation from the truth, and of eager PyTorch.

    ``own`` and ``eager`` are norms as a share of the truth's norm, ``own_peak`` and ``eager_peak``
    the largest deviations as a share of the truth's largest value. A single largest deviation is
    a matter of luck, so twice eager's is allowed of norms, and four times of peaks. ``least`` is
    what either may always be: eager may be exact by luck, as over one token.
    """

    own: float
    eager: float
    own_peak: float
    eager_peak: float
    least: float

    @property
    def is_too_large(self) -> bool:
        # so that NaN is
        return not (self.own <= 2 * max(self.eager, self.least)
                    and self.own_peak <= 4 * max(self.eager_peak, self.least))


def results(case: Case, tensors: Dict[str, Optional[Tensor]], impl: str) -> Dict[str, Tensor]:
    """Return the output 'y' and, by the name of their input, the gradients of a sum of it."""
    y = case.run(tensors, impl)
    leaves = {name: t for name, t in tensors.items() if t is not None and t.requires_grad}
    # every output has a weight of its own, the same in each dtype up to rounding
    weights = torch.arange(y.numel(), dtype=torch.float64, device=y.device).cos().view(y.shape)
    weights = weights.bfloat16().to(y.dtype)
    gradients = torch.autograd.grad(y, list(leaves.values()), weights)
    return {'y': y.detach(), **dict(zip(leaves, gradients))}


def errors(cases: Union[Case, Sequence[Case]], dtype: torch.dtype, device='cpu',
           impl: str = 'triton') -> Dict[str, Error]:
    """Return errors of an implementation by the name of the result, see :func:`results`.

    Of several cases, which should be draws of one kind, each error is the largest: a single draw
    may by luck be kind to either side.
    """
    each = [_errors(case, dtype, device, impl)
            for case in ([cases] if isinstance(cases, Case) else cases)]
    return {name: _largest([one[name] for one in each]) for name in each[0]}


def _largest(errors: Sequence[Error]) -> Error:
    # a tensor's maximum is NaN where one number is
    return Error(*torch.tensor(errors, dtype=torch.float64).max(0).values.tolist())


def _errors(case: Case, dtype: torch.dtype, device, impl: str) -> Dict[str, Error]:
    tensors = case.cast(dtype, device)
    exact = {name: t.detach().double().requires_grad_() if t is not None and t.requires_grad else t
             for name, t in tensors.items()}
    with _float32_products():
        truth = results(case, exact, 'reference')
        eager = results(case, tensors, 'reference')
        own = results(case, tensors, impl)
    found = {name: _error(own[name], eager[name], true) for name, true in truth.items()}
    worst = _largest(list(found.values()))
    return {name: error._replace(eager=worst.eager, eager_peak=worst.eager_peak)
            if truth[name].numel() < FEW else error for name, error in found.items()}


def _error(own: Tensor, eager: Tensor, truth: Tensor) -> Error:
    if own.shape != eager.shape or own.dtype != eager.dtype:
        return Error(float('inf'), 0.0, float('inf'), 0.0, 0.0)
    if truth.numel() == 0:
        return Error(*[0.0] * 5)
    least = LEAST[own.dtype]
    # the last digit of a smaller number is none that float32 holds on a GPU, which makes it 0
    tiny = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps
    deviations = [t.double() - truth for t in (own, eager)]
    norms = [(d.norm() / truth.norm().clamp(min=tiny)).item() for d in deviations]
    peaks = [(d.abs().max() / truth.abs().max().clamp(min=tiny)).item() for d in deviations]
    return Error(norms[0], norms[1], peaks[0], peaks[1], least)


@contextlib.contextmanager
def _float32_products() -> Iterator[None]:
    """Make products of float32 as accurate as float32 is, whatever the user allows."""
    if hasattr(torch.backends.cuda.matmul, 'fp32_precision'):
        # from PyTorch 2.9 on; the older getter raises once the newer setting was used
        backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
        before = [backend.fp32_precision for backend in backends]
        for backend in backends:
            backend.fp32_precision = 'ieee'
        try:
            yield
        finally:
            for backend, precision in zip(backends, before):
                backend.fp32_precision = precision
        return
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(allowed)


def failures(cases: Union[Case, Sequence[Case]], dtype: torch.dtype, device='cpu',
             impl: str = 'triton') -> Tuple[str, ...]:
    """Return one line for each result whose error is too large; see :func:`errors`."""
    return tuple(
        f'{name}: error {error.own:.2e}, at most {error.own_peak:.2e}; of eager {error.eager:.2e}, '
        f'at most {error.eager_peak:.2e}'
        for name, error in errors(cases, dtype, device, impl).items() if error.is_too_large)
