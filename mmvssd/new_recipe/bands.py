"""Images of a new recipe that are no photographs: how many bands, and the statistics of each."""
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Union

from rich.progress import track

from mmvssd.bands.kinds import Kind, kind_of, nodata_of
from mmvssd.bands.loading import LoadBands
from mmvssd.bands.statistics import Band, Statistics
from mmvssd.datasets.formats import Data
from mmvssd.engine.data.file_facts import MISSING, FileFacts
from mmvssd.engine.data.findings import Findings
from mmvssd.errors import DataError
from mmvssd.phrases import counted, numbered

#: Images of training that statistics are computed of, at most.
MEASURED = 500


@dataclass
class Bands:
    """The bands that a recipe loads.

    Attributes:
        kind: What the images are.
        bands: Those that are taken, with their statistics.
        nodata: Values that stand for no data.
        images: How many images the statistics are of, out of how many.
    """

    kind: Kind
    bands: List[Band]
    nodata: Sequence
    images: str

    @property
    def left_out(self) -> List[int]:
        """Numbers of the bands that tell nothing, since they have one value throughout."""
        return sorted(set(range(self.kind.bands)) - {band.number for band in self.bands})


def common_kind(data: Data, where: str, findings: Findings) -> Optional[Kind]:
    """Tell what all images are; None of photographs.

    Photographs and images of 16 bits may lie side by side: the host reads 8 bits of each. What
    differs in any other way is noted as a fault.
    """
    paths = [str(item.image) for item in data.items]
    facts = FileFacts(None, math.inf).read('kind', kind_of, paths)
    by_kind: Dict[Kind, List[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        if facts[path] not in (None, MISSING):
            by_kind[facts[path]].append(path)
    others = {kind: found for kind, found in by_kind.items() if not kind.photograph}
    if not others:
        return None
    if len(by_kind) > 1 and all(
            kind.bands in (1, 3, 4) and kind.dtype == 'uint16' for kind in others):
        count = sum(map(len, others.values()))
        data.notes.append(numbered(f'{{}} of {counted(len(paths), "image")} [has|have] 16 bits, of '
                                   'which the host reads 8, such as ', count)
                          + next(iter(others.values()))[0])
        return None
    if len(by_kind) > 1:
        told = '; '.join(f'{counted(kind.bands, "band")} of {kind.dtype} in '
                         f'{counted(len(found), "image")}, such as {found[0]}'
                         for kind, found in by_kind.items())
        findings.stop(where, f'images differ in bands or values: {told}',
                      advice='Write all in one way, or lay them in folders of their own')
    return next(iter(others))


def measure(kind: Kind, paths: Sequence[str]) -> Bands:
    """Compute the statistics of each band over images of training.

    Args:
        kind: What the images are.
        paths: The images; of many, some that are evenly spread are read.

    Raises:
        DataError: Values are infinite, or no band tells anything; or an image is not like others.
        UnreadableImageError: An image cannot be read.
    """
    some = paths[::max(1, -(-len(paths) // MEASURED))]
    told = nodata_of(some[0])
    real = kind.dtype.startswith('float')
    nodata: List[Union[float, str]] = []
    if told is not None and not math.isnan(told):
        nodata.append(told)
    statistics = Statistics(LoadBands(nodata=[*nodata, *['nan'] * real]))
    for path in track(some, 'reading bands'):
        statistics.add(path)
    found = statistics.bands()
    if real and any(band.missing for band in found):
        nodata.append('nan')
    kept = [band for band in found if band.std]
    if not kept:
        raise DataError('all bands of the images have one value throughout, which teaches nothing; '
                        f'look at {some[0]}')
    count = (str(len(some)) if len(some) == len(paths) else f'{len(some)} of the {len(paths)}')
    return Bands(kind, kept, nodata, count)
