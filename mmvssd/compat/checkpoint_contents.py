"""What a checkpoint file is made of, found out before PyTorch loads it and without running it.

PyTorch's safe reader trusts three things of a file: states of objects of allowed classes, sizes of
storages, and sizes to which a compressed archive unpacks. This module checks all three. The file's
pickle is read with a stand-in for every class and function that it names.
"""
import io
import math
import os
import pickle
import re
import reprlib
import zipfile
from collections import OrderedDict, defaultdict
from contextlib import contextmanager
from typing import AbstractSet, Any, ClassVar, Dict, Iterator, List, NamedTuple, Set

#: An archive may unpack to this many times its own size, and to this many bytes whatever its size.
#: PyTorch compresses nothing; trained weights that were compressed shrink by a tenth.
UNPACKED_TIMES, UNPACKED_BYTES = 50, 64 * 2**20

_ZIP, _LEGACY_MAGIC = b'PK\x03\x04', 0x1950a86a20f9469cfc6c
_ITEM_BYTES = {'Double': 8, 'Float': 4, 'Half': 2, 'BFloat16': 2, 'Long': 8, 'Int': 4, 'Short': 2,
               'Char': 1, 'Byte': 1, 'Bool': 1, 'ComplexDouble': 16, 'ComplexFloat': 8,
               'Untyped': 1}
# a pickle keeps the path in the numpy that wrote it; numpy 2 moved the functions
_MULTIARRAY = re.compile(r'numpy\.(_core|core)\.multiarray\.(_reconstruct|scalar)')
#: Attributes of a dtype that is no structure, no part of an array, and holds no objects.
_DTYPE_STATE = (None, None, None, -1, -1, 0)


class Contents(NamedTuple):
    """What a checkpoint's pickle holds and names.

    Attributes:
        value: What it holds, with stand-ins for all that is not plain; None for another kind of
            file.
        names: Paths of the classes and functions that it would bring back.
    """

    value: Any = None
    names: AbstractSet[str] = frozenset()


class RefusedError(pickle.UnpicklingError):
    """A file is put together as no checkpoint is; nothing of it was run."""


def inspect(f) -> Contents:
    """Look into a checkpoint file that PyTorch's safe reader is to load.

    Args:
        f: A path, or a file that is open for reading; its position stays.

    Returns:
        What it holds; nothing for a file of another kind, of which PyTorch says what is wrong.

    Raises:
        RefusedError: An archive is damaged or unpacks to far more than its size. A storage has
            another size than its data. An object of numpy has a state that numpy gives to none.
        OSError: The file cannot be read.
    """
    with _opened(f) as file:
        start = file.tell()
        head = file.read(len(_ZIP))
        file.seek(start)
        return _of_archive(file) if head == _ZIP else _of_legacy_file(file)


@contextmanager
def _opened(f) -> Iterator[io.BufferedIOBase]:
    if isinstance(f, (str, os.PathLike)):
        with open(f, 'rb') as file:
            yield file
        return
    start = f.tell()
    try:
        yield f
    finally:
        f.seek(start)


def _of_archive(file) -> Contents:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise RefusedError(f'truncated or damaged ({error})') from error
    with archive:
        entries = {entry.filename.lower(): entry for entry in archive.infolist()}
        if len(entries) < len(archive.infolist()):  # PyTorch may read the other one of two
            raise RefusedError('two of its entries have one name')
        packed = file.seek(0, os.SEEK_END)
        unpacked = sum(entry.file_size for entry in entries.values())
        if unpacked > max(UNPACKED_BYTES, UNPACKED_TIMES * packed):
            raise RefusedError(f'unpacks from {packed:,} bytes to {unpacked:,}, as no weights do')
        pickles = [name for name in entries if name.rpartition('/')[2] == 'data.pkl']
        if len(pickles) != 1:
            raise RefusedError(f'an archive with {len(pickles)} entries named data.pkl; a '
                               'checkpoint of PyTorch has one')
        folder = pickles[0][:-len('data.pkl')]
        if any(name.rpartition('/')[2] == 'constants.pkl' for name in entries):
            raise RefusedError('a TorchScript archive, which is a program; save its state_dict() '
                               'instead')
        reader = _read(io.BytesIO(_content(archive, entries[pickles[0]])))
        _check_storages(reader, {name[len(f'{folder}data/'):]: entry
                                 for name, entry in entries.items()
                                 if name.startswith(f'{folder}data/')})
    return Contents(reader.value, reader.names)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > max(UNPACKED_BYTES, 4 * entry.compress_size):
        raise RefusedError(f'its {entry.filename} unpacks from {entry.compress_size:,} bytes to '
                           f'{entry.file_size:,}, as no names do')
    try:
        return archive.read(entry)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise RefusedError(f'truncated or damaged ({error})') from error


