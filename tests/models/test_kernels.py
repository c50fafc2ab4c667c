"""Backbones whose ops run as Triton kernels; without a GPU on tiny images, interpreted."""
import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from mmvssd.families import FAMILIES

pytest.importorskip('triton')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
variants = pytest.mark.parametrize('variant', [*FAMILIES, *(
    pytest.param(name, marks=pytest.mark.slow) for name in ('iccv2025', 'causal', 'v0'))],
                                   indirect=True)


@pytest.fixture(autouse=True)
def kernels(gpu_arithmetic, monkeypatch):
    monkeypatch.setenv('MMVSSD_KERNEL', 'triton')
    # on a GPU, as accurate as the reference
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


def make_image():
    return torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def make_model(variant, **options):
    """A block a stage: interpreted, each takes its time."""
    torch.manual_seed(0)
    variant = variant._replace(arch=dict(variant.arch, depths=(1, 1, 1, 1)))
    return variant.build(drop_path_rate=0, norm_eval=True, **options).to(DEVICE).train()


def train(model, image):
    """Outputs, and gradients of all parameters by name."""
    outputs = model(image)
    sum(output.square().mean() for output in outputs).backward()
    return outputs, {name: p.grad for name, p in model.named_parameters()}


@pytest.fixture(scope='module')
def results():
    return {}


@pytest.fixture
def plain(variant, results):
    """What a variant gives as it is, by its kernels."""
    key = repr(variant)
    if key not in results:
        results[key] = train(make_model(variant), make_image())
    return results[key]


def assert_same(given, expected):
    for a, b in zip(given[0], expected[0]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for name, gradient in expected[1].items():
        scale = max(gradient.abs().max().item(), 1e-3)
        torch.testing.assert_close(given[1][name], gradient, rtol=1e-3, atol=1e-3 * scale)


@variants
def test_trains_as_with_the_reference(variant, plain, monkeypatch):
    monkeypatch.setenv('MMVSSD_KERNEL', 'reference')
    assert_same(plain, train(make_model(variant), make_image()))


@pytest.mark.slow
@variants
def test_compiles_as_one_graph(variant, plain):
    torch._dynamo.reset()
    compiled = make_model(variant)
    compiled.forward = torch.compile(compiled.forward, fullgraph=True, backend='aot_eager')
    assert_same(train(compiled, make_image()), plain)


@variants
def test_checkpointed_blocks_have_the_same_gradients(variant, plain):
    assert_same(train(make_model(variant, with_cp=True), make_image()), plain)


@pytest.fixture
def process_group(tmp_path):
    """A process group of this process alone."""
    backend = 'nccl' if DEVICE == 'cuda' else 'gloo'
    distributed.init_process_group(backend, f'file://{tmp_path}/group', rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@variants
def test_trains_as_one_of_many_processes(variant, plain, process_group):
    model = make_model(variant)
    given = train(DistributedDataParallel(model), make_image())
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    assert_same((given[0], gradients), plain)


@variants
def test_autocast_trains_with_finite_numbers(variant):
    with torch.autocast(DEVICE, torch.bfloat16):
        outputs, gradients = train(make_model(variant), make_image())
    assert all(output.isfinite().all() for output in outputs)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
