"""The pages in a browser: at the width of a desk and of a phone, by day and by night."""

import importlib.resources
import json

import pytest
import yaml

from l2m.chapters.contents import chapters
from l2m.files import ROOT
from l2m.information.scaling import PowerLaw
from l2m.memory.architectures import architectures
from l2m.memory.blocks import Blocks
from l2m.memory.history_state import HistoryState, history_state_dim
from l2m.memory.l2m_condition import Bound, reach
from l2m.memory.layer_memories import Memory

pytestmark = [pytest.mark.browser, pytest.mark.chapters]

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"]] + [c["file"] for part in TOC["parts"] for c in part["chapters"]]
WIDTHS = {"desk": 1400, "phone": 390}
RAW = ["{glue", "{eval}", ":::", "{prf:", "{math}", "{figure}", "{numref}", "{cite"]
HEAVIEST = 3_500_000  # bytes that a page may load

# What sticks out of the page, or is cut by a box that does not scroll. The MathML of formulas,
# which only screen readers see, takes no part.
CUT = """() => {
  const sideways = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const unseen = [...document.querySelectorAll("mjx-assistive-mml")];
  unseen.forEach((e) => e.style.setProperty("display", "none", "important"));
  const width = document.documentElement.clientWidth, found = [];
  const style = (e) => getComputedStyle(e);
  const scrolls = (e) => e && (["auto", "scroll"].includes(style(e).overflowX)
    || (e !== document.body && scrolls(e.parentElement)));
  for (const e of document.querySelectorAll("main *, article *")) {
    if (e.closest(".visually-hidden, #pst-secondary-sidebar")) continue;
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height || style(e).visibility === "hidden") continue;
    const name = `${e.tagName} ${e.getAttribute("class") ?? ""}: ${e.textContent.slice(0, 60)}`;
    const out = box.right > width + 1 || box.left < -1;
    if (out && !scrolls(e.parentElement)) found.push(`out: ${name}`);
    const cuts = ["hidden", "clip"].includes(style(e).overflowX) && style(e).display !== "inline";
    if (cuts && e.scrollWidth > e.clientWidth + 1) found.push(`cut: ${name}`);
  }
  if (sideways) found.push("the page scrolls sideways");
  unseen.forEach((e) => e.style.removeProperty("display"));
  return found;
}"""
# A full stop or comma that starts a line because a formula ends the one before.
STRANDED = """() => [...document.querySelectorAll("span.math")].flatMap((formula) => {
  const next = formula.nextSibling;
  if (next?.nodeType !== Node.TEXT_NODE || !/^[.,;:?!]/.test(next.data)) return [];
  const range = document.createRange();
  range.setStart(next, 0), range.setEnd(next, 1);
  const lies = formula.lastElementChild.getBoundingClientRect();
  return range.getBoundingClientRect().top > lies.bottom ? [formula.textContent] : [];
})"""
# Code that scrolls sideways in its box, whether that is folded or not.
WIDE = """() => {
  document.querySelectorAll("details").forEach((e) => (e.open = true));
  const code = [...document.querySelectorAll(".cell_input pre")];
  return code.filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent);
}"""
# Of letters of one kind in code, one is enough to see the contrast; thousands take a minute.
FEWER = """() => {
  const seen = new Set();
  for (const e of document.querySelectorAll("pre span[class]")) {
    if (seen.has(e.className)) e.replaceWith(e.textContent);
    seen.add(e.className);
  }
}"""


class Visit:
    """A page opened: what the browser said, asked for and loaded."""

    def __init__(self, browser, url: str, width: int, scheme: str):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page, self.said, self.asked, self.loaded = self.context.new_page(), [], [], {}
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfinished", self._weigh)
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def _weigh(self, request):
        self.loaded[request.url] = request.sizes()["responseBodySize"]

    def axe(self, *rules: str) -> list[str]:
        """Return what axe finds serious or critical: the rule, and the first place."""
        script = importlib.resources.files("axe_playwright_python") / "axe.min.js"
        self.page.evaluate(FEWER)
        self.page.evaluate(script.read_text(encoding="utf-8"))
        options = {"resultTypes": ["violations"]}
        if rules:
            options["runOnly"] = {"type": "rule", "values": rules}
        # The drawn half of a formula is hidden from screen readers, and has thousands of parts.
        where = {"exclude": [["mjx-container > mjx-math"]]}
        run = f"axe.run({json.dumps(where)}, {json.dumps(options)})"
        found = self.page.evaluate(run)["violations"]
        return [
            f"{v['id']} ({len(v['nodes'])}): {v['nodes'][0]['html'][:200]}"
            for v in found
            if v["impact"] in ("serious", "critical")
        ]


