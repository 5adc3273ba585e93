"""The `leukemia` command: every step before and after training."""

import argparse
import inspect
import json
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

from leukemia import __version__
from leukemia.errors import InputError, exit_readably
from leukemia.terminal import collects_seldom, ends_on_signals, show


def main(arguments: list[str] | None = None) -> None:
    """Run a command: exit 0 done, 1 done with failures listed, 2 refused, 130 / 143 interrupted."""
    with collects_seldom(), ends_on_signals(), exit_readably():
        options = _parser().parse_args(arguments)
        sys.exit(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leukemia",
        description="Transfer learning on C-NMC leukemia cells. Train with `leukemia-train` "
        "(python -m leukemia.train), the rest is here.",
        epilog="""examples:
  leukemia data demo demo-cells                       synthetic cells, to try it
  leukemia-train data.root=demo-cells model.net.weights=none name=try
  leukemia report outputs/try                         metrics and plots of all runs
  leukemia COMMAND --help                             the arguments of a command, with an example""",
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

    argument = _verb(of_data, _check)
    argument("folder", type=Path, metavar="DIR", help="a C-NMC folder, class folders or a manifest csv")
    argument(
        "--reader", choices=["cnmc", "class_folders"], default="cnmc", help="class_folders: your own images"
    )
    argument("--positive", metavar="CLASS", help="the class that counts as 1, with --reader class_folders")
    argument("--json", action="store_true", help="print JSON")

    argument = _verb(of_data, _fetch)
    argument("folder", type=Path, metavar="DIR", help="an empty or new folder")

    argument = _verb(of_data, _demo)
    argument("folder", type=Path, metavar="DIR", help="an empty or new folder")
    argument("--images", type=int, default=400, metavar="N", help="how many (default 400)")
    argument("--seed", type=int, default=0, metavar="S")
    argument(
        "--set",
        dest="kind",
        choices=["cnmc", "study", "others"],
        default="cnmc",
        help="study: more test subjects than C-NMC has; others: two other kinds of cells",
    )

    argument = _verb(verbs, _report)
    argument("folder", type=Path, metavar="SWEEP|RUN", help="as outputs/paper")
    argument(
        "--checklist",
        choices=["tripod-ai"],
        help="write tripod-ai.md too: the reporting guideline, filled in from the run folders",
    )

    argument = _verb(verbs, _evaluate)
    argument(
        "targets", type=Path, nargs="+", metavar="RUN|SWEEP|TABLE.csv", help="path, subject, label, logit"
    )
    argument(
        "--ensemble",
        action="store_true",
        help="the mean logit of all runs of SWEEP, or of several RUNs, and its difference to the best of them",
    )
    argument("--against", type=Path, metavar="OTHER", help="compare on the same cells")
    argument("--json", action="store_true", help="print JSON")

    argument = _verb(verbs, _triage)
    argument("folder", type=Path, metavar="RUN|SWEEP")
    argument("--on", type=Path, metavar="TABLE.csv", help="labelled cells that the model has not seen")
    argument("--ensemble", action="store_true", help="certify the mean logit of the runs of SWEEP")
    argument("--max-missed", type=float, default=0.10, metavar="SHARE", help="default 0.10")
    argument("--max-false-alarm", type=float, default=0.20, metavar="SHARE", help="default 0.20")
    argument("--confidence", type=float, default=0.95, metavar="SHARE", help="default 0.95")
    argument("--unit", choices=["subject", "cell"], default="subject", help="the independent unit")
    argument("--prevalence", type=float, metavar="SHARE", help="print predictive values for it")

    argument = _verb(verbs, _predict)
    argument(
        "model", type=Path, metavar="RUN|SWEEP|MODEL.onnx", help="a SWEEP is an ensemble; so are RUN RUN ..."
    )
    argument(
        "paths", nargs="+", metavar="PATH", help="files, folders or globs; - for names on standard input"
    )
    argument("-o", "--output", type=Path, metavar="FILE", help="predictions.csv; none for one PATH or --json")
    argument(
        "--tta",
        choices=["none", "d4"],
        help="d4: mean logits over flips and quarter turns; default: the run's data.tta",
    )
    argument("--device", default="auto", help="auto, cpu, cuda, ...")
    argument(
        "--subjects", metavar="PATTERN|CSV", help="as 'UID_(H?[0-9]+)_', or a csv: path, subject[, label]"
    )
    argument(
        "--challenge", action="store_true", help="write isbi_valid.predict too, a label a line in image order"
    )
    argument("--json", action="store_true", help="print JSON")

    argument = _verb(verbs, _explain)
    argument("run_folder", type=Path, metavar="RUN")
    argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="files, folders or globs; none: a sample of the run's own cells",
    )
    argument(
        "-o", "--output", type=Path, metavar="DIR", help="default explained, without PATH the run folder"
    )
    argument("--sample", type=int, default=200, metavar="N", help="of the run's cells, default 200")
    argument("--device", default="auto", help="auto, cpu, cuda, ...")

    argument = _verb(verbs, _stress)
    argument("run_folder", type=Path, metavar="RUN")
    argument("--shifts", nargs="+", default=[], metavar="NAME", help="as blur stain; default: all ten")
    argument("--device", default="auto", help="auto, cpu, cuda, ...")

    argument = _verb(verbs, _monitor)
    argument("run_folder", type=Path, metavar="RUN")
    argument(
        "tables",
        nargs="+",
        type=Path,
        metavar="DECISIONS",
        help="of predict and of the page, in the order of time",
    )
    argument("--on", type=Path, metavar="TABLE.csv", help="the cells that triage was certified on, with --on")
    argument("--json", action="store_true", help="print JSON")

    argument = _verb(verbs, _export)
    argument(
        "models", type=Path, nargs="+", metavar="RUN|SWEEP", help="several: an ensemble, in one ONNX file"
    )
    argument("-o", "--output", type=Path, metavar="FILE", help="default: the run's name, here")
    argument(
        "--format",
        choices=["onnx", "state_dict"],
        default="onnx",
        help="state_dict: under the published names, torchvision's for ResNets",
    )

    argument = _verb(verbs, _app)
    argument(
        "folders", type=Path, nargs="+", metavar="RUN|SWEEP", help="of finished runs; several: an ensemble"
    )
    argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="the run's pictures where they moved to, or others to review",
    )
    argument(
        "--blind", action="store_true", help="show the model's opinion of a cell after its decision only"
    )
    argument("--host", default="127.0.0.1", metavar="H", help="any but this machine needs a token")
    argument("--port", type=int, default=8765, metavar="P", help="default 8765; 0 for any")
    return parser


