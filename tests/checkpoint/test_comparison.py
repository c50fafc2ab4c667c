"""Values that are no weights, of whatever kind, and values that are."""
import pytest
import torch
from torch import nn

from mmvssd.checkpoint import compare, read_checkpoint, require_fit
from mmvssd.errors import CheckpointError
from mmvssd.families import FAMILIES
from mmvssd.models import VSSD

NANO = FAMILIES['vssd'].nano

BAD_VALUES = dict(
    nan=(lambda value: value * float('nan'), '2 of 2 values are not finite'),
    infinite=(lambda value: value.fill_(float('inf')), '2 of 2 values are not finite'),
    meta=(lambda value: value.to('meta'), 'a shape without values'),
    sparse=(lambda value: value.to_sparse(), 'a sparse tensor'),
    whole=(lambda value: value.long(), r'whole numbers \(torch.int64\), expected torch.float32'),
    truth=(lambda value: value > 0, r'truth values \(torch.bool\), expected torch.float32'),
    complex=(lambda value: value.to(torch.complex64), 'complex numbers'),
    expanded=(lambda value: torch.zeros(1).expand(2**40), 'expected \\(1, 2\\)'))


@pytest.mark.parametrize('name', BAD_VALUES)
def test_values_that_are_no_weights(name, tmp_path):
    change, message = BAD_VALUES[name]
    model = nn.Linear(2, 1)
    state = dict(model.state_dict(), weight=change(model.weight.detach().clone()))
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    kind = 'of another shape' if name == 'expanded' else 'unusable'
    with pytest.raises(CheckpointError, match=f'1 {kind}: weight: .*{message}'):
        require_fit('x.pth', read_checkpoint(tmp_path / 'x.pth'), model)
    if name in ('nan', 'infinite'):  # a model that has loaded them
        model.load_state_dict(state)
        with pytest.raises(CheckpointError, match=message):
            require_fit('x.pth', read_checkpoint(tmp_path / 'x.pth'), model)


DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)},
                key=str)
QUANTIZED = [dtype for dtype in DTYPES if 'torch.q' in str(dtype)]


def as_kind(value, dtype):
    """Return values as another kind; of a kind that nothing converts to, some of that shape."""
    if dtype in QUANTIZED:
        return torch.empty(value.shape, dtype=dtype)
    try:
        return value.to(dtype)
    except RuntimeError:
        return torch.empty(value.shape, dtype=dtype)


@pytest.mark.filterwarnings('ignore')  # of kinds that PyTorch means to give up
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_every_kind_of_values(dtype):
    """What PyTorch can copy into the weights is taken; the rest is named, in whatever kind."""
    model = nn.Linear(2, 1)
    given = as_kind(torch.ones(1, 2), dtype)
    state = dict(model.state_dict(), weight=given)
    packed = dtype.is_floating_point and dtype.itemsize == 1 and 'float8' not in str(dtype)
    if dtype.is_floating_point and not packed:
        require_fit('x.pth', dict(state_dict=state), model)
        model.load_state_dict(state)
        assert model.weight.tolist() == [[1, 1]]
        return
    with pytest.raises(CheckpointError, match=f'1 unusable: weight: .*{dtype}'):
        require_fit('x.pth', dict(state_dict=state), model)


@pytest.mark.parametrize('dtype', [dtype for dtype in DTYPES if 'float8' in str(dtype)], ids=str)
def test_eight_bits_that_are_no_number(dtype):
    model = nn.Linear(2, 1)
    state = dict(model.state_dict(), weight=torch.full((1, 2), float('nan')).to(dtype))
    with pytest.raises(CheckpointError, match='weight: 2 of 2 values are not finite'):
        require_fit('x.pth', dict(state_dict=state), model)


def test_a_model_of_its_own_kinds():
    """Weights that a model keeps in a kind of its own are its own."""
    kinds = [dtype for dtype in DTYPES if dtype not in QUANTIZED]
    state = {str(number): as_kind(torch.ones(2), dtype) for number, dtype in enumerate(kinds)}
    assert not any(compare(state, state))


NOT_TENSORS = dict(list=lambda value: value.tolist(), ndarray=lambda value: value.numpy(),
                   NoneType=lambda value: None, dict=lambda value: dict(data=value))


@pytest.mark.parametrize('name', NOT_TENSORS)
def test_values_that_are_no_tensors(name, saved, load):
    """They are called what they are, and not missing; counts beside plain weights are no matter."""
    kind = 'None' if name == 'NoneType' else f'of type {name}'
    model = nn.Linear(2, 1)
    state = dict(model.state_dict(), epoch=3, optimizer={0: torch.ones(1)})
    require_fit('x.pth', state, model)
    state['weight'] = NOT_TENSORS[name](model.weight.detach().clone())
    with pytest.raises(CheckpointError, match=rf'model\n  1 unusable: weight: {kind}, expected a'):
        require_fit('x.pth', state, model)
    with pytest.raises(CheckpointError, match='model\n  1 unknown: other\n  1 unusable: w'):
        require_fit('x.pth', dict(state, other=torch.ones(1)), model)
    state = VSSD(NANO).state_dict()
    first = next(iter(state))
    state[first] = NOT_TENSORS[name](state[first])
    with pytest.raises(CheckpointError, match=rf'VSSD\n  1 unusable: .*: {kind}, expected a'):
        load(saved(state))


def test_values_that_may_be_otherwise():
    """Half precision; a mask that is infinite by design; a count that was averaged."""
    model = nn.BatchNorm1d(2)
    model.register_buffer('mask', torch.tensor([0, -float('inf')]))
    state = dict(model.state_dict(), weight=model.weight.detach().bfloat16(),
                 num_batches_tracked=torch.tensor(3.))
    require_fit('x.pth', dict(state_dict=state), model)
    assert not any(compare(state, model.state_dict()))
