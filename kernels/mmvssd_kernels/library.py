"""Python functions as PyTorch operators that ``torch.compile`` takes as they are."""
import functools
import importlib
import itertools
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Callable, Dict, Tuple, Type

import torch
from torch.autograd import forward_ad

from mmvssd_kernels.compile_ahead import CompiledAhead

_library = torch.library.Library('mmvssd_kernels', 'DEF')
#: Operators with a gradient in the form that the transforms of ``torch.func`` take.
_functions: Dict[str, Type[torch.autograd.Function]] = {}
#: The same for calls that nothing watches, which need no operator.
_unwatched: Dict[str, Type[torch.autograd.Function]] = {}
#: What operators run, and the same on its first argument's device and without autocast.
_bodies: Dict[str, Any] = {}
_isolated_bodies: Dict[str, Callable] = {}
#: By operators whose gradient launches kernels: how many of their arguments are tensors, and it.
_gradients: Dict[str, Tuple[int, CompiledAhead]] = {}


def exporting() -> bool:
    """Tell whether ``torch.export``, and thus the ONNX exporter, traces what runs now."""
    if hasattr(torch.compiler, 'is_exporting'):
        return torch.compiler.is_exporting()
    # PyTorch before 2.7 knows only compiling; a strict export looks there like torch.compile
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def open_sizes() -> AbstractContextManager:
    """Keep sizes that an export left open as they are, within a ``with`` block.

    PyTorch compares strides to find layouts, and takes what it finds at the sizes of the example
    for a condition of the program. Later versions have a setting against that. A strict export
    traces Python itself and cannot take it; its programs may be tied to the example's sizes.
    """
    if not exporting() or torch.compiler.is_dynamo_compiling():
        return nullcontext()
    config = importlib.import_module('torch.fx.experimental._config')
    if not hasattr(config, 'backed_size_oblivious'):
        return nullcontext()
    return config.patch(backed_size_oblivious=True)


def operator(schema: str, fake: Callable) -> Callable[[Callable], Callable]:
    """Return a decorator that makes a function an operator ``torch.ops.mmvssd_kernels.NAME``.

    Tracers see one node, even if the function loops over a number of steps that depends on sizes,
    or launches kernels. It runs on its first argument's device, and autocast does not reach what it
    calls. Its gradient is what :func:`register_gradient` gives it; then :func:`call` runs it.

    Args:
        schema: The operator's name, arguments (the first a tensor) and results.
        fake: Takes the same arguments and gives results of the right shape, dtype and device.
    """

    def register(function: Callable) -> Callable:
        name = _library.define(schema)
        _bodies[name], _isolated_bodies[name] = function, _isolated(function)
        _library.impl(name, _isolated_bodies[name], 'CompositeExplicitAutograd')
        torch.library.register_fake(f'mmvssd_kernels::{name}', fake)
        return getattr(torch.ops.mmvssd_kernels, name)

    return register


def body(name: str) -> Callable:
    """Return the function that an operator runs."""
    return _bodies[name]


def _isolated(function: Callable) -> Callable:
    @functools.wraps(function)
    def run(first, *others):
        # to enter contexts takes longer than to ask whether there is a need
        elsewhere = first.is_cuda and first.device.index != torch.cuda.current_device()
        if not elsewhere and not torch.is_autocast_enabled(first.device.type):
            return function(first, *others)
        with (torch.cuda.device(first.device) if elsewhere else nullcontext(),
              torch.autocast(first.device.type, enabled=False)):
            return function(first, *others)

    return run


def register_gradient(name: str, save: Callable, backward: Callable) -> None:
    """Give an operator its gradient.

    Args:
        name: The operator's name.
        save: ``save(ctx, inputs, output)`` keeps what backward needs, as
            ``torch.library.register_autograd`` has it.
        backward: ``backward(ctx, *gradients)`` gives one gradient, or None, for each input.
    """
    torch.library.register_autograd(f'mmvssd_kernels::{name}', backward, setup_context=save,
                                    lib=_library)
    operator, body = getattr(torch.ops.mmvssd_kernels, name), _isolated_bodies[name]

    def forward(ctx, *inputs):
        output = body(*inputs)
        save(ctx, inputs, output)
        return output

    _unwatched[name] = type(name, (torch.autograd.Function, ), dict(
        forward=staticmethod(forward), backward=staticmethod(backward)))
    _functions[name] = type(name, (torch.autograd.Function, ), dict(
        forward=staticmethod(lambda *inputs: operator(*inputs)), setup_context=staticmethod(save),
        backward=staticmethod(backward), generate_vmap_rule=True,
        jvp=staticmethod(lambda ctx, *tangents: _refuse_forward_mode(name))))


