"""What the README of the ops shows runs, and prints what it says."""
import re
from pathlib import Path

from mmvssd_kernels import dispatch

README = Path(__file__).resolve().parents[2] / 'kernels' / 'README.md'


def blocks():
    return re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)


def test_the_first_call():
    """Each op is called as shown, with gradients, and gives the shape beside the call."""
    names, seen, first = {}, {}, blocks()[0]
    for op in dispatch.ops():
        assert re.search(rf'\by = {op}\(', first), op
    sizes = dict(N=2, H=14, W=10, L=140, h=4, P=32, C=32, D=32, K=4)
    for statement in re.split(r'\n(?! )', first):
        exec(statement, names)
        for shape in re.findall(r'# (\(.*?\))', statement):
            seen[statement] = shape
            assert tuple(names['y'].shape) == eval(shape, {}, sizes), statement
    assert len(seen) == 5
    assert names['x'].grad.isfinite().all()


def test_an_implementation_of_one_s_own(capsys):
    block, = (text for text in blocks() if 'dispatch.register' in text)
    try:
        exec(compile(block, str(README), 'exec'), {})
    finally:
        if 'loop' in dispatch.names('ssd'):
            dispatch.unregister('ssd', 'loop')
    assert capsys.readouterr().out.splitlines() == re.findall(r'print\(.*\)  # (.*)', block)


def test_every_op_and_implementation_is_named():
    text = README.read_text()
    for op in dispatch.ops():
        names = ', '.join(f'`{name}`' for name in reversed(dispatch.names(op)))
        assert re.search(rf'\n\| `{op}` \| .* \| {names} \|', text), op