@pytest.fixture
def visit(browser, site):
    """Open a page of the site; closed after the test."""
    opened = []

    def open_page(path: str, width: int = 1400, scheme: str = "light") -> Visit:
        opened.append(Visit(browser, f"{site}/{path}", width, scheme))
        return opened[-1]

    yield open_page
    for one in opened:
        one.context.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", [*PAGES, "search", "genindex"])
def test_a_page_is_whole_and_quiet(visit, site, name, width, scheme):
    seen = visit(f"{name}.html", width, scheme)
    assert seen.said == []
    assert [url for url in seen.asked if not url.startswith((site, "data:", "blob:"))] == []
    assert seen.page.evaluate(CUT) == []
    assert seen.page.evaluate(STRANDED) == []
    text = seen.page.locator("main").inner_text()
    assert [markup for markup in RAW if markup in text] == []
    assert sum(seen.loaded.values()) < HEAVIEST
    # Colours are the same at any width, and take long to look at.
    assert seen.axe(*([] if width == 1400 else ["scrollable-region-focusable"])) == []


@pytest.mark.parametrize("width", [1280, 1400])
@pytest.mark.parametrize("name", chapters())
def test_code_does_not_scroll_on_a_desk(visit, name, width):
    page = visit(f"book/{name}.html", width).page
    assert page.locator(".cell_input pre").count() > 10
    assert page.evaluate(WIDE) == []


def test_search_finds_the_history_state_and_lands_on_it(visit):
    seen = visit("search.html?q=history+state")
    hit = seen.page.locator("#search-results li a", has_text="L²M condition").first
    hit.wait_for()
    hit.click()
    seen.page.wait_for_url("**/05_l2m_condition.html*")
    seen.page.wait_for_selector("html[data-ready]", state="attached")
    assert "history state" in seen.page.locator("article").inner_text().lower()


def test_the_calculator_computes(visit):
    page = visit("book/calculator.html").page
    fact = next(fact for fact in architectures() if "Mamba" in fact["name"])
    page.select_option("#lc-model", label=fact["name"])
    page.fill("#lc-length", "4096")
    kept = f"{history_state_dim(fact['config'], 2048):,} scalars kept"
    assert kept in page.locator("#lc-answer").inner_text()
    law = PowerLaw(2.27, 0.76, 0.0, (), (), ())
    end = reach(fact["config"], law, bound=Bound(0.06), vocab_size=50_000)
    assert f"{end:,} tokens" in page.locator("#lc-details").inner_text()


def test_the_calculator_knows_power_attention(visit):
    own = "model=your+own&length=4096&tokens-layers=0&state-layers=0&power-layers=12&power-s=0.5"
    page = visit(f"book/calculator.html#{own}&power-c=2").page
    state = HistoryState((Memory("slots", 2048, "power", Blocks(0.5, 2.0), layers=12),))
    assert f"{state.dim(2048):,} scalars kept" in page.locator("#lc-answer").inner_text()
    assert "like L^0.5" in page.locator("#lc-details").inner_text()
    page.fill("#lc-power-s", "1.5")
    assert "At most 1" in page.locator("#lc-power-s ~ .reason").inner_text()


REFUSED = {
    "12.5": "whole number",
    "abc": "no number",
    "": "missing",
    "1": "At least 2",
    "1e12": "At",
}


def test_the_calculator_says_why_it_refuses_beside_the_field(visit):
    page = visit("book/calculator.html").page
    for text, why in REFUSED.items():
        page.fill("#lc-length", text)
        assert why in page.locator("#lc-length ~ .reason").inner_text()
        assert page.locator("#lc-length").get_attribute("aria-invalid") == "true"
        assert "No answer" in page.locator("#lc-answer").inner_text()
        assert not page.locator("#lc-figure").is_visible()
    page.locator("#lc-answer a").click()
    assert page.evaluate("document.activeElement.id") == "lc-length"
    page.fill("#lc-length", "1,000")
    assert "1,000 tokens" in page.locator("#lc-answer").inner_text()


