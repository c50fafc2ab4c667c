"""A checkpoint file is looked into before it is loaded: states, sizes, and what it unpacks to."""
import codecs
import io
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler

from mmvssd.compat import checkpoint_contents
from mmvssd.compat.checkpoint_contents import RefusedError, inspect


class Call:
    """Is written as a call: of a function, with arguments, and a state that is set afterwards."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


RECONSTRUCT = np._core.multiarray._reconstruct if hasattr(np, '_core') else None
SCALAR = np._core.multiarray.scalar if hasattr(np, '_core') else None
STATE = (3, '<', None, None, None, -1, -1, 0)


def dtype(name='f8', state=STATE):
    return Call(np.dtype, name, False, True, state=state)


def array(kind, shape=(2, ), content=b'\0' * 16, version=1):
    return Call(RECONSTRUCT, np.ndarray, (0, ), b'b', state=(version, shape, kind, False, content))


FORGED = dict(
    other_flags=dtype(state=(3, '<', None, None, None, -1, -1, 63)),
    part_of_an_array=dtype(state=(3, '<', (np.dtype('f8'), (1000, )), None, None, -1, -1, 0)),
    fields=dtype(state=(3, '<', None, ('a', ), {'a': (np.dtype('f8'), 0)}, -1, -1, 0)),
    size=dtype(state=(3, '<', None, None, None, 4000, 8, 0)),
    metadata=dtype(state=(4, '<', None, None, None, -1, -1, 0, {})),
    other_order=dtype(state=(3, '>', None, None, None, -1, -1, 0)),
    objects=dtype('O8', (3, '|', None, None, None, -1, -1, 63)),
    structure=np.dtype([('a', 'O')]),
    no_copy=Call(np.dtype, 'f8', False, False, state=STATE),
    array_of_objects=np.array([1, {}], dtype=object),
    array_too_short=array(dtype(), content=b'\0' * 8),
    array_too_long=array(dtype(), content=b'\0' * 24),
    array_of_negative_size=array(dtype(), (-2, ), b''),
    array_of_what_is_no_dtype=array('f8'),
    array_of_another_version=array(dtype(), version=2),
    array_of_a_subclass=Call(RECONSTRUCT, np.memmap, (0, ), b'b'),
    array_made_at_once=Call(np.ndarray, (2**20, )),
    number_too_short=Call(SCALAR, dtype(), b'\0'),
    number_of_objects=Call(SCALAR, np.dtype('O'), [1]),
    history_with_another_method=Call(HistoryBuffer, state={'_statistics_methods': dict(mean=eval)}),
    history_of_nothing=Call(HistoryBuffer, state=[1]),
    another_encoding=Call(codecs.encode, 'text', 'rot13'),
    scheduler_that_is_made=Call(OneCycleParamScheduler, None, 'lr'),
)


def save(folder, value, **options):
    torch.save(dict(state_dict=dict(weight=torch.arange(4.)), value=value), folder / 'x.pth',
               **options)
    return folder / 'x.pth'


@pytest.mark.parametrize('name', FORGED)
@pytest.mark.parametrize('zipped', [True, False])
def test_states_that_numpy_does_not_write(tmp_path, name, zipped):
    file = save(tmp_path, FORGED[name], _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError, match=rf'{file}: (holds a|calls |encodes )'):
        torch.load(file)


def memory(names):
    """An archive whose pickle is given as bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for name, text in names.items():
            archive.writestr(name, text)
    content.seek(0)
    return content


