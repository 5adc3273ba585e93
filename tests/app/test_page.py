"""The page in a real Chromium (Debian's), driven by Playwright. Skipped without a Chromium."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

# Chromium's own look-ups would fail on a machine without a network.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
WIDTHS = {"wide": (1280, 800), "narrow": (400, 800)}

# WCAG 2.2, 1.4.3: the contrast of each text with its background.
CONTRASTS = """
() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const light = (c) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility({ visibilityProperty: true }) || element.closest(":disabled")) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const [a, b] = [light(over(parse(style.color), ground)), light(ground)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    found.push({ text, ratio: (a + 0.05) / (b + 0.05), needed: large ? 3 : 4.5 });
  }
  return found;
}
"""


# Texts that their box cuts off. Tables scroll, and say so.
CUT = """
() => [...document.querySelectorAll("body *")].filter((at) => {
  const ALLOWED = ".unseen, .skip, .viewer, .scroll.wide, .strip button, input";
  const style = getComputedStyle(at);
  return at.checkVisibility({ visibilityProperty: true }) && !at.matches(ALLOWED)
    && style.overflowX !== "visible" && at.scrollWidth > at.clientWidth + 1 && at.textContent.trim();
}).map((at) => at.outerHTML.slice(0, 120))
"""

# WCAG 2.2: 1.1.1 alternatives, 1.3.1 structure, 4.1.2 names. Broken references and doubled ids.
BROKEN = """
() => {
  const ids = [...document.querySelectorAll("[id]")].map((at) => at.id);
  const found = ids.filter((id, place) => ids.indexOf(id) !== place).map((id) => `id ${id} twice`);
  for (const name of ["aria-labelledby", "aria-describedby", "for", "list"]) {
    for (const at of document.querySelectorAll(`[${name}]`)) {
      if (!ids.includes(at.getAttribute(name))) found.push(`${name}=${at.getAttribute(name)}`);
    }
  }
  for (const at of document.querySelectorAll("img:not([alt])")) found.push(at.outerHTML);
  for (const at of document.querySelectorAll("th:not([scope])")) found.push(at.outerHTML);
  for (const one of ["main", "h1"]) if (document.querySelectorAll(one).length !== 1) found.push(one);
  const levels = [...document.querySelectorAll("main h1, main h2, main h3")].map((at) => Number(at.tagName[1]));
  levels.forEach((level, place) => place && level > levels[place - 1] + 1 && found.push(`h${level} skips a level`));
  return found;
}
"""
CONTROLS = {"button", "link", "textbox", "checkbox", "radio", "combobox", "dialog", "img", "region", "group", "table",
            "progressbar", "image"}  # fmt: skip


def unnamed(window):
    """Controls that a screen reader has no name for."""
    session = window.context.new_cdp_session(window)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    roles = [(node["role"]["value"], node) for node in nodes if not node["ignored"]]
    focusable = {
        node["nodeId"] for _, node in roles
        if any(entry["name"] == "focusable" and entry["value"]["value"] for entry in node.get("properties", []))
    }  # fmt: skip
    assert focusable
    return [
        (role, node.get("properties"))
        for role, node in roles
        if (role in CONTROLS - {"table", "group"} or node["nodeId"] in focusable)
        and role not in ("RootWebArea", "main")
        and not node.get("name", {}).get("value")
    ]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def window(browser):
    """Call it with a width to get a window; windows of one `person` share cookies. A console message fails the test."""
    contexts, complaints = {}, []

    def start(width="wide", person="Ann"):
        if person not in contexts:
            wide, high = WIDTHS[width]
            contexts[person] = browser.new_context(
                viewport={"width": wide, "height": high}, accept_downloads=True
            )
        page = contexts[person].new_page()
        page.set_default_timeout(15_000)
        page.on(
            "console",
            lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        return page

    start.complaints = complaints
    yield start
    for context in contexts.values():
        context.close()
    assert complaints == []


def enter(window, address, name="Ann"):
    window.goto(address)
    if window.locator("#who-dialog").is_visible():
        window.fill("#who-name", name)
        window.keyboard.press("Enter")
    seen(window)
    return window


def seen(window):
    window.wait_for_selector("body[data-ready]")


def press(window, key, done):
    """Press a key, and wait until the given number of cells is decided."""
    window.wait_for_selector("#picture[data-shown]")
    window.keyboard.press(key)
    decided(window, done)


def decided(window, number):
    window.wait_for_selector(f"#progress[value='{number}']")


def named(window, cell_id):
    """Wait until the name of a cell is shown."""
    window.wait_for_selector(f"#cell-name:text-is('Cell {cell_id[:8]}')")


def test_ten_cells_by_keyboard_reload_undo_and_export(serve, run, window, read_manifest, tmp_path):
    page = serve(run)
    first = enter(window(), page.url)
    order = page.review.queues["review"]
    for number, key in enumerate("ahuahahaah", start=1):
        press(first, key, number)
    label_of = {"a": "ALL", "h": "HEM", "u": "unsure"}
    expected = dict(zip(order, (label_of[key] for key in "ahuahahaah"), strict=False))
    assert page.review.store.labels("Ann") == expected

    eleventh = first.text_content("#cell-name")
    first.reload()
    seen(first)
    decided(first, 10)
    assert first.text_content("#cell-name") == eleventh
    assert first.text_content("#progress-text") == f"10 of {len(order)} decided, 1 unsure"

    press(first, "z", 9)
    assert order[9] not in page.review.store.labels("Ann")
    named(first, order[9])
    press(first, "a", 10)
    first.keyboard.press("b")
    first.wait_for_selector(".label.positive.chosen")
    named(first, order[9])

    first.click("text=Dashboard")
    files = {}
    for name in ("decisions.csv", "manifest.csv", "manifest-with-training.csv"):
        with first.expect_download() as download:
            first.click(f".exports a >> text={name}")
        assert download.value.suggested_filename == name
        files[name] = tmp_path / name
        download.value.save_as(files[name])
    history = list(csv.DictReader(io.StringIO(files["decisions.csv"].read_text())))
    assert len(history) == 12  # ten, one taken back, and one anew
    assert {row["reviewer"] for row in history} == {"Ann"}
    assert (
        len(read_manifest(files["manifest.csv"], "data.protocol=image").cells) == 9
    )  # without the unsure one
    assert len(read_manifest(files["manifest-with-training.csv"]).cells) > 100


def test_a_second_window_sees_the_decisions(serve, run, window):
    page = serve(run)
    first = enter(window(), page.url)
    second = enter(window(), page.url)
    board = window()
    board.goto(page.url + "dashboard")
    press(first, "a", 1)
    decided(second, 1)
    second.wait_for_selector(".label.positive.chosen")  # it shows the same cell, now decided
    board.wait_for_selector("#reviewers >> text=Ann")
    other = enter(window(person="Bob"), page.url, "Bob")
    assert other.text_content("#progress-text").startswith("0 of")  # each reviewer has the whole queue
    press(other, "h", 1)
    other.keyboard.press("b")
    other.wait_for_selector("text=Ann: ALL")
    board.wait_for_selector("#between tbody >> text=Ann and Bob")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("certified", [True, False])
def test_everything_fits_and_has_enough_contrast(serve, run, window, width, certified):
    if not certified:
        policy = json.loads((run.folder / "triage.json").read_text())
        run.write_json("triage.json", policy | {"certified": False, "why_not": "13 subjects are too few"})
    page = serve(run)
    here = enter(window(width), page.url)
    states = []

    def look(name):
        assert here.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width][0], name
        assert here.evaluate("document.body.scrollWidth") <= WIDTHS[width][0], name
        texts = here.evaluate(CONTRASTS)
        assert [entry for entry in texts if entry["ratio"] < entry["needed"]] == [], name
        assert here.evaluate(CUT) == [], name
        assert here.evaluate(BROKEN) == [], name
        assert unnamed(here) == [], name
        states.append(len(texts))

    look("undecided")
    assert here.is_visible("#policy")
    assert here.is_visible("text=Not for diagnosis")
    assert here.locator(".label").first.is_visible()
    here.click(".label.positive")
    decided(here, 1)
    here.keyboard.press("g")
    here.wait_for_selector("#overlay", state="visible")
    look("with the overlay")
    here.keyboard.press("b")
    here.wait_for_selector(".chosen")
    here.keyboard.press("m")
    look("decided")
    here.keyboard.press("n")
    here.wait_for_selector("#opinion", state="hidden")
    look("the model hidden")
    here.keyboard.press("?")
    look("keys")
    here.keyboard.press("Escape")
    here.goto(page.url + "?queue=added")
    here.wait_for_selector("#viewer-text", state="visible")
    look("an empty queue")
    here.goto(page.url + "dashboard")
    seen_table = here.locator(".scroll").first
    seen_table.wait_for()
    look("dashboard")
    if width == "narrow":
        assert "Scroll sideways" in seen_table.evaluate("at => getComputedStyle(at, '::before').content")
        before = here.locator("thead .word").first.bounding_box()["x"]
        seen_table.focus()
        here.keyboard.press("ArrowRight")
        here.wait_for_timeout(300)
        assert seen_table.evaluate("at => at.scrollLeft") > 0
        assert here.locator("thead .word").first.bounding_box()["x"] == before  # the names stay
    assert min(states) > 10


def test_the_tab_key_reaches_every_control_and_outlines_it(serve, run, window):
    here = enter(window(), serve(run).url)
    reached = set()
    for _ in range(60):
        here.keyboard.press("Tab")
        name, outlined = here.evaluate(
            "() => { const at = document.activeElement;"
            " if (at === document.body) return ['', ''];"
            " return [at.id || at.dataset.label || at.textContent, getComputedStyle(at).outlineStyle]; }"
        )
        if name in ("add-files", "add-folder"):
            outlined = "solid"  # drawn around its label
        assert outlined == "solid" or name == "", name
        reached.add(name.strip())
    assert reached >= {
        "viewer",
        "zoom-in",
        "gradcam",
        "lighter",
        "HEM",
        "unsure",
        "ALL",
        "artefact",
        "poor quality",
        "comment",
        "back",
        "next",
        "hide",
        "add-files",
    }


def test_the_picture_has_its_native_size_and_zooms(serve, run, window):
    here = enter(window(), serve(run).url)
    assert here.locator("#picture").bounding_box()["width"] == 450
    for key, width in (("+", 675), ("+", 900), ("-", 675), ("0", 450)):
        here.keyboard.press(key)
        assert here.locator("#picture").bounding_box()["width"] == width
    here.keyboard.press("+")
    before = here.locator("#picture").bounding_box()["x"]
    here.keyboard.press("Shift+ArrowLeft")
    assert here.locator("#picture").bounding_box()["x"] == before + 60


def test_the_heat_map_can_be_switched_and_names_its_class(serve, run, window):
    page = serve(run)
    here = enter(window(), page.url)
    assert here.is_hidden("#overlay")
    here.keyboard.press("g")
    here.wait_for_selector("#overlay", state="visible")
    assert here.locator("#overlay").bounding_box() == here.locator("#picture").bounding_box()
    first = page.review.cells[page.review.queues["review"][0]]
    assert here.text_content("#places") == "2 × 2 blocks: little evidence for"
    assert here.text_content("#explained") == page.review.opinion(first).label
    assert here.get_attribute("#gradcam", "aria-pressed") == "true"
    here.keyboard.press("g")
    assert here.is_hidden("#overlay")


def test_the_page_says_that_a_heat_map_is_being_computed(serve, run, window):
    here = enter(window(), serve(run).url)
    answers = []
    here.route("**/overlay.png*", lambda route: route.continue_() if answers else answers.append(route))
    here.keyboard.press("g")
    here.wait_for_selector("#computing:text-is('Grad-CAM: computing …')", state="visible")
    assert here.is_hidden("#legend")
    answers[0].continue_()
    here.wait_for_selector("#legend", state="visible")
    assert here.is_hidden("#computing")


def test_a_blind_review_shows_the_opinion_after_the_decision_only(serve, run, window):
    page = serve(run, blind=True)
    here = window()
    here.goto(page.url)
    assert here.is_visible("#who-dialog >> text=This review is blind")
    enter(here, page.url)
    for key in "mg":
        here.keyboard.press(key)
    assert here.is_hidden("#opinion")
    assert here.is_hidden("#hide")
    assert here.is_hidden("#overlay")
    assert here.locator("#strip span").count() == 0
    here.keyboard.press("g")
    press(here, "a", 1)
    first = page.review.cells[page.review.queues["review"][0]]
    here.wait_for_selector("#status:has-text('Saved. The model: ')")
    assert here.is_hidden("#opinion")  # that of the next cell
    here.keyboard.press("b")
    here.wait_for_selector("#opinion", state="visible")
    named(here, first.id)
    assert [row.blind for row in page.review.store.history()] == [True]


def test_the_page_asks_with_the_name_whether_to_read_blind(serve, run, window):
    page = serve(run)
    here = window()
    here.goto(page.url)
    here.fill("#who-name", "Ann")
    here.keyboard.press("Tab")
    here.keyboard.press("ArrowDown")  # all by keyboard
    here.keyboard.press("Enter")
    seen(here)
    here.wait_for_selector("#opinion-hidden", state="visible")
    press(here, "a", 1)
    assert [row.blind for row in page.review.store.history()] == [True]


def test_artefacts_poor_quality_and_comments_are_given_by_keyboard(serve, run, window):
    page = serve(run)
    here = enter(window(), page.url)
    first, second = page.review.queues["review"][:2]
    here.wait_for_selector("#picture[data-shown]")
    here.keyboard.press("c")
    here.keyboard.type("a smudge, h?")  # no letter is a decision here
    here.keyboard.press("Enter")
    press(here, "x", 1)
    assert here.input_value("#comment") == ""
    press(here, "q", 2)
    assert [(row.cell, row.new_label, row.comment) for row in page.review.store.history()] == [
        (first, "artefact", "a smudge, h?"),
        (second, "poor quality", ""),
    ]
    for cell_id in (second, first):
        here.keyboard.press("b")
        named(here, cell_id)
    assert here.input_value("#comment") == "a smudge, h?"
    here.wait_for_selector("[data-label=artefact].chosen")


def test_classes_are_spelled_out_and_reference_cells_can_be_enlarged(serve, run, window):
    here = enter(window(), serve(run).url)
    assert here.text_content(".label.negative span") == "HEM normal precursor"
    assert here.text_content(".label.positive span") == "ALL leukemic blast"
    assert here.locator(".reference").count() == 8
    here.locator(".reference").last.focus()
    here.keyboard.press("Enter")
    here.wait_for_selector("#reference-text:has-text('ALL, leukemic blast, diameter')")
    assert here.locator("#reference-picture").bounding_box()["width"] == 450
    here.keyboard.press("Escape")
    assert here.is_hidden("#reference-dialog")
    assert here.evaluate("document.activeElement.className") == "reference"
    assert re.fullmatch(r"diameter \d+ pixels", here.text_content("#cell-size"))


def test_the_end_of_a_queue_leads_on_by_keyboard(serve, run, window, decide):
    page = serve(run)
    for queue, to in (("review", r"queue=check"), ("check", r"/dashboard$")):
        for cell_id in page.review.queues[queue][1:]:
            decide(page.review, "Ann", cell_id, "ALL", queue)
        here = enter(window(), f"{page.url}?queue={queue}")
        press(here, "a", len(page.review.queues[queue]))
        here.wait_for_selector("#viewer-text a:focus")
        assert here.is_visible("#viewer-text >> text=Export the decisions")
        here.keyboard.press("Enter")
        here.wait_for_url(re.compile(to))


def test_a_spot_check_hides_the_model_until_the_decision_and_the_history_says_so(serve, run, window):
    page = serve(run)
    here = enter(window(), page.url + "?queue=check")
    assert here.is_hidden("#opinion")
    assert here.locator("#strip span").count() == 0
    here.keyboard.press("g")
    assert here.is_hidden("#overlay")
    here.keyboard.press("g")
    press(here, "a", 1)
    here.keyboard.press("m")  # now it shows
    here.wait_for_selector("#opinion", state="visible")
    press(here, "a", 2)
    assert [(row.queue, row.blind) for row in page.review.store.history()] == [
        ("check", True),
        ("check", False),
    ]


def test_next_skips_and_the_skipped_cell_comes_again_at_the_end(serve, run, window):
    page = serve(run)
    order = page.review.queues["review"]
    here = enter(window(), page.url)
    here.keyboard.press("n")
    named(here, order[1])
    for number in range(1, len(order)):
        press(here, "a", number)
    named(here, order[0])
    press(here, "h", len(order))
    here.wait_for_selector("text=Every cell of this queue is decided.")
    press(here, "z", len(order) - 1)
    named(here, order[0])


def test_files_are_added_or_refused_with_a_message(serve, run, window, tmp_path):
    page = serve(run)
    here = enter(window(), page.url)
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(file, "png")
    here.set_input_files("#add-files", [
        {"name": "<b onmouseover=alert(1)>new.png", "mimeType": "image/png", "buffer": file.getvalue()},
        {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"},
    ])  # fmt: skip
    here.wait_for_selector("#add-problems >> text=notes.png: ")
    here.click("#add-status >> text=Review them")
    here.wait_for_selector("text=Added (1)")
    here.wait_for_selector("#cell-name:has-text('new.png')")
    assert here.text_content("#cell-name") == "<b onmouseover=alert(1)>new.png"
    press(here, "a", 1)
    (cell,) = page.review.queues["added"]
    assert page.review.store.labels("Ann") == {cell: "ALL"}
    assert all("422" in said for said in window.complaints)  # Chromium's own message about a refused request
    window.complaints.clear()


def test_a_dropped_folder_is_taken_with_its_folders_as_subjects(serve, run, window):
    page = serve(run)
    here = enter(window(), page.url)
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 40, np.uint8)).save(file, "png")
    here.evaluate(
        """bytes => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
          dispatchEvent(new DragEvent("dragenter", { dataTransfer: data }));
          dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }""",
        list(file.getvalue()),
    )
    here.wait_for_selector("text=Added (1)")
    assert [cell.path for cell in page.review.cells.values() if cell.added] == ["dropped.png"]


def test_nothing_from_data_or_people_becomes_markup(serve, run, window):
    attack = "<img src=x onerror=alert(1)>"
    policy = json.loads((run.folder / "triage.json").read_text())
    run.write_json("triage.json", policy | {"certified": False, "why_not": attack})
    run.write_table("predictions.csv", run.predictions.assign(subject=attack))
    page = serve(run)
    here = enter(window(), page.url, f"Ann {attack}")
    press(here, "a", 1)
    here.goto(page.url + "dashboard")
    here.wait_for_selector(f"#reviewers >> text=Ann {attack}")
    assert here.locator("img[src=x]").count() == 0


def losing_the_first_answer(lost):
    def lose(route):
        if not lost:
            lost.append(route.fetch().status)  # the request arrives, its answer does not
            route.abort()
        else:
            route.continue_()

    return lose


def test_a_decision_whose_answer_is_lost_is_sent_again_and_written_once(serve, run, window):
    page = serve(run)
    here = enter(window(), page.url)
    lost = []
    here.route("**/api/decisions", losing_the_first_answer(lost))
    here.wait_for_selector("#picture[data-shown]")  # no decision before the picture is visible
    here.keyboard.press("a")
    here.wait_for_selector("text=The server does not answer")
    assert lost == [200]
    press(here, "a", 1)
    assert len(page.review.store.history()) == 1
    window.complaints.clear()  # Chromium's own message about the lost answer


def test_a_decision_whose_answer_was_lost_can_be_taken_back_and_made_again(serve, run, window):
    page = serve(run)
    here = enter(window(), page.url)
    here.route("**/api/decisions", losing_the_first_answer([]))
    here.wait_for_selector("#picture[data-shown]")
    here.keyboard.press("a")
    here.wait_for_selector("text=The server does not answer")
    decided(here, 1)  # the next poll shows it
    assert here.is_visible("text=The server does not answer")
    press(here, "z", 0)
    press(here, "a", 1)
    assert page.review.store.labels("Ann") == {page.review.queues["review"][0]: "ALL"}
    window.complaints.clear()  # Chromium's own message about the lost answer


def test_retrying_an_undo_whose_answer_was_lost_takes_back_only_one_decision(serve, run, window):
    page = serve(run)
    here = enter(window(), page.url)
    for number, key in enumerate("ahu", start=1):
        press(here, key, number)
    here.route("**/api/undo", losing_the_first_answer([]))
    here.keyboard.press("z")
    here.wait_for_selector("text=The server does not answer")
    here.keyboard.press("z")
    here.wait_for_selector("text=Taken back: unsure")
    assert len(page.review.store.labels("Ann")) == 2
    press(here, "z", 1)
    press(here, "z", 0)
    assert here.is_disabled("#undo")
    here.keyboard.press("z")
    here.wait_for_timeout(300)
    assert not here.is_visible("#error")
    window.complaints.clear()  # Chromium's own message about the lost answer


def test_two_windows_of_one_browser_never_write_under_a_name_that_is_not_shown(serve, run, window):
    page = serve(run)
    here, there = enter(window(), page.url), enter(window(), page.url)
    here.route("**/api/changes*", lambda route: route.abort())  # so that it does not learn the other name
    there.click("#who-button")
    there.fill("#who-name", "Ben")
    there.keyboard.press("Enter")
    there.wait_for_selector("#who:text-is('Ben')")
    here.wait_for_selector("#picture[data-shown]")
    here.keyboard.press("a")
    here.wait_for_selector("text=Ben reviews in this browser now: nothing is written")
    assert page.review.store.history() == []
    here.unroute("**/api/changes*")
    here.wait_for_selector("#who:text-is('Ben')")  # it loads itself again
    window.complaints.clear()  # about the refused request


def test_keys_work_after_files_were_chosen_and_escape_does_not_close_the_name_dialog(serve, run, window):
    page = serve(run)
    here = window()
    here.goto(page.url)
    for _ in range(3):
        here.keyboard.press("Escape")
        here.wait_for_timeout(50)
    assert here.is_visible("#who-dialog")
    enter(here, page.url)
    here.focus("#add-files")
    press(here, "a", 1)


def test_the_history_marks_a_spot_check_of_a_picked_cell(serve, run, window):
    page = serve(run)
    here = enter(window(), page.url + "?queue=check")
    press(here, "a", 1)
    here.keyboard.press("b")
    named(here, page.review.queues["check"][0])
    press(here, "h", 1)
    here.wait_for_selector("#status:has-text('HEM. Saved.')")
    first, second = page.review.store.history()
    assert (first.queue, first.blind) == ("check", 1)
    assert (second.queue, second.blind) == ("picked", 0)


def test_keys_can_be_switched_off(serve, run, window):
    page = serve(run)
    here = enter(window(), page.url)
    here.click("#help-button")
    here.uncheck("#keys-on")
    here.click("#help-dialog button")
    here.keyboard.press("a")
    here.wait_for_timeout(300)
    assert page.review.store.history() == []


def test_the_names_of_labelled_cells_are_nowhere_on_the_page(serve, run, window):
    here = enter(window(), serve(run).url)
    assert not re.search(r"_(all|hem)|\.bmp\b(?!,)", here.inner_html("#main").replace('accept=".bmp', ""))
