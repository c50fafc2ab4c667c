"""Errors of the user's input and data; a command line shows their message without a traceback."""


def printable(text: object, kept: str = '\n\t') -> str:
    """Return a text with what a terminal would obey written out, such as ``\\x1b``.

    Names in a file are its author's, and names of files hold what they like.

    Args:
        text: The text, or what has one.
        kept: Characters that stay as they are.
    """
    return ''.join(char if char.isprintable() or char in kept else
                   ascii(char)[1:-1] for char in str(text))


class ConfigError(ValueError):
    """A config or an option of the command line does not fit."""


class DataError(ValueError):
    """The data are not where the config says, or not what the model takes."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, broken, or of another model."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ExportError(RuntimeError):
    """A model cannot be exported, or what was exported computes something else."""


class UnreadableImageError(OSError):
    """An image, or a label map, is missing or is no image; the message says which."""


class NumericalFault(ArithmeticError):
    """A loss or gradients of a training are not finite."""
