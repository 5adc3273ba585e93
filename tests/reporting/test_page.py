"""The report in a real Chromium: collapsed, printed, and on a telephone. Skipped without a Chromium."""

import shutil

import pytest

from leukemia.reporting.html import write_report

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
HIDDEN = """() => [...document.querySelectorAll("details img, details td, details dd")]
  .filter((at) => !at.checkVisibility({contentVisibilityAuto: true}) || !at.getBoundingClientRect().height).length"""


@pytest.fixture(scope="module")
def window(tmp_path_factory, make_run):
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("page")
    for stage in ("head", "layer4"):
        make_run(folder, trainable_from=stage, protocol="holdout")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(write_report(folder).as_uri())
        yield page
        browser.close()


def test_the_answers_fit_one_screen_and_the_rest_is_collapsed(window):
    last = window.locator("#answers > div").last.bounding_box()
    assert last["y"] + last["height"] <= 800
    assert window.locator("details[open]").count() == 0
    assert window.evaluate(HIDDEN) > 100
    window.locator("#calibration-section summary").click()
    assert window.locator("#calibration").is_visible()
    window.locator("#calibration-section summary").click()


def test_it_prints_whole_though_sections_are_collapsed(window):
    window.emulate_media(media="print")
    window.wait_for_function(f"({HIDDEN})() === 0")  # pictures load when they are first shown
    assert window.evaluate(HIDDEN) == 0
    window.emulate_media(media="screen")


def test_a_telephone_scrolls_tables_and_not_the_page(window):
    window.set_viewport_size({"width": 400, "height": 800})
    assert window.evaluate("document.documentElement.scrollWidth") <= 400
    window.set_viewport_size({"width": 1280, "height": 800})


@pytest.mark.slow
def test_thirty_runs_open_in_a_second_of_processor_time(window, thirty_runs):
    page = window.context.browser.new_page()
    browser = page.context.new_cdp_session(page)
    browser.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(thirty_runs.as_uri())
    [navigation] = page.evaluate("performance.getEntriesByType('navigation').map((at) => at.toJSON())")
    figures = browser.send("Performance.getMetrics")["metrics"]
    [seconds] = [figure["value"] for figure in figures if figure["name"] == "ProcessTime"]
    size, wall = thirty_runs.stat().st_size / 1e6, navigation["loadEventEnd"] / 1000
    print(f"{size:.2f} MB, open after {wall:.2f} s, {seconds:.2f} s of processor time")
    assert 0 < seconds < 1

    def drawn() -> int:
        return page.evaluate("[...document.images].filter((at) => at.naturalWidth).length")

    pictures = page.evaluate("document.images.length")
    assert drawn() < pictures / 2  # the others wait in sections that are closed
    page.pdf()
    assert drawn() == pictures
    page.close()
