"""What is predicted on: an image, a folder, a list of images, or the frames of a video."""
import os
from pathlib import Path
from typing import AbstractSet, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from mmengine.logging import print_log

from mmvssd.cli.image_files import counted_by_ending, each_path, find_images
from mmvssd.engine.data.listings.folders import (
    IMAGE_ENDINGS,
    image_names,
    unread_advice,
    walk_user_folders,
)
from mmvssd.engine.record.pictures import picture_names
from mmvssd.errors import DataError
from mmvssd.paths import real_path
from mmvssd.phrases import counted, short

#: Endings of files that are opened as videos.
VIDEOS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv')
#: Ending of a file that lists images.
LIST = '.txt'

#: What a run knows an image by: its file as written in the JSON, and the number of its frame.
Key = Tuple[str, Optional[int]]


class Input(NamedTuple):
    """An image to predict on.

    Attributes:
        file: Its file, or that of its video.
        frame: Its number in the video, from 0; None for an image file.
        pixels: The frame, (H, W, 3) uint8 in BGR; None for an image file, which is not read yet.
    """

    file: Path
    frame: Optional[int] = None
    pixels: Optional[np.ndarray] = None

    @property
    def key(self) -> Key:
        """What the run knows it by."""
        return str(self.file), self.frame

    @property
    def image(self) -> Union[str, np.ndarray]:
        """What an inferencer takes."""
        return str(self.file) if self.pixels is None else self.pixels

    @property
    def named(self) -> dict:
        """The start of its entry in the JSON."""
        image, frame = self.key
        return dict(image=image) if frame is None else dict(image=image, frame=frame)


def describe(key: Key) -> str:
    """Name an image for a message."""
    image, frame = key
    return image if frame is None else f'{image}, frame {frame}'


class ImageFiles:
    """Image files, one after the other.

    Args:
        files: The files; one that stands there twice is taken once.
    """

    def __init__(self, files: Sequence[Path]):
        self.files = list(dict.fromkeys(files))
        self.folders = list(dict.fromkeys(file.parent for file in self.files))
        self._names: Dict[Path, Path] = {}

    def __len__(self) -> int:
        return len(self.files)

    def read(self, done: AbstractSet[Key]) -> Iterator[Input]:
        """Give out the images that are not done; nothing is read yet."""
        return (Input(file) for file in self.files if (str(file), None) not in done)

    def left(self, tried: AbstractSet[Key]) -> List[Key]:
        """Return the images that were not tried."""
        return [key for key in ((str(file), None) for file in self.files) if key not in tried]

    def picture(self, item: Input, suffix: Optional[str]) -> Path:
        """Return the relative path of an image's picture."""
        if not self._names:
            self._names = picture_names(self.files, suffix=suffix)
        return self._names[item.file]


