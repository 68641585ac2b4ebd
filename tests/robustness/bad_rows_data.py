"""Defines rows of `bad_input`: arrays, data sets on the disk, and single records, whose faults show when read."""

import zipfile

import numpy as np

from tests.robustness.bad_input import Row, npz, photos, tfds
from tests.support import bad_files as bad

ARRAYS = [
    npz("data set npz: a folder", "where there is no file", lambda d: d),
    npz("npz: a text", "notes.txt cannot be read as a .npz file", bad.text),
    npz("npz: an empty file", "cannot be read as a .npz file", lambda d: bad.text(d, content="")),
    npz("npz: cut off", "cannot be read as a .npz file without pickles: File is not a zip file",
        lambda d: bad.cut(bad.npz(d))),
    npz("npz: an array is not there", "lacks test_labels", lambda d: bad.npz(d, test_labels=None)),
    npz("npz: floats for pixels",
        "train_images is float64", lambda d: bad.npz(d, train_images=np.zeros((20, 8, 8, 3)))),
    npz("npz: too few axes", "train_images is uint8 of shape (20, 8)",
        lambda d: bad.npz(d, train_images=np.zeros((20, 8), np.uint8))),
    npz("npz: a label too few", "one integer for each of the 20", lambda d: bad.npz(d, train_labels=np.arange(19))),
    npz("npz: floats for labels", "train_labels is float64", lambda d: bad.npz(d, train_labels=np.zeros(20))),
    npz("npz: a label below 0", "test_labels run from -1", lambda d: bad.npz(d, test_labels=np.arange(6) - 1)),
    npz("npz: a label of a million million",
        "at most 100000", lambda d: bad.npz(d, train_labels=np.arange(20) * 10**12)),
    npz("npz: images of two sizes", "they must have one shape",
        lambda d: bad.npz(d, test_images=np.zeros((6, 9, 9, 3), np.uint8))),
    npz("npz: no test images", "test_images is empty",
        lambda d: bad.npz(d, test_images=np.zeros((0, 8, 8, 3), np.uint8), test_labels=np.zeros(0, int))),
    npz("npz: images without channels", "images without pixels",
        lambda d: bad.npz(d, train_images=np.zeros((20, 8, 8, 0), np.uint8))),
    npz("npz: images that the model cannot halve",
        "images are 9x9, 9x9 before the first shortcut; the model needs multiples of 4",
        lambda d: bad.square_npz(d, 9)),
    npz("npz: 10^12 elements stated, 64 there", "states 1000000000000 bytes and has at most",
        bad.npz_with_header),
    npz("npz: a file of 400 KB that unpacks to 400 MB", "more than 100 times as many",
        lambda d: bad.npz_with_header(d, 10**8, 10**8, zipfile.ZIP_DEFLATED)),
    npz("npz: Python objects with code", "without pickles", lambda d: bad.npz_with_code(d, d / "ran")),
    npz("npz: a pickle with code", "without pickles", lambda d: bad.pickled(d, d / "ran")),
]  # fmt: skip

