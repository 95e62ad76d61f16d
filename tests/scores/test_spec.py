"""What a driver settles of the model before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cross_encoders import make_headless_bert

from tart_ray.config import RerankConfig
from tart_ray.errors import CheckpointError
from tart_ray.scores.spec import ScoringSpec


def test_a_cross_encoder_without_its_head_is_refused_where_its_fingerprint_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="of the extra cross-encoders")
    model = {"path": str(make_headless_bert(tmp_path / "model")), "max_length": 64}
    config = RerankConfig.model_validate({"input": {"candidates": "x"}, "output": {"path": "x"}, "model": model})
    with pytest.raises(CheckpointError, match=r"got no weights for classifier\.bias, classifier\.weight of BertFor"):
        ScoringSpec.resolve(config.model, config.cluster, config.limits, config.storage, config.input)
