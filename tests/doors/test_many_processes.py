"""The old training command under torchrun, as the documentation writes it."""

from __future__ import annotations

import json

from doors_world import apart, documented, small

from lgdlm.training.restore import restore


def test_many_processes_train_one_model(world):
    (command,) = documented("Many processes")
    done = apart(small(f"{command} logging.run_name=ranks training.train_batch_size=4"), world)
    assert done.returncode == 0, done.stderr[-3000:]
    assert restore(world / "outputs/ranks").config.loss.loss_type == "cycle_vae"
    log = [json.loads(line) for line in (world / "outputs/ranks/training_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2], "one log for all of them"
    manifest = json.loads((restore(world / "outputs/ranks").folder / "manifest.json").read_text())
    assert manifest["world_size"] == 2
