"""Triton's interpreter, made quicker where it does a thing again and again."""
import dataclasses

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
    core, semantic = (pytest.importorskip(f'triton.language.{name}')
                      for name in ('core', 'semantic'))
    if (hasattr(semantic, 'TritonSemantic')
            and isinstance(core.block_type(core.float32, [1]).shape, getattr(core, 'tuple', ()))):
        # an older Triton has other names
        share_shapes(monkeypatch, core, semantic)
        agree_at_once(monkeypatch, core, semantic)


def share_shapes(monkeypatch, core, semantic):
    """Let tensors of a shape have it as one object: to make and compare shapes takes longest."""
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


def agree_at_once(monkeypatch, core, semantic):
    """Pass over what two operands are converted to where it is what they are.

    Operands of one dtype need no conversion, and a number takes its tensor's dtype. Each constant
    is made once, read-only. Everything else goes the interpreter's way.
    """
    unwrap, same_dtype = core._unwrap_if_constexpr, core.dtype.__eq__
    agree = semantic.TritonSemantic.binary_op_type_checking_impl
    constant = semantic.TritonSemantic.scalar_constant
    # a half is divided in float32, and a whole number may be too large for a shorter integer
    floats = {id(dtype) for dtype in (core.float32, core.float64)}
    integers = {id(dtype) for dtype in (core.int32, core.int64)}
    alike = floats | integers
    plain, constants = {core.tensor, core.dtype, int, float, bool, str, type(None)}, {}

    def dtypes_are_equal(self, other):
        return self is other or same_dtype(self, other)

    def scalar_constant(self, value, dtype):
        key = value, dtype.name
        if key not in constants:
            constants[key] = constant(self, value, dtype)
            constants[key].handle.data.flags.writeable = False
        return constants[key]

    def takes(dtype, number):
        return ((id(dtype) in floats and type(number) in (int, float))
                or (id(dtype) in integers and type(number) is int and -2**31 <= number < 2**31))

    def operands(self, lhs, rhs, *args, **options):
        kinds = type(lhs), type(rhs)
        if kinds == (core.tensor, core.tensor):
            if lhs.dtype is rhs.dtype and id(lhs.dtype) in alike:
                return self.broadcast_impl_value(lhs, rhs)
        elif kinds[0] is core.tensor and takes(lhs.dtype, rhs):
            return self.broadcast_impl_value(lhs, self.scalar_constant(rhs, lhs.dtype))
        elif kinds[1] is core.tensor and takes(rhs.dtype, lhs):
            return self.broadcast_impl_value(self.scalar_constant(lhs, rhs.dtype), rhs)
        return agree(self, lhs, rhs, *args, **options)

    monkeypatch.setattr(core, '_unwrap_if_constexpr',
                        lambda o: o if type(o) in plain else unwrap(o))
    monkeypatch.setattr(core.dtype, '__eq__', dtypes_are_equal)
    monkeypatch.setattr(semantic.TritonSemantic, 'scalar_constant', scalar_constant)
    monkeypatch.setattr(semantic.TritonSemantic, 'binary_op_type_checking_impl', operands)
