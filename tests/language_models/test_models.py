"""Models by name: what identifies one."""

import pytest

from l2m.language_models.models import fingerprint


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_changed_weights_are_another_model(tmp_path, weights):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / weights).write_bytes(b"one")
    before = fingerprint(str(tmp_path))
    (tmp_path / "README.md").write_text("said of it")
    assert fingerprint(str(tmp_path)) == before
    (tmp_path / weights).write_bytes(b"two")
    assert fingerprint(str(tmp_path)) != before
    assert fingerprint("somebody/some-model") == "hub:somebody/some-model"
