"""The notebooks run, and their kept outputs are small and those of their code."""
import re
import runpy
from pathlib import Path

import pytest

nbformat = pytest.importorskip('nbformat')
pytest.importorskip('nbclient')
pytest.importorskip('ipykernel')

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))
TOOL = runpy.run_path(str(ROOT / 'docs' / 'notebooks' / 'run.py'))
#: What takes the place of the cell tagged ``parameters``, so that a notebook takes seconds.
SHORT = {'features': "arch = 'micro'\nsize = 96\nseed = 0",
         'finetune': 'crops = (40, 20)\nepochs = 2\nfew = 16'}
LARGEST, LARGEST_OUTPUT = 150_000, 60_000  # bytes


def read(file):
    return nbformat.read(file, as_version=4)


def code_of(book):
    return [cell for cell in book.cells if cell.cell_type == 'code']


def outputs_of(book):
    return [output for cell in code_of(book) for output in cell.outputs]


def text_of(outputs):
    return ''.join(output.get('text', '') + output.get('data', {}).get('text/plain', '')
                   for output in outputs)


def pictures_in(outputs):
    return [output for output in outputs if 'image/jpeg' in output.get('data', {})]


def shortened(file):
    """Return a notebook's cells with parameters that take seconds."""
    book = read(file)
    given, = (cell for cell in book.cells if 'parameters' in cell.metadata.get('tags', []))
    names = re.findall(r'^(\w+) = ', given.source, re.MULTILINE)
    assert re.findall(r'^(\w+) = ', SHORT[file.stem], re.MULTILINE) == names
    given.source = SHORT[file.stem]
    return book.cells


@pytest.mark.slow
def test_they_run(tmp_path, monkeypatch):
    """All in one kernel, which takes seconds to begin; each begins without the others' names."""
    for name in ('IPYTHONDIR', 'JUPYTER_RUNTIME_DIR', 'JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR'):
        monkeypatch.setenv(name, str(tmp_path / 'jupyter'))
    book = nbformat.v4.new_notebook()
    for file in FILES:
        book.cells += [nbformat.v4.new_code_cell('%reset -f'), *shortened(file)]
    TOOL['execute'](book, tmp_path)
    text = text_of(outputs_of(book))
    assert 'stage 3: (1, 384, 3, 3)' in text
    assert 'the maps give the outputs of the op: True' in text
    assert re.search(r'tuned: \d+\.\d % are right', text)
    assert len(pictures_in(outputs_of(book))) == sum(
        len(pictures_in(outputs_of(read(file)))) for file in FILES)


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
class TestKept:
    """What a notebook keeps; docs/notebooks/run.py writes it."""

    def test_outputs_are_of_this_code(self, file):
        book = read(file)
        assert book.metadata['sources'] == TOOL['digest'](book)
        counts = [cell.execution_count for cell in code_of(book)]
        assert counts == list(range(1, len(counts) + 1))
        kinds = {output.output_type for output in outputs_of(book)}
        assert kinds <= {'stream', 'display_data', 'execute_result'}
        assert not [output for output in outputs_of(book) if output.get('name') == 'stderr']

    def test_it_is_small(self, file):
        assert file.stat().st_size < LARGEST
        pictures = pictures_in(outputs_of(read(file)))
        assert len(pictures) > 1
        assert all(len(picture.data['image/jpeg']) < LARGEST_OUTPUT for picture in pictures)

    def test_it_names_no_folder_of_the_machine_that_ran_it(self, file):
        text = text_of(outputs_of(read(file)))
        assert not re.findall(r'(?<![\w.])/(?:\w[\w.-]*/)+\w+', text)

    def test_links_lead_somewhere(self, file):
        text = ''.join(cell.source for cell in read(file).cells if cell.cell_type == 'markdown')
        links = [link.partition('#')[0] for link in re.findall(r'\]\(([^)]+)\)', text)]
        assert links
        assert all((file.parent / link).is_file() for link in links)
