"""Errors of the user's input and data; a command line shows their message without a traceback."""


class ConfigError(ValueError):
    """A config or an option of the command line does not fit."""


class DataError(ValueError):
    """The data are not where the config says, or not what the model takes."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, broken, or of another model."""


class UnreadableImageError(OSError):
    """An image, or a label map, is missing or is no image; the message says which."""


class NumericalFault(ArithmeticError):
    """A loss or gradients of a training are not finite."""
