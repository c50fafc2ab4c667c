"""The Triton kernels in a CUDA graph: recorded once, replayed on other numbers."""
import pytest
import torch

from mmvssd_kernels import dispatch
from mmvssd_kernels.parity import Case, results

OPS = [op for op in dispatch.ops() if 'triton' in dispatch.names(op)]


@pytest.fixture
def device():
    if not torch.cuda.is_available():
        pytest.skip('a CUDA graph needs a GPU, and there is none')
    return 'cuda'


def record(step):
    """Record what a step launches; return the graph, and what the step returned."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()  # compiles, which no graph may
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        returned = step()
    return graph, returned


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('op', OPS)
def test_a_replay_is_a_call(op, dtype, device):
    """Output and gradients of a replay are, bit for bit, those of a call on the same numbers."""
    recorded, other = (Case.example(op, seed=seed) for seed in (0, 1))
    held = recorded.cast(dtype, device)
    graph, replayed = record(lambda: results(recorded, held, 'triton'))
    numbers = other.cast(dtype, device)
    with torch.no_grad():
        for name, tensor in held.items():
            if tensor is not None:
                tensor.copy_(numbers[name])
    graph.replay()
    called = results(other, numbers, 'triton')
    assert list(replayed) == list(called)
    for name, result in called.items():
        assert torch.equal(replayed[name], result), name
