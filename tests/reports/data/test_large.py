"""Data of many classes and of many files are looked at in seconds."""
import os
import time
from collections import Counter

from mmvssd.engine.data.data_survey.overlap import check_copies
from mmvssd.engine.data.file_facts import FileFacts
from mmvssd.engine.data.findings import Findings
from mmvssd.reports.data import doubts
from mmvssd.reports.data.contents import Part
from mmvssd.reports.data.page import _rows

#: Classes of ImageNet-21k.
MANY = 21_841


def test_many_classes():
    names = [f'class of number {number}' for number in range(MANY)]
    # a label beyond the classes has a name of its own
    counts = Counter(dict.fromkeys([*names, 'class 99999'], 20))
    parts = [Part('train', names, kind='labels', images_with=Counter({'other': 1})),
             Part('val', names, kind='labels', images_with=counts)]
    findings, began = Findings(), time.process_time()
    rows = list(_rows(parts))
    doubts.check_parts(parts, findings)
    assert time.process_time() - began < 3
    assert [row.name for row in rows] == [*names, 'other', 'class 99999']
    assert [row.label for row in rows] == list(range(MANY + 2))
    assert [cell.count for cell in rows[3].cells] == [0, 20]
    assert 'no training image shows (21841)' in findings.as_json()[0]['what']


class Counted(FileFacts):
    """Facts of files that note how often they are read."""

    def __init__(self):
        super().__init__(None, 60)
        self.reads = []

    def read(self, kind, read, paths):
        self.reads.append(kind)
        return super().read(kind, read, paths)


class Removed(Counted):
    """Facts of files that are gone when they are read."""

    def read(self, kind, read, paths):
        for path in paths:
            os.remove(path)
        return super().read(kind, read, paths)


def test_files_of_one_size_are_read_together(tmp_path):
    for number in range(40):
        (tmp_path / f'{number:02d}.png').write_text(f'{number % 38:02d}')
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    facts, findings = Counted(), Findings()
    check_copies('X', paths, {}, facts, findings)
    assert facts.reads == ['content']
    (found, ) = findings.as_json()
    assert found['count'] == 2
    assert found['first'] == [f'{paths[38]} is {paths[0]}', f'{paths[39]} is {paths[1]}']
    # files that are removed meanwhile are no copies of each other
    check_copies('X', paths, {}, Removed(), gone := Findings())
    assert gone.as_json() == []
