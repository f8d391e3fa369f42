"""A headless Chromium that looks at the operator's page."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from operator_process import WAIT_S
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.remote.webelement import WebElement

NO_BROWSER = "no browser: apt install chromium chromium-driver"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
_MOVE_MS = 50


def _installed() -> tuple[str, str] | None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


BROWSER = _installed()
"""The paths of the browser and its driver, where there are both."""


def _is_passing(error: WebDriverException) -> bool:
    """Whether the driver looked while the page was replacing what it looked at, or itself by the next page."""
    passing = (NoSuchElementException, StaleElementReferenceException)
    return isinstance(error, passing) or "aborted by navigation" in str(error.msg)


class Page:
    """One browser window on the page."""

    def __init__(self, driver: Chrome) -> None:
        """Of a browser that is there."""
        self.driver = driver

    def wait(self, what: str, fulfilled: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
        """Wait until `fulfilled` returns something true, and return it.

        A standstill of the whole machine counts as a second: what is waited for stood still as well.
        """
        waited_s = 0.0
        while waited_s < timeout_s:
            begun = time.monotonic()
            try:
                if result := fulfilled():
                    return result
            except WebDriverException as error:
                if not _is_passing(error):
                    raise
            time.sleep(0.05)
            waited_s += min(time.monotonic() - begun, 1.0)
        text = self.driver.execute_script("return document.body.innerText")
        raise AssertionError(f"waited {timeout_s:g} s in vain for {what}; the page says:\n{text}\n{self.complaints}")

    def one(self, selector: str) -> WebElement:
        """The element."""
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> Sequence[WebElement]:
        """The elements."""
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        """What the element says."""
        return self.one(selector).text

    def stamp(self) -> int:
        """Stamp of the image on the screen, ns; 0 as long as there is none."""
        return int(self.one("#picture").get_attribute("data-stamp") or 0)

    def screen(self, x: float, y: float, width: int, height: int) -> tuple[int, int]:
        """Where a point of a camera image of this size is in the window, px."""
        area = self.driver.execute_script(
            "const r = document.getElementById('picture').getBoundingClientRect();"
            "return [r.left, r.top, r.width, r.height]"
        )
        return round(area[0] + x / width * area[2]), round(area[1] + y / height * area[3])

    def pointer(self, kind: str) -> ActionChains:
        """Actions of a mouse or a finger ("touch")."""
        actions = ActionChains(self.driver, duration=_MOVE_MS)
        actions.w3c_actions.pointer_action._duration = _MOVE_MS
        device = PointerInput(kind, f"the {kind}")
        actions.w3c_actions.devices = [device, actions.w3c_actions.key_action.source]
        actions.w3c_actions._pointer_action.source = device
        return actions

    def tap(self, at: tuple[int, int], kind: str = "mouse") -> None:
        """Press and let go."""
        device = self.pointer(kind)
        device.w3c_actions.pointer_action.move_to_location(*at).pointer_down().pointer_up()
        device.perform()

    def drag(
        self,
        start: tuple[int, int],
        end: tuple[int, int],
        kind: str = "mouse",
        before_release: Callable[[], None] | None = None,
    ) -> None:
        """Press, move, let go; the mouse may pause before that."""
        device = self.pointer(kind)
        middle = ((start[0] + end[0]) // 2, (start[1] + end[1]) // 2)
        pointer = device.w3c_actions.pointer_action
        pointer.move_to_location(*start).pointer_down().move_to_location(*middle).move_to_location(*end)
        if before_release is not None:
            device.perform()
            before_release()
            device = self.pointer(kind)
        device.w3c_actions.pointer_action.pointer_up()
        device.perform()

    @property
    def complaints(self) -> list[str]:
        """Errors and breaches of policy on the browser's console since the last look."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def open_browser(profile: Path, *, phone: bool = False) -> Iterator[Page]:
    """A headless Chromium with a new profile."""
    assert BROWSER is not None, NO_BROWSER
    chromium, driver = BROWSER
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={profile}", "--window-size=1280,800"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if phone:
        metrics = {"width": 390, "height": 844, "pixelRatio": 2.0, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    browser = Chrome(options, Service(driver, log_output=subprocess.DEVNULL))
    try:
        yield Page(browser)
    finally:
        browser.quit()
