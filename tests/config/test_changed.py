"""What of a configuration differs from the defaults."""

from __future__ import annotations

from tart_ray.config import RerankConfig


def test_what_differs_by_the_keys_of_yaml() -> None:
    config = RerankConfig.model_validate(
        {
            "input": {"candidates": "in", "columns": {"text": "body"}},
            "output": {"path": "out", "top_k": None},
            "model": {"max_length": 256, "dtype": "auto"},
            "cluster": {"replicas": {"max": 2}},
            "storage": {"secret": "hidden"},
        }
    )
    assert config.changed() == {
        "input.candidates": "in",
        "input.columns": {"text": "body"},
        "output.path": "out",
        "model.max_length": 256,
        "cluster.replicas.max": 2,
        "storage.secret": "**********",
    }
