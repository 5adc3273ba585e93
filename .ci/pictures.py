"""docs/report.png and docs/review.png, from what `make demo` left; needs Chromium."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from leukemia.commands.triage import triage
from leukemia.runs import Sweep

ROOT = Path(__file__).parents[1]
SIZE = {"width": 1280, "height": 860}
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("there is no Chromium here: apt-get install chromium")
    demo = Sweep(ROOT / "outputs" / "demo")
    tuned = next(run for run in demo.runs if run.config["model"]["trainable_from"] != "head")
    triage(tuned.folder)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport=SIZE)
        page.goto((demo.folder / "report.html").as_uri())
        page.screenshot(path=ROOT / "docs" / "report.png")
        command = [sys.executable, "-m", "leukemia.cli", "app", str(tuned.folder), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app:
            try:
                assert app.stdout is not None
                address = next(found[0] for line in app.stdout if (found := re.search(r"http://\S+", line)))
                page.goto(address)
                page.fill("#who-name", "Ann")
                page.keyboard.press("Enter")
                page.wait_for_selector("body[data-ready]")
                page.wait_for_selector("#picture[data-shown]")
                page.wait_for_load_state("networkidle")  # the other cells of the subject
                page.screenshot(path=ROOT / "docs" / "review.png")
            finally:
                app.terminate()
        browser.close()
    print("docs/report.png and docs/review.png are written")  # the page said "interrupted" last


if __name__ == "__main__":
    main()
