"""The `leukemia` command: what is done before and after training."""

import argparse
import sys
from pathlib import Path

from leukemia import __version__, commands
from leukemia.errors import exit_readably


def main(arguments: list[str] | None = None) -> None:
    """Run a command: exit 0 done, 1 done with failures listed, 2 refused."""
    options = _parser().parse_args(arguments)
    with exit_readably():
        sys.exit(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leukemia",
        description="Transfer learning on C-NMC leukemia cells. Train with `leukemia-train` "
        "(python -m leukemia.train), the rest is here.",
        epilog="""examples:
  leukemia data demo demo-cells                       synthetic cells, to try it
  leukemia-train data.root=demo-cells model.weights=none name=try
  leukemia report outputs/try                         figures and plots of all runs
  leukemia COMMAND --help                             what a command takes, with an example""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    data = verbs.add_parser(
        "data",
        help="check, fetch or synthesise a C-NMC folder",
        epilog="example:\n  leukemia data check C-NMC_Leukemia",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    of_data = data.add_subparsers(required=True, metavar="COMMAND")

    check = _verb(
        of_data,
        "check",
        commands.check,
        "is the folder whole? counts, unreadable files, duplicates, groups",
        "data check C-NMC_Leukemia",
    )
    check.add_argument(
        "folder", type=Path, metavar="DIR", help="a C-NMC folder, class folders or a manifest csv"
    )
    check.add_argument("--layout", choices=["cnmc", "cells"], default="cnmc", help="cells: your own images")
    check.add_argument("--positive", metavar="CLASS", help="the class that counts as 1, with --layout cells")
    check.add_argument("--json", action="store_true", help="print JSON")

    fetch = _verb(
        of_data,
        "fetch",
        commands.fetch,
        "download C-NMC through kagglehub (extra: kaggle), then check it",
        "data fetch C-NMC_Leukemia",
    )
    fetch.add_argument("folder", type=Path, metavar="DIR", help="an empty or new folder")

    demo = _verb(
        of_data, "demo", commands.demo, "write a synthetic C-NMC set", "data demo demo-cells --images 200"
    )
    demo.add_argument("folder", type=Path, metavar="DIR", help="an empty or new folder")
    demo.add_argument("--images", type=int, default=400, metavar="N", help="how many (default 400)")
    demo.add_argument("--seed", type=int, default=0, metavar="S")

    report = _verb(
        verbs,
        "report",
        commands.report,
        "write results.csv, results.md and report.html of a sweep or run",
        "report outputs/paper",
    )
    report.add_argument("folder", type=Path, metavar="SWEEP|RUN", help="as outputs/paper")

    evaluate = _verb(
        verbs,
        "evaluate",
        commands.evaluate,
        "figures with intervals of a run, a sweep or a table of predictions",
        "evaluate outputs/paper --json",
    )
    evaluate.add_argument(
        "target", type=Path, metavar="RUN|SWEEP|TABLE.csv", help="path, subject, label, logit"
    )
    evaluate.add_argument("--against", type=Path, metavar="OTHER", help="compare on the same cells")
    evaluate.add_argument("--json", action="store_true", help="print JSON")

    triage = _verb(
        verbs,
        "triage",
        commands.triage,
        "release what is certain within bounds, send the rest to review",
        "triage outputs/paper/RUN --max-missed 0.1 --max-false-alarm 0.2",
    )
    triage.add_argument("folder", type=Path, metavar="RUN|SWEEP")
    triage.add_argument(
        "--on", type=Path, metavar="TABLE.csv", help="labelled cells that the model has not seen"
    )
    triage.add_argument("--max-missed", type=float, default=0.10, metavar="SHARE", help="default 0.10")
    triage.add_argument("--max-false-alarm", type=float, default=0.20, metavar="SHARE", help="default 0.20")
    triage.add_argument("--confidence", type=float, default=0.95, metavar="SHARE", help="default 0.95")
    triage.add_argument("--unit", choices=["subject", "cell"], default="subject", help="what is independent")
    triage.add_argument("--prevalence", type=float, metavar="SHARE", help="print predictive values for it")

    predict = _verb(
        verbs,
        "predict",
        commands.predict,
        "decide on picture files, with a run or an exported model",
        "predict outputs/paper/RUN new_cells -o decisions.csv",
    )
    predict.add_argument("model", type=Path, metavar="RUN|MODEL.onnx")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="files, folders or globs")
    predict.add_argument(
        "-o", "--output", type=Path, default=Path("predictions.csv"), metavar="FILE", help="predictions.csv"
    )
    predict.add_argument(
        "--views", type=int, choices=[1, 8], help="8: mean logits over flips and quarter turns"
    )
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    predict.add_argument(
        "--subjects", metavar="PATTERN|CSV", help="as 'UID_(H?[0-9]+)_', or a csv: path, subject[, label]"
    )
    predict.add_argument(
        "--challenge", action="store_true", help="write isbi_valid.predict too, a label a line in image order"
    )

    explain = _verb(
        verbs,
        "explain",
        commands.explain,
        "heat maps: what speaks for the decision (extra: explain)",
        "explain outputs/paper/RUN new_cells -o pictures",
    )
    explain.add_argument("run_folder", type=Path, metavar="RUN")
    explain.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="files, folders or globs; none: a sample of the run's own cells",
    )
    explain.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="default explained, without PATH the run folder"
    )
    explain.add_argument(
        "--sample", type=int, default=200, metavar="N", help="of the run's cells, default 200"
    )
    explain.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")

    export = _verb(
        verbs,
        "export",
        commands.export,
        "the network as one file, ONNX or safetensors (extra: onnx)",
        "export outputs/paper/RUN -o model.onnx",
    )
    export.add_argument("run_folder", type=Path, metavar="RUN")
    export.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: the run's name, here")
    export.add_argument(
        "--format",
        choices=["onnx", "state_dict"],
        default="onnx",
        help="state_dict: under torchvision's names",
    )

    app = _verb(
        verbs,
        "app",
        commands.app,
        "the page on which an expert reviews the cells of a run (extra: app)",
        "app outputs/paper/RUN",
    )
    app.add_argument("folder", type=Path, metavar="RUN", help="the folder of a finished run")
    app.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="the run's pictures where they moved to, or others to review",
    )
    app.add_argument("--host", default="127.0.0.1", metavar="H", help="any but this machine needs a token")
    app.add_argument("--port", type=int, default=8765, metavar="P", help="default 8765; 0 for any")
    return parser


def _verb(verbs, name, run, text, example) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
    parser = verbs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n  leukemia {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    main()
