"""Triton's interpreter, made quicker where it does a thing again and again."""
import dataclasses

import numpy as np
import pytest


def forget_nothing(monkeypatch):
    """Let the interpreter look once for what it looks for in each operation: half of its time.

    A launch puts functions of its own in the place of the language's, as the module of the kernel
    sees it. Each call of a jit function by another does it again; for each module once is enough.
    """
    interpreter = pytest.importorskip('triton.runtime.interpreter')
    launch, modules = interpreter.GridExecutor.__call__, set()

    def start(self, *args, **kwargs):
        modules.clear()
        return launch(self, *args, **kwargs)

    def call(self, *args, **kwargs):
        if self.fn.__module__ not in modules:
            interpreter._patch_lang(self.fn)
            modules.add(self.fn.__module__)
        # Triton 3.0 runs a function as it is written
        function = self.rewrite() if hasattr(self, 'rewrite') else self.fn
        return function(*args, **kwargs)

    monkeypatch.setattr(interpreter.GridExecutor, '__call__', start)
    monkeypatch.setattr(interpreter.InterpretedFunction, '__call__', call)
    numpy_dtype, found = interpreter._get_np_dtype, {}

    def cached(dtype):
        name = dtype.scalar.name
        if name not in found:
            found[name] = numpy_dtype(dtype)
        return found[name]

    monkeypatch.setattr(interpreter, '_get_np_dtype', cached)
    options = interpreter.interpreter_builder.options
    if getattr(options, 'sanitize_overflow', False) and not options.debug:
        # each sum of integers is computed once more for an assertion, which is then not made
        monkeypatch.setattr(interpreter.interpreter_builder, 'options',
                            dataclasses.replace(options, sanitize_overflow=False))
    share_shapes(monkeypatch)


def share_shapes(monkeypatch):
    """Let tensors of a shape have it as one object: to make and compare shapes takes longest."""
    core, semantic = (pytest.importorskip(f'triton.language.{name}')
                      for name in ('core', 'semantic'))
    if not (hasattr(semantic, 'TritonSemantic')
            and isinstance(core.block_type(core.float32, [1]).shape, getattr(core, 'tuple', ()))):
        return  # an older Triton, which has other names
    make_type, equal = core.block_type.__init__, core.tuple.__eq__
    broadcast = semantic.TritonSemantic.broadcast_impl_value
    known, of_tensors, same = {}, {}, core.constexpr(True)

    def init_type(self, element_ty, shape):
        numbers = tuple(getattr(side, 'value', side) for side in shape)
        if numbers not in known:
            make_type(self, element_ty, shape)
            known[numbers] = self.shape, self.numel, str(self.shape)
            of_tensors[id(self.shape)] = (core.constexpr(self.numel),
                                          core.tuple([core.constexpr(n) for n in numbers]))
        self.element_ty = element_ty
        self.shape, self.numel, shown = known[numbers]
        self.name = f'<{shown}, {element_ty}>'

    def init_tensor(self, handle, type):
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.numel, self.shape = of_tensors[id(type.shape)] if type.is_block() else scalar

    def broadcast_shapes(self, lhs, rhs):
        if lhs.type.is_block() and rhs.type.is_block() and lhs.type.shape is rhs.type.shape:
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    scalar = core.constexpr(1), core.tuple([])
    monkeypatch.setattr(core.block_type, '__init__', init_type)
    monkeypatch.setattr(core.tensor, '__init__', init_tensor)
    monkeypatch.setattr(core.tuple, '__eq__',
                        lambda self, other: same if self is other else equal(self, other))
    monkeypatch.setattr(semantic.TritonSemantic, 'broadcast_impl_value', broadcast_shapes)


def scan_in_parallel(monkeypatch):
    """Let the interpreter scan and sum as a GPU does, halves of a tile with halves.

    By itself it takes one number after the other: its rounding is another, and scans take minutes.
    Its float32 exponentials err to one side, which a recurrence adds up; here they are rounded.
    """
    interpreter = pytest.importorskip('triton.runtime.interpreter')

    def scan(self, tensors):
        types = [t.dtype for t in tensors]
        arrays = [t.handle.data for t in tensors]
        shape = [1] * arrays[0].ndim
        shape[self.axis] = -1
        place = np.arange(arrays[0].shape[self.axis]).reshape(shape)
        reach = 1
        while reach < place.size:
            before = [np.roll(a, reach, self.axis) for a in arrays]
            with np.errstate(all='ignore'):  # what was rolled around the end is dropped
                joined = self.combine_fn.fn(*map(self.to_tensor, before + arrays, types * 2))
            joined = (joined, ) if len(arrays) == 1 else joined
            arrays = [np.where(place < reach, a, t.handle.data) for a, t in zip(arrays, joined)]
            reach *= 2
        return list(map(self.to_tensor, arrays, types))

    def add(self, tensor):
        numbers = np.moveaxis(tensor.handle.data, self.axis, 0)
        while len(numbers) > 1:
            half = len(numbers) // 2
            numbers = numbers[:half] + numbers[half:]
        return self.to_tensor(numbers[0], tensor.dtype)

    def rounded(function):
        def compute(self, number):
            exact = function(number.data.astype(np.float64))
            return interpreter.TensorHandle(exact.astype(number.data.dtype), number.dtype.scalar)
        return compute

    def fused(self, a, b, c):  # a product and a sum, rounded once
        exact = a.data.astype(np.float64) * b.data + c.data
        return interpreter.TensorHandle(exact.astype(c.data.dtype), c.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, 'create_fma', fused)
    monkeypatch.setattr(interpreter.InterpreterBuilder, 'create_exp', rounded(np.exp))
    monkeypatch.setattr(interpreter.InterpreterBuilder, 'create_exp2', rounded(np.exp2))
    monkeypatch.setattr(interpreter.ScanOps, 'generic_scan', scan)
    monkeypatch.setattr(interpreter.ReduceOps, 'sum', add)
