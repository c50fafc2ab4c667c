"""Tables of classes are found in logs."""
from mmvssd.reports.runs.tables import class_table

TABLE = """2026/01/01 - mmengine - INFO - per class results:
2026/01/01 - mmengine - INFO -
+-------+-------+-------+
| Class |  IoU  |  Acc  |
+-------+-------+-------+
|  cat  | {} |  9.64 |
| a dog |  0.0  |  nan  |
+-------+-------+-------+
2026/01/01 - mmengine - INFO - Epoch(val) [1][5/5]
"""
OTHER = '+---+\n| hook |\n+---+\n| x |\n+---+\n'


def write(folder, name, text):
    (folder / name).mkdir()
    (folder / name / 'a.log').write_text(text)


def test_the_last_table_of_the_newest_log(tmp_path):
    assert class_table(tmp_path) is None
    write(tmp_path, '1', TABLE.format('1.00'))
    write(tmp_path, '2', OTHER + TABLE.format('2.00') + TABLE.format('3.00') + OTHER)
    write(tmp_path, '3', OTHER)
    table = class_table(tmp_path)
    assert table.header == ['Class', 'IoU', 'Acc']
    assert table.rows == [['cat', '3.00', '9.64'], ['a dog', '0.0', 'nan']]


def test_a_log_that_is_cut_off(tmp_path):
    write(tmp_path, '1', '\n'.join(TABLE.format('1.00').splitlines()[:6]) + '\n| a d')
    assert class_table(tmp_path).rows == [['cat', '1.00', '9.64']]
