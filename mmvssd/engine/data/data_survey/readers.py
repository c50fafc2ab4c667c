"""Tell how a data set reads its files, as far as its class is one of the hosts'."""
from mmvssd.engine.data.checks import is_remote, steps_of


def _kind_is(dataset, module: str, name: str, *methods: str) -> bool:
    """Tell whether a data set reads its files as a class of the hosts does."""
    for kind in type(dataset).__mro__:
        if kind.__name__ == name and kind.__module__.startswith(module):
            return all(getattr(type(dataset), method) is getattr(kind, method)
                       for method in methods)
    return False


def reads_coco(dataset) -> bool:
    """Tell whether a data set reads a COCO file as MMDetection does."""
    return _kind_is(dataset, 'mmdet.', 'CocoDataset', 'load_data_list', 'parse_data_info')


def reads_classes(dataset) -> bool:
    """Tell whether a data set reads lists or folders of classes as MMPreTrain does."""
    return _kind_is(dataset, 'mmpretrain.', 'CustomDataset', 'load_data_list', '_find_samples')


def reads_label_maps(dataset) -> bool:
    """Tell whether a data set finds label maps as MMSegmentation does."""
    return _kind_is(dataset, 'mmseg.', 'BaseSegDataset', 'load_data_list')


def is_elsewhere(dataset) -> bool:
    """Tell whether a data set, or a step of its pipeline, reads files of another machine."""
    return any(map(is_remote, (dataset, *steps_of(dataset))))
