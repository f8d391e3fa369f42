import gc
import sys
import types
from array import array

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sensor_msgs.msg")
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ros2_tracker.ros import image_view as image_view_module
from ros2_tracker.ros.image_view import (
    ImageError,
    frame_from_compressed,
    frame_from_image,
    image_message,
    image_view,
)
from ros2_tracker.ros.pixel_formats import FORMATS
from ros2_tracker.tracking.frame import ColorOrder, to_bgr

AS_IS = ["bgr8", "rgb8", "mono8", "bgra8", "rgba8", "8UC1", "8UC3", "8UC4"]
YUV422 = ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"]
YUV420 = ["nv12", "nv21"]
BAYER8 = ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"]
BAYER16 = [name.replace("8", "16") for name in BAYER8]
DEEP = ["mono16", "16UC1", *BAYER16]
ENCODINGS = AS_IS + YUV422 + YUV420 + BAYER8 + DEEP
CHANNELS = {**dict.fromkeys(YUV422, 2), "bgr8": 3, "rgb8": 3, "8UC3": 3, "bgra8": 4, "rgba8": 4, "8UC4": 4}


def message(encoding, raw, padding=0, big_endian=False, extra=0, as_type=None):
    """Image with the rows of `raw` (uint8 or uint16), `padding` bytes after each and `extra` ones at the end."""
    rows, width = raw.shape[:2]
    data = raw.astype(raw.dtype.newbyteorder(">" if big_endian else "<"))
    data = np.ascontiguousarray(data).view(np.uint8).reshape(rows, -1)
    data = np.hstack([data, np.full((rows, padding), 0xA5, np.uint8)])
    step = data.shape[1]
    content = data.tobytes() + b"\x5a" * extra
    msg = Image(height=rows * 2 // 3 if encoding in YUV420 else rows, width=width, encoding=encoding, step=step)
    msg.is_bigendian = int(big_endian)
    if as_type is None:
        msg.data = array("B", content)
    else:  # rclpy's setter would convert
        msg._data = as_type(content)
    return msg


def raw_pixels(encoding, height, width, seed=0):
    dtype = np.uint16 if encoding in DEEP else np.uint8
    rows = height * 3 // 2 if encoding in YUV420 else height
    shape = (rows, width) + ((CHANNELS[encoding],) if encoding in CHANNELS else ())
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def test_every_supported_encoding_is_tested():
    assert set(ENCODINGS) == set(FORMATS)


# --- the view ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("padding", [0, 2, 5, 64])
@pytest.mark.parametrize("big_endian", [False, True])
def test_view_honours_step_and_byte_order(encoding, padding, big_endian):
    raw = raw_pixels(encoding, 6, 8)
    view = image_view(message(encoding, raw, padding, big_endian, extra=3))
    assert view.dtype.itemsize == raw.dtype.itemsize
    np.testing.assert_array_equal(view, raw)


@pytest.mark.parametrize("as_type", [bytes, bytearray, lambda b: np.frombuffer(b, np.uint8)])
def test_other_buffers_are_read_as_well(as_type):
    raw = raw_pixels("mono16", 5, 7)
    np.testing.assert_array_equal(image_view(message("mono16", raw, 3, as_type=as_type)), raw)
    raw = raw_pixels("bgr8", 5, 7)
    frame = frame_from_image(message("bgr8", raw, 3, as_type=as_type))
    np.testing.assert_array_equal(frame.bgr(), raw)


def test_view_copies_nothing_and_cannot_be_written():
    msg = message("bgr8", raw_pixels("bgr8", 4, 6), padding=2)
    view = image_view(msg)
    assert np.shares_memory(view, np.frombuffer(msg.data, np.uint8))
    msg.data[0] = view[0, 0, 0] ^ 0xFF
    assert view[0, 0, 0] == msg.data[0]
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0, 0] = 1


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_frame_outlives_its_message(encoding):
    msg = message(encoding, raw_pixels(encoding, 64, 64), padding=2)
    frame = frame_from_image(msg)
    expected = frame.bgr().copy()
    del msg
    gc.collect()
    clutter = [bytes(range(256)) * 64 for _ in range(50)]
    np.testing.assert_array_equal(frame.bgr(), expected)
    del clutter


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("big_endian", [False, True])
def test_view_equals_cv_bridge(encoding, big_endian):
    bridge = pytest.importorskip("cv_bridge").CvBridge()
    msg = message(encoding, raw_pixels(encoding, 6, 8), padding=8, big_endian=big_endian)
    try:
        expected = bridge.imgmsg_to_cv2(msg, "passthrough")
    except Exception as error:  # this version of cv_bridge does not know it
        pytest.skip(str(error))
    np.testing.assert_array_equal(image_view(msg), expected)


