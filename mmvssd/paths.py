"""Folders of the package's own files, in a checkout and in an installed wheel."""
from pathlib import Path


def project_root() -> Path:
    """Folder that holds ``configs`` and ``tools``: the checkout, or ``mmvssd/.mim`` of a wheel."""
    package = Path(__file__).resolve().parent
    installed = package / '.mim'
    return installed if installed.is_dir() else package.parent


def configs_dir() -> Path:
    """Folder of the recipes."""
    return project_root() / 'configs'
