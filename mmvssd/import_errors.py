"""What stopped an import: which package, and how to mend it."""
import sys
import traceback
from importlib import metadata
from typing import Collection, Optional

#: Import name -> distribution, for those whose names differ and that the hosts need.
DISTRIBUTIONS = {'PIL': 'pillow', 'cv2': 'opencv-python-headless', 'pkg_resources': 'setuptools<81',
                 'skimage': 'scikit-image', 'sklearn': 'scikit-learn', 'yaml': 'pyyaml'}

#: Packages that raise if another package asks for what they no longer have.
SERVANTS = {'numpy', 'torch'}


def root_of(error: BaseException) -> BaseException:
    """Return the error that the others of a chain were raised from."""
    while True:
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None:
            return error
        error = before


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    message = (str(error).strip() or 'no message').splitlines()[0]
    return f'{type(error).__name__}: {message}'


def distribution_of(package: str) -> Optional[str]:
    """Return the distribution that brings an import package, such as ``scikit-learn``, or None."""
    return next(iter(metadata.packages_distributions().get(package, ())), None)


def with_version(package: str) -> str:
    """Return the distribution of an import package with its version, else the package's name."""
    name = distribution_of(package)
    return f'{name} {metadata.version(name)}' if name else package


def remedy(error: BaseException, known: Collection[str]) -> Optional[str]:
    """Name the package that an import failed at, and the command that may mend it.

    Args:
        error: What the import raised.
        known: Import names of packages that are judged elsewhere.

    Returns:
        One clause; None if no package beyond ``known`` is to blame.
    """
    cause = root_of(error)
    if isinstance(cause, ModuleNotFoundError) and cause.name:
        package, _dot, inside = cause.name.partition('.')
        if package in known:
            return None
        if not inside:
            return (f'the package {package} is missing: '
                    f"pip install '{DISTRIBUTIONS.get(package, package)}'")
        return _ask_for_another(package, f'has no module {cause.name}')
    package = _asked_for(cause) or _raising(cause)
    if package is None or package in known or not distribution_of(package):
        return None
    return _ask_for_another(package, f'fails with {first_line(cause)}')


def _ask_for_another(package: str, fault: str) -> str:
    return (f'{with_version(package)} {fault}; another version of it is needed: pip install '
            f"-c requirements/constraints.txt --upgrade '{distribution_of(package) or package}'")


def _asked_for(error: BaseException) -> Optional[str]:
    """Return the package that lacks a name, of an ImportError that says so."""
    name = error.name if isinstance(error, ImportError) else None
    package = name and name.partition('.')[0]
    return None if package in SERVANTS else package


def _raising(error: BaseException) -> Optional[str]:
    """Return the package whose code raised an error, or asked :data:`SERVANTS` for the wrong."""
    frames = [frame for frame, _line in traceback.walk_tb(error.__traceback__)]
    packages = (frame.f_globals.get('__name__', '').partition('.')[0]
                for frame in reversed(frames))
    return next((package for package in packages
                 if package not in sys.stdlib_module_names | SERVANTS), None)