def _check_storages(reader: '_Reader', entries: Dict[str, zipfile.ZipInfo]) -> None:
    needed = reader.elements_needed()
    for key, (kind, length) in reader.storages.items():
        entry, size = entries.get(str(key).lower()), _ITEM_BYTES.get(kind.replace('Storage', ''))
        if entry is None or size is None:
            continue
        if entry.file_size != length * size:
            raise RefusedError(f'its {entry.filename} has {entry.file_size} bytes, '
                               f'and is said to have {length * size}')
        if (entry.compress_type != zipfile.ZIP_STORED and kind != 'UntypedStorage'
                and length > needed[key]):
            raise RefusedError(f'its {entry.filename} unpacks to {entry.file_size:,} bytes, '
                               f'of which its tensors need {needed[key] * size:,}')


def _of_legacy_file(file) -> Contents:
    """Read the contents of the format before PyTorch 1.6: four pickles, then the storages."""
    try:
        if _read(file).value != _LEGACY_MAGIC:
            return Contents()
    except Exception:  # another kind of file: anything may go wrong
        return Contents()
    for _ in ('protocol', 'byte order'):
        _read(file)
    reader = _read(file)
    return Contents(reader.value, reader.names)


def _read(file) -> '_Reader':
    reader = _Reader(file)
    try:
        reader.value = reader.load()
    except RefusedError:
        raise
    # what a pickle of other things than a checkpoint may do to the reader and its stand-ins
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError,
            ValueError, RecursionError, AssertionError) as error:
        raise RefusedError(f'its pickle cannot be read ({type(error).__name__}: {error})'
                           ) from error
    return reader


class _Inert:
    """Stands in for what a pickle names; calling it notes the arguments and runs nothing."""

    path = ''
    args: tuple
    key: str

    def __new__(cls, *args):
        made = object.__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args):
        self.check_call()

    def check_call(self) -> None:
        """Raise RefusedError for a call that no checkpoint makes."""

    def __call__(self, *args):
        return _Inert(*args)

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, name, value):
        """Take an entry, as classes of mappings do."""

    def append(self, value) -> None:
        """Take an element, as classes of lists do."""


class _NumpyDtype(_Inert):
    """A dtype of numbers as numpy writes it; which of them may come back is not decided here."""

    path = 'numpy.dtype'

    def check_call(self):
        """Take ``dtype(name, False, True)`` only."""
        if not (len(self.args) == 3 and isinstance(self.args[0], str)
                and re.fullmatch('b1|[iuf][1248]|c8|c16', self.args[0])
                and [bool(flag) for flag in self.args[1:]] == [False, True]):
            raise RefusedError('holds a numpy dtype that is not of numbers')

    def __setstate__(self, state):
        order = '|' if self.item_size == 1 else '<'
        if not (isinstance(state, tuple) and state == (3, order, *_DTYPE_STATE)):
            raise RefusedError('holds a dtype of numpy with a state that numpy gives to none: '
                               f'{reprlib.repr(state)}')
        super().__setstate__(state)

    @property
    def item_size(self) -> int:
        """Bytes of an element."""
        return int(self.args[0][1:])


class _NumpyArray(_Inert):
    """An array of numpy as numpy writes it: made empty, then filled by its state."""

    def check_call(self):
        """Take ``_reconstruct(ndarray, (0, ), b'b')`` only."""
        kind = self.args[0] if len(self.args) == 3 else None
        if getattr(kind, 'path', '') != 'numpy.ndarray' or self.args[1] != (0, ):
            raise RefusedError('holds an array of numpy that is made as numpy makes none')

    def __setstate__(self, state):
        try:
            version, shape, dtype, _, content = state
            fits = (version == 1 and all(type(size) is int and size >= 0 for size in shape)
                    and len(_bytes(content)) == math.prod(shape) * dtype.item_size)
        except (TypeError, ValueError, AttributeError):
            fits = False
        if not fits:
            raise RefusedError('holds an array of numpy with a state that numpy gives to none')
        super().__setstate__(state)


