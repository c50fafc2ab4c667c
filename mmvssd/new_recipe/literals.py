"""Values as Python writes them, for a recipe's text."""
import re
from typing import Any, Sequence

#: Columns of a recipe.
WIDTH = 100


def literal(value: Any) -> str:
    """Return a value as Python writes it, also within a config.

    MMEngine replaces ``{{ ... }}`` in the text of a config before it is read, also in strings.
    """
    return re.sub(r'\{(?=\{)', r'\\x7b', repr(value))


def sequence(values: Sequence, opening: str, closing: str, indent: int) -> str:
    """Return values on as many lines as they need.

    Args:
        values: Strings or numbers.
        opening: Bracket before them.
        closing: Bracket after them.
        indent: Blanks before each line.
    """
    entries = [f'{literal(value)},' for value in values]
    lines, line = [], ''
    for entry in entries:
        if line and indent + len(line) + 1 + len(entry) > WIDTH:
            lines.append(line)
            line = ''
        line = f'{line} {entry}'.strip()
    lines.append(line)
    blanks = ' ' * indent
    if len(lines) == 1 and indent + len(lines[0]) + 20 <= WIDTH:
        single = lines[0] if len(values) == 1 else lines[0].rstrip(',')
        return f'{opening}{single}{closing}'
    body = '\n'.join(f'{blanks}{line}' for line in lines)
    return f'{opening}\n{body}\n{blanks[:-4]}{closing}'