def _verb(verbs: Any, run: Callable[[argparse.Namespace], int]) -> Callable[..., argparse.Action]:
    """Add a command, whose name, help and example are those of the function that runs it; gives its `add_argument`."""
    text, example = inspect.cleandoc(run.__doc__ or "").split("\n\n")
    parser: argparse.ArgumentParser = verbs.add_parser(
        run.__name__.strip("_"),
        help=text[0].lower() + text[1:].rstrip("."),
        description=text,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser.add_argument


def _check(options: argparse.Namespace) -> int:
    """Audit a data folder: counts, unreadable files, duplicates, groups.

    example:
      leukemia data check C-NMC_Leukemia
    """
    from leukemia.data.check import check

    result = check(options.folder, reader=options.reader, positive=options.positive)
    if options.json:
        show(json.dumps(result.to_dict(), indent=2), coloured=False)
    else:
        show("\n".join(result.lines()))
    return 0 if result.ok else 1


def _fetch(options: argparse.Namespace) -> int:
    """Download C-NMC through kagglehub (extra: kaggle), then check it.

    example:
      leukemia data fetch C-NMC_Leukemia
    """
    from leukemia.data.fetch import fetch

    options.folder = fetch(options.folder)
    options.reader, options.positive, options.json = "cnmc", None, False
    return _check(options)


def _demo(options: argparse.Namespace) -> int:
    """Write a synthetic C-NMC set.

    example:
      leukemia data demo demo-cells --images 200
    """
    from leukemia.data.demo import write_demo

    show(write_demo(options.folder, options.images, options.seed, kind=options.kind))
    return 0


def _report(options: argparse.Namespace) -> int:
    """Write results.csv, results.md and report.html of a sweep or run.

    example:
      leukemia report outputs/paper
    """
    from leukemia.reporting.checklist import write_checklist
    from leukemia.reporting.html import written_report

    report = written_report(options.folder)
    show("\n".join([report.lead, *report.said]))
    if options.checklist:
        show(write_checklist(options.folder))
    show(report.page)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    """Metrics with intervals of a run, a sweep or a table of predictions.

    example:
      leukemia evaluate outputs/paper --json
    """
    from leukemia.commands.evaluate import evaluated

    problems: list[str] = []
    found = evaluated(
        options.targets, options.against, as_json=options.json, problems=problems, ensemble=options.ensemble
    )
    show(found, coloured=not options.json)
    return 1 if problems else 0


def _triage(options: argparse.Namespace) -> int:
    """Release the certain cells within bounds, send the rest to review.

    example:
      leukemia triage outputs/paper/RUN --max-missed 0.1 --max-false-alarm 0.2
    """
    from leukemia.commands.triage import triage

    return triage(
        options.folder, options.on, options.max_missed, options.max_false_alarm, options.confidence,
        options.unit, options.prevalence, options.ensemble,
    )  # fmt: skip


def _predict(options: argparse.Namespace) -> int:
    """Decide on picture files, with a run, an ensemble or an exported model.

    example:
      leukemia predict outputs/paper/RUN new_cells -o decisions.csv
    """
    from leukemia.commands.predict import predict

    # Run folders before the first picture are members of an ensemble.
    named = takewhile(lambda path: (Path(path) / "status.json").is_file(), options.paths)
    models = [options.model, *map(Path, named)]
    paths = options.paths[len(models) - 1 :]
    if not paths:
        raise InputError(
            "there is no PATH after the runs: name pictures, a folder of them, or - for standard input"
        )
    return predict(
        models, paths, options.output, options.tta, options.device, options.subjects, options.challenge,
        options.json,
    )  # fmt: skip


def _explain(options: argparse.Namespace) -> int:
    """Heat maps of the evidence for a decision, by Grad-CAM.

    example:
      leukemia explain outputs/paper/RUN new_cells -o pictures
    """
    from leukemia.commands.explain import explain
    from leukemia.runs import open_run

    return explain(
        open_run(options.run_folder), options.paths, options.output, options.sample, options.device
    )


def _stress(options: argparse.Namespace) -> int:
    """The reported cells under blur, noise, stain and other shifts: up to which strength is the model safe?

    example:
      leukemia stress outputs/paper/RUN --shifts blur stain
    """
    from leukemia.commands.stress import stress
    from leukemia.runs import open_run

    return stress(open_run(options.run_folder), options.shifts, options.device)


def _monitor(options: argparse.Namespace) -> int:
    """Is a certified policy still as certified on the cells that came in since?

    example:
      leukemia monitor outputs/paper/RUN january.csv decisions.csv february.csv
    """
    from leukemia.commands.monitor import monitor
    from leukemia.runs import open_run

    return monitor(open_run(options.run_folder), options.tables, options.on, options.json)


def _export(options: argparse.Namespace) -> int:
    """The network or an ensemble as one file, ONNX or safetensors (extra: onnx).

    example:
      leukemia export outputs/paper/RUN -o model.onnx
    """
    from leukemia.inference.export import export
    from leukemia.runs import open_model

    export(open_model(options.models), options.output, options.format)
    return 0


def _app(options: argparse.Namespace) -> int:
    """The page on which an expert reviews the cells of a run or an ensemble (extra: app).

    example:
      leukemia app outputs/paper/RUN
    """
    from leukemia.runs import open_model

    model = open_model(options.folders)
    try:
        from leukemia.app.serve import serve
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise InputError(f"{error.name} is missing: pip install 'leukemia[app]'") from None
    return serve(model, options.images, options.host, options.port, options.blind)


if __name__ == "__main__":
    main()
