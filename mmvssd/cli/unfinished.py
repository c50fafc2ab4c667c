"""What was done of an image in tiles: kept beside the results until the image is finished."""
import base64
import json
import os
import time
import zlib
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from mmengine.logging import print_log

from mmvssd.cli.resuming import NAME, check_settings, file_digest, write_settings
from mmvssd.cli.tiles import BlendedLabels, Placed
from mmvssd.files import PARTIAL, strict_json, write_whole, written_whole

#: The folder's name, beside the JSON.
FOLDER = 'predictions.unfinished'
#: Files in it: which image it is of; what was found, a tile a line; the label map; its seams.
IMAGE, TILES, LABELS, SEAMS = 'image.json', 'tiles.jsonl', 'labels.bin', 'seams.npz'
#: Share of the time that may go into writing the seams down.
SHARE = 0.05


class Unfinished:
    """The folder of the image at hand.

    Args:
        out: Folder of the results.
        settings: What the predictions depend on.
        resume: Whether to go on with what is in the folder; else it is removed.

    Raises:
        ConfigError: It was made with other settings.
    """

    def __init__(self, out: Path, settings: Dict[str, object], resume: bool):
        self.folder, self.settings = out / FOLDER, settings
        if (self.folder / IMAGE).is_file() and resume:
            check_settings(self.folder, settings)
        else:
            self.remove()

    def begin(self, image: Path) -> None:
        """Go on with an image, or begin it anew if something else was at hand."""
        facts = dict(image=str(image), sha256=file_digest(image))
        if _read(self.folder / IMAGE) == facts:
            return
        self.remove()
        self.folder.mkdir()
        write_settings(self.folder, self.settings)
        write_whole(self.folder / IMAGE, strict_json(facts))  # last: now the folder counts

    def remove(self) -> None:
        """Remove the folder; what else may lie in it stays."""
        if not self.folder.is_dir():
            return
        (self.folder / IMAGE).unlink(missing_ok=True)  # first: the folder counts no more
        names = {NAME, TILES, LABELS, SEAMS}
        for file in self.folder.iterdir():
            if file.name in names or file.suffix == PARTIAL:
                file.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _read(file: Path) -> Optional[dict]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


class FoundTiles:
    """What was found in tiles, written down tile by tile.

    Args:
        file: The file.
        together: Tiles that run together: what was found in a part of them is found again, so
            that batches are the same.

    Attributes:
        tiles: The instances of each tile.
    """

    def __init__(self, file: Path, together: int = 1):
        self.file = file
        self.tiles: List[List[Placed]] = []
        lines = file.read_bytes().split(b'\n') if file.exists() else []
        for line in lines[:-1]:  # a whole one ends with a line break
            try:
                self.tiles.append([_instance(one) for one in json.loads(line)])
            except (ValueError, KeyError, TypeError, zlib.error):  # it was cut off there
                break
        del self.tiles[len(self.tiles) // together * together:]
        if lines:
            os.truncate(file, sum(len(line) + 1 for line in lines[:len(self.tiles)]))

    def add(self, found: Sequence[Placed]) -> None:
        """Add what was found in the next tile.

        Raises:
            OSError: It cannot be written.
        """
        self.tiles.append(list(found))
        with open(self.file, 'ab') as file:
            file.write(f'{json.dumps(list(map(_entry, found)))}\n'.encode())


def _entry(one: Placed) -> dict:
    entry = dict(one._asdict(), box=one.box.tolist())
    if one.mask is not None:
        bits = zlib.compress(np.packbits(one.mask).tobytes(), 1)
        entry['mask'] = [*one.mask.shape, base64.b64encode(bits).decode()]
    return entry


def _instance(entry: dict) -> Placed:
    mask = entry['mask']
    if mask is not None:
        height, width, text = mask
        bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
        mask = np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)
    left, top = entry['corner']
    return Placed(entry['label'], entry['score'], np.array(entry['box'], np.float64), (left, top),
                  mask)


def label_map_in(folder: Path, shape: Tuple[int, int], classes: int) -> np.memmap:
    """Return a label map (width, height) that lies in a folder, as it was left if it is there.

    Raises:
        OSError: There is no room for it.
    """
    file, (height, width) = folder / LABELS, shape
    dtype = np.dtype(np.uint8 if classes <= 256 else np.uint16)
    if not file.exists():
        (folder / SEAMS).unlink(missing_ok=True)  # they are of a map
    with open(file, 'r+b' if file.exists() else 'w+b') as content:
        # a hole in the file would end the process if the disk is full
        os.posix_fallocate(content.fileno(), 0, height * width * dtype.itemsize)
        return np.memmap(content, dtype, 'r+', shape=(width, height))


class KeptSeams:
    """Writes the seams of a label map down from time to time, and goes on with them.

    Args:
        file: The file.
        blended: The label map, in a file of its own.
    """

    def __init__(self, file: Path, blended: BlendedLabels):
        self.file, self.blended = file, blended
        self.next = 0.
        try:
            if file.exists():
                with np.load(file, allow_pickle=False) as seams:
                    blended.seams = dict(seams)
        except Exception as error:  # zipfile's and zlib's, of a file that was cut off
            print_log(f'{file}: cannot be read ({error}); the image begins anew', logger='current')

    def keep(self) -> None:
        """Write the seams down, unless that was done a short while ago.

        Raises:
            OSError: They cannot be written.
        """
        start = time.monotonic()
        if start < self.next:
            return
        self.blended.labels.flush()  # a machine may stop: seams are never ahead of their map
        with written_whole(self.file, durable=True) as partial, open(partial, 'wb') as content:
            np.savez(content, **self.blended.seams)
        end = time.monotonic()
        self.next = end + (end - start) * (1 / SHARE - 1)
