"""Converts the file of a photograph to an image of a batch: decodes, crops, resizes, rotates and flips it."""

import dataclasses
import math

import numpy as np

from recu_jax.data import images
from recu_jax.errors import UserError, unknown

CROPS = ("random_resized", "resize")
_TRIES = 10
# Images that shrink by a factor between these two are blurred over three pixels before the sampling. Above the second
# factor, three pixels are too few, and INTER_AREA is used.
_BLUR_FROM, _BLUR_UP_TO = 1.15, 2.75
_LONG = 64  # largest ratio of a test image's long side to its short side; longer images are cut to their middle


@dataclasses.dataclass(frozen=True)
class Transform:
    """Converts photographs to squares of `image_size` pixels. The object is picklable, for worker processes.

    Attributes:
      image_size: height and width of the result, in pixels.
      crop: `random_resized` or `resize`. `random_resized` is ImageNet's recipe: training takes a random part of the
        image; evaluation resizes the image and takes its center. `resize` is Tiny-ImageNet's recipe: training
        and evaluation resize the whole image to the square.
      area: smallest and largest area of a random crop, as shares of the image's area.
      ratio: smallest and largest width / height of a random crop. The logarithm of width / height is uniform.
      flip: whether training mirrors left and right with probability 1/2.
      rotation_degrees: training rotates an image by an angle that is uniform on [-rotation_degrees, rotation_degrees].
        The empty corners are 0.
      augment: whether training augments images. With False, training images are transformed as in the evaluation.
      eval_resize: length of the short side before the center crop of the evaluation, in pixels.

    Raises:
      UserError: a value is out of range.
    """

    image_size: int = 224
    crop: str = "random_resized"
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    rotation_degrees: float = 0
    augment: bool = True
    eval_resize: int = 256

    def __post_init__(self):
        if self.crop not in CROPS:
            raise unknown("crop", self.crop, CROPS)
        if self.image_size < 1:
            raise UserError(f"image_size is {self.image_size}; it must be 1 or more")
        if self.crop == "random_resized" and self.eval_resize < self.image_size:
            raise UserError(
                f"eval_resize is {self.eval_resize}, smaller than image_size {self.image_size}; the center crop of "
                f"{self.image_size} needs a short side of at least that"
            )
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise UserError(f"area is {self.area}; it must be two shares of the image, 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"ratio is {self.ratio}; it must be 0 < smallest <= largest")

    def train(self, data: bytes, rng: np.random.Generator) -> np.ndarray:
        """Makes a training image.

        Args:
          data: the bytes of an image file.
          rng: draws crop, rotation and flip.

        Returns:
          uint8 RGB, (image_size, image_size, 3).

        Raises:
          CorruptImage: as in `images.decode`.
        """
        import cv2

        if not self.augment:
            return self.evaluate(data)
        image = images.decode(data) if self.crop == "resize" else self._random_crop(data, rng)
        image = resize_antialiased(image, self.image_size)
        if self.rotation_degrees:
            image = _rotate(image, rng.uniform(-self.rotation_degrees, self.rotation_degrees))
        if self.flip and rng.random() < 0.5:
            image = cv2.flip(image, 1)  # takes 0.015 ms; copying a flipped NumPy view takes 0.1 ms
        return image

    def evaluate(self, data: bytes) -> np.ndarray:
        """Makes a test image with the same resize and crop as torchvision.

        Pillow resizes the image, because OpenCV has no filter like Pillow's antialiased one. PyTorch's pipeline uses
        Pillow too, and the published accuracies were measured with it.

        Args:
          data: the bytes of an image file.

        Returns:
          uint8 RGB, (image_size, image_size, 3).

        Raises:
          CorruptImage: as in `images.decode`.
        """
        from PIL import Image

        pixels, size = images.decode(data), self.image_size
        if self.crop == "resize":
            return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
        image = Image.fromarray(_without_far_ends(pixels))
        short, resized = min(image.size), self.eval_resize
        width, height = (resized if side == short else int(resized * side / short) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image.crop((left, top, left + size, top + size)))

    def _random_crop(self, data, rng):
        header = images.jpeg_header(data)
        if header is None:
            image = images.decode(data)
            top, left, height, width = random_box(rng, image.shape[0], image.shape[1], self.area, self.ratio)
            return image[top : top + height, left : left + width]
        # The header gives a JPEG's size, so the crop is drawn before decoding. Rows below the crop are not decoded.
        # A large crop is decoded at a half, a quarter or an eighth of its size.
        top, left, height, width = random_box(rng, header.height, header.width, self.area, self.ratio)
        reduce = next(r for r in (8, 4, 2, 1) if r == 1 or min(height, width) >= r * self.image_size)
        # The edges are rounded to pixels of the smaller image. The error is at most half of such a pixel.
        top, bottom, left, right = (round(at / reduce) for at in (top, top + height, left, left + width))
        crop = images.decode(data, rows=bottom * reduce, reduce=reduce)[top:bottom, left:right]
        if crop.shape[:2] != (bottom - top, right - left):
            raise images.CorruptImage("decodes to fewer rows than it states")
        return crop


def random_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Draws a random part of an image.

    This is Inception's crop (Szegedy et al. 2015), as defined by `RandomResizedCrop` of torchvision.

    The part's share of the image's area is uniform between the two numbers of `area`. log(width / height) is uniform
    between the logarithms of `ratio`. The position is uniform. If none of ten draws fits into the image, the result is
    the largest centered part with an allowed ratio.

    Args:
      rng: draws the random numbers.
      height: of the image.
      width: of the image.
      area: smallest and largest area of the part, as shares of the image's area.
      ratio: smallest and largest width / height of the part.

    Returns:
      Top, left, height and width, in pixels.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_TRIES):
        pixels = rng.uniform(*area) * height * width
        aspect = math.exp(rng.uniform(low, high))
        crop_height, crop_width = round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(rng.integers(0, height - crop_height + 1))
            left = int(rng.integers(0, width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height, crop_width = height, width
    if width < height * ratio[0]:
        crop_height = max(round(width / ratio[0]), 1)
    elif width > height * ratio[1]:
        crop_width = max(round(height * ratio[1]), 1)
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def resize_antialiased(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 (height, width, 3) to (size, size, 3).

    The result is close to Pillow's antialiased BILINEAR and takes a quarter of its time. If a side shrinks by a factor
    above 1.15, the image is blurred over three pixels and then sampled. Above 2.75 OpenCV's INTER_AREA resizes it. The
    mean difference from Pillow's pixels (0 to 255) at the shrink factors 1.25 / 1.5 / 1.75 / 2 / 2.35 is:

    - this function: 0.8 / 0.5 / 0.5 / 0.3 / 0.7, in 0.13 to 0.3 ms
    - sampling alone, which aliases: 1.4 / 2.0 / 2.1 / 2.8 / 4
    - OpenCV's INTER_AREA: 0.7 to 1.7, in 0.4 ms or more
    """
    import cv2

    y, x = (side / size for side in image.shape[:2])
    if max(x, y) > _BLUR_UP_TO:
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    if max(x, y) > _BLUR_FROM:
        image = cv2.GaussianBlur(image, (3, 3), sigmaX=_sigma(x), sigmaY=_sigma(y))
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def _sigma(shrinks: float) -> float:
    """Returns the standard deviation, in pixels, of the blur before a side shrinks by the factor `shrinks`.

    The formula is fitted to the values with which `resize_antialiased` comes closest to Pillow.
    """
    if shrinks <= _BLUR_FROM:
        return 0.1  # blurs nothing
    # Above a factor of 1.9, the three weights of the blur approach 1/3 each.
    return 0.36 * shrinks + 2 * max(shrinks - 1.9, 0)


def _without_far_ends(image: np.ndarray) -> np.ndarray:
    """Cuts a very long image to its middle part, at most `_LONG` times as long as its short side.

    The evaluation resizes the short side to 256. An image of 1x60,000 pixels would then take 12 GB.
    """
    short = min(image.shape[:2])
    keep = _LONG * short
    top, left = (max(side - keep, 0) // 2 for side in image.shape[:2])
    return image[top : top + keep, left : left + keep] if top or left else image


def _rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    import cv2

    size = image.shape[1], image.shape[0]
    turn = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), degrees, 1)
    return cv2.warpAffine(image, turn, size, flags=cv2.INTER_LINEAR, borderValue=0)
