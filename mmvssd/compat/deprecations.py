"""A warning at every start that a user of MMEngine can do nothing about.

MMEngine imports pkg_resources, and setuptools announces, a dozen times a run, that it will go. The
constraints hold setuptools to a version that has it.

Fix: retire when MMEngine no longer imports pkg_resources.
"""
import warnings
from importlib.util import find_spec
from typing import Optional

MESSAGE = 'pkg_resources is deprecated as an API'


def apply() -> None:
    """Silence this one message; ``filterwarnings`` keeps a filter once however often it is set."""
    warnings.filterwarnings('ignore', message=MESSAGE, category=UserWarning)


def idle() -> Optional[str]:
    """Return that there is nothing that would warn, or None."""
    return None if find_spec('pkg_resources') else 'pkg_resources is not installed'
