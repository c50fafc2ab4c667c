"""Files that are taken for checkpoints and are none, told by how they begin."""
import re
from pathlib import Path
from typing import Optional

_HEAD = 512  # bytes that are looked at

#: What stands in the place of a file that Git LFS has not fetched.
LFS_POINTER = 'a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`'

#: How files begin that end up under a checkpoint's name, and what is to be said of them.
KINDS = (
    (rb'version https://git-lfs', LFS_POINTER),
    (rb'\s*<(!doctype|html|\?xml)', 'a page of a web site, not a checkpoint; the address may need '
                                    'a login, or be that of a page with a download button'),
    (rb'\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd|Rar!', 'a compressed archive; unpack it, '
                                                                 'and name the file in it'),
    (rb'.{8}\{\s*"', 'a safetensors file; load it with safetensors.torch.load_file and save that '
                     'with torch.save'),
    (rb'\x89HDF', 'an HDF5 file, not a checkpoint of PyTorch'),
    (rb'\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\0\0\0\0|II\*\0|MM\0\*', 'an image, not a checkpoint'),
    (rb'%PDF', 'a PDF, not a checkpoint'),
    (rb'\s*[{\[]', 'a text such as JSON, not a checkpoint of PyTorch'),
)


def kind_of(path: Path) -> Optional[str]:
    """Say what a file is, as the rest of the sentence "It is ..."; None if it may be a checkpoint.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, 'rb') as file:
        head = file.read(_HEAD)
    if not head:
        return 'empty; writing or copying it was cut short'
    for pattern, kind in KINDS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return kind
    if b'\0' not in head and all(byte >= 32 or byte in b'\t\r\n' for byte in head):
        return 'a text, not a checkpoint of PyTorch'
    return None