def test_the_calculators_address_holds_its_settings(visit):
    page = visit("book/calculator.html").page
    page.select_option("#lc-model", label="Llama-3.1-8B")
    page.fill("#lc-length", "777")
    page.press("#lc-length", "Enter")
    page.select_option("#lc-bits", "4")
    said, address = page.locator("#lc-answer").inner_text(), page.url
    assert "Llama-3.1-8B" in said and address.endswith("#model=Llama-3.1-8B&bits=4&length=777")
    page.go_back()
    assert page.input_value("#lc-bits") == "16" and page.input_value("#lc-length") == "777"
    page.go_back()
    assert page.input_value("#lc-length") == "1000000"
    page.goto(address)
    page.reload()
    assert page.locator("#lc-answer").inner_text() == said
    page.goto(address.replace("Llama", "Lama"))
    assert "no model “Lama-3.1-8B”" in page.locator("#lc-model ~ .reason").inner_text()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_calculators_answer_stays_in_sight(visit, width):
    page = visit("book/calculator.html", width).page
    page.locator("#lc-nats").focus()
    page.evaluate("document.querySelector('#lc-nats').scrollIntoView({ block: 'center' })")
    header = page.locator(".bd-header-article").bounding_box()
    answer = page.locator("#lc-answer").bounding_box()
    assert header["y"] + header["height"] - 2 <= answer["y"] < 100


MOVE = {  # where a figure to move is, and a field to turn
    "santa_fe": ("01_theory", 0),
    "law": ("03_bipartite_mi", 2),
    "condition": ("05_l2m_condition", 0),
    "just_enough": ("08_just_enough", 1),
}


@pytest.mark.parametrize("name", MOVE)
def test_a_figure_moves_by_key_on_a_phone(visit, name):
    chapter, field = MOVE[name]
    page = visit(f"book/{chapter}.html", 390).page
    figure = page.locator(f"[data-widget={name}]")
    figure.locator("svg").first.wait_for()
    before = figure.locator(".said").inner_text(), figure.locator(".picture").inner_html()
    figure.locator("input[type=range]").nth(field).focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        "([figure, was]) => figure.querySelector('.said').innerText !== was",
        arg=[figure.element_handle(), before[0]],
    )
    assert figure.locator(".picture").inner_html() != before[1]
    label = figure.locator("input[type=range]").nth(field)
    assert label.get_attribute("aria-label") and label.get_attribute("aria-valuetext")


def test_without_scripts_the_figures_stand_still(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    for name, (chapter, _) in MOVE.items():
        page.goto(f"{site}/book/{chapter}.html")
        assert page.locator(f"[data-widget={name}]").inner_text() == ""
        assert page.locator("figure img").first.is_visible()
    page.goto(f"{site}/book/calculator.html")
    assert "needs JavaScript" in page.locator("article").inner_text()
    context.close()


def test_the_code_can_be_hidden_and_stays_so(visit):
    page = visit("book/02_two_point_mi.html").page
    code, switch = page.locator(".cell_input pre").first, page.get_by_label("Hide the code")
    assert code.is_visible()
    switch.click()
    assert not code.is_visible() and switch.get_attribute("aria-pressed") == "true"
    assert page.locator(".cell_output").first.is_visible()
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert not code.is_visible()
    switch.click()
    assert code.is_visible()


def test_figures_are_dark_in_the_dark(visit):
    """Their ground is that of the page, within what an eye can tell."""
    page = visit("book/02_two_point_mi.html", scheme="dark").page
    figure = page.locator(".cell_output img").first
    looks = "e => getComputedStyle(e).filter"
    assert figure.evaluate(looks) == "invert(0.93) hue-rotate(180deg)"
    ground = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert ground == f"rgb({round(255 * 0.07)}, {round(255 * 0.07)}, {round(255 * 0.07)})"


def test_an_address_without_a_page_leads_to_the_first(visit, site, browser):
    page = browser.new_page()
    page.goto(f"{site}/404.html")
    page.click("#first")
    page.wait_for_url("**/book/index.html")
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_it_is(site_folder, name):
    html = (site_folder / f"{name}.html").read_text(encoding="utf-8")
    head = html[: html.index("</head>")]
    assert head.count('name="description"') == head.count('property="og:description"') == 1
    assert 'property="og:site_name" content="L²M, measured and computed"' in head
    description = head.split('name="description" content="')[1].split('"')[0]
    assert "\\" not in description and "_{" not in description
    assert 'rel="icon"' in head and 'property="og:image"' in head
