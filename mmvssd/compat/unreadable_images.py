"""Images and label maps that cannot be read, named.

At a file that is no image mmcv's loader stops with an assertion or an error of its decoder, and
MMSegmentation's at an attribute of None that names no file. Here both raise one error that says
which file it is, so that it can be left out of a training, and looked at.

Feature: an error that names the file.
"""
from mmvssd.compat.patching import when_imported, wrap_once
from mmvssd.errors import UnreadableImageError


def apply() -> None:
    """Wrap mmcv's loader, and MMSegmentation's once it is imported."""
    when_imported('mmcv.transforms.loading', lambda module: wrap_once(
        module.LoadImageFromFile, 'transform', _load_image))
    when_imported('mmseg.datasets.transforms.loading', lambda module: wrap_once(
        module.LoadAnnotations, '_load_seg_map', _load_label_map))


#: Errors of settings and of the machine; all others are of a file, each decoder has its own.
NOT_OF_A_FILE = (ImportError, KeyError, MemoryError, TypeError)


def _load_image(original, self, results):
    try:
        return original(self, results)
    except (AttributeError, *NOT_OF_A_FILE):
        raise
    except Exception as error:
        raise _unreadable(results['img_path'], error) from error


def _load_label_map(original, self, results):
    try:
        return original(self, results)
    except (AssertionError, *NOT_OF_A_FILE):  # the attribute is one of None, in place of a map
        raise
    except Exception as error:
        raise _unreadable(results['seg_map_path'], error) from error


def _unreadable(path, error):
    reason = str(error).strip().splitlines()
    return UnreadableImageError(
        f'{path}: cannot be read as an image ({type(error).__name__}'
        f'{": " + reason[0] if reason else ""}); write the file anew, or take it out of the data')
