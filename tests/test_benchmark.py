import benchmark


def test_compare_inference_describes_every_quick_network(monkeypatch):
    monkeypatch.setattr(benchmark, "in_new_process", lambda function, *arguments: (1000.0, 2000.0, 3000.0))
    text = benchmark.compare_inference(1e9, quick=True)
    assert "| `cnn` | 1 | 1,000 | 2,000 | 3,000 |" in text
    assert "at most 100 images at once" in text


def test_time_inference_returns_three_rates():
    assert min(benchmark.time_inference("cnn", 1, seconds=0.01, rate=1e9)) > 0


def test_measure_checkpoints_names_the_recipes():
    text = benchmark.measure_checkpoints(quick=True)
    assert all(f"| `{name}` |" in text for name in benchmark.QUICK_RECIPES)
