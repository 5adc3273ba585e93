"""One data set of the training images of several, all compressed alike: JPEG must not tell one source from another.

`python benchmarks/recompress.py OUT ROOT...` decodes each image and writes it as JPEG of quality 90. That is below the
quality of copies that are JPEG already, so that this compression is the one to be seen in all of them.
"""

import sys
from pathlib import Path

from PIL import Image

QUALITY = 90


def recompress(out: Path, *roots: Path) -> int:
    """Write the images below `training_data` of each root into `out`, in the same folders; returns their number."""
    paths = [(root, path) for root in roots for path in sorted(root.glob("training_data/*/*/*.*"))]
    for root, path in paths:
        target = (out / path.relative_to(root)).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.convert("RGB").save(target, quality=QUALITY, subsampling="4:2:0")
    return len(paths)


if __name__ == "__main__":
    print(f"{recompress(*map(Path, sys.argv[1:]))} images in {sys.argv[1]}")
