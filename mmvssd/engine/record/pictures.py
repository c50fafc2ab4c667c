"""Pictures of predictions: one for each image, whatever the images' names."""
import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Dict, Optional, Sequence

import cv2
import numpy as np

from mmvssd.files import write_whole

#: Endings of the formats that images are read in and pictures written; others become ``.png``.
FORMATS = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
#: Bytes of a name: file systems take 255, and a name's temporary form is longer.
LONGEST_NAME = 200


def picture_names(files: Sequence[Path], suffix: Optional[str] = None) -> Dict[Path, Path]:
    """Name a picture for each image: no two have the same, and the order does not matter.

    A picture has the name of its image. If several images of different folders share one, all
    pictures lie below folders as the images do, from the folder that holds them all. The ending is
    added if it is not the image's, and a number if there is such a name.

    Args:
        files: The images; one that stands there twice gets one picture.
        suffix: Ending of all pictures; None keeps an image's own if it is one of :data:`FORMATS`.

    Returns:
        Relative paths of the pictures, by image.
    """
    files = sorted(set(files))
    names = Counter(file.name for file in files)
    plain = {file: Path(file.name) for file in files}
    if max(names.values(), default=0) > 1:
        paths = {file: Path(os.path.abspath(file)) for file in files}  # without `..`
        root = os.path.commonpath([path.parent for path in paths.values()])
        plain = {file: path.relative_to(root) for file, path in paths.items()}
    ends = {file: suffix or (file.suffix if file.suffix.lower() in FORMATS else '.png')
            for file in files}
    # those that keep their name first: it is theirs
    files.sort(key=lambda file: file.suffix != ends[file])
    taken: Dict[str, Path] = {}
    for file in files:
        path = plain[file]
        name = path.name if file.suffix == ends[file] else path.name + ends[file]
        taken[_free(path.with_name(shortened(name)), taken)] = file
    return {file: Path(name) for name, file in taken.items()}


def _free(path: Path, taken: Dict[str, Path]) -> str:
    number, free = 1, path
    while str(free) in taken:
        number += 1
        free = path.with_name(f'{path.stem}-{number}{path.suffix}')
    return str(free)


def shortened(name: str) -> str:
    """Return a file's name, or its start with a digest if file systems might not take it."""
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST_NAME:
        return name
    stem, suffix = os.path.splitext(name)
    start = os.fsencode(stem)[:LONGEST_NAME - 16].decode(errors='ignore')
    return f'{start}-{hashlib.sha256(encoded).hexdigest()[:8]}{suffix}'


def write_picture(file: Path, image: np.ndarray) -> None:
    """Write a picture, whole or not at all, in the format of its name.

    Args:
        file: Its path; folders are made.
        image: (H, W, 3) uint8, RGB.

    Raises:
        OSError: It cannot be written.
        ValueError: The format does not take it.
    """
    encoded, content = cv2.imencode(file.suffix, np.ascontiguousarray(image[..., ::-1]))
    if not encoded:
        raise ValueError(f'{file.suffix} takes no picture of {image.shape[1]} x {image.shape[0]}')
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, content.tobytes())
