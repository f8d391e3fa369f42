"""IBFP's online branch: the optimiser against solved problems, and what is learnt of features with a known target."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the online branch needs torch")

import torch.nn.functional as F  # noqa: E402

from ros2_tracker.models import ibfp_online as online  # noqa: E402
from ros2_tracker.models import ibfp_settings  # noqa: E402
from ros2_tracker.models.ibfp_optimizer import conjugate_gradients, gauss_newton  # noqa: E402
from ros2_tracker.models.ibfp_settings import OnlineSettings, load_online_branch, online_settings  # noqa: E402
from ros2_tracker.models.variant import load_variant  # noqa: E402

CELLS, CHANNELS = 18, 12
KINDS = {
    "filter": OnlineSettings(channels=8),
    "layers": OnlineSettings(kind="layers", hidden=8, fit_steps=8),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scene(seed, places, noise=0.3):
    """Features with objects: (look, cx, cy) in search sides, a fifth of the side large."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0.0, noise, (CHANNELS, CELLS, CELLS)).astype(np.float32)
    for look, cx, cy in places:
        rows, columns = (slice(round(c * CELLS) - 2, round(c * CELLS) + 2) for c in (cy, cx))
        features[:, rows, columns] += np.asarray(look, np.float32)[:, None, None]
    return features


def looks():
    """Of a target and of something like it: most of their channels agree."""
    rng = np.random.default_rng(3)
    target = np.abs(rng.normal(size=CHANNELS))
    other = target.copy()
    other[:4] = np.abs(rng.normal(size=4))
    return target, other


def first_frame(target):
    places = np.array([[x, y, 0.2, 0.2] for x, y in [(0.5, 0.5), (0.3, 0.4), (0.6, 0.35), (0.4, 0.7)]], np.float32)
    return np.stack([scene(i, [(target, *place[:2])]) for i, place in enumerate(places)]), places


def branch(kind):
    return load_online_branch(load_variant("ibfp-r18"), KINDS[kind])


def at(response, x, y):
    """Highest response within a cell or so of a place in search sides."""
    row, column = (round(c * len(response)) for c in (y, x))
    return response[row - 2 : row + 2, column - 2 : column + 2].max()


# --- the optimiser ---


def test_conjugate_gradients_solve_as_many_equations_as_they_have_steps():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(5, 5))
    matrix, right = torch.from_numpy(factor @ factor.T + np.eye(5)), torch.from_numpy(rng.normal(size=5))

    def apply(x):
        product = matrix @ torch.cat(x)
        return product[:2], product[2:]

    found = torch.cat(conjugate_gradients(apply, (right[:2], right[2:]), 5))
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), atol=1e-8)
    early = torch.cat(conjugate_gradients(apply, (right[:2], right[2:]), 2))
    assert (early - found).abs().max() > 1e-3


def test_nothing_to_solve_is_solved():
    (found,) = conjugate_gradients(lambda x: x, (torch.zeros(3),), 4)
    assert found.tolist() == [0.0, 0.0, 0.0]


def test_gauss_newton_takes_a_linear_problem_in_one_step():
    rng = np.random.default_rng(1)
    matrix, right = rng.normal(size=(7, 3)), rng.normal(size=7)
    a, b = torch.from_numpy(matrix), torch.from_numpy(right)
    (found,) = gauss_newton(lambda w: (a @ w - b, 0.1**0.5 * w), (torch.ones(3, dtype=torch.float64),), 1, 3)
    expected = np.linalg.solve(matrix.T @ matrix + 0.1 * np.eye(3), matrix.T @ right)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_gauss_newton_fits_a_product_of_two_parameters():
    """Neither is linear in the other, as projection and filter are."""
    truth = torch.tensor([[2.0, -1.0], [0.5, 3.0]], dtype=torch.float64)
    start = (torch.tensor([1.0, 1.5], dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64))
    product = torch.outer(truth[0], truth[1])
    a, b = gauss_newton(lambda a, b: (torch.outer(a, b) - product,), start, 8, 10)
    np.testing.assert_allclose(torch.outer(a, b), product, atol=1e-6)


