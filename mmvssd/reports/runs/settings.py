"""Settings of a run's config file, read without running it."""
import ast
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

#: Settings that differ between any two runs and say nothing.
PASSING = ('work_dir', 'launcher', 'log_level', 'env_cfg', 'visualizer', 'vis_backends')


class Difference(NamedTuple):
    """A setting in which runs differ."""

    key: str
    values: Tuple[str, ...]  # one a run; empty for one that has no such setting


def read_settings(file: Path) -> Dict[str, Any]:
    """Read a config that MMEngine wrote: assignments of plain values, nothing of it is run.

    Args:
        file: The config.

    Returns:
        Values by name, with what is no plain value as its text; empty if the file cannot be read.
    """
    try:
        tree = ast.parse(file.read_text())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return {}
    return {target.id: _value(node.value) for node in tree.body if isinstance(node, ast.Assign)
            for target in node.targets if isinstance(target, ast.Name)}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' \
            and not node.args and all(entry.arg for entry in node.keywords):
        return {entry.arg: _value(entry.value) for entry in node.keywords}
    if isinstance(node, ast.Dict):
        keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
        if len(keys) == len(node.keys):
            return {str(key): _value(value) for key, value in zip(keys, node.values)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(entry) for entry in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ast.unparse(node)


def get(settings: Dict[str, Any], key: str, default: Any = None) -> Any:
    """Return a setting by its dotted key."""
    found: Any = settings
    for part in key.split('.'):
        if not isinstance(found, dict) or part not in found:
            return default
        found = found[part]
    return found


def flat(settings: Any, key: str = '') -> Iterator[Tuple[str, Any]]:
    """Yield all plain values by dotted key; lists of plain values count as one."""
    if isinstance(settings, dict) and settings:
        entries: List[Tuple[str, Any]] = list(settings.items())
    elif isinstance(settings, list) and any(isinstance(one, dict) for one in settings):
        entries = [(str(index), one) for index, one in enumerate(settings)]
    else:
        yield key, settings
        return
    for name, value in entries:
        yield from flat(value, f'{key}.{name}' if key else name)


def _is_passing(key: str) -> bool:
    parts = key.split('.')
    return parts[0] in PASSING or parts[-1] == '_scope_'


def differences(runs: Sequence[Dict[str, Any]]) -> List[Difference]:
    """List the settings in which runs differ.

    A name of a config that only its other settings used, such as ``data_root``, is listed too.
    """
    tables = [{key: repr(value) for key, value in flat(run) if not _is_passing(key)}
              for run in runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    rows = (Difference(key, tuple(table.get(key, '') for table in tables)) for key in keys)
    return [row for row in rows if len(set(row.values)) > 1]
