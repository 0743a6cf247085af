"""The page in a real browser: Chromium, where it and Selenium are installed."""

from __future__ import annotations

import base64
import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, CHROMEDRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium or chromedriver is not installed")

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# what a browser sends to a page when a file is dropped on it
DROP = """
const [name, type, content] = arguments;
const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], name, {type}));
document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, address: str) -> Any:
    browser.get(address)
    wait(lambda: "classes" in text(browser, "#facts"))
    return browser


def wait(holds: Callable[[], Any], seconds: float = 20) -> Any:
    """What ``holds`` gives, as soon as it is anything."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def found(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def text(driver: Any, selector: str) -> str:
    return " ".join(element.text for element in found(driver, selector))


def drop(driver: Any, name: str, kind: str, content: bytes) -> None:
    driver.execute_script(DROP, name, kind, base64.b64encode(content).decode())


def png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_dropped_picture_is_shown_with_a_bar_for_each_class(page: Any, trained) -> None:
    drop(page, "sun.png", "image/png", png(trained.picture("yellow", 1)))
    wait(lambda: found(page, ".bars"))
    names = [element.text for element in found(page, ".bars dt")]
    shares = [float(element.text.rstrip("%").lstrip("<")) for element in found(page, ".bars .share")]
    widths = [element.size["width"] for element in found(page, ".bars .fill")]
    assert text(page, "h2") == "yellow" == names[0] and sorted(names) == sorted(trained.classifier().spec.classes)
    assert 99 < sum(shares) < 101 and widths == sorted(widths, reverse=True) and widths[0] > 0
    (picture,) = found(page, "img.picture")
    assert wait(lambda: picture.get_property("naturalWidth")) == 16  # the picture itself is there


def test_what_is_no_picture_is_refused_and_the_page_goes_on(page: Any, trained) -> None:
    drop(page, "<b>notes</b>.txt", "text/plain", b"not an image")
    wait(lambda: found(page, ".error"))
    assert "not an image" in text(page, ".error h2") and "<b>notes</b>.txt" in text(page, ".error")  # as text, not as HTML
    drop(page, "sun.png", "image/png", png(trained.picture("yellow", 1)))
    wait(lambda: found(page, ".bars"))
    assert len(found(page, "#results > li")) == 2


def test_the_button_is_reached_and_pressed_by_keyboard(page: Any, trained) -> None:
    page.execute_script("window.clicked = 0; document.getElementById('files').click = () => { window.clicked += 1; };")
    found(page, "body")[0].send_keys("\ue004")  # tab
    focused = page.switch_to.active_element
    assert focused.text == "Choose images"
    focused.send_keys("\ue007")  # enter
    assert page.execute_script("return window.clicked") == 1
    file = Path("sun.png").resolve()
    file.write_bytes(png(trained.picture("yellow", 2)))
    found(page, "#files")[0].send_keys(str(file))  # what the dialogue does that a button opens
    wait(lambda: found(page, ".bars"))
    assert text(page, "h2") == "yellow"


def test_a_large_file_is_refused_before_it_is_sent(page: Any) -> None:
    page.execute_script("about.limits.bytes = 10; window.fetch = () => { throw new Error('sent'); };")
    drop(page, "large.png", "image/png", b"0" * 11)
    wait(lambda: found(page, ".error"))
    assert "too large" in text(page, ".error h2")


@pytest.mark.parametrize("width", [390, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_follows_the_scheme(page: Any, trained, width: int, scheme: str) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    drop(page, f"{'long' * 30}.png", "image/png", png(trained.picture("yellow", 1)))
    wait(lambda: found(page, ".bars"))
    assert page.execute_script("return document.documentElement.scrollWidth") <= width  # nothing sticks out
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, ground[4:-1].split(",")[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60


def test_nothing_comes_from_elsewhere_and_nothing_fails(page: Any, address: str) -> None:
    names = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert names and all(name.startswith(address) for name in names)
    assert not [entry for entry in page.get_log("browser") if "predict" not in entry["message"]]