# --- labels, responses ---


def test_the_filter_answers_as_a_convolution():
    torch.manual_seed(0)
    samples, kernel = torch.randn(3, 5, 6, 6), torch.randn(16, 5)
    found = online.responses(samples.transpose(0, 1), kernel)
    assert found.shape == (3, 7, 7)
    weight = kernel.T.reshape(1, 5, 4, 4).flip(2, 3)
    torch.testing.assert_close(found, F.conv2d(samples, weight, padding=2)[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("at_corners", [True, False])
def test_labels_are_round_gaussians_where_the_outputs_are(at_corners):
    place, count = (0.4, 0.65, 0.2, 0.3), 10
    found = online.labels_of(torch.tensor([place]), count, 0.25, at_corners)[0].numpy()
    for row in range(count):
        for column in range(count):
            x, y = (i / (count - 1) if at_corners else (i + 0.5) / count for i in (column, row))
            distance = ((x - 0.4) ** 2 + (y - 0.65) ** 2) / (0.25**2 * 0.2 * 0.3)
            assert found[row, column] == pytest.approx(np.exp(-0.5 * distance), abs=1e-5)


def test_errors_are_hinged_below_the_label_and_weighted():
    response = torch.tensor([[[0.9, -0.4], [0.3, -0.2]]])
    label = torch.tensor([[[1.0, 0.01], [0.02, 0.05]]])
    found = online.weighted_errors(response, label, torch.tensor([0.25]), 0.05)
    torch.testing.assert_close(found, 0.5 * torch.tensor([[[-0.1, 0.0], [0.3, -0.25]]]))


@pytest.mark.parametrize("at_corners", [True, False])
def test_responses_are_interpolated_to_the_cells_of_the_head_without_flattening_peaks(at_corners):
    cells, place = 9, torch.tensor([[0.5, 0.4, 0.5, 0.5]])
    count = cells + 1 if at_corners else cells
    response = online.labels_of(place, count, 0.25, at_corners)[0]
    wanted = online.labels_of(place, 2 * cells, 0.25, at_corners=False)[0]
    found = online.onto_head(response, at_corners)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=0.03)  # linear weights are up to 0.12 off

    ramp = 3.0 * online.positions(count, at_corners)
    along = online.onto_head(ramp.expand(count, count), at_corners)[5].numpy()
    expected = 3.0 * online.positions(2 * cells, at_corners=False).numpy()
    np.testing.assert_allclose(along[3:-3], expected[3:-3], atol=0.02)  # a cell is 0.17


# --- what is learnt ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_model_finds_the_target_in_another_frame(kind):
    target, _ = looks()
    model = branch(kind).fitted(*first_frame(target))
    response = model.response(scene(50, [(target, 0.35, 0.6)]))
    assert response.shape == (2 * CELLS, 2 * CELLS)
    assert response.dtype == np.float32
    row, column = divmod(int(response.argmax()), 2 * CELLS)
    assert (column + 0.5) / (2 * CELLS) == pytest.approx(0.35, abs=0.06)
    assert (row + 0.5) / (2 * CELLS) == pytest.approx(0.6, abs=0.06)
    assert 0.3 < response.max() < 1.6
    assert np.median(response) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_learning_frames_with_a_distractor_raises_the_margin_over_it(kind):
    target, other = looks()
    model = branch(kind).fitted(*first_frame(target))
    question = scene(70, [(target, 0.6, 0.5), (other, 0.25, 0.3)])

    def margin(model):
        response = model.response(question)
        return at(response, 0.6, 0.5) - at(response, 0.25, 0.3)

    before = margin(model)
    for i in range(12):
        sample = scene(100 + i, [(target, 0.5, 0.5), (other, 0.2 + 0.02 * i, 0.3)])
        model = model.remembered(sample, (0.5, 0.5, 0.2, 0.2), 0.02).updated()
    assert margin(model) > before + 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_not_changed_by_what_comes_of_them_and_are_the_same_every_time(kind):
    target, _ = looks()
    features, places = first_frame(target)
    model, again = (branch(kind).fitted(features, places) for _ in range(2))
    question = scene(50, [(target, 0.5, 0.5)])
    before = model.response(question)
    model.remembered(question, (0.5, 0.5, 0.2, 0.2), 0.5).updated()
    assert np.array_equal(model.response(question), before)
    assert np.array_equal(again.response(question), before)


def test_remembering_alone_changes_no_answer():
    target, _ = looks()
    model = branch("filter").fitted(*first_frame(target))
    question = scene(50, [(target, 0.5, 0.5)])
    later = model.remembered(question, (0.5, 0.5, 0.2, 0.2), 0.5)
    assert np.array_equal(later.response(question), model.response(question))


def remembering(memory, values, rates, settings):
    """With a sample for each value, which fills its features."""
    for value, rate in zip(values, rates, strict=True):
        memory = memory.with_sample(torch.full((2, 3, 3), float(value)), torch.zeros(4, 4), rate, settings)
    return memory


def test_the_memory_forgets_the_least_important_later_sample():
    settings = OnlineSettings(memory=32, first_weight=0.0)
    first = online.Memory.of([torch.zeros(2, 3, 3)] * 30, [torch.zeros(4, 4)] * 30)
    memory = remembering(first, [1, 2], [0.1, 0.4], settings)
    np.testing.assert_allclose(memory.weights, [0.9 * 0.6 / 30] * 30 + [0.06, 0.4], atol=1e-6)
    memory = remembering(memory, [3], [0.2], settings)
    assert [float(sample[0, 0, 0]) for sample in memory.features] == [0.0] * 30 + [3.0, 2.0]
    left = 0.9 * 0.6 * 0.8 + 0.2 + 0.4 * 0.8
    np.testing.assert_allclose(memory.weights[-2:], [0.2 / left, 0.4 * 0.8 / left], atol=1e-6)
    assert float(memory.weights.sum()) == pytest.approx(1.0, abs=1e-6)


def test_the_first_frame_keeps_a_quarter_of_the_weight():
    first = online.Memory.of([torch.zeros(2, 3, 3)] * 4, [torch.zeros(4, 4)] * 4)
    memory = remembering(first, range(1, 400), [0.02] * 399, OnlineSettings())
    assert len(memory.features) == 250
    np.testing.assert_allclose(memory.weights[:4], 0.25 / 4, atol=1e-6)
    assert all(not sample.any() for sample in memory.features[:4])
    assert float(memory.weights.sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_sample_may_weigh_nothing_or_all(rate):
    first = online.Memory.of([torch.zeros(2, 3, 3)] * 4, [torch.zeros(4, 4)] * 4)
    weights = remembering(first, [1], [rate], OnlineSettings(first_weight=0.0)).weights
    np.testing.assert_allclose(weights, [(1.0 - rate) / 4] * 4 + [rate], atol=1e-6)


# --- settings ---


def test_defaults_are_those_of_the_specification():
    settings = online_settings(load_variant("ibfp-r18"))
    assert settings == OnlineSettings()
    assert (settings.weight, settings.interval, settings.memory) == (0.7, 10, 250)
    assert settings.fit_steps * settings.fit_iterations == 60


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"kind": "lstm"}, "online.kind is 'lstm'"), ({"rate": 1.5}, "online.rate is 1.5"), ({"eta": 1}, "eta")],
)
def test_settings_that_do_not_fit_are_named(wrong, named):
    from dataclasses import replace

    with pytest.raises(ValueError, match=f"ibfp-r18.*{named}"):
        online_settings(replace(load_variant("ibfp-r18"), online=wrong))


def test_without_torch_it_is_left_out_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(ibfp_settings, "find_spec", lambda name: None)
    variant = load_variant("ibfp-r18")
    assert load_online_branch(variant, OnlineSettings()) is None
    assert "needs `pip install torch`" in caplog.text
    caplog.clear()
    assert load_online_branch(variant, OnlineSettings(kind="off")) is None
    assert caplog.text == ""
