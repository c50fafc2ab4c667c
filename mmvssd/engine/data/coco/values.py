"""Single values of an annotation file."""
from typing import Any, TypeGuard, Union

#: Numbers beyond it count as infinite.
LARGEST = 1e300


def is_number(value: Any) -> TypeGuard[Union[int, float]]:
    # not math.isfinite, which an integer of many digits overflows
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and -LARGEST < value < LARGEST)


def is_id(value: Any) -> bool:
    return isinstance(value, str) or is_number(value)
