"""What each verb of the `leukemia` command calls, imported when it is called: `leukemia --help` stays light."""

import argparse
import json
import sys

from leukemia.errors import InputError
from leukemia.shell import emphasised


def check(options: argparse.Namespace) -> int:
    from leukemia.data.check import check

    result = check(options.folder, layout=options.layout, positive=options.positive)
    if options.json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        print(emphasised("\n".join(result.lines()), sys.stdout))
    return 0 if result.ok else 1


def fetch(options: argparse.Namespace) -> int:
    from leukemia.data.fetch import fetch

    options.folder = fetch(options.folder)
    options.layout, options.positive, options.json = "cnmc", None, False
    return check(options)


def demo(options: argparse.Namespace) -> int:
    from leukemia.data.demo import write_demo

    print(write_demo(options.folder, images=options.images, seed=options.seed))
    return 0


def report(options: argparse.Namespace) -> int:
    from leukemia.reporting.html import write_report
    from leukemia.reporting.summary import states
    from leukemia.reporting.tables import results_table
    from leukemia.runs import Sweep

    page = write_report(options.folder)
    print(states(results_table(Sweep(options.folder))))
    print(page)
    return 0


def evaluate(options: argparse.Namespace) -> int:
    from leukemia.reporting.evaluated import evaluated

    problems: list[str] = []
    found = evaluated(options.target, options.against, as_json=options.json, problems=problems)
    print(found if options.json else emphasised(found, sys.stdout))
    return 1 if problems else 0


def triage(options: argparse.Namespace) -> int:
    from leukemia.triage import triage

    return triage(
        options.folder, options.on, options.max_missed, options.max_false_alarm, options.confidence,
        options.unit, options.prevalence,
    )  # fmt: skip


def predict(options: argparse.Namespace) -> int:
    from leukemia.predict import predict

    return predict(
        options.model, options.paths, options.output, options.views, options.device, options.subjects,
        options.challenge,
    )  # fmt: skip


def explain(options: argparse.Namespace) -> int:
    from leukemia.attention import explain
    from leukemia.runs import Run

    return explain(Run(options.run_folder), options.paths, options.output, options.sample, options.device)


def export(options: argparse.Namespace) -> int:
    from leukemia.export import export
    from leukemia.runs import Run

    export(Run(options.run_folder), options.output, options.format)
    return 0


def app(options: argparse.Namespace) -> int:
    try:
        from leukemia.app.serve import serve
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise InputError(f"{error.name} is missing: pip install 'leukemia[app]'") from None
    return serve(options.folder, options.images, options.host, options.port)
