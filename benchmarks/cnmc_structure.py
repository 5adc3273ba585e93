"""A synthetic C-NMC set with the structure of the real one: cells, classes and folds of each subject, and identical
pictures, from the file list and the preliminary labels beside the checkout.

`python benchmarks/cnmc_structure.py DIR [--size 128]` writes training and preliminary images (12,528). It writes no
final ones, because their subjects are not public. The demo's generator draws the pictures: they are not evidence about
leukemia.
"""

import argparse
import re
from pathlib import Path

import pandas as pd

from leukemia.data.demo import write_demo

SHARED = Path(__file__).parents[2] / "shared" / "data"
NAME = re.compile(r"UID_(H?[0-9]+)_[0-9]+_[0-9]+_(all|hem)\.bmp", re.IGNORECASE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=128, help="of a picture, in pixels (C-NMC has 450)")
    options = parser.parse_args()
    cells = structure(
        pd.read_csv(SHARED / "cnmc_files.csv"),
        pd.read_csv(SHARED / "C-NMC_test_prelim_phase_data_labels.csv"),
    )
    print(
        cells.groupby(["published_split", "label"]).agg(
            images=("path", "size"), subjects=("subject", "nunique")
        )
    )
    print(write_demo(options.folder, size=options.size, structure=cells))


def structure(files: pd.DataFrame, prelim: pd.DataFrame) -> pd.DataFrame:
    """The table that `leukemia.data.demo.write_demo` takes, of the real training and preliminary images."""
    files = files[files["path"].str.endswith(".bmp")].assign(
        path=lambda table: table["path"].str.removeprefix("C-NMC_Leukemia/")
    )
    train = files[files["path"].str.startswith("training_data/")].reset_index(drop=True)
    first = train.groupby("sha256")["path"].transform("first")
    train = train.assign(
        name=train["path"].str.rpartition("/")[2],
        fold=train["path"].str.extract(r"fold_(\d)")[0].astype(int),
        published_split="train",
        same_as=first.where(first != train["path"]),
    )
    folder = "validation_data/C-NMC_test_prelim_phase_data/"
    tested = pd.DataFrame({"path": folder + prelim["new_names"], "name": prelim["Patient_ID"]}).assign(
        fold=-1, published_split="prelim", same_as=None
    )
    cells = pd.concat([train, tested], ignore_index=True)
    found = cells["name"].str.extract(NAME.pattern, flags=re.IGNORECASE)
    cells = cells.assign(subject=found[0].str.upper(), label=(found[1].str.lower() == "all").astype(int))
    return cells[["path", "name", "label", "subject", "published_split", "fold", "same_as"]]


if __name__ == "__main__":
    main()
