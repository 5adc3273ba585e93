"""From picture files to a memory map of pixels: decode, crop, resize and hash them. No torch."""

import hashlib
import io
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from tqdm import tqdm

from leukemia.errors import InputError
from leukemia.storage.cache import cached_folder, preallocate_npy
from leukemia.storage.contents import content_hashes
from leukemia.storage.cores import AHEAD, Result, on_all_cores
from leukemia.storage.memory import keep_freed_memory

VERSION = 3  # of the map: raise it when the same files would give other pixels
RESIZES = ("squash", "crop")

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # 8 bits a channel; deeper ones would be clipped
MAX_PIXELS = 4096 * 4096  # a larger picture is not a single cell; decoding this many takes about 300 MB
MAX_BYTES = 4 * MAX_PIXELS + ImageFile.SAFEBLOCK  # of a file
AT_ONCE = 64  # pictures in a batch
FORMATS = ("BMP", "PNG", "JPEG", "TIFF")  # PIL knows many more, and one of them runs another program


@dataclass(frozen=True)
class Pixels:
    """The pixels of cells, in the order of their paths.

    Attributes:
        images: read-only memory map, uint8, (cells, size, size, 3), RGB.
        hashes: the hash of each cell's decoded pixels before resizing, (cells,).
        key: names the content; equal keys mean equal pixels.
    """

    images: np.ndarray
    hashes: np.ndarray
    key: str


def load_pixels(
    root: Path,
    paths: Sequence[str],
    size: int = 224,
    resize: str = "squash",
    native_size: int | None = None,
    max_gb: float | None = None,
) -> Pixels:
    """The pixels of picture files: decoded once, and then read from a memory map in the cache.

    Args:
        root: the folder that the paths are relative to.
        paths: the files, in the order of the result.
        size: height and width of the result.
        resize: `squash` or `crop`, see `fit`.
        native_size: see `fit`.
        max_gb: the bound of the cache.

    Raises:
        InputError: if files cannot be read (the message names the first), or the cache cannot be written.
    """
    files = [os.path.join(root, path) for path in paths]  # millions of Path objects would be slow
    contents = content_hashes(root, paths, MAX_BYTES)
    key = _key(contents, size, resize, native_size)

    def prepare(file: Path) -> tuple[str, np.ndarray]:
        image = at_native_size(decode(file), native_size)
        return pixel_hash(image), fit(image, size, resize)

    def build(folder: Path) -> None:
        images = preallocate_npy(folder / "images.npy", (len(files), size, size, 3), np.dtype(np.uint8))
        hashes = np.empty(len(files), dtype="U32")
        unreadable = []
        with closing(read_all(files, prepare)) as found:
            bar = tqdm(found, "decoding pictures", len(files), unit="cell", disable=None)
            for row, result in enumerate(bar):
                if isinstance(result, InputError):
                    unreadable.append(str(result))
                else:
                    hashes[row], images[row] = result
        if unreadable:
            listed = "\n  ".join(unreadable[:5]) + ("\n  ..." if len(unreadable) > 5 else "")
            raise InputError(
                f"{len(unreadable)} of {len(files)} pictures cannot be read "
                f"(`leukemia data check` lists all):\n  {listed}"
            )
        if content_hashes(root, paths, MAX_BYTES) != contents:
            raise InputError(f"pictures in {root} changed while they were read: start again when they stay")
        images.flush()  # type: ignore[attr-defined]
        np.save(folder / "hashes.npy", hashes)

    folder = cached_folder(f"pixels-{key}", build, max_gb)
    return Pixels(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "hashes.npy"), key)