def _bytes(content):
    if isinstance(content, _Inert) and content.path.endswith('.bytes') and not content.args:
        return b''
    if isinstance(content, _Encoded):
        return content.content()
    return content if isinstance(content, bytes) else None


class _NumpyScalar(_Inert):
    """A number of numpy as numpy writes it."""

    def check_call(self):
        """Take ``scalar(dtype, bytes)`` only."""
        kind, content = self.args if len(self.args) == 2 else (None, None)
        if not isinstance(kind, _NumpyDtype) or len(_bytes(content)) != kind.item_size:
            raise RefusedError('holds a number of numpy that is made as numpy makes none')


class _Encoded(_Inert):
    """Bytes, which protocol 2 of pickle writes as a text and the call that encodes it."""

    path = '_codecs.encode'

    def check_call(self):
        """Take ``encode(text, 'latin1')`` only."""
        if len(self.args) != 2 or not isinstance(self.args[0], str) or self.args[1] != 'latin1':
            raise RefusedError('encodes a text as no checkpoint does')

    def content(self) -> bytes:
        """Return the bytes."""
        return self.args[0].encode('latin1')


class _HistoryBuffer(_Inert):
    """A history of MMEngine's, whose statistics are methods of its own."""

    def __setstate__(self, state):
        statistics = state.get('_statistics_methods', {}) if isinstance(state, dict) else None
        if not isinstance(statistics, dict) or any(
                getattr(method, 'path', '').rpartition('.')[2] != 'getattr'
                for method in statistics.values()):
            raise RefusedError('holds a HistoryBuffer with a state that MMEngine gives to none')
        super().__setstate__(state)


class _OnlyNamed(_Inert):
    """A class that may be named, and is never called."""

    def check_call(self):
        """Refuse every call."""
        raise RefusedError(f'calls {self.path}, which no checkpoint does')


_CLASSES = ((r'numpy\.(ndarray|dtype.+)', _OnlyNamed),
            (r'mmengine\..*\.OneCycleParamScheduler', _OnlyNamed),
            (r'mmengine\..*\.HistoryBuffer', _HistoryBuffer), (r'_codecs\.encode', _Encoded))


def _stand_in(path: str) -> type:
    function = _MULTIARRAY.fullmatch(path)
    if function:
        base = {'_reconstruct': _NumpyArray, 'scalar': _NumpyScalar}[function[2]]
    elif path == _NumpyDtype.path:
        base = _NumpyDtype
    else:
        base = next((base for pattern, base in _CLASSES if re.fullmatch(pattern, path)), _Inert)
    return type('StandIn', (base, ), dict(path=path))


class _Reader(pickle._Unpickler):  # the one in C makes a list as long as a file's largest index
    def __init__(self, file):
        super().__init__(file, fix_imports=False, encoding='latin1')
        self.value = None
        self.names: Set[str] = set()
        self.storages: Dict[str, tuple] = {}
        self._tensors: List[_Inert] = []

    def load_bytearray8(self):
        """Refuse what would take the memory of a length before its bytes are looked for."""
        raise RefusedError('holds an array of bytes, which no checkpoint does')

    dispatch: ClassVar[Any] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: load_bytearray8}

    def find_class(self, module, name):
        """Return a stand-in; a dict that keeps its order is one itself."""
        path = f'{module}.{name}'
        self.names.add(path)
        if path == 'collections.OrderedDict':
            return OrderedDict
        stand_in: Any = _stand_in(path)
        if path.startswith('torch._utils._rebuild_tensor'):
            stand_in.check_call = lambda tensor: self._tensors.append(tensor)
        return stand_in

    def persistent_load(self, pid):
        """Note a storage: its kind and its number of elements."""
        if pid[0] != 'storage':
            return _Inert()
        kind, key, length = pid[1], pid[2], pid[4]
        self.storages[key] = getattr(kind, 'path', str(kind)).rpartition('.')[2], length
        storage = _Inert()
        storage.key = key
        return storage

    def elements_needed(self) -> Dict[str, int]:
        """Return how many elements of each storage are a tensor's."""
        needed: Dict[Any, int] = defaultdict(int)
        for tensor in self._tensors:
            storage, offset, sizes, strides = tensor.args[:4]
            key = getattr(storage, 'key', None)
            last = sum((size - 1) * stride for size, stride in zip(sizes, strides))
            needed[key] = max(needed[key], 0 if 0 in sizes else offset + last + 1)
        return needed
