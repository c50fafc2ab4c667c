"""VMamba's mixer against the same thing written out, one token after the other."""
import pytest
import torch
from torch.nn import functional as F

from mmvssd.models.layers import SS2D, Padding
from mmvssd.models.layers.ss2d import PATTERNS

ROWS, COLUMNS = (0, False), (1, False)
ROWS_REVERSED, COLUMNS_REVERSED = (0, True), (1, True)
SEQUENCES = {
    'cross': [ROWS, COLUMNS, ROWS_REVERSED, COLUMNS_REVERSED],
    'unidirectional': [ROWS] * 4,
    'bidirectional': [ROWS, ROWS, ROWS_REVERSED, ROWS_REVERSED],
}


def make_mixer(**options):
    """In float64, with every parameter at random: nothing is neutral by chance."""
    torch.manual_seed(0)
    mixer = SS2D(20, **options).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer


def scan(mixer, k, tokens):
    """Run sequence k over a list of tokens (D,), by the paper's recurrence; (D,) of each."""
    R, S, D = mixer.dt_rank, mixer.d_state, mixer.d_inner
    channels = slice(k * D, (k + 1) * D)
    A = -mixer.A_logs[channels].exp()  # (D, S)
    state, outputs = A.new_zeros(D, S), []
    for u in tokens:
        dt, B, C = (mixer.x_proj_weight[k] @ u).split([R, S, S])
        z = mixer.dt_projs_weight[k] @ dt + mixer.dt_projs_bias[k]
        delta = torch.logaddexp(z, torch.zeros_like(z))
        state = (delta[:, None] * A).exp() * state + (delta * u)[:, None] * B
        outputs.append(state @ C + mixer.Ds[channels] * u)
    return outputs


def scan_places(mixer, k, x, places, reverse, y):
    """Run sequence k over some places (row, column) of a grid (H, W, D); add its outputs to y."""
    places = places[::-1] if reverse else places
    for place, output in zip(places, scan(mixer, k, [x[place] for place in places])):
        y[place] += output


def rows_or_columns(x, columns):
    """Places of each row, or of each column."""
    H, W = x.shape[:2]
    if columns:
        return [[(i, j) for i in range(H)] for j in range(W)]
    return [[(i, j) for j in range(W)] for i in range(H)]


def scans(mixer, x):
    """All scans of one grid (H, W, D), added up."""
    if mixer.pattern != 'cascade':
        y = torch.zeros_like(x)
        for k, (columns, reverse) in enumerate(SEQUENCES[mixer.pattern]):
            places = [place for line in rows_or_columns(x, columns) for place in line]
            scan_places(mixer, k, x, places, reverse, y)
        return y
    for columns, pair in ((False, (0, 1)), (True, (2, 3))):
        x, y = F.layer_norm(x, x.shape[-1:]), torch.zeros_like(x)
        for line in rows_or_columns(x, columns):
            for k, reverse in zip(pair, (False, True)):
                scan_places(mixer, k, x, line, reverse, y)
        x = y
    return x


def written_out(mixer, x):
    """(H, W, C) -> (H, W, C)."""
    x = x @ mixer.in_proj.weight.T
    x, z = x.split(mixer.d_inner, -1) if mixer.gated else (x, None)
    if mixer.conv is not None:
        x = F.conv2d(x.permute(2, 0, 1)[None], mixer.conv.weight, mixer.conv.bias, padding=1,
                     groups=mixer.d_inner)[0].permute(1, 2, 0)
    y = mixer.norm(scans(mixer, F.silu(x)))
    if mixer.gated:
        y = y * F.silu(z)
    return y @ mixer.out_proj.weight.T


@pytest.mark.parametrize('options', [
    dict(), dict(d_state=3, gated=True, conv_bias=True), dict(ssm_ratio=1, d_state=2),
    dict(d_state=2, gated=True, conv=False), dict(conv=False)], ids=str)
@pytest.mark.parametrize('pattern', PATTERNS)
def test_against_the_recurrence(pattern, options):
    mixer = make_mixer(pattern=pattern, **options)
    x = torch.randn(2, 3, 4, 20, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([written_out(mixer, grid) for grid in x])
        torch.testing.assert_close(mixer(x), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('conv', [dict(conv_bias=True), dict(conv=False)], ids=str)
@pytest.mark.parametrize('pattern', PATTERNS)
def test_gradients_against_the_recurrence(pattern, conv):
    mixer = make_mixer(pattern=pattern, d_state=2, gated=True, **conv)
    x = torch.randn(2, 3, 4, 20, dtype=torch.float64, requires_grad=True)
    inputs = [x, *mixer.parameters()]
    expected = torch.stack([written_out(mixer, grid) for grid in x])
    weights = torch.randn_like(expected)
    given = torch.autograd.grad((mixer(x) * weights).sum(), inputs)
    for gradient, wanted in zip(given, torch.autograd.grad((expected * weights).sum(), inputs)):
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('conv', [True, False])
@pytest.mark.parametrize('pattern', PATTERNS)
def test_padding_counts_as_absent(pattern, conv):
    """Whatever it holds, and however steps, inputs and outputs of it would look."""
    mixer = make_mixer(pattern=pattern, d_state=2, conv=conv)
    sizes = [(3, 2), (2, 5), (4, 5)]
    x = torch.randn(3, 4, 5, 20, dtype=torch.float64)
    with torch.no_grad():
        y = mixer(x, Padding(torch.tensor(sizes), (4, 5)))
        for given, grid, (H, W) in zip(y, x, sizes):
            torch.testing.assert_close(given[:H, :W], written_out(mixer, grid[:H, :W]),
                                       rtol=1e-11, atol=1e-11)


def test_half_precision_scans_in_float32():
    """Sums and states of half-precision tokens are float32; the result is their dtype again."""
    torch.manual_seed(0)
    mixer = SS2D(16)
    scanned = []
    mixer.norm.register_forward_hook(lambda module, args, output: scanned.append(args[0].dtype))
    op = mixer.op
    mixer.op = lambda *args, **kwargs: scanned.append(op(*args, **kwargs)) or scanned[-1]
    y = mixer.bfloat16()(torch.randn(1, 3, 4, 16, dtype=torch.bfloat16))
    assert y.dtype == scanned[1] == torch.bfloat16
    assert scanned[0].dtype == torch.float32
