"""What the survey knows of the images of a data set that was built."""
from mmvssd.engine.data.data_survey import leaves
from mmvssd.engine.data.findings import Findings


class Entries(list):
    """A data set of these entries."""

    def get_data_info(self, index):
        return self[index]


def look(dataset):
    findings = Findings()
    (leaf, ) = leaves.leaves_in(dataset, 'train', True, findings)
    return leaf.entries, findings.not_looked_at


def test_entries_of_files(monkeypatch):
    dataset = Entries(dict(img_path=f'{index}.jpg', width=index, other=0) for index in range(10))
    assert look(dataset) == ([(index, dict(img_path=f'{index}.jpg', width=index))
                              for index in range(10)], [])
    monkeypatch.setattr(leaves, 'MOST_ENTRIES', 4)  # evenly spread
    assert [index for index, _ in look(dataset)[0]] == [0, 3, 6, 9]
    assert look(Entries()) == ([], [])


def test_images_that_are_no_files_are_said_not_to_be_looked_at():
    for dataset in (Entries([dict(img=[0, 1])]), Entries([dict(images=[dict(img_path='a.jpg')])])):
        assert look(dataset) == ([], ['train_dataloader, Entries: its images (TypeError: it names '
                                      'no files of images)'])
    assert look([1, 2])[1] == ['train_dataloader, list: its images (TypeError: it does not tell of '
                               'them, having no get_data_info)']
