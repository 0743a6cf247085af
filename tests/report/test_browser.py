"""A report in a real browser: it loads without errors and without a network, fits a phone, and follows light and dark."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium, which drives a browser, is not installed")
BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="Chromium and its chromedriver are not installed")

DESKTOP, PHONE = (1280, 900), (390, 844)
SECONDS = 20  # to draw what is near the window


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def written() -> list[bytes]:
    """The page, once a test has written it."""
    return []


@pytest.fixture
def page(zoo, write_run, metrics, monitors, finding, written: list[bytes]) -> Path:
    if not written:
        layers = ("network.stage1.0.a_layer_with_a_long_name", "network.stage1.1.conv", "network.<b>bold</b>")
        records = [*monitors(range(0, 100, 10), layers), finding(evidence="<script>document.title = 'taken over'</script>")]
        write_run("first", metrics(100), records)
        write_run("second", metrics(200), (), {"recipe": {"lr": 0.5}})
        assert zoo("report", "first", "second", "--no-samples").code == 0
        written.append(Path("report.html").read_bytes())
    file = Path("page.html")
    file.write_bytes(written[0])
    return file.resolve()


def look(browser: Any, page: Path, size: tuple[int, int], scheme: str) -> None:
    """Open a page at that size and in that scheme of colors, and wait until a plot is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get("data:,")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    browser.execute_script("document.querySelector('.plot').scrollIntoView()")
    WebDriverWait(browser, SECONDS).until(lambda _: browser.execute_script(DRAWN))


DRAWN = """
const canvas = function* (root) {
  for (const each of root.querySelectorAll("*")) {
    if (each.tagName == "CANVAS" && each.width > 100) yield each;
    if (each.shadowRoot) yield* canvas(each.shadowRoot);
  }
};
for (const each of canvas(document.querySelector(".plot"))) {
  const copy = new OffscreenCanvas(each.width, each.height).getContext("2d", {willReadFrequently: true});  // else Chromium warns
  copy.drawImage(each, 0, 0);
  const pixels = copy.getImageData(0, 0, each.width, each.height).data;
  const seen = new Set();
  for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] == 255) seen.add(`${pixels[i]},${pixels[i + 1]},${pixels[i + 2]}`);
  if (seen.size > 2) return [...seen];
}
return null;
"""


GAPS = """
const right = element => Math.round(element.getBoundingClientRect().right);
const groups = [...document.querySelectorAll(".plots")];
return groups.filter(group => right(group) != right(group.lastElementChild)).map(group => group.innerText);
"""


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        pytest.param(DESKTOP, "light", id="desktop-light"),
        pytest.param(PHONE, "dark", id="phone-dark"),
        pytest.param(DESKTOP, "dark", id="desktop-dark", marks=pytest.mark.slow),
        pytest.param(PHONE, "light", id="phone-light", marks=pytest.mark.slow),
    ],
)
def test_a_report_opens_everywhere(browser, page: Path, size: tuple[int, int], scheme: str) -> None:
    look(browser, page, size, scheme)
    assert browser.title == "Report: first, second"
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] not in ("INFO", "DEBUG")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.execute_script(GAPS) == []
    ink = browser.execute_script("return getComputedStyle(document.body).color")  # rgb(1, 2, 3)
    assert ink[4:-1].replace(" ", "") in browser.execute_script(DRAWN)  # text in plots is as that around them


def test_a_finger_on_a_plot_scrolls_the_page(browser, page: Path) -> None:
    look(browser, page, PHONE, "light")
    found = browser.execute_script(
        "const found = []; const walk = root => root.querySelectorAll('*').forEach(each => {"
        " found.push(getComputedStyle(each).touchAction); if (each.shadowRoot) walk(each.shadowRoot); });"
        "walk(document.querySelector('.plot')); return found"
    )
    assert "pan-y" in found
    large = browser.execute_script(
        "const found = []; const walk = root => root.querySelectorAll('*').forEach(each => {"
        " if (each.clientWidth > 200 && getComputedStyle(each).touchAction == 'none') found.push(each.className);"
        " if (each.shadowRoot) walk(each.shadowRoot); }); walk(document.querySelector('.plot')); return found"
    )
    assert large == []


TOLD = """
const text = [];
const walk = root => root.querySelectorAll("*").forEach(each => {
  if (each.classList.contains("bk-tooltip-row-value")) text.push(each.innerText);
  if (each.shadowRoot) walk(each.shadowRoot);
});
walk(document);
return text;
"""


@pytest.mark.parametrize("title", ["Activation standard deviation", "Update-to-weight ratios"])
def test_pointing_at_a_plot_tells_names_and_values(browser, page: Path, title: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    look(browser, page, DESKTOP, "light")
    heading = browser.find_element("xpath", f"//strong[text()='{title}']")
    plot = heading.find_element("xpath", "ancestor::figure").find_element("css selector", ".plot")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)

    def pointed(_: Any) -> list[str]:
        for down in range(-120, 120, 8):  # across the lines
            ActionChains(browser, duration=0).move_to_element_with_offset(plot, 0, down).perform()
            if (told := browser.execute_script(TOLD)) and all(told):
                return told
        return []

    name, step, value = WebDriverWait(browser, SECONDS).until(pointed)[:3]
    assert name.startswith("network.") and 0 <= float(step) <= 100 and 0 < float(value) < 101


def test_the_keyboard_reaches_the_report_and_its_tables(browser, page: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    ActionChains(browser).send_keys(Keys.TAB).perform()
    first = browser.switch_to.active_element
    assert first.text == "Skip to the report" and first.location["x"] >= 0
    summary = browser.find_element("css selector", ".plots summary")
    browser.execute_script("arguments[0].focus()", summary)
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert browser.execute_script("return arguments[0].parentElement.open", summary)
    assert "min" in browser.find_element("css selector", ".plots details table").text
