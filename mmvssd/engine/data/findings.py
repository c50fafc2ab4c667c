"""What a look at whole data sets finds: faults that stop a run, doubts that it is warned of."""
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Optional

from mmvssd.errors import DataError, printable
from mmvssd.phrases import counted, numbered

#: A fault that cannot be meant, and one that may be.
STOP, WARN = 'stop', 'warn'

#: Examples that a finding's text names.
EXAMPLES = 3


@dataclass
class Finding:
    """One kind of fault in one place.

    Args:
        severity: ``STOP`` or ``WARN``.
        where: The setting and the file or folder.
        what: The fault, with ``{}`` in place of its count if it has one, and words that change
            with it as :func:`mmvssd.phrases.numbered` takes them.
        advice: What to do about it.
        count: How often it was seen.
        first: The first places where it was seen.
    """

    severity: str
    where: str
    what: str
    advice: str = ''
    count: int = 0
    first: List[str] = field(default_factory=list)

    def __str__(self) -> str:
        first = ', '.join(self.first[:EXAMPLES])
        examples = f' (the first: {first})' if first else ''
        advice = f'. {self.advice}' if self.advice else ''
        return printable(f'{self.where}: {self.told}{examples}{advice}')

    @property
    def told(self) -> str:
        """The fault with its count; as it is, if it has no place for one: it may quote a user."""
        return numbered(self.what, self.count) if '{}' in self.what else self.what


class Findings:
    """Collect findings; equal ones are counted.

    Args:
        examples: The first places that each of them keeps.

    Attributes:
        looked_at: What was looked at, for the log.
        not_looked_at: What was not, each with the reason.
    """

    def __init__(self, examples: int = EXAMPLES):
        self.examples = examples
        self._found: Dict[tuple, Finding] = {}
        self.looked_at: List[str] = []
        self.not_looked_at: List[str] = []

    def stop(self, where: str, what: str, example: Optional[str] = None, advice: str = '') -> None:
        """Note a fault that cannot be meant."""
        self._add(STOP, where, what, example, advice)

    def warn(self, where: str, what: str, example: Optional[str] = None, advice: str = '') -> None:
        """Note what is doubtful."""
        self._add(WARN, where, what, example, advice)

    def _add(self, severity: str, where: str, what: str, example: Optional[str],
             advice: str) -> None:
        found = self._found.setdefault(
            (severity, where, what), Finding(severity, where, what, advice))
        found.count += 1
        if example is not None and len(found.first) < self.examples:
            found.first.append(example)

    def look_at(self, what: str, look: Callable[..., Any]) -> None:
        """Look at something; what cannot be looked at is noted and stops nothing.

        Args:
            what: What it is called, the part of it after ``': its'``.
            look: What looks, and notes what it finds.
        """
        try:
            look()
        except DataError as error:
            self.stop(what.partition(': its')[0], str(error))
        except Exception as error:  # of a data set that is unlike those that are known
            self.not_looked_at.append(f'{what} ({type(error).__name__}: {error})')

    def of(self, severity: str) -> List[Finding]:
        """Return the findings of a severity, in the order in which they were made."""
        return [found for found in self._found.values() if found.severity == severity]

    def add_all(self, findings: Iterable[Finding]) -> None:
        """Take over findings that were made elsewhere."""
        for found in findings:
            self._found[found.severity, found.where, found.what] = found

    def text(self) -> str:
        """Return the message of the error that stops a run: every finding, faults first."""
        faults, doubts = self.of(STOP), self.of(WARN)
        lines = [f'{counted(len(faults), "fault")} of the data:']
        lines += [f'  {index}. {found}' for index, found in enumerate(faults, 1)]
        if doubts:
            lines += ['  doubtful besides:', *(f'  - {found}' for found in doubts)]
        return '\n'.join(lines)

    def as_json(self) -> List[dict]:
        """Return the findings as data that :func:`from_json` reads."""
        return [asdict(found) for found in self._found.values()]


class Place:
    """One setting or file, for what is found there.

    Args:
        findings: Where it is noted.
        where: The setting that names it, with the file.
    """

    def __init__(self, findings: Findings, where: str):
        self.stop, self.warn = partial(findings.stop, where), partial(findings.warn, where)


def from_json(content: List[dict]) -> List[Finding]:
    """Make findings of what :meth:`Findings.as_json` returned.

    Raises:
        TypeError: It is something else.
    """
    return [Finding(**entry) for entry in content]
