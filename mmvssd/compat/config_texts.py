"""The formatted text of a config, kept while the config stays as it is.

``Config.pretty_text`` has yapf format the whole config, which takes about a second. A training asks
for it again and again: for its log, its files, TensorBoard, and each checkpoint. Here the formatted
text is kept for the text that went in. A config may change at any time, and then another text goes
in.

Fix: retire when MMEngine formats a config that has not changed only once.
"""
import functools
import json
from typing import Tuple

from mmengine.config import config

from mmvssd.compat.patching import wrap_once

#: Texts that are kept: a training has one or two.
KEPT = 4


def apply() -> None:
    """Wrap what formats a text for a config."""
    wrap_once(config, 'FormatCode', _format)


def _format(original, unformatted_source, style_config=None, **options):
    style = json.dumps(style_config, sort_keys=True)
    return _formatted(original, unformatted_source, style, tuple(sorted(options.items())))


@functools.lru_cache(KEPT)
def _formatted(original, text: str, style: str, options) -> Tuple[str, bool]:
    # yapf may write into the settings of a style: each call gets its own
    return original(text, style_config=json.loads(style), **dict(options))