# --- colours ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("bgr8", (10, 20, 200)),
        ("8UC3", (10, 20, 200)),
        ("rgb8", (200, 20, 10)),
        ("bgra8", (10, 20, 200, 77)),
        ("8UC4", (10, 20, 200, 77)),
        ("rgba8", (200, 20, 10, 77)),
    ],
)
def test_interleaved_colours(encoding, pixel):
    raw = np.full((5, 7, len(pixel)), pixel, np.uint8)
    assert (frame_from_image(message(encoding, raw, padding=1)).bgr() == (10, 20, 200)).all()


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_stays_grey(encoding):
    raw = raw_pixels(encoding, 5, 7)
    frame = frame_from_image(message(encoding, raw))
    region, order = frame.region(1, 2, 6, 5)
    assert order is ColorOrder.GRAY
    np.testing.assert_array_equal(region, raw[2:5, 1:6])


# BT.601, video range: https://www.itu.int/rec/R-REC-BT.601 (Y of 16..235, chroma of 16..240 around 128)
BT601_YUV_OF_BGR = {(0, 0, 255): (81, 90, 240), (0, 255, 0): (145, 54, 34), (255, 0, 0): (41, 240, 110)}


def yuv_message(encoding, yuv, height=4, width=6):
    y, u, v = yuv
    if encoding in ("yuv422", "uyvy"):
        return message(encoding, np.tile(np.array([[u, y], [v, y]], np.uint8), (height, width // 2, 1)))
    if encoding in YUV422:
        return message(encoding, np.tile(np.array([[y, u], [y, v]], np.uint8), (height, width // 2, 1)))
    chroma = (u, v) if encoding == "nv12" else (v, u)
    luma = np.full((height, width), y, np.uint8)
    return message(encoding, np.vstack([luma, np.tile(np.array(chroma, np.uint8), (height // 2, width // 2))]))


@pytest.mark.parametrize("encoding", YUV422 + YUV420)
@pytest.mark.parametrize("bgr", BT601_YUV_OF_BGR)
def test_yuv_colours_are_bt601(encoding, bgr):
    pixels = frame_from_image(yuv_message(encoding, BT601_YUV_OF_BGR[bgr])).bgr()
    assert pixels.shape == (4, 6, 3)
    assert np.abs(pixels.astype(int) - bgr).max() <= 2


@pytest.mark.parametrize("encoding", BAYER8 + BAYER16)
def test_bayer_pattern(encoding):
    bgr = {"r": 200, "g": 120, "b": 30}
    pattern = encoding.removeprefix("bayer_").removesuffix("16").removesuffix("8")
    tile = np.array([bgr[colour] for colour in pattern]).reshape(2, 2)
    scale = 257 if encoding in BAYER16 else 1
    mosaic = np.tile(tile * scale, (5, 6)).astype(np.uint16 if encoding in BAYER16 else np.uint8)
    assert (frame_from_image(message(encoding, mosaic)).bgr() == (30, 120, 200)).all()


@pytest.mark.parametrize("big_endian", [False, True])
def test_mono16_is_scaled_linearly_over_its_whole_range(big_endian):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    region, order = frame_from_image(message("mono16", values, 2, big_endian)).region(0, 0, 256, 256)
    assert order is ColorOrder.GRAY
    # 65535 / 255 = 257, so rounding v / 257 never meets a tie.
    np.testing.assert_array_equal(region, (values.astype(int) + 128) // 257)


@pytest.mark.parametrize("big_endian", [False, True])
def test_thermal_image_is_stretched_between_percentiles(big_endian):
    counts = np.random.default_rng(0).normal(8000, 100, (512, 640)).astype(np.uint16)
    counts[0, :5] = (0, 65535, 0, 65535, 0)  # dead pixels must not spoil the scale
    frame = frame_from_image(message("16UC1", counts, 4, big_endian))
    low, high = np.percentile(counts, (1, 99))
    grey = frame.region(0, 0, 640, 512)[0]
    expected = np.clip((counts.astype(float) - low) * 255 / (high - low), 0, 255)
    # The limits are estimated from one pixel in 25: ±12 counts of 465, at most.
    assert np.abs(grey - expected).max() < 12
    assert grey.std() > 50
    assert (grey[0, 0], grey[0, 1]) == (0, 255)


def test_thermal_image_has_one_scale_for_all_regions():
    counts = raw_pixels("16UC1", 100, 300)
    counts[:, 150:] //= 64
    frame = frame_from_image(message("16UC1", counts))
    right = frame.region(150, 0, 300, 100)[0].copy()
    np.testing.assert_array_equal(right, frame.bgr()[:, 150:, 0])
    assert right.max() < 10


@pytest.mark.parametrize("value", [0, 1234, 65535])
def test_constant_thermal_image(value):
    frame = frame_from_image(message("16UC1", np.full((4, 5), value, np.uint16)))
    assert (frame.bgr() == 0).all()


# --- regions ----------------------------------------------------------------------------------------------------

SIDES = {**dict.fromkeys(YUV422, (1, 2)), **dict.fromkeys(YUV420, (2, 2))}  # height and width are multiples of these


@st.composite
def images_with_region(draw):
    encoding = draw(st.sampled_from(ENCODINGS))
    least = 3 if encoding.startswith("bayer") else 1
    of_height, of_width = SIDES.get(encoding, (1, 1))
    height = draw(st.integers(least, 40)) * of_height
    width = draw(st.integers(least, 40)) * of_width
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    raw = raw_pixels(encoding, height, width, seed=draw(st.integers(0, 99)))
    return message(encoding, raw, draw(st.integers(0, 9)), draw(st.booleans())), (x0, y0, x1, y1)


@settings(max_examples=600, deadline=None)
@given(images_with_region())
def test_region_equals_the_part_of_the_converted_frame(image_and_region):
    msg, (x0, y0, x1, y1) = image_and_region
    frame = frame_from_image(msg)
    assert (frame.height, frame.width) == (msg.height, msg.width)
    region, order = frame.region(x0, y0, x1, y1)
    assert region.dtype == np.uint8
    assert region.shape == (y1 - y0, x1 - x0) + ((order.channels,) if order is not ColorOrder.GRAY else ())
    np.testing.assert_array_equal(to_bgr(region, order), frame.bgr()[y0:y1, x0:x1])


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [1, 2, 5, 17])
def test_regions_at_every_border(encoding, size):
    height, width = (46, 70) if encoding in YUV422 + YUV420 else (45, 71)
    frame = frame_from_image(message(encoding, raw_pixels(encoding, height, width), padding=2))
    whole = frame.bgr()
    for x0 in (0, 1, 31, width - size - 1, width - size):
        for y0 in (0, 1, 20, height - size - 1, height - size):
            pixels = to_bgr(*frame.region(x0, y0, x0 + size, y0 + size))
            np.testing.assert_array_equal(pixels, whole[y0 : y0 + size, x0 : x0 + size], err_msg=f"at {x0}, {y0}")


@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("yuv422", cv2.COLOR_YUV2BGR_UYVY),
        ("yuv422_yuy2", cv2.COLOR_YUV2BGR_YUY2),
        ("nv12", cv2.COLOR_YUV2BGR_NV12),
        ("nv21", cv2.COLOR_YUV2BGR_NV21),
        ("bayer_rggb8", cv2.COLOR_BayerBG2BGR),
        ("bayer_grbg8", cv2.COLOR_BayerGB2BGR),
    ],
)
def test_whole_frame_is_opencvs_conversion(encoding, code):
    raw = raw_pixels(encoding, 46, 70)
    np.testing.assert_array_equal(frame_from_image(message(encoding, raw, padding=6)).bgr(), cv2.cvtColor(raw, code))


@pytest.mark.parametrize("encoding", ["nv12", "yuv422", "bayer_rggb8", "bayer_rggb16", "mono16", "16UC1"])
def test_only_the_region_is_converted(encoding, monkeypatch):
    frame = frame_from_image(message(encoding, raw_pixels(encoding, 400, 400)))
    converted = []
    for name in ("cvtColor", "cvtColorTwoPlane", "convertScaleAbs"):
        original = getattr(cv2, name)

        def spy(source, *args, _original=original, **kwargs):
            converted.append(source.shape[:2])
            return _original(source, *args, **kwargs)

        monkeypatch.setattr(cv2, name, spy)
        convert = getattr(frame, "convert", None)
        if getattr(convert, "func", None) is original:
            object.__setattr__(frame, "convert", lambda raw, f=convert, s=spy: s(raw, *f.args, **f.keywords))
    frame.region(101, 51, 131, 71)
    assert converted
    assert all(height <= 20 + 6 and width <= 30 + 6 for height, width in converted)


# --- messages that are refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "changes", "named"),
    [
        ("bgr8", {"step": 23}, "step of 23"),
        ("mono16", {"step": 15}, "step of 15"),
        ("yuv422", {"step": 0}, "step of 0"),
        ("bgr8", {"height": 7}, "144 bytes is less than 7 rows of 24"),
        ("bgr8", {"step": 25}, "144 bytes is less than 6 rows of 25"),
        ("nv12", {"height": 8}, "72 bytes is less than 12 rows of 8"),
        ("bgr8", {"width": 0}, "0x6"),
        ("bgr8", {"height": 0}, "8x0"),
        ("bgr8", {"width": 0, "height": 0, "step": 0}, "0x0"),
        ("bgr8", {"width": 2**32 - 1}, "4294967295"),
        ("bgr8", {"height": 2**32 - 1, "step": 2**32 - 1}, "4294967295 rows of 4294967295"),
        ("bgr8", {"width": 2**32 - 1, "height": 2**32 - 1, "step": 2**32 - 1}, "4294967295"),
        ("nv12", {"width": 7}, "7x6 px: width and height must be even"),
        ("nv12", {"height": 5}, "8x5 px: width and height must be even"),
        ("yuv422", {"width": 7}, "7x6 px: width must be even"),
        ("bayer_rggb8", {"width": 2}, "2x6 px: at least 3x3"),
        ("bayer_rggb16", {"height": 1}, "8x1 px: at least 3x3"),
    ],
)
def test_sizes_that_do_not_fit(encoding, changes, named):
    msg = message(encoding, raw_pixels(encoding, 6, 8))
    for field, value in changes.items():
        setattr(msg, field, value)
    for read in (image_view, frame_from_image):
        with pytest.raises(ImageError, match=named):
            read(msg)


def test_data_without_bytes():
    with pytest.raises(ImageError, match="data of 0 bytes"):
        frame_from_image(Image(height=4, width=4, step=12, encoding="bgr8"))


@pytest.mark.parametrize("encoding", ["", "BGR8", "bgr8 ", "nv24", "32FC1", "x" * 100_000, "\x00\x1b[31m"])
def test_unknown_encoding_is_named_briefly(encoding, monkeypatch):
    monkeypatch.setattr(image_view_module, "_cv_bridge", lambda: None)
    msg = message("mono8", raw_pixels("mono8", 4, 4))
    msg.encoding = encoding
    for read in (image_view, frame_from_image):
        with pytest.raises(ImageError) as caught:
            read(msg)
        text = str(caught.value)
        assert repr(encoding)[:20] in text
        assert "bgr8, " in text
        assert text.isprintable()
        assert len(text) < 500


def test_image_error_is_a_value_error():
    assert issubclass(ImageError, ValueError)


# --- cv_bridge, for what we do not know ---------------------------------------------------------------------------


@pytest.fixture
def fake_cv_bridge(monkeypatch):
    class CvBridge:
        def imgmsg_to_cv2(self, msg, desired_encoding):
            assert desired_encoding == "bgr8"
            if msg.encoding == "64FC1":
                raise TypeError("[64FC1] is not a color format")
            return np.full((msg.height, msg.width, 3), (1, 2, 3), np.uint8)

    module = types.ModuleType("cv_bridge")
    module.CvBridge = CvBridge
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    image_view_module._cv_bridge.cache_clear()
    yield
    image_view_module._cv_bridge.cache_clear()


def with_encoding(encoding):
    msg = message("mono8", raw_pixels("mono8", 4, 6))
    msg.encoding = encoding
    return msg


@pytest.mark.usefixtures("fake_cv_bridge")
def test_cv_bridge_reads_other_encodings():
    frame = frame_from_image(with_encoding("rgb16"))
    assert (frame.height, frame.width) == (4, 6)
    assert (frame.bgr() == (1, 2, 3)).all()


@pytest.mark.usefixtures("fake_cv_bridge")
def test_refusal_of_cv_bridge_is_passed_on():
    with pytest.raises(ImageError, match=r"'64FC1' is not supported.*cv_bridge: \[64FC1\] is not a color format"):
        frame_from_image(with_encoding("64FC1"))
    empty = with_encoding("rgb16")
    empty.width = 0
    with pytest.raises(ImageError, match="0x4"):
        frame_from_image(empty)


# --- compressed images --------------------------------------------------------------------------------------------


def compressed(suffix, pixels, *params):
    return CompressedImage(format=suffix, data=array("B", cv2.imencode("." + suffix, pixels, params)[1].tobytes()))


def smooth(height=40, width=60):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.dstack([x * 4, y * 6, (x + y) * 2]).astype(np.uint8)


def test_png_is_decoded_exactly_and_jpeg_closely():
    pixels = smooth()
    png = frame_from_compressed(compressed("png", pixels))
    np.testing.assert_array_equal(png.bgr(), pixels)
    assert (png.height, png.width) == (40, 60)
    np.testing.assert_array_equal(png.region(3, 5, 20, 30)[0], pixels[5:30, 3:20])
    assert png.region(3, 5, 20, 30)[1] is ColorOrder.BGR
    jpeg = frame_from_compressed(compressed("jpg", pixels, cv2.IMWRITE_JPEG_QUALITY, 95))
    assert np.abs(jpeg.bgr().astype(int) - pixels).mean() < 3


def test_grey_and_deep_files_become_bgr():
    grey = smooth()[..., 0]
    np.testing.assert_array_equal(frame_from_compressed(compressed("png", grey)).bgr(), np.dstack([grey] * 3))
    deep = frame_from_compressed(compressed("png", grey.astype(np.uint16) * 257))
    assert deep.bgr().dtype == np.uint8


def test_decoded_once_and_only_when_used(monkeypatch):
    calls = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: calls.append(1) or decode(*args))
    frame = frame_from_compressed(compressed("jpg", smooth()))
    assert not calls
    assert frame.width == 60
    assert len(calls) == 1
    frame.region(0, 0, 5, 5)
    frame.bgr()
    assert frame.height == 40
    assert len(calls) == 1


def test_orientation_tag_is_ignored():
    jpeg = cv2.imencode(".jpg", smooth())[1].tobytes()
    # Exif with the single entry Orientation = 6, "rotate by 90°", behind the start-of-image marker.
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff
    tagged = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (60, 40)
    frame = frame_from_compressed(CompressedImage(format="jpeg", data=array("B", tagged)))
    assert (frame.height, frame.width) == (40, 60)


@pytest.mark.parametrize("data", [b"\x00", b"not an image", b"\xff\xd8\xff\xe0" + bytes(50), bytes(10_000)])
@pytest.mark.parametrize(
    "use", [lambda f: f.height, lambda f: f.width, lambda f: f.bgr(), lambda f: f.region(0, 0, 1, 1)]
)
def test_damaged_data(data, use):
    frame = frame_from_compressed(CompressedImage(format="jpeg" * 10_000, data=array("B", data)))
    with pytest.raises(ImageError, match=f"{len(data)} bytes, format 'jpegjpeg") as caught:
        use(frame)
    assert len(str(caught.value)) < 300


def test_bomb_is_refused():
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 10**6, 10**6, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    frame = frame_from_compressed(CompressedImage(format="png", data=array("B", png)))
    with pytest.raises(ImageError, match="cannot be decoded"):
        frame.bgr()


def test_empty_compressed_image():
    with pytest.raises(ImageError, match="without data, format 'jpeg'"):
        frame_from_compressed(CompressedImage(format="jpeg"))


# --- publishing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [np.s_[:], np.s_[3:20, 5:31], np.s_[:, ::-1]])
def test_message_round_trip(part):
    pixels = smooth()[part]
    header = Header(frame_id="camera")
    header.stamp.sec = 5
    msg = image_message(pixels, header)
    assert msg.header == header
    assert isinstance(msg.data, array)
    assert (msg.encoding, msg.step, len(msg.data)) == ("bgr8", pixels.shape[1] * 3, pixels.size)
    np.testing.assert_array_equal(image_view(msg), pixels)


def test_message_is_a_copy():
    pixels = smooth()
    msg = image_message(pixels, Header())
    pixels[:] = 0
    assert image_view(msg).any()


def test_message_of_other_arrays_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        image_message(np.zeros((4, 5), np.uint8), Header())
