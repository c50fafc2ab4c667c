"""Which versions of its hosts this package fits, as one table; ``mmvssd.doctor`` shows it too."""
import warnings
from importlib import metadata

from packaging.specifiers import SpecifierSet

#: Distribution name -> the versions that fit.
RANGES = {
    'torch': '>=2.1',
    'mmengine': '>=0.10.4,<1.0',
    # MMDetection 3.3.0 and MMSegmentation 1.2.2 refuse 2.2.0, MMPreTrain 1.2.0 what is before 2.0.
    'mmcv': '>=2.0.0,<2.2.0',
    'mmdet': '>=3.3.0,<3.4',
    'mmsegmentation': '>=1.2.2,<1.3',
    'mmpretrain': '>=1.2.0,<1.3',
}

#: Packages that results may hang on too; any version of them is accepted.
COMPANIONS = ('torchvision', 'triton', 'numpy', 'opencv-python-headless', 'opencv-python')

#: Nothing here runs without these; the others are hosts, and a backbone is a plain module too.
REQUIRED = ('torch', 'mmengine')


def apply() -> None:
    """Judge what is installed. A host that is absent is fine.

    Raises:
        ImportError: if PyTorch or MMEngine does not fit.

    Warns:
        UserWarning: for every other distribution that does not fit, once a process.
    """
    found = {name: installed(name) for name in RANGES}
    messages = {name: misfit(name, version) for name, version in found.items()}
    wrong = [messages[name] for name in REQUIRED if messages[name]]
    if wrong:
        raise ImportError('\n'.join(wrong))
    for name, message in messages.items():
        if message and name not in _warned:
            _warned.add(name)
            warnings.warn(message, stacklevel=2)


_warned = set()


def installed(name):
    """The installed version of a distribution, or None; nothing is imported."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def misfit(name, version):
    """What is wrong with this version and what to do about it; None where it fits or is absent."""
    if version is None or SpecifierSet(RANGES[name]).contains(version, prereleases=True):
        return None
    return (f'{name} {version} is installed, but mmvssd needs {name}{RANGES[name]}: '
            f'{pip_line(name)}')


def pip_line(name):
    """The pip command that brings a version that fits."""
    return f"pip install '{name}{RANGES[name]}'"