def test_a_length_is_no_reason_to_take_memory():
    tracemalloc.start()
    size = (2**34).to_bytes(8, 'little')
    for opcode in (pickle.BYTEARRAY8, pickle.BINBYTES8, pickle.BINUNICODE8):
        with pytest.raises(RefusedError):
            inspect(memory({'x/data.pkl': b'\x80\x05' + opcode + size + b'.'}))
    # lists that hold one another, which written out are terabytes
    nested = b']\x94' + b''.join(b'](h%ch%ce\x94' % (i, i) for i in range(40))
    with pytest.raises(RefusedError):
        inspect(memory({'x/data.pkl': b'\x80\x04cnumpy\ndtype\n(' + nested + b'\x89\x88tR.'}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_a_program_in_any_folder():
    program = {'a/constants.pkl': b'', 'b/data.pkl': pickle.dumps({})}
    with pytest.raises(RefusedError, match='a TorchScript archive'):
        inspect(memory(program))


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('protocol', [2, 4])
def test_what_numpy_and_mmengine_write_comes_back(tmp_path, zipped, protocol):
    history = HistoryBuffer()
    history.update(1.5)
    kept = dict(history=history, half=np.float32(0.5), flag=np.bool_(True),
                grid=np.arange(6, dtype=np.int64).reshape(2, 3).T, order=OrderedDict(a=1))
    if protocol == 4 and torch.__version__ < (2, 7):
        pytest.skip('this PyTorch reads no other protocol')
    file = save(tmp_path, kept, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    try:
        loaded = torch.load(file)['value']
    except pickle.UnpicklingError as error:
        assert (protocol, 'Unsupported operand' in str(error.__context__)) == (4, True)  # noqa: PT017
        return
    assert loaded['history'].current() == 1.5
    assert loaded['half'] == np.float32(0.5)
    assert type(loaded['grid']) is np.ndarray
    np.testing.assert_array_equal(loaded['grid'], kept['grid'])
    assert inspect(file).value['value']['order'] == dict(a=1)


def repacked(file, change=lambda name, content: content, compression=zipfile.ZIP_DEFLATED,
             more=()):
    """Write an archive anew, with its entries changed and more of them."""
    stream = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(stream, 'w', compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, content in more:
            new.writestr(name, content)
    file.write_bytes(stream.getvalue())
    return file


def test_a_compressed_checkpoint_is_as_good(tmp_path):
    file = save(tmp_path, torch.randn(100, 100))
    before = torch.load(file)['value']
    assert torch.equal(torch.load(repacked(file))['value'], before)


def test_archives_that_unpack_to_far_more(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_contents, 'UNPACKED_BYTES', 2**20)
    file = repacked(save(tmp_path, torch.zeros(2**20)))
    with pytest.raises(RefusedError, match=r'unpacks from [\d,]+ bytes to 4,19'):
        inspect(file)
    file = repacked(save(tmp_path, 0), more=[('x/data/9', b'\0' * 2**21)])
    with pytest.raises(RefusedError, match='unpacks from'):
        inspect(file)


def test_a_storage_that_no_tensor_needs(tmp_path):
    """Of a compressed archive; as it is saved, a part of a larger tensor brings that with it."""
    file = save(tmp_path, torch.randn(1000)[:2])
    assert torch.load(file)['value'].shape == (2, )
    with pytest.raises(RefusedError, match='unpacks to 4,000 bytes, of which its tensors need 8'):
        inspect(repacked(file))


def test_a_storage_of_another_size_than_its_data(tmp_path):
    file = repacked(save(tmp_path, 0), lambda name, content: (
        content[:8] if name.endswith('data/0') else content), zipfile.ZIP_STORED)
    with pytest.raises(RefusedError, match='data/0 has 8 bytes, and is said to have 16'):
        inspect(file)


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('name', ['x/data.pkl', 'x/DATA.PKL', 'y/data.pkl'])
def test_two_pickles(tmp_path, name):
    """PyTorch might read the one that was not looked at."""
    file = repacked(save(tmp_path, 0), more=[(name, b'')])
    with pytest.raises(RefusedError, match='two of its entries|2 entries named data.pkl'):
        inspect(file)


class Harmful:
    """Its unpickling makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f'touch {self.marker}', )


def test_nothing_runs_and_no_advice_is_passed_on(tmp_path):
    file = save(tmp_path, Harmful(tmp_path / 'marker'))
    assert 'posix.system' in inspect(file).names
    with pytest.raises(pickle.UnpicklingError) as raised:
        torch.load(file)
    assert 'posix.system' in str(raised.value)
    assert 'weights_only' not in str(raised.value)
    assert 'safe_globals' not in str(raised.value)
    assert not (tmp_path / 'marker').exists()
    torch.load(file, weights_only=False)  # whoever asks for it: the check above is not idle
    assert (tmp_path / 'marker').exists()


def test_the_position_of_an_open_file_stays(tmp_path):
    file = save(tmp_path, 1)
    with open(file, 'rb') as stream:
        inspect(stream)
        assert stream.tell() == 0
        assert torch.load(stream)['value'] == 1