def fit(image: np.ndarray, size: int, resize: str = "squash", native_size: int | None = None) -> np.ndarray:
    """Bring an image (height, width, 3) to (size, size, 3).

    Args:
        image: uint8 RGB.
        size: of the result.
        resize: `squash` scales the whole picture (bilinear, with anti-aliasing); `crop` takes the centre
            size x size at the picture's own scale.
        native_size: see `at_native_size`.
    """
    image = at_native_size(image, native_size)
    if resize == "crop":
        return centre_crop(image, size)
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def cell_hashes(images: Iterable[np.ndarray]) -> np.ndarray:
    """A hash of each of some pictures as the network takes them, uint8 (S, S, 3): uint64 (N,)."""
    digests = [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def at_native_size(image: np.ndarray, native_size: int | None) -> np.ndarray:
    """Cut a picture larger than `native_size` to its centre: C-NMC's final set is 600x600 at the scale of 450x450."""
    if native_size is not None and max(image.shape[:2]) > native_size:
        return centre_crop(image, native_size)
    return image


def decode(path: Path) -> np.ndarray:
    """The RGB pixels of a picture file: uint8, (height, width, 3).

    Raises:
        InputError: if the file is missing, not a picture, truncated, larger than MAX_PIXELS, of several pages, or of
            more than 8 bits a channel.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: not a file")  # a pipe would block
        if status.st_size > MAX_BYTES:
            raise InputError(f"{path}: {status.st_size / 1e6:,.0f} MB are too many for a single cell")
        with open(path, "rb") as file:
            content = _Content(file.read(status.st_size))
        with Image.open(content, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(
                    f"{path}: {picture.width}x{picture.height} pixels are too many for a single cell"
                )
            if (frames := getattr(picture, "n_frames", 1)) > 1:
                raise InputError(f"{path}: it holds {frames} pictures; save each as a file of its own")
            if picture.mode not in MODES:
                raise InputError(f"{path}: colour mode {picture.mode} is not supported; save it as 8-bit RGB")
            if picture.mode in ("RGBA", "LA", "PA"):  # transparent pixels are background
                black = Image.new("RGBA", picture.size, "black")
                return np.asarray(Image.alpha_composite(black, picture.convert("RGBA")).convert("RGB"))
            picture.load()  # `asarray` may hide an error of a decoder
            return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except (InputError, MemoryError):
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a readable picture (it is not a {', '.join(FORMATS)} file)") from None
    except Exception as error:  # PIL raises nearly anything for a damaged file
        raise InputError(f"{path}: not a readable picture ({error})") from None


def read_all(
    files: Sequence[str], read: Callable[[Path], Result], ahead: int = AHEAD
) -> Generator[Result | InputError]:
    """`read` of each picture file, or the reason why it cannot be read, in order.

    Args:
        files: the pictures.
        read: decodes one, and prepares its pixels.
        ahead: files that are read before their turn.
    """

    def one(file: str) -> Result | InputError:
        try:
            return read(Path(file))
        except InputError as error:
            return error

    keep_freed_memory()  # each picture is larger than what glibc keeps; without it the kernel takes half the time
    return on_all_cores(one, files, ahead)


def read_in_batches(
    files: Sequence[str], read: Callable[[Path], Result], size: int
) -> Iterator[tuple[int, list[Result | InputError]]]:
    """As `read_all`, in lists of AT_ONCE with the number of their first file. The next files are read while these are
    in use. Pictures of a `size` above 512 x 512 come in shorter lists."""
    at_once = max(1, min(AT_ONCE, AT_ONCE * 512**2 // size**2))
    found = read_all(files, read, at_once + 1)
    for start in range(0, len(files), at_once):
        yield start, list(islice(found, at_once))


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The centre size x size of an image (height, width, 3). A smaller image is padded with black."""
    for axis in (0, 1):
        length = image.shape[axis]
        if length >= size:
            start = (length - size) // 2
            image = image.take(range(start, start + size), axis=axis)
        else:
            before = (size - length) // 2
            margins = [(0, 0)] * 3
            margins[axis] = (before, size - length - before)
            image = np.pad(image, margins)
    return image


def pixel_hash(image: np.ndarray) -> str:
    """A hash of decoded pixels and their shape. It does not depend on the file's header."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class _Content(io.BytesIO):
    """A file in memory. A damaged length in it cannot make PIL ask for more memory than the file has bytes."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > max(self.getbuffer().nbytes, ImageFile.SAFEBLOCK):
            raise OSError(f"a part of it claims {size:,} bytes, more than the file has")
        return super().read(size)


def _key(hashes: list[str], size: int, resize: str, native_size: int | None) -> str:
    text = f"{VERSION} {size} {resize} {native_size}\0" + "\0".join(hashes)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
