"""Pictures of the images that a finding names, as they are stored and annotated."""
import os
import re
from collections import Counter
from typing import Dict, Iterator, List, Optional, Sequence

import numpy as np
from PIL import Image, ImageOps

from mmvssd.engine.data.findings import Finding
from mmvssd.reports.data.contents import Part
from mmvssd.reports.pictures import Objects, Picture, draw

#: Pictures of one finding, and of all.
EACH, ALL = 4, 40
#: Pixels of an image beyond which it is not decoded for a picture.
MOST_PIXELS = 50_000_000
#: What stands around a name of a file where a finding was seen.
AROUND = (re.compile(r'(?P<name>.+)'), re.compile(r'(?P<name>.+?): '),
          re.compile(r'(?P<name>.+?) is '), re.compile(r'annotation .+? of (?P<name>.+?)(: |$)'))


class Suspects:
    """Draw the images of findings, as long as there are not too many.

    Args:
        parts: Of the data, with their images and boxes.
    """

    def __init__(self, parts: Sequence[Part]):
        self._left = ALL
        self._part: Dict[str, Part] = {path: part for part in parts for path in part.paths}
        self._boxes = {path: (boxes, labels) for part in parts
                       for path, boxes, labels in part.boxes}
        names = Counter(map(os.path.basename, self._part))
        self._by_name = {os.path.basename(path): path for path in self._part
                         if names[os.path.basename(path)] == 1}

    def of(self, found: Finding) -> List[Picture]:
        """Return pictures of the first images that a finding names."""
        pictures: List[Picture] = []
        for path in dict.fromkeys(self._paths(found)):
            picture = self._draw(path) if len(pictures) < min(EACH, self._left) else None
            if picture is not None:
                pictures.append(picture)
        self._left -= len(pictures)
        return pictures

    def _paths(self, found: Finding) -> Iterator[str]:
        for place in found.first:
            names = (match['name'] for pattern in AROUND if (match := pattern.match(place)))
            path = next((self._by_name.get(name, name) for name in names
                         if self._by_name.get(name, name) in self._part), None)
            if path is not None:
                yield path

    def _draw(self, path: str) -> Optional[Picture]:
        try:
            with Image.open(path) as image:
                # large JPEGs are decoded smaller than they are
                size = image.size
                image.draft('RGB', (960, 960))
                stored = image.size
                if stored[0] * stored[1] > MOST_PIXELS:
                    return None
                pixels = np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
        except Exception:  # it may be what was found
            return None
        boxes, labels = self._boxes.get(path, ((), ()))
        scaled = np.array(boxes, float).reshape(-1, 4) * (stored[0] / size[0])
        return draw(pixels, Objects(labels, scaled), self._part[path].classes, path)
