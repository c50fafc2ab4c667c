"""Folders of the package's own files, and what messages say of paths that are not there."""
import glob
import os
from pathlib import Path
from typing import Union

from mmvssd.phrases import some


def project_root() -> Path:
    """Folder that holds ``configs`` and ``tools``: the checkout, or ``mmvssd/.mim`` of a wheel."""
    package = Path(__file__).resolve().parent
    installed = package / '.mim'
    return installed if installed.is_dir() else package.parent


def configs_dir() -> Path:
    """Folder of the recipes."""
    return project_root() / 'configs'


def real_path(path: Union[str, Path]) -> Path:
    """Follow all links of a path; of links that lead around in a circle, return what is there.

    ``Path.resolve`` raises RuntimeError at these before Python 3.13.
    """
    return Path(os.path.realpath(path))


def seen_from(path: Union[str, Path]) -> str:
    """Return what follows "no such file" in a message: the current folder, and a pattern's hint."""
    return f' (seen from {Path.cwd()}){pattern_hint(path)}'


def pattern_hint(path: Union[str, Path]) -> str:
    """Say what fits a pattern that a shell left as it is, as in quotes; empty if it is none."""
    pattern = str(path)
    fits = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    if glob.has_magic(pattern) and fits:
        return f'; it is a pattern, and one path is expected here. What fits it: {some(fits)}'
    # a bracket may be part of a name
    return '; it is a pattern that nothing fits' if set('*?') & set(pattern) else ''