DATA = [
    photos(
        "a folder of images without train", "has no folder 'train'", lambda d: bad.without(bad.image_folder(d), "train")
    ),
    photos(
        "a folder of images without val",
        "has none of the folders 'val', 'validation', 'test'",
        lambda d: bad.without(bad.image_folder(d), "val"),
    ),
    photos(
        "a class that train has not",
        "val has the class folder 'bird' (1 of 3 such), which train lacks",
        lambda d: bad.another(bad.image_folder(d), "val/bird/0.jpg"),
    ),
    photos("a class without images", "cat holds no images (.jpg", bad.no_cats),
    photos(
        "more in a batch than images",
        "config.batch_size is 9; image_folder has only 8 training images",
        bad.image_folder,
        batch_size=9,
    ),
    photos(
        "a batch that no memory holds",
        "GiB of 8192x8192 images, and this machine has",
        bad.image_folder,
        image_size=8192,
        eval_resize=8192,
        eval_batch_size=10**6,
    ),
    photos(
        "images that the model cannot halve",
        "images are 72x72, 18x18 before the first shortcut; the model needs multiples of 8",
        bad.image_folder,
        model="react_resnet18",
        image_size=72,
        eval_resize=72,
    ),
    photos(
        "annotations: an unknown class",
        "gives 'val_0.JPEG' the class 'n03', which train lacks",
        lambda d: bad.tiny_imagenet(d, "val_0.JPEG\tn03\t0\n"),
        "tiny_imagenet",
    ),
    photos(
        "annotations: nothing",
        "val_annotations.txt names no images",
        lambda d: bad.tiny_imagenet(d, "\n"),
        "tiny_imagenet",
    ),
    photos(
        "annotations: an image that is not there",
        "gone.JPEG is not there, though val_annotations.txt names it",
        lambda d: bad.tiny_imagenet(d, "gone.JPEG\tn01\n"),
        "tiny_imagenet",
    ),
    photos(
        "annotations: a path out of the folder",
        "names the file '../../x'; it must name a file in 'images'",
        lambda d: bad.tiny_imagenet(d, "../../x\tn01\n"),
        "tiny_imagenet",
    ),
    photos(
        "annotations: no text",
        "val_annotations.txt is no text in UTF-8; unpack the archive anew",
        lambda d: bad.tiny_imagenet(d, bytes(range(128, 256))),
        "tiny_imagenet",
    ),
    tfds(
        "TFDS: an empty folder",
        "no cifar10 in DIR; to have TFDS download and prepare it there, once, type: pip install",
        lambda d: d,
    ),
    tfds(
        "TFDS: a cut-off description", "TFDS cannot read cifar10 in DIR: ", lambda d: bad.tfds(d, damage=bad.cut_info)
    ),
    tfds(
        "TFDS: files of records that are not there",
        "is not there (1 of 1 files of split 'train'); copy it there",
        lambda d: bad.tfds(d, damage=bad.remove_shards),
    ),
    tfds(
        "TFDS: a damaged record",
        "cannot decode train image",
        lambda d: bad.tfds(d, damage=bad.overwrite_shards(b"\xff" * 64)),
    ),
    tfds(
        "ImageNet: files of records that are not there",
        "of split 'train'); copy it there, or prepare the data set again",
        lambda d: bad.tfds(d, "imagenet2012", bad.remove_shards),
        "imagenet2012",
    ),
]

RECORDS = [
    photos(
        "a cut-off JPEG",
        "): truncated: a JPEG without its end-of-image marker; ",
        lambda d: bad.image_folder(d, train=bad.photograph()[:-40]),
    ),
    photos(
        "a cut-off PNG",
        "): truncated or damaged: a PNG without its end; ",
        lambda d: bad.image_folder(d, train=bad.photograph(kind=".png")[:-60]),
    ),
    photos(
        "a JPEG that states 65,500 x 65,500 pixels",
        "states 65500x65500 pixels, more than its",
        lambda d: bad.image_folder(d, train=bad.of_stated_size(bad.photograph(), 65500)),
    ),
    photos(
        "nothing but corrupt images, to be skipped",
        "nor can the 1000 after it; look at the files",
        lambda d: bad.image_folder(d, train=b"<html>"),
        on_corrupt="skip",
    ),
    Row(
        "a corrupt test image",
        "val image 0 (DIR/val/cat/0.jpg): neither a JPEG nor a PNG, WebP or BMP",
        bad.evaluation_of_corrupt,
        needs=("cv2", "grain", "PIL"),
    ),
    tfds(
        "ImageNet: a damaged record",
        "cannot decode train image",
        lambda d: bad.tfds(d, "imagenet2012", bad.overwrite_shards(b"\xff" * 64)),
        "imagenet2012",
    ),
]
