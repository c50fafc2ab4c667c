"""Where a backbone's step spends its time, by kind of work."""
import json
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from mmvssd.analysis.throughput import Setting
from mmvssd.files import write_whole
from mmvssd_kernels.benchmark.profiling import OURS, Kernel, total

#: Kinds of work, and what their operators' names match; the first that fits counts.
KINDS = {
    'our ops': OURS,
    'LayerNorm': 'aten::.*layer_norm',
    'other normalization': 'aten::.*(batch|group|instance)_norm',
    'convolutions': 'aten::.*conv',
    'attention': 'aten::.*(attention|softmax)',
    'products': r'aten::(addmm|mm|bmm|baddbmm|addbmm|_?linear|matmul|mkldnn_linear)',
    'casts and copies': r'aten::(copy_|_to_copy|to|clone|contiguous|cat|stack|constant_pad.*|fill_'
                        r'|zero_|zeros.*|ones.*)$',
    'sums': r'aten::(sum|mean)$',
    'biases and sums of branches': r'aten::add_?$',
    'element by element': r'aten::(gelu|silu|relu|elu|sigmoid|tanh|threshold|hardtanh|mul|div|sub'
                          r'|neg|exp|log|softplus|pow|rsqrt|sqrt|where|addcmul)(_backward)?_?$',
}
OTHER = 'all else'


class StepKernels(NamedTuple):
    """What a step of a backbone launches."""

    model: str
    setting: Setting
    kernels: List[Kernel]

    def by_kind(self) -> Dict[str, float]:
        """Return seconds by kind; kinds that the step does not have are left out."""
        found: Dict[str, float] = {}
        for kernel in self.kernels:
            kind = kind_of(kernel.operator)
            found[kind] = found.get(kind, 0.) + kernel.seconds
        return {kind: found[kind] for kind in (*KINDS, OTHER) if kind in found}


def kind_of(operator: str) -> str:
    """Return the kind of an operator's work."""
    return next((kind for kind, pattern in KINDS.items() if re.match(pattern, operator)), OTHER)


def markdown(steps: Sequence[StepKernels], facts: Sequence[str]) -> str:
    """Write a table: milliseconds of a step by kind, with a column for each step."""
    columns = [step.by_kind() for step in steps]
    kinds = [kind for kind in (*KINDS, OTHER) if any(kind in column for column in columns)]
    lines = [*facts, '', _line(['ms', *(f'{step.model}, {step.setting}' for step in steps)]),
             _line(['---'] * (1 + len(steps)))]
    lines += [_line([kind, *(f'{1000 * column[kind]:.2f}' if kind in column else '-'
                             for column in columns)]) for kind in kinds]
    lines.append(_line(['all', *(f'{1000 * total(step.kernels):.2f}' for step in steps)]))
    return '\n'.join(lines) + '\n'


def write(steps: Sequence[StepKernels], facts: Sequence[str], file: Path) -> None:
    """Write the table to ``file``, and each kernel's seconds to the JSON beside it."""
    write_whole(file, markdown(steps, facts))
    numbers = [dict(model=step.model, setting=str(step.setting), seconds=total(step.kernels),
                    kinds=step.by_kind(), kernels=[one._asdict() for one in step.kernels])
               for step in steps]
    write_whole(file.with_suffix('.json'), json.dumps(dict(facts=facts, steps=numbers), indent=1))


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'
