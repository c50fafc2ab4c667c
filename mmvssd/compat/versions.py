"""Which versions of its hosts this package fits, as one table; ``mmvssd.doctor`` shows it too."""
import warnings
from importlib import metadata
from typing import Dict, Optional

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

#: Distribution name -> the versions that fit.
RANGES = {
    'torch': '>=2.4',
    'mmengine': '>=0.10.4,<1.0',
    # MMDetection 3.3.0 and MMSegmentation 1.2.2 refuse 2.2.0, MMPreTrain 1.2.0 what is before 2.0.
    'mmcv': '>=2.0.0,<2.2.0',
    'mmcv-lite': '>=2.0.0,<2.2.0',
    'mmdet': '>=3.3.0,<3.4',
    'mmsegmentation': '>=1.2.2,<1.3',
    'mmpretrain': '>=1.2.0,<1.3',
    # before 3.0 it has no input_precision and no reversed scan
    'triton': '>=3.0',
    # compiles the scans for a CPU; the oldest that they were tried with
    'numba': '>=0.61',
}

#: Packages that results may hang on too; any version of them is accepted.
COMPANIONS = ('torchvision', 'numpy', 'opencv-python-headless', 'opencv-python')

#: Nothing here runs without these; the others are hosts, and a backbone is a plain module too.
REQUIRED = ('torch', 'mmengine')


def apply() -> None:
    """Check what is installed. A host that is absent is fine.

    Raises:
        ImportError: if PyTorch or MMEngine does not fit.

    Warns:
        UserWarning: for every other distribution that does not fit, once a process.
    """
    found = problems()
    wrong = [found[name] for name in REQUIRED if name in found]
    if wrong:
        raise ImportError('\n'.join(wrong))
    for name, message in found.items():
        if name not in _warned:
            _warned.add(name)
            warnings.warn(message, stacklevel=2)


def problems() -> Dict[str, str]:
    """Return what does not fit: distribution -> a message that says what to do."""
    found = {name: misfit(name, installed(name)) for name in RANGES}
    found['torchvision'] = torchvision_misfit()
    if installed('mmcv') and installed('mmcv-lite'):
        found['mmcv'] = ('mmcv and mmcv-lite are both installed, in one folder: '
                         'pip uninstall mmcv mmcv-lite, then install one of them again')
    return {name: message for name, message in found.items() if message}


def torchvision_misfit() -> Optional[str]:
    """Return what is wrong if torchvision was built for another PyTorch, otherwise None."""
    torch = installed('torch')
    if not (torch and installed('torchvision')):
        return None
    for text in metadata.requires('torchvision') or ():
        needed = Requirement(text)
        if needed.name == 'torch' and not needed.specifier.contains(torch, prereleases=True):
            return (f'torchvision {installed("torchvision")} is installed, which is for PyTorch '
                    f'{needed.specifier}, but PyTorch is {torch}: '
                    f'pip install torch=={torch.split("+")[0]} torchvision, from the index that '
                    'this PyTorch came from')
    return None


_warned = set()


def installed(name):
    """Return the installed version of a distribution, or None; import nothing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def misfit(name, version):
    """Return what is wrong with this version and what to do; None if it fits or is absent."""
    if version is None or SpecifierSet(RANGES[name]).contains(version, prereleases=True):
        return None
    return (f'{name} {version} is installed, but mmvssd needs {name}{RANGES[name]}: '
            f'{pip_line(name)}')


def pip_line(name):
    """Return the pip command that brings a version that fits."""
    return f"pip install '{name}{RANGES[name]}'"
