"""Images of validation that are trained on, of as many as are asked for."""
import math
from types import SimpleNamespace

import pytest

from mmvssd.engine.data.data_survey.leaves import Leaf
from mmvssd.engine.data.data_survey.overlap import check_apart
from mmvssd.engine.data.file_facts import FileFacts
from mmvssd.engine.data.findings import WARN, Findings


@pytest.mark.parametrize(('most', 'found'), [(2, '1 of 2'), (6, '3 of 6'), (100, '3 of 6')])
def test_how_many_are_compared(tmp_path, most, found):
    leaves = []
    for phase, contents in (('train', 'ace'), ('val', 'abcdef')):
        paths = [tmp_path / f'{phase}_{content}' for content in contents]
        for path, content in zip(paths, contents):
            path.write_text(content)
        leaves.append(Leaf(phase, SimpleNamespace(), phase, [
            (index, dict(img_path=str(path))) for index, path in enumerate(paths)], True))
    findings = Findings()
    check_apart(leaves, FileFacts(None, math.inf), findings, most)
    assert str(findings.of(WARN)[0]).startswith(f'val: {found.split(" of ")[0]} of '
                                                f'{found.split(" of ")[1]} compared images')