def call(name: str, *inputs):
    """Run an operator with a gradient, also within ``torch.func.grad`` and ``torch.func.vmap``.

    Under ``vmap`` it runs once for each element.

    Raises:
        NotImplementedError: In forward mode, in which PyTorch would leave the tangents out.
    """
    operator = getattr(torch.ops.mmvssd_kernels, name)
    if torch.compiler.is_compiling():
        return operator(*inputs)
    if torch._C._are_functorch_transforms_active():
        return _functions[name].apply(*inputs)
    # without a level of forward mode, no tensor has a tangent, and to look for it takes a while
    if forward_ad._current_level >= 0 and any(
            isinstance(t, torch.Tensor) and forward_ad.unpack_dual(t).tangent is not None
            for t in inputs):
        _refuse_forward_mode(name)
    if _watched(inputs):
        output = operator(*inputs)
    elif torch.is_grad_enabled() and any(
            isinstance(t, torch.Tensor) and t.requires_grad for t in inputs):
        output = _unwatched[name].apply(*inputs)
    else:
        output = _isolated_bodies[name](*inputs)
    if name in _gradients:
        _start_gradient(name, inputs, output)
    return output


#: Types of arguments that are no one's own tensors.
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter, type(None), bool, int, str, list, tuple,
                    torch.Size})


def _watched(inputs: tuple) -> bool:
    """Tell whether a tracer, a mode, a profiler or a tensor of a kind of its own sees operators.

    So do tensors on the meta device, which only have shapes. If nothing does, PyTorch's way through
    an operator and its gradient takes time and adds nothing.
    """
    if (inputs[0].is_meta or torch._C._len_torch_dispatch_stack() > 0
            or torch._C._len_torch_function_stack() > 0 or torch.autograd._profiler_enabled()
            or torch.jit.is_tracing() or not _PLAIN.issuperset(map(type, inputs))):
        return True
    return any(_is_wrapped(t) for t in inputs if isinstance(t, torch.Tensor))


def _is_wrapped(t: torch.Tensor) -> bool:
    """Tell whether PyTorch's dispatcher makes of a tensor what a kernel can read."""
    return (t.is_neg() or torch._is_functional_tensor(t)
            or torch._C._functorch.is_legacy_batchedtensor(t))


def _start_gradient(name: str, inputs: tuple, output: tuple) -> None:
    """Start to compile what the gradient launches, if there will be one."""
    tensors, gradient = _gradients[name]
    y, *kept = output if isinstance(output, tuple) else (output, )
    # and y is not one that is traced
    if y.requires_grad and type(y) is torch.Tensor and _bodies[name].wants_gradient(*inputs):
        gradient.start(y, *inputs[:tensors], *kept, *inputs[tensors:])


def _refuse_forward_mode(name: str) -> None:
    raise NotImplementedError(
        f'{name} has no derivative in forward mode (jvp, jacfwd, hessian): take vjp or jacrev')


def register_backward(name: str, tensors: int) -> None:
    """Give an operator the gradient that the operator ``NAME_backward`` computes, and that none.

    The operator gives an output y, and may give more tensors, kept for backward. That takes
    ``(dy, *tensors, *kept, *options)``, the operator's own arguments among them, and gives the
    gradients of the first tensors. Those that it leaves out, or that are absent, have none.

    Args:
        name: The operator's name.
        tensors: How many of its arguments, the first ones, are tensors; the others are options.
    """
    def save(ctx, inputs, output):
        kept = output[1:] if isinstance(output, tuple) else ()
        ctx.options = inputs[tensors:]
        ctx.save_for_backward(*inputs[:tensors], *kept)
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)

    def differentiate(ctx, dy, *_):
        if dy is None:
            return (None, ) * (tensors + len(ctx.options))
        saved = ctx.saved_tensors
        given = itertools.zip_longest(
            saved[:tensors], call(f'{name}_backward', dy, *saved, *ctx.options))
        return (*(None if t is None else gradient for t, gradient in given),
                *[None] * len(ctx.options))

    register_gradient(name, save, differentiate)
    gradient = _bodies[f'{name}_backward']
    if isinstance(gradient, CompiledAhead):
        _gradients[name] = tensors, gradient
    _register_no_gradient(f'{name}_backward')


def _register_no_gradient(name: str) -> None:
    """Make differentiating an operator an error: what is itself a gradient has none."""

    def refuse(ctx, *gradients):
        raise RuntimeError(f'{name} has no gradient: the op can be differentiated once. Of nc_ssd '
                           "and ssd, impl='reference' can be differentiated again.")

    register_gradient(name, lambda ctx, inputs, output: None, refuse)
