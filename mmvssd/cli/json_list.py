"""A list of JSON that grows in a file."""
import json
import os
from pathlib import Path
from typing import List, Tuple

from mmvssd.errors import DataError
from mmvssd.files import write_whole

_END = '\n]'
#: What every list with an entry begins with, without blanks.
_BEGIN = b'[{"image":'
#: Bytes of a file that is read only to say what it holds.
READ = 2**26


class JsonList:
    """Append to a JSON list in a file, which holds a whole list after every entry.

    A file that is there is replaced by the first entry, not before. If an entry cannot be
    written, as on a full disk, those before it stay.

    Args:
        file: Its path, in a folder that is there.

    Attributes:
        length: Entries so far.
        mended: Whether the list that was continued had been cut off.
    """

    def __init__(self, file: Path):
        self.file = file
        self.length = 0
        self.mended = False
        self._size = 0  # in bytes, without the list's end

    def resume(self) -> List[dict]:
        """Continue the list that is in the file, and return its entries.

        If the file was cut off in the midst of an entry, as by a machine that stopped, it is
        mended: this entry is lost.

        Raises:
            OSError: It cannot be mended.
            DataError: The file cannot be read, or has no list of entries in it.
        """
        try:
            text = self.file.read_bytes().decode('ascii', 'replace')
        except OSError as error:
            raise DataError(f'{self.file}: cannot be read ({error.strerror})') from error
        if not text.strip('\0\n '):  # it was made, and its content never came to the disk
            return []
        entries, size = _whole_entries(text)
        if not text.startswith('[') or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f'{self.file}: is not a list of predictions, so it is not continued; '
                            'name another folder')
        self.length, self._size = len(entries), size
        self.mended = text[size:].strip() != ']'
        with open(self.file, 'r+b', buffering=0) as file:
            _write_at(file.fileno(), _END.encode(), size)
            file.truncate(size + len(_END))
        return entries

    def former(self) -> List[dict]:
        """Return the entries of the file that the first entry replaces; none if it has no list.

        Nor of a file above :data:`READ`: it would take minutes, for a note.
        """
        try:
            if self.file.stat().st_size > READ:
                return []
            text = self.file.read_bytes().decode('ascii', 'replace')
        except OSError:
            return []
        entries = _whole_entries(text)[0] if text.startswith('[') else []
        return [entry for entry in entries if isinstance(entry, dict)]

    def is_foreign(self) -> bool:
        """Tell whether the file is something else than a list of predictions, by its start.

        A file without content, or that was cut off, may be one. What cannot be read is left to
        who writes.
        """
        try:
            with open(self.file, 'rb') as file:
                start = b''.join(file.read(256).strip(b'\0').split())
        except OSError:
            return False
        begun = min(len(start), len(_BEGIN))
        return start != b'[]' and start[:begun] != _BEGIN[:begun]

    def append(self, entry: dict) -> None:
        """Add an entry.

        Raises:
            OSError: It cannot be written.
            DataError: It holds a number that is not finite, which JSON does not have.
        """
        try:
            text = json.dumps([entry], indent=1, allow_nan=False).removesuffix(_END)
        except ValueError as error:
            raise DataError('its prediction holds numbers that are not finite; try the checkpoint '
                            'on other images, and look at the log of its training') from error
        if self.length == 0:
            write_whole(self.file, text + _END)
            self._size = len(text.encode())
        else:
            self._extend(f',{text.removeprefix("[")}'.encode())
        self.length += 1

    def _extend(self, content: bytes) -> None:
        with open(self.file, 'r+b', buffering=0) as file:
            try:
                _write_at(file.fileno(), content + _END.encode(), self._size)
            except OSError:
                _write_at(file.fileno(), _END.encode(), self._size)  # in the place that it had
                file.truncate(self._size + len(_END))
                raise
        self._size += len(content)


def _whole_entries(text: str) -> Tuple[List, int]:
    """Return the entries of a list that may be cut off, and where the last whole one ends."""
    decoder, entries, end = json.JSONDecoder(), [], len('[')
    while True:
        start = end
        while text[start:start + 1] in tuple(', \n\r\t'):
            start += 1
        try:
            entry, end = decoder.raw_decode(text, start)
        except ValueError:  # the list's own end, or where it was cut off
            return entries, end
        entries.append(entry)


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    while content:  # a disk that fills up takes a part
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written
