"""Reading image files: what has no defined meaning is refused, and each refusal names the file.

Shapes: H W pixels.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mmcv
import numpy as np
from mmcv import transforms
from mmcv.image import io as mmcv_io
from mmengine import fileio
from PIL import Image, ImageOps, UnidentifiedImageError

from hstpeft.errors import UserError, check_choice, check_least
from hstpeft.registry import TRANSFORMS

MAX_PIXELS = 178_956_970
"""PIL refuses larger ones too; as RGB such an image takes 0.5 GB."""
_REMEDY = "repair it, leave it out, or set on_bad_image='skip' of a data set of hstpeft"


@TRANSFORMS.register_module()
class LoadImageFromFile(transforms.LoadImageFromFile):
    """mmcv's transform of this name, for files that may be damaged, huge or no usual image.

    Ordinary files give the same bits as mmcv's. Gray images of 16 bits are read by their high byte
    under either backend, as OpenCV reads them; mmcv's pillow backend makes them white.

    Args:
        to_float32: Whether to give float32 instead of uint8.
        color_type: As mmcv's; ``unchanged`` gives whatever values the file has.
        imdecode_backend: As mmcv's: ``cv2``, ``pillow``, ...; None for that of ``mmcv.use_backend``.
        ignore_empty: Return None for a bad file; mmengine then takes another image at random.
        backend_args: Where files come from, if not from the disk.
        max_pixels: Most pixels of an image; a larger one is refused before it is decoded.

    Raises:
        UserError: A file is missing, cannot be decoded, is too large, or has values whose range is
            not defined (floats); names it.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = 'color',
        imdecode_backend: str | None = 'cv2',
        ignore_empty: bool = False,
        backend_args: dict | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        check_least('max_pixels', max_pixels, 1)
        super().__init__(
            to_float32, color_type, imdecode_backend, None, ignore_empty, backend_args=backend_args
        )
        self.max_pixels = max_pixels

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Read ``results['img_path']`` into ``img`` (H, W, 3), BGR."""
        try:
            image = read_image(
                results['img_path'],
                self.color_type,
                self.imdecode_backend,
                self.max_pixels,
                self.backend_args,
            )
        except UserError:
            if self.ignore_empty:
                return None
            raise
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


class NamedMask(transforms.BaseTransform):
    """A host's transform that loads a mask, and names the file that it cannot read.

    Args:
        load: The transform.
    """

    def __init__(self, load: transforms.BaseTransform) -> None:
        self.load = load

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Load ``results['seg_map_path']``."""
        try:
            return self.load(results)
        except Exception:
            path = results.get('seg_map_path')
            if path is not None:
                load = self.load
                read_image(path, 'unchanged', load.imdecode_backend, MAX_PIXELS, load.backend_args)
            raise  # the file is sound


def name_files(pipeline: Any, max_pixels: int = MAX_PIXELS) -> None:
    """Replace transforms of mmcv and the hosts by those that name a bad file.

    Args:
        pipeline: Changed in place; anything but mmengine's `Compose` is left alone.
        max_pixels: Most pixels of an image.
    """
    steps = getattr(pipeline, 'transforms', None)
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        if type(step) is transforms.LoadImageFromFile and step.file_client_args is None:
            steps[index] = LoadImageFromFile(
                step.to_float32,
                step.color_type,
                step.imdecode_backend,
                step.ignore_empty,
                step.backend_args,
                max_pixels,
            )
        elif isinstance(step, transforms.LoadAnnotations):
            steps[index] = NamedMask(step)


def read_image(
    path: str,
    color_type: str = 'color',
    backend: str | None = 'pillow',
    max_pixels: int = MAX_PIXELS,
    backend_args: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Read an image as mmcv does, see `LoadImageFromFile`.

    Returns:
        Values (H, W, 3) in BGR order, or (H, W), by ``color_type``.

    Raises:
        UserError: Names the file and what is wrong with it.
    """
    backend = backend or mmcv_io.imread_backend
    check_choice('imdecode_backend', backend, mmcv_io.supported_backends)
    try:
        content = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise UserError(f'image {path} does not exist: {_REMEDY}') from error
    except OSError as error:
        raise UserError(f'image {path} cannot be read ({error.strerror}): {_REMEDY}') from error
    if not content:
        raise UserError(f'image {path} cannot be decoded (0 bytes): {_REMEDY}')
    try:
        with _without_limit_of_pil():
            image = _decode(path, content, color_type, backend, max_pixels)
    except UserError:
        raise
    except Exception as error:  # decoders raise a dozen types for damaged files
        known = ' '.join(str(error).split()) or type(error).__name__
        reason = 'no known format' if isinstance(error, UnidentifiedImageError) else known
        raise UserError(f'image {path} cannot be decoded ({reason}): {_REMEDY}') from error
    if image is None:  # what cv2 gives instead of an error
        raise UserError(f'image {path} cannot be decoded (damaged): {_REMEDY}')
    return image


def _decode(
    path: str, content: bytes, color_type: str, backend: str, max_pixels: int
) -> np.ndarray | None:
    try:
        header = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        if backend == 'pillow':
            raise
        return mmcv.imfrombytes(content, color_type, backend=backend)  # cv2 knows more formats
    width, height = header.size
    if width * height > max_pixels:
        raise UserError(
            f'image {path} has {width} x {height} pixels, max_pixels={max_pixels} is the limit: '
            f'shrink it, raise max_pixels (of the data set, or of hstpeft.LoadImageFromFile), or '
            f'{_REMEDY}'
        )
    has_16_bits = header.mode.startswith('I;16') or (header.mode, header.format) == ('I', 'PPM')
    if color_type != 'unchanged' and backend in ('pillow', 'cv2'):
        if header.mode in ('I', 'F') and not has_16_bits:
            kind = 'floats' if header.mode == 'F' else 'integers'
            raise UserError(
                f'image {path} holds {kind} of 32 bits, of which nobody knows what is white: '
                'convert it to 8 or 16 bits'
            )
        if has_16_bits and backend == 'pillow':
            return _high_byte(header, color_type)
    return mmcv.imfrombytes(content, color_type, backend=backend)


def _high_byte(image: Image.Image, color_type: str) -> np.ndarray:
    """Make an 8-bit image of a gray one of 16 bits."""
    turned = image if color_type.endswith('ignore_orientation') else ImageOps.exif_transpose(image)
    gray = (np.asarray(turned) >> 8).astype(np.uint8)
    return gray if color_type.startswith('gray') else np.stack([gray] * 3, axis=-1)


@contextmanager
def _without_limit_of_pil() -> Iterator[None]:
    """Lift PIL's limit, a global: beyond it PIL does not even tell the size, which our error names."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