class Video:
    """The frames of a video that OpenCV opens.

    Args:
        file: The video.

    Raises:
        DataError: OpenCV cannot read its first frame.
    """

    def __init__(self, file: Path):
        self.file, self.files, self.folders = file, [file], [file.parent]
        capture = self._open()
        #: Frames by its header, which may be wrong.
        self.count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        readable = capture.grab()
        capture.release()
        if not readable:
            raise DataError(f'{file}: cannot be read as a video; OpenCV knows no decoder for it, '
                            'or it is broken. Turn it into images, such as with ffmpeg')

    def __len__(self) -> int:
        return self.count

    def _open(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(str(self.file))

    def read(self, done: AbstractSet[Key]) -> Iterator[Input]:
        """Decode the frames that are not done, one at a time."""
        capture = self._open()
        try:
            frame = 0
            while capture.grab():
                if (str(self.file), frame) not in done:
                    decoded, pixels = capture.retrieve()
                    if not decoded:
                        break
                    yield Input(self.file, frame, pixels)
                frame += 1
        finally:
            capture.release()
        if frame < self.count:
            print_log(f'{self.file}: its header says {counted(self.count, "frame")}, {frame} can '
                      'be read', logger='current')

    def left(self, tried: AbstractSet[Key]) -> List[Key]:
        """Return the frames that were not tried, as far as the header knows them."""
        return [key for key in ((str(self.file), frame) for frame in range(self.count))
                if key not in tried]

    def picture(self, item: Input, suffix: Optional[str]) -> Path:
        """Return the relative path of a frame's picture, such as ``clip.mp4/000123.jpg``."""
        folder = picture_names([self.file], suffix='.jpg')[self.file].stem
        return Path(folder) / f'{item.frame:06}{suffix or ".jpg"}'


Inputs = Union[ImageFiles, Video]


def find_inputs(paths: Union[str, Sequence[str]], *, recursive: bool = False,
                without: Optional[Path] = None) -> Inputs:
    """Find what a command's arguments name.

    Args:
        paths: An image; a folder, whose images are taken by name; a ``.txt`` file with a path a
            line, from the file's folder on; or a video. Several may be given, but for a video,
            and a pattern such as ``photos/*.jpg``.
        recursive: Take the images of a folder's sub-folders as well. Links to folders are not
            followed.
        without: A folder that is left out of them.

    Raises:
        DataError: There is no such file or folder, no image in it, or it cannot be read; a video
            is one of several.
    """
    given = [paths] if isinstance(paths, str) else paths
    found = [_found(path, recursive, without) for path in each_path(given)]
    if len(found) == 1:
        return found[0]
    files = []
    for inputs in found:
        if isinstance(inputs, Video):
            raise DataError(f'{inputs.file}: is a video, which is predicted on by itself; give '
                            'it and nothing else')
        files += inputs.files
    return ImageFiles(files)


def _found(path: str, recursive: bool, without: Optional[Path]) -> Inputs:
    root = Path(path)
    if path and recursive:
        if not os.path.isdir(root):
            raise DataError(f'{path}: is not a folder, and --recursive needs one')
        return ImageFiles(_below(root, without))
    suffix = root.suffix.lower()
    if path and os.path.isfile(root):  # no pipe: to open one would wait
        if suffix == LIST:
            return ImageFiles(_listed(root))
        if suffix in VIDEOS:
            return Video(root)
    return ImageFiles(find_images(path, 'Take the images of its folders with --recursive'))


def _below(root: Path, without: Optional[Path]) -> List[Path]:
    omitted = real_path(without) if without else None
    found: List[Path] = []
    others: List[Path] = []
    for folder, names, hidden in walk_user_folders(root):
        place = real_path(folder) if omitted else folder
        if omitted not in (place, *place.parents):
            found += [folder / name for name in names]
            others += [folder / name for name in hidden]
    names = image_names(map(str, found))
    files = [file for file in found if str(file) in names]
    if not files:
        raise DataError(f'{root}: neither it nor a folder below it holds an image '
                        f'({", ".join(IMAGE_ENDINGS)})' + unread_advice(map(str, found)))
    others += [file for file in found if str(file) not in names]
    if others:
        print_log(f'{root} and its folders: not looked at: {counted_by_ending(others)}',
                  logger='current')
    return files


def _listed(file: Path) -> List[Path]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f'{file}: cannot be read ({error.strerror})') from error
    if b'\0' in content:
        raise DataError(f'{file}: holds zero bytes: it is encoded in UTF-16, or is no text; save '
                        'it as UTF-8')
    # names of files are bytes; a list may start with a byte order mark
    lines = os.fsdecode(content.removeprefix(b'\xef\xbb\xbf')).split('\n')
    lines = [line.rstrip('\r') for line in lines]
    files = [file.parent / line for line in lines if line.strip()]
    if not files:
        raise DataError(f'{file}: lists no image; it takes one path a line')
    if not any(map(os.path.lexists, files)):  # another text, which a pattern may fit
        first = next(line for line in lines if line.strip())
        raise DataError(f'{file}: is taken for a list of images, and none of its '
                        f'{counted(len(files), "line")} names a file, seen from {file.parent}; the '
                        f'first: {short(first)}')
    return files
