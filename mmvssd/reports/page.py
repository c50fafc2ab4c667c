"""HTML pages of one file: no script, and nothing fetched from elsewhere."""
import base64
import re
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mmvssd.errors import ConfigError, printable
from mmvssd.files import write_whole
from mmvssd.version import __version__

#: Characters that may be none that a reader sees; the pictures of a page are long, and have none.
ODD = re.compile(r'[^\x20-\x7e\n\t]+')
TEMPLATES = Path(__file__).with_name('templates')


def data_uri(content: bytes, kind: str) -> str:
    """Return what the ``src`` of a picture takes in place of an address.

    Args:
        content: The picture's file.
        kind: Its media type, such as ``image/png``.
    """
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def render(template: str, **content) -> str:
    """Fill in a template; whatever names and paths hold is shown as text.

    Args:
        template: A file of the folder ``templates``.
        content: What the template names; a name that is missing is an error.
    """
    pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
                        lstrip_blocks=True, undefined=StrictUndefined)
    pages.filters.update(number=shown_number, size=shown_size, seconds=shown_seconds)
    pages.globals.update(version=__version__, now=datetime.now().strftime('%Y-%m-%d %H:%M'))
    # a name of a file may hold half of a surrogate pair, which UTF-8 does not have
    html = pages.get_template(template).render(**content)
    return ODD.sub(lambda found: printable(found[0]), html)


def write(file: Path, html: str) -> None:
    """Write a page whole.

    Raises:
        ConfigError: There is no room, or no permission; what was there stays.
    """
    try:
        write_whole(file, html)
    except OSError as error:
        raise ConfigError(f'--out: {file} cannot be written ({error.strerror or error}); make '
                          'room, or name another folder') from error


def shown_number(value) -> str:
    """Show a number in four digits; other values as they are, and nothing as a dash."""
    if value is None:
        return '–'
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (value == value // 1 and abs(value) < 1e6):
        return f'{int(value):,}'
    return f'{value:.4g}'


def shown_size(count: float) -> str:
    """Show a number of bytes."""
    for unit in ('B', 'kB', 'MB', 'GB'):
        if count < 1000:
            return f'{count:.0f} {unit}' if unit == 'B' else f'{count:.1f} {unit}'
        count /= 1000
    return f'{count:.1f} TB'


def shown_seconds(value) -> str:
    """Show a time."""
    if value is None:
        return '–'
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours} h {minutes:02d} min'
    return f'{minutes} min {seconds:02d} s' if minutes else f'{value:.3g} s'
