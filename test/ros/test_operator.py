"""The operator's page in a real browser, with the real node behind it.

Screenshots go to the test's temporary folder, or to the folder that ROS2_TRACKER_SCREENSHOTS names.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")
pytest.importorskip("aiohttp", reason="aiohttp is not there")
pytest.importorskip("selenium", reason="selenium is not there")

import aiohttp
from node_process import Client, box_of, free_domain, stamp_ns
from operator_page import BROWSER, NO_BROWSER, Page, open_browser
from operator_process import PATIENT_NODE, SIZE, WAIT_S, Camera, OperatorProcess
from ros2_tracker.msg import TrackEvent
from scene import XYWH, iou
from sensor_msgs.msg import CompressedImage
from vision_msgs.msg import Detection2D

from ros2_tracker.operator.protocol import unpack_frame

pytestmark = pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)

TOKEN = "test-token-0123456789"
NEWER = 20
"""Images that come between the frozen one and the box."""


@pytest.fixture(scope="module")
def client(start_module_node: Callable[..., Client]) -> Client:
    return start_module_node(PATIENT_NODE)


@pytest.fixture(scope="module")
def camera(client: Client) -> Iterator[Camera]:
    camera = Camera(client)
    yield camera
    camera.stop()


@pytest.fixture
def operate(client: Client, tmp_path: Path) -> Iterator[Callable[..., OperatorProcess]]:
    """`operate(token="", **parameters)` -> a page's process beside the node."""
    with ExitStack() as stack:

        def start(token: str = "", **parameters: object) -> OperatorProcess:
            log = tmp_path / f"operator_{time.monotonic_ns()}.log"
            process = OperatorProcess(client.node.context.get_domain_id(), log, parameters, token)
            stack.callback(process.stop)
            return process

        yield start


@pytest.fixture(scope="module")
def desktop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("desktop")) as page:
        yield page


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("phone"), phone=True) as page:
        yield page


@pytest.fixture(autouse=True)
def _no_target_left(client: Client, camera: Camera) -> Iterator[None]:
    camera.still = camera.empty = False
    yield
    client.cancel()


@pytest.fixture
def screenshot(tmp_path: Path) -> Callable[[Page, str], None]:
    folder = Path(os.environ.get("ROS2_TRACKER_SCREENSHOTS") or tmp_path)

    def take(page: Page, name: str) -> None:
        assert page.driver.save_screenshot(str(folder / f"{name}.png"))

    return take


