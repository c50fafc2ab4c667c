"""Tiny data in each format, made by hand."""
import json
import zlib

import numpy as np
from PIL import Image

#: Size of the images, and a box in each: left, top, right, bottom.
WIDTH, HEIGHT = 64, 48
BOX = (8, 12, 40, 36)
CLASSES = ('cat', 'dog')


def picture(path, size=(WIDTH, HEIGHT), seed=None, **options):
    """Write an image of noise; every path gives another one."""
    seed = zlib.crc32(str(path).encode()) if seed is None else seed
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def polygon():
    left, top, right, bottom = BOX
    return [[left, top, right, top, right, bottom, left, bottom]]


def coco_content(names, masks=True, classes=CLASSES, first=1):
    """Content of a COCO file, an object of each class by turns."""
    left, top, right, bottom = BOX
    annotations = [dict(id=index, image_id=first + index, category_id=3 + index % len(classes),
                        bbox=[left, top, right - left, bottom - top],
                        area=(right - left) * (bottom - top), iscrowd=0,
                        **(dict(segmentation=polygon()) if masks else {}))
                   for index in range(len(names))]
    return dict(
        images=[dict(id=first + index, file_name=name, width=WIDTH, height=HEIGHT)
                for index, name in enumerate(names)],
        annotations=annotations,
        categories=[dict(id=3 + index, name=name) for index, name in enumerate(classes)])


def make_coco(root, count=6, masks=True, **options):
    """One file without parts, images beside it."""
    names = [f'{index}.jpg' for index in range(count)]
    for name in names:
        picture(root / 'images' / name)
    (root / 'instances.json').write_text(json.dumps(coco_content(names, masks, **options)))


def make_coco_in_parts(root):
    for part in ('train2017', 'val2017'):
        names = [f'{part}{index}.jpg' for index in range(4)]
        for name in names:
            picture(root / part / name)
        file = root / 'annotations' / f'instances_{part}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(coco_content(names)))


