"""The patterns (VMamba, arXiv 2401.10166, Sec. 4.3 and Table 5)."""
from typing import Dict, NamedTuple, Tuple


class Order(NamedTuple):
    """How one sequence runs over a grid: rows or columns first, from the start or the end."""

    transposed: bool
    reverse: bool


ROWS, COLUMNS = Order(False, False), Order(True, False)
ROWS_REVERSED, COLUMNS_REVERSED = Order(False, True), Order(True, True)

#: Order of each of the four sequences.
ORDERS: Dict[str, Tuple[Order, Order, Order, Order]] = {
    'cross': (ROWS, COLUMNS, ROWS_REVERSED, COLUMNS_REVERSED),
    'unidirectional': (ROWS, ROWS, ROWS, ROWS),
    'bidirectional': (ROWS, ROWS, ROWS_REVERSED, ROWS_REVERSED),
}