def corners(page: Page, box: XYWH) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where two corners of a box are in the window."""
    x, y, w, h = box
    return page.screen(x, y, *SIZE), page.screen(x + w, y + h, *SIZE)


def colours(page: Page, selector: str, rgb: tuple[int, int, int]) -> int:
    """How many pixels of a canvas have a colour, nearly."""
    return page.driver.execute_script(
        "const c = document.querySelector(arguments[0]);"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 0; i < d.length; i += 4)"
        " n += [0, 1, 2].every(k => Math.abs(d[i + k] - arguments[1][k]) < 40) ? 1 : 0; return n",
        selector,
        rgb,
    )


def open_page(page: Page, operator: OperatorProcess, query: str = "") -> None:
    page.driver.get(operator.address + query)
    page.wait("an image", page.stamp)


def follow_still_target(page: Page, camera: Camera, client: Client, kind: str) -> str:
    """Draw a box in one movement around the target, which keeps still; the id it gets."""
    camera.still = True
    page.wait("the tracker's answers", lambda: not page.text("#hint"))
    page.wait("an image of the still target", lambda: camera.truth.get(page.stamp()) == camera.truth[camera.stamps[-1]])
    mark = client.events.mark
    page.drag(*corners(page, camera.truth[page.stamp()]), kind)
    return client.event(TrackEvent.INITIALIZED, mark=mark).id


def measured_boxes(operator: OperatorProcess, number: int) -> list[tuple[int, XYWH]]:
    """Stamp and box of the frames in which a client is shown a target where the network saw it."""

    async def collect() -> list[tuple[int, XYWH]]:
        found: list[tuple[int, XYWH]] = []
        origin = operator.address[:-1]
        opening = {"url": f"{origin}/socket", "headers": {"Origin": origin}}
        async with aiohttp.ClientSession() as http, http.ws_connect(**opening) as ws:
            while len(found) < number:
                message = await ws.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    header = unpack_frame(message.data)[0]
                    await ws.send_json({"type": "shown", "sequence": header["sequence"]})
                    seen = [b for b in header["boxes"] if b["state"] == "TRACKING" and not b["predicted"]]
                    found += [(int(header["stamp"]), tuple(b["box"])) for b in seen]
        return found

    return asyncio.run(asyncio.wait_for(collect(), WAIT_S))


# -- pick and watch --------------------------------------------------------------------------------------------------


def test_a_box_on_a_frozen_image_starts_that_very_target(
    client: Client,
    camera: Camera,
    operate: Callable[..., OperatorProcess],
    desktop: Page,
    screenshot: Callable[[Page, str], None],
):
    page = desktop
    inits = client.collect(Detection2D, "tracker/init")
    operator = operate()
    open_page(page, operator)
    mark, init_mark = client.events.mark, inits.mark

    page.tap(page.screen(5, 5, *SIZE))
    page.wait("the frozen image", lambda: page.one("#badge").is_displayed())
    frozen = page.stamp()
    drawn = camera.truth[frozen]
    # Long enough that the target is elsewhere by now.
    page.wait(
        "newer images",
        lambda: camera.newer_than(frozen) >= NEWER and iou(drawn, camera.truth[camera.stamps[-1]]) < 0.3,
    )
    assert page.stamp() == frozen
    page.drag(*corners(page, drawn), before_release=lambda: screenshot(page, "operator_frozen"))

    event = client.event(TrackEvent.INITIALIZED, mark=mark)
    assert stamp_ns(event.header) == frozen
    init = client.wait_message("the box", inits, mark=init_mark)
    assert stamp_ns(init.header) == frozen
    assert init.header.frame_id == "camera_optical"
    assert iou(box_of(init), drawn) > 0.9
    client.drop(inits)

    def follows() -> bool:
        last = client.tracks.since()[-1]
        stamp = stamp_ns(last.header)
        newest = [box_of(d) for d in last.detections]
        return stamp > frozen and bool(newest) and iou(newest[0], camera.truth[stamp]) > 0.5

    client.wait("the target's track", follows)
    # Live again, and the box on the screen is that of the image on the screen.
    row = f"#targets li[data-id='{event.id}']"
    page.wait("the target in the list", lambda: page.all(row))
    page.wait("live images", lambda: page.stamp() > frozen and not page.one("#badge").is_displayed())
    page.wait("its state", lambda: page.one(row).get_attribute("data-state") == "TRACKING")
    page.wait("its curve", lambda: int(page.one(f"{row} canvas").get_attribute("data-points")) > 40)
    page.wait("the curve's green", lambda: colours(page, f"{row} canvas", (60, 220, 96)) > 30)
    page.wait("a green box", lambda: colours(page, "#picture", (60, 220, 96)) > 200)
    # The target moves by a quarter of its width in five images.
    assert min(iou(box, camera.truth[stamp]) for stamp, box in measured_boxes(operator, 8)) > 0.5
    assert page.text(f"{row} .percent").endswith("%")
    page.wait("rates", lambda: float(page.text("#rate-tracks").split()[0]) > 1.0)
    assert page.text("#latency").endswith(" ms")
    screenshot(page, "operator_desktop")

    camera.empty = True
    page.wait("LOST", lambda: page.one(row).get_attribute("data-state") == "LOST")
    page.wait("the message", lambda: "LOST" in page.text("#messages"))
    page.wait("the curve's red", lambda: colours(page, f"{row} canvas", (245, 66, 66)) > 5)
    page.wait("no box", lambda: colours(page, "#picture", (60, 220, 96)) < 50)

    mark = client.events.mark
    page.one(f"{row} .cancel").click()
    client.event(TrackEvent.CANCELLED, event.id, mark)
    page.wait("an empty list", lambda: not page.all("#targets li"))
    assert page.complaints == []


def test_with_a_finger_on_a_phone(
    client: Client,
    camera: Camera,
    operate: Callable[..., OperatorProcess],
    phone: Page,
    screenshot: Callable[[Page, str], None],
):
    page = phone
    open_page(page, operate())
    width, scroll_width = page.driver.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    assert width == scroll_width == 390

    target = follow_still_target(page, camera, client, "touch")
    camera.still = False
    page.wait("the target in the list", lambda: page.all(f"#targets li[data-id='{target}']"))
    page.wait("its curve", lambda: int(page.one("#targets canvas").get_attribute("data-points")) > 20)
    assert page.driver.execute_script("return scrollY") == 0
    screenshot(page, "operator_phone")

    # One target is all that this node follows: a second is refused, in the first one's place it is taken.
    mark = client.events.mark
    page.drag(page.screen(20, 20, *SIZE), page.screen(90, 90, *SIZE), "touch")
    client.event(TrackEvent.REJECTED, mark=mark)
    page.wait("the reason", lambda: "TOO_MANY_TARGETS" in page.text("#messages"))
    page.one(f"#box-for option[value='{target}']").click()
    mark = client.events.mark
    page.drag(page.screen(20, 20, *SIZE), page.screen(90, 90, *SIZE), "touch")
    client.event(TrackEvent.INITIALIZED, target, mark)

    mark = client.events.mark
    page.one("#cancel-all").click()
    client.event(TrackEvent.CANCELLED, target, mark)
    page.wait("an empty list", lambda: not page.all("#targets li"))
    assert page.complaints == []


def test_a_tap_freezes_and_the_next_one_goes_on(camera: Camera, operate: Callable[..., OperatorProcess], desktop: Page):
    page = desktop
    open_page(page, operate())
    for way in ("tap", "button", "key"):
        page.tap(page.screen(300, 200, *SIZE))
        page.wait("the frozen image", lambda: page.one("#badge").is_displayed())
        frozen = page.stamp()
        page.wait("newer images", lambda stamp=frozen: camera.newer_than(stamp) > 5)
        assert page.stamp() == frozen
        if way == "tap":
            page.tap(page.screen(300, 200, *SIZE))
        elif way == "button":
            page.one("#live").click()
        else:
            page.one("body").send_keys("\ue00c")  # Escape
        page.wait("newer images on the screen", lambda stamp=frozen: page.stamp() > stamp)


# -- the process -------------------------------------------------------------------------------------------------------


def test_images_are_subscribed_to_only_while_somebody_watches(
    client: Client, camera: Camera, operate: Callable[..., OperatorProcess], desktop: Page
):
    operator = operate()
    assert client.node.count_subscribers("image") == 1  # the tracker
    open_page(desktop, operator)
    client.wait("the page's subscription", lambda: client.node.count_subscribers("image") == 2)
    desktop.driver.get("about:blank")
    client.wait("its end", lambda: client.node.count_subscribers("image") == 1)


def test_the_page_connects_anew_by_itself(camera: Camera, operate: Callable[..., OperatorProcess], desktop: Page):
    first = operate()
    open_page(desktop, first)
    # Ctrl-C under `ros2 launch` comes twice.
    first.process.send_signal(signal.SIGINT)
    assert first.stop() == 0
    assert "Traceback" not in first.output
    desktop.wait("the loss", lambda: desktop.one("#link").get_attribute("data-state") == "lost")
    last = desktop.stamp()
    operate(port=first.port)
    desktop.wait("the connection", lambda: desktop.one("#link").get_attribute("data-state") == "good")
    desktop.wait("newer images", lambda: desktop.stamp() > last)


def test_the_token_lets_in_and_stays_out_of_sight(
    camera: Camera, operate: Callable[..., OperatorProcess], desktop: Page
):
    page, operator = desktop, operate(token=TOKEN, host="0.0.0.0")
    page.driver.get(operator.address)
    page.wait("the question for the token", lambda: page.all("#token"))
    page.one("#token").send_keys("wrong-" + TOKEN)
    page.one("button").click()
    page.wait("the question again", lambda: page.all("#token") and not page.one("#token").get_attribute("value"))
    page.one("#token").send_keys(TOKEN)
    page.one("button").click()
    page.wait("an image", lambda: page.all("#picture") and page.stamp())
    page.driver.delete_all_cookies()
    page.driver.get(operator.address)
    page.wait("the question for the token", lambda: page.all("#token"))

    page.driver.get(f"{operator.address}?token={TOKEN}")
    page.wait("an image", lambda: page.all("#picture") and page.stamp())
    assert page.driver.current_url == operator.address
    assert page.driver.execute_script("return document.cookie") == ""
    (cookie,) = page.driver.get_cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert TOKEN not in cookie["value"]
    page.driver.delete_all_cookies()
    page.driver.get("about:blank")
    operator.stop()
    assert TOKEN not in operator.output


def test_compressed_images(tmp_path: Path, desktop: Page):
    """Without a tracker: the images are shown all the same, and the page says what is missing."""
    with free_domain() as domain, ExitStack() as stack:
        operator = OperatorProcess(domain, tmp_path / "operator.log", {"image_transport": "compressed"})
        stack.callback(operator.stop)
        node = Client(domain, _NoProcess(), compressed=True)
        stack.callback(node.close)
        assert node.images.msg_type is CompressedImage
        camera = Camera(node)
        stack.callback(camera.stop)
        open_page(desktop, operator)
        desktop.wait("the hint", lambda: "the tracker does not answer" in desktop.text("#hint"))
        desktop.drag(desktop.screen(20, 20, *SIZE), desktop.screen(90, 90, *SIZE))
        # The test's own publishers make the topic, but nobody listens on it.
        desktop.wait("the reason", lambda: "nobody listens on /tracker/init" in desktop.text("#messages"))


class _NoProcess:
    """Stands where a node would be."""

    output = ""
    alive = True
