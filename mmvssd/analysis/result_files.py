"""What the files of an analysis share: written whole, told apart by checkpoint, small figures."""
import io
from pathlib import Path
from typing import Union

from PIL import Image

from mmvssd.analysis.named_models import ModelName
from mmvssd.errors import ConfigError
from mmvssd.files import write_whole

MOST_BYTES = 300_000  # of a figure


def write(file: Path, content: Union[str, bytes]) -> None:
    """Write a file of results whole, and its folder if that is not there.

    Raises:
        ConfigError: There is no room, or no permission; what was there stays.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    except OSError as error:
        raise ConfigError(f'--out: {file} cannot be written ({error.strerror or error}); make '
                          'room, or name another folder') from error


def facts(model: ModelName) -> dict:
    """Return what tells a model, and the content of its checkpoint, from others."""
    content = None
    if model.checkpoint and Path(model.checkpoint).is_file():
        status = Path(model.checkpoint).stat()
        content = f'{status.st_size} bytes, {status.st_mtime_ns}'
    return dict(model=model.name, checkpoint=model.checkpoint, checkpoint_file=content,
                label=model.label)


def plain(text: str) -> str:
    """Return text that matplotlib draws as it is, though a ``$`` would begin a formula."""
    return text.replace('$', r'\$')


def compressed(figure) -> bytes:
    """Render with as many dots as :data:`MOST_BYTES` allow, in 256 colours."""
    for dpi in (130, 110, 95, 80, 65, 50):
        picture, packed = io.BytesIO(), io.BytesIO()
        figure.savefig(picture, dpi=dpi, format='png')
        Image.open(picture).convert('RGB').quantize(
            256, method=Image.Quantize.MAXCOVERAGE).save(packed, 'png', optimize=True)
        if packed.tell() <= MOST_BYTES:
            break
    return packed.getvalue()
