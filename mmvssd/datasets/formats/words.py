"""Words of which names of folders are made."""

#: Words of names of folders that hold images, and label maps; words that say nothing.
IMAGE_WORDS = {'image', 'images', 'img', 'imgs', 'jpegimages', 'photo', 'photos', 'picture',
               'pictures', 'input', 'inputs', 'leftimg8bit'}
MAP_WORDS = {'mask', 'masks', 'label', 'labels', 'annotation', 'annotations', 'annot', 'ann',
             'anno', 'gt', 'groundtruth', 'segmentationclass', 'segmentationclasspng',
             'segmentation', 'segmentations', 'labelmap', 'labelmaps', 'seg', 'gtfine', 'gtcoarse',
             'trainannot', 'valannot', 'testannot'}
SILENT_WORDS = {'map', 'maps', 'dir', 'class', 'png', 'ground', 'truth'}
#: Words of folders whose maps tell objects apart, and not only classes.
OBJECT_WORDS = {'segmentationobject', 'panoptic'}
#: Words that tell images from what annotates them, and no more.
KINDS = IMAGE_WORDS | MAP_WORDS | SILENT_WORDS | {
    'xml', 'xmls', 'json', 'jsons', 'coco', 'voc', 'yolo', 'labelme', 'instances'}
#: Words that tell nothing of what is in a folder.
EMPTY_WORDS = KINDS | {
    'my', 'the', 'set', 'sets', 'data', 'dataset', 'split', 'part', 'subset', 'v'}
