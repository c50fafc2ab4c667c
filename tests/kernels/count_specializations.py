"""Counts what grids of many sizes compile, for a GPU that need not be there.

    python count_specializations.py    (without TRITON_INTERPRET)

Runs the models' ops at each stage, forward and backward, on CPU tensors that lie as the models'
do. Each launch is replaced by looking at what Triton would compile it for. Prints one line for each
kernel: op, model, stage, name, number of specializations.
"""
from collections import defaultdict

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

import mmvssd_kernels
from mmvssd_kernels import triton_support
from mmvssd_kernels.benchmark.workloads import Images, stage_grid, workloads

#: Sides that hosts pad images to, in patches of the last stage: odd, even, multiples of 8 and 16.
SIDES = [(7, 9), (8, 9), (9, 8), (8, 8), (3, 13), (4, 16), (5, 4), (6, 5)]
#: What the models cut from one projection, by op.
PROJECTED = {'selective_scan_2d': ('dt', 'B', 'C')}


class Counter:
    """Takes the place of launches."""

    def __init__(self) -> None:
        self.backend = make_backend(GPUTarget('cuda', 90, 32))
        self.found = defaultdict(set)

    def run(self, function, args, options) -> None:
        bind = create_function_from_signature(function.signature, function.params, self.backend)
        options = dict(options, debug=False, instrumentation_mode='')
        bound, specialization, rest = bind(*args, **options)
        _, *compiled_for = function._pack_args(self.backend, options, bound, specialization, rest)
        self.found[function.__name__].add(str(compiled_for))


def inputs_of(work):
    inputs = {name: t.detach() for name, t in work.inputs(torch.bfloat16, 'cpu').items()}
    names = PROJECTED.get(work.op, ())
    if names:
        sizes = [inputs[name].shape[-1] for name in names]
        whole = inputs[names[0]].new_zeros(*inputs[names[0]].shape[:-1], sum(sizes))
        inputs.update(zip(names, whole.split(sizes, -1)))
    return {name: t.requires_grad_() for name, t in inputs.items()}


def main() -> None:
    triton_support.obstacle = lambda x: None
    triton_support.capability = lambda device: (9, 0)
    for work in workloads([Images(2, 224, 224)]):
        # sides that are multiples of 16 make the accesses of these wide
        if work.op.startswith('cross_'):
            continue
        counter = Counter()
        JITFunction.run = lambda self, *args, grid, warmup, **options: counter.run(  # noqa: B023
            self, args, options)
        for rows, columns in SIDES:
            image = Images(2, 32 * rows, 32 * columns)
            sized = work.on_grid(2, stage_grid(image, work.stage))
            inputs = inputs_of(sized)
            y = getattr(mmvssd_kernels, work.op)(**inputs, **sized.options, impl='triton')
            torch.autograd.grad(y, list(inputs.values()), torch.zeros_like(y))
        for name, keys in counter.found.items():
            print(work.op, work.model, work.stage, name, len(keys), flush=True)


if __name__ == '__main__':
    main()