def voc_xml(name, label='cat', box=BOX, extra=''):
    edges = ''.join(f'<{edge}>{value}</{edge}>'
                    for edge, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
    return (f'<annotation><filename>{name}</filename><size><width>{WIDTH}</width>'
            f'<height>{HEIGHT}</height><depth>3</depth></size><object><name>{label}</name>{extra}'
            f'<bndbox>{edges}</bndbox></object></annotation>')


def make_voc(root, count=6):
    for index in range(count):
        picture(root / 'JPEGImages' / f'{index}.jpg')
        file = root / 'Annotations' / f'{index}.xml'
        file.parent.mkdir(exist_ok=True)
        file.write_text(voc_xml(f'{index}.jpg', CLASSES[index % 2]))
    lists = root / 'ImageSets' / 'Main'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('\n'.join(map(str, range(count - 2))))
    (lists / 'val.txt').write_text(f'{count - 2}\n{count - 1}\n')


def yolo_line(label=0, polygons=False):
    left, top, right, bottom = BOX
    if polygons:
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        numbers = [value for x, y in points for value in (x / WIDTH, y / HEIGHT)]
    else:
        numbers = [(left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT,
                   (right - left) / WIDTH, (bottom - top) / HEIGHT]
    return ' '.join([str(label), *(f'{number:.6f}' for number in numbers)])


def make_yolo(root, polygons=False, count=4):
    for part in ('train', 'val'):
        for index in range(count):
            picture(root / 'images' / part / f'{part}{index}.JPG', format='JPEG')
            file = root / 'labels' / part / f'{part}{index}.txt'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yolo_line(index % 2, polygons) + '\n')
    (root / 'data.yaml').write_text(
        'path: /elsewhere/data\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n')


def labelme_content(name, label='cat', **shape):
    left, top, right, bottom = BOX
    points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    shape = {**dict(label=label, points=points, group_id=None, shape_type='polygon'), **shape}
    return dict(version='5.0', flags={}, shapes=[shape], imagePath=name, imageData=None,
                imageWidth=WIDTH, imageHeight=HEIGHT)


def make_labelme(root, count=6):
    for index in range(count):
        picture(root / f'{index}.jpg')
        (root / f'{index}.json').write_text(
            json.dumps(labelme_content(f'{index}.jpg', CLASSES[index % 2])))


def label_map(path, pixels, palette=None):
    """Write a label map; ``pixels`` is (H, W) or (H, W, 3), or two values for its halves."""
    if isinstance(pixels, tuple):
        first, second = map(np.array, pixels)
        pixels = np.empty((HEIGHT, WIDTH, *first.shape), np.uint8)
        pixels[:HEIGHT // 2], pixels[HEIGHT // 2:] = first, second
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def make_label_maps(root, halves=(0, 1), count=6, images='images', maps='masks', palette=None):
    for index in range(count):
        picture(root / images / f'{index}.jpg')
        label_map(root / maps / f'{index}.png', halves, palette)


def make_ade20k(root):
    for part in ('training', 'validation'):
        for index in range(4):
            picture(root / 'images' / part / f'{part}{index}.jpg')
            label_map(root / 'annotations' / part / f'{part}{index}.png',
                      (0, 1) if index == 0 else (1, 2))


def make_class_folders(root, classes=CLASSES, count=5, parts=('', )):
    for part in parts:
        for name in classes:
            for index in range(count):
                picture(root / part / name / f'{part}{name} {index}.png')


def make_arrays(root, count=5):
    """Folders of classes whose images have five bands of real numbers."""
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(index).random((HEIGHT, WIDTH, 5), np.float32)
            np.save(root / name / f'{index}.npy', pixels)


def make_csv(root, count=8):
    lines = ['image,label']
    for index in range(count):
        picture(root / 'pictures' / f'{index}.jpg')
        lines.append(f'{index}.jpg,{CLASSES[index % 2]}')
    (root / 'labels of all.csv').write_text('\n'.join(lines))


def make_csv_columns(root, count=8):
    make_csv(root, count)
    file = root / 'labels of all.csv'
    cells = {name: ','.join('1.0' if name == other else '0.0' for other in CLASSES)
             for name in CLASSES}
    _, *lines = file.read_text().splitlines()
    rows = [line.replace(name, cells[name]) for line in lines for name in CLASSES if name in line]
    file.write_text('\n'.join([f'image,{",".join(CLASSES)}', *rows]))


#: What makes data of each format, and their format and task.
MAKERS = {
    'coco': (make_coco, 'coco', 'det'),
    'coco-boxes': (lambda root: make_coco(root, masks=False), 'coco', 'det'),
    'coco-parts': (make_coco_in_parts, 'coco', 'det'),
    'voc': (make_voc, 'voc', 'det'),
    'yolo': (make_yolo, 'yolo', 'det'),
    'yolo-polygons': (lambda root: make_yolo(root, polygons=True), 'yolo', 'det'),
    'labelme': (make_labelme, 'labelme', 'det'),
    'label-maps': (make_label_maps, 'label_maps', 'seg'),
    'label-maps-binary': (lambda root: make_label_maps(root, (0, 255)), 'label_maps', 'seg'),
    'label-maps-colours': (lambda root: make_label_maps(root, ((0, 0, 0), (200, 10, 10))),
                           'label_maps', 'seg'),
    'label-maps-indexed': (lambda root: make_label_maps(
        root, palette=[1, 2, 3, 250, 128, 7]), 'label_maps', 'seg'),
    'ade20k': (make_ade20k, 'label_maps', 'seg'),
    'class-folders': (make_class_folders, 'class_folders', 'cls'),
    'class-folders-parts': (lambda root: make_class_folders(root, parts=('train', 'val')),
                            'class_folders', 'cls'),
    'class-folders-arrays': (make_arrays, 'class_folders', 'cls'),
    'csv': (make_csv, 'csv', 'cls'),
    'csv-columns': (make_csv_columns, 'csv', 'cls'),
}


def snapshot(root):
    """Content and time of every file below a folder."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
            for path in root.rglob('*')}
