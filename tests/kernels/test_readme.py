"""What the README of the ops shows runs, and prints what it says."""
import re
from pathlib import Path

from mmvssd_kernels import dispatch

README = Path(__file__).resolve().parents[2] / 'kernels' / 'README.md'


def test_an_implementation_of_one_s_own(capsys):
    block, = (text for text in re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)
              if 'dispatch.register' in text)
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
