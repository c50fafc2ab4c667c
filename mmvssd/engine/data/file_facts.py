"""Facts of many files, read in threads, within a time, and remembered between runs."""
import json
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import numpy as np
from PIL import Image

from mmvssd.files import write_whole

#: Version of the facts; files of another one are read anew.
VERSION = 4
#: Threads that read; PIL decodes without Python's lock.
THREADS = 4
#: Files that are read before the time is looked at.
CHUNK = 128
#: EXIF's tag of the orientation, and the values of it that exchange width and height.
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
#: The fact of a file that is not there.
MISSING = 'missing'
#: Modes of PIL whose pixels are one number below 256.
BYTES = ('1', 'L', 'P')
#: Alpha of a pixel that nothing shines through.
OPAQUE = 255
#: Pixels beyond which PIL takes an image for an attack; such are not decoded here.
LARGE = 2 * Image.MAX_IMAGE_PIXELS


class FileFacts:
    """Read facts of files once; a file of the same time and size is not read again.

    Args:
        cache: File that remembers them; None remembers nothing. A broken one is ignored.
        seconds: Time for all reading together. What is left then stays unread.
    """

    def __init__(self, cache: Optional[Path], seconds: float):
        self.cache = cache
        self.deadline = time.monotonic() + seconds
        self._known = _load(cache)
        self._changed = False

    def read(self, kind: str, read: Callable[[str], Any],
             paths: Sequence[str]) -> Dict[str, Any]:
        """Return a fact by path, of as many paths as there is time for, evenly spread.

        Args:
            kind: What the fact is.
            read: Reads it from a file, as data for JSON. It does not raise.
            paths: The files. The fact of one that is not there is ``MISSING``.
        """
        known = self._known.setdefault(kind, {})
        facts = {}

        def one(path: str) -> None:
            try:
                status = os.stat(path)
            except OSError:
                facts[path] = MISSING
                return
            entry = known.get(path)
            if entry is None or entry[:2] != [status.st_mtime_ns, status.st_size]:
                entry = known[path] = [status.st_mtime_ns, status.st_size, read(path)]
                self._changed = True
            facts[path] = entry[2]

        paths = _spread(list(dict.fromkeys(paths)))
        with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
            warnings.simplefilter('ignore')  # of large images, and of odd EXIF
            for start in range(0, len(paths), CHUNK):
                if time.monotonic() > self.deadline:
                    break
                list(pool.map(one, paths[start:start + CHUNK]))
        return facts

    def read_one(self, kind: str, read: Callable[[str], Any], path: str,
                 keep: Callable[[Any], bool]) -> Any:
        """Return a fact of one file, whatever time it takes.

        Args:
            kind: What the fact is.
            read: Reads it from the file, as data for JSON. What it raises passes.
            path: The file.
            keep: Tells whether a fact is remembered.
        """
        known = self._known.setdefault(kind, {})
        try:
            status = os.stat(path)
        except OSError:  # what reads it says why
            return read(path)
        entry = known.get(path)
        if entry is not None and entry[:2] == [status.st_mtime_ns, status.st_size]:
            return entry[2]
        fact = read(path)
        if keep(fact):
            known[path] = [status.st_mtime_ns, status.st_size, fact]
            self._changed = True
        return fact

    def save(self) -> None:
        """Write down what is new; a work dir that cannot be written to goes without."""
        if self._changed and self.cache is not None:
            try:
                self.cache.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self.cache, json.dumps(dict(version=VERSION, facts=self._known)))
            except OSError:
                return
            self._changed = False


def _load(cache: Optional[Path]) -> Dict[str, dict]:
    try:
        content = json.loads(cache.read_bytes()) if cache is not None else {}
        if content.get('version') != VERSION:
            return {}
        return {kind: {path: [int(time_), int(size), fact]
                       for path, (time_, size, fact) in entries.items()}
                for kind, entries in content['facts'].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _spread(paths: List[str]) -> List[str]:
    """Order paths so that the first of them, however many, are spread over all."""
    order = np.argsort(np.arange(len(paths)) * ((5 ** 0.5 - 1) / 2) % 1, kind='stable')
    return [paths[index] for index in order]


class _NoLimit:
    """Lift PIL's limit of pixels while any thread opens an image."""

    def __init__(self):
        self.lock, self.users, self.limit = threading.Lock(), 0, None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if self.users == 0:
                self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.users += 1
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if self.users == 0:
                    Image.MAX_IMAGE_PIXELS = self.limit


_no_limit = _NoLimit()


def open_image(path: str) -> Image.Image:
    """Open an image of any size; nothing of it is decoded.

    Raises:
        OSError: It cannot be read, or PIL does not know the format; PIL's readers raise others
            too.
    """
    with _no_limit():
        return Image.open(path)


def is_large(size: Sequence[int]) -> bool:
    """Tell whether an image (width, height) has more pixels than are decoded here."""
    return size[0] * size[1] > LARGE


def header(path: str) -> Optional[dict]:
    """Return the size, mode and EXIF orientation of an image from its header.

    Returns:
        ``size`` (width, height) as stored, ``mode`` of PIL and ``orientation``; None if PIL does
        not know the format.
    """
    try:
        with open_image(path) as image:
            return dict(size=list(image.size), mode=image.mode, orientation=_orientation(image))
    except Exception:  # PIL's readers raise errors of many kinds at broken files
        return None


def label_map(path: str) -> Optional[dict]:
    """Return the header of a label map and the values that occur in it.

    Returns:
        As :func:`header`, with ``values`` of a map of one channel. Of several channels ``equal``
        tells whether all colours are grey, and ``clear`` whether pixels are transparent. None if
        PIL cannot read it, or takes it for too large.
    """
    try:
        with Image.open(path) as image:
            fact = dict(size=list(image.size), mode=image.mode, orientation=_orientation(image))
            if image.mode in BYTES:
                counts = image.convert('L').histogram() if image.mode == '1' else image.histogram()
                values = [value for value, count in enumerate(counts) if count]
                fact['values'] = [int(bool(v)) for v in values] if image.mode == '1' else values
            elif len(image.getbands()) > 1:
                fact.update(_grey_and_clear(image))
            else:
                fact.update(_other_values(np.asarray(image)))
            return fact
    except Exception:  # as above
        return None


def _grey_and_clear(image: Image.Image) -> dict:
    pixels = np.asarray(image.convert('RGB'))
    clear = 'A' in image.getbands() and image.getchannel('A').getextrema()[0] < OPAQUE
    return dict(equal=bool((pixels == pixels[..., :1]).all()), clear=clear)


def _other_values(pixels: np.ndarray) -> dict:
    if not np.isfinite(pixels).all():
        return dict(values=[])
    values = np.unique(pixels)
    # more are no labels, their ends are enough
    return dict(values=[float(v) for v in (values if len(values) <= 256 else values[[0, -1]])])


def _orientation(image: Image.Image) -> int:
    if image.format == 'PNG' and 'exif' not in image.info:  # PIL would decode it to look for more
        return 1
    value = image.getexif().get(ORIENTATION, 1)
    return value if isinstance(value, int) else 1


def upright_size(fact: dict) -> tuple:
    """Return the size (width, height) of an image that is turned as its EXIF says."""
    width, height = fact['size']
    return (height, width) if fact['orientation'] in SIDEWAYS else (width, height)
