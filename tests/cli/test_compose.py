"""The words of a command line become one configuration, or one error that names the key."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lgdlm.cli.compose import _literal, compose
from lgdlm.compat import CHOSEN, LISTS, MODES, RENAMED
from lgdlm.config import MODELS, Phase
from lgdlm.errors import InputError
from lgdlm.idle_keys import IGNORED, ONLY
from lgdlm.schema import all_keys, to_yaml


def refused(words, config_name="default"):
    with pytest.raises(InputError) as caught:
        compose(words, config_name)
    return caught.value


@pytest.mark.parametrize("denoiser", MODELS)
@pytest.mark.parametrize("config_name", ["default", "demo", "mmdit"])
def test_the_denoiser_is_a_choice_of_schema(config_name, denoiser):
    assert type(compose([f"model={denoiser}"], config_name).model) is MODELS[denoiser]


@pytest.mark.parametrize("old", CHOSEN)
def test_an_old_name_of_the_denoiser_chooses_the_schema_too(old):
    assert type(compose([f"{old}=rwkv", "model.fusion=gated"]).model) is MODELS["rwkv7"]


def two_values(name):
    """Two values that a key may have, as typed and as read."""
    key = all_keys()[name]
    words = key.choices[:2] if len(key.choices) > 1 else ("7", "9")
    return [(word, int(word) if key.type is int else word) for word in words]


@pytest.mark.parametrize(("old", "new"), [pair for pair in RENAMED.items() if pair[1] != "model.text_process"])
def test_an_old_spelling_sets_todays_key(old, new, tmp_path):
    group, _, name = new.partition(".")
    (one, read), (other, _) = two_values(new)
    assert getattr(getattr(compose([f"{old}={one}"], "mmdit_stable"), group), name) == read
    assert compose([f"{old}={one}", f"{new}={one}"]) == compose([f"{new}={one}"])
    assert "differ" in refused([f"{old}={one}", f"{new}={other}"]).message
    own = tmp_path / "own.yaml"
    own.write_text(f"{old.partition('.')[0]}: {{{old.partition('.')[2]}: {one}}}\n")
    assert compose([], str(own)) == compose([f"{new}={one}"])


def test_the_text_process_has_its_old_name(tmp_path):
    assert compose(["model.diffusion_process=mdlm"]) == compose(["model.text_process=masked"])
    assert "masked" in refused(["model.diffusion_process=gidd"]).message


@pytest.mark.parametrize("old", LISTS)
def test_the_list_of_a_split_names_the_folder_of_both(old, tmp_path):
    assert compose([f"{old}=a/b c/{LISTS[old]}"]).data.latent_dir == "a/b c"
    assert compose([f"{old}={LISTS[old]}"]).data.latent_dir == "."
    assert compose([f"{old}=a/{LISTS[old]}", "data.latent_dir=a/"]).data.latent_dir == "a/"
    assert "differ" in refused([f"{old}=a/{LISTS[old]}", "data.latent_dir=b"]).message
    assert "called" in refused([f"{old}=a/texts.json"]).message
    own = tmp_path / "own.yaml"
    own.write_text(f"data: {{data_files: {{train: a/{LISTS['data.data_files.train']}, validation: a/validation_data.json}}}}\n")
    assert compose([], str(own)).data.latent_dir == "a"
    own.write_text("data: {data_files: {test: a/test_data.json}}\n")
    assert refused([], str(own)).field == "data.data_files"


def test_a_tokenizer_of_the_earlier_systems_is_the_packaged_one():
    assert compose(["data.tokenizer_path=BlinkDL/rwkv7-g1"]).tokenizer.path == "rwkv"


@pytest.mark.parametrize("name", ["hidden_size", "n_blocks", "n_heads"])
def test_a_size_that_weights_would_say_is_left_out_by_null(name, tmp_path):
    assert compose([f"model.{name}=null"], "rwkv_mmdit") == compose([], "rwkv_mmdit")
    own = tmp_path / "own.yaml"
    own.write_text(f"denoiser_type: rwkv\nmodel: {{{name}: null}}\n")
    assert compose([], str(own)) == compose(["model=rwkv7"])


def test_a_file_freezes_what_weights_there_are_and_a_word_asks_for_some(tmp_path):
    """`true` was the default of files, whose weights a word may take away; `training.backbone` refuses it where it stands as a word."""
    own = tmp_path / "own.yaml"
    for value, taken in (("true", None), ("false", False), ("null", None)):
        own.write_text(f"denoiser_type: rwkv\nmodel: {{rwkv_name: a/b, freeze_backbone: {value}}}\n")
        assert compose(["model.rwkv_name=null"], str(own)).model.freeze_backbone is taken
        word = compose(["model=rwkv7", f"model.freeze_backbone={value}"]).model.freeze_backbone
        assert word is {"true": True, "false": False, "null": None}[value]
    assert refused(["model=rwkv7", "model.freeze_backbone=yes"]).field == "model.freeze_backbone"


def test_denoisers_that_disagree_are_refused(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("denoiser_type: rwkv\nmodel: {type: multimodal_mmdit}\n")
    assert "differ" in refused([], str(own)).message
    own.write_text("defaults: [mmdit_stable, _self_]\nmodel: {type: rwkv_diffusion_rnn}\n")
    assert compose([], str(own)).model.denoiser == "rwkv7", "a file on a shipped configuration still says its network"


def test_a_json_list_is_read():
    schedule = [{"type": "l2t", "steps": 5}, {"type": "t2l", "epochs": 2}]
    expected = [Phase("l2t", 5, None), Phase("t2l", None, 2)]
    assert compose([f"training.sequential_schedule={json.dumps(schedule)}"]).training.sequential_schedule == expected
    assert (
        compose(["training.sequential_schedule=[{type: l2t, steps: 5}, {type: t2l, epochs: 2}]"]).training.sequential_schedule == expected
    )


@pytest.mark.parametrize("word", ["{l2t: 3}", '{"l2t": 3}', "[3, 0, 0]", '{"l2t": 3.0, "t2l": 0}'])
def test_a_mode_left_out_of_the_weights_has_none(word):
    weights = compose([f"training.mode_weights={word}"], "demo").training.mode_weights
    assert weights == {"l2t": 3.0, "t2l": 0.0, "unconditional": 0.0, "cycle_vae": 0.0, "stage2_variational": 0.0}
    assert tuple(weights)[:3] == MODES


def test_the_weights_of_a_file_do_not_stay_under_those_of_the_command_line(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("training: {mode_weights: {cycle_vae: 2}}\n")
    assert compose([], str(file)).training.mode_weights["cycle_vae"] == 2.0
    assert compose(["training.mode_weights={l2t: 1}"], str(file)).training.mode_weights["cycle_vae"] == 0.0


def test_one_weight_can_be_changed_alone():
    before = compose([], "demo").training.mode_weights
    assert compose(["training.mode_weights.l2t=9"], "demo").training.mode_weights == {**before, "l2t": 9.0}


def test_the_alias_of_a_mode_has_its_weight():
    assert compose(["training.mode_weights={stage1_coupling: 2}"]).training.mode_weights["unconditional"] == 2.0


@pytest.mark.parametrize(
    "path", ["a/epoch=1/x.pt", "with space/and,comma", "\u00fcber/\u6f22\u5b57", "{a}[b]", "it's", "c:\\d\\", "$HOME/${x}", ""]
)
def test_a_path_is_taken_as_it_is(path):
    assert compose([f"data.latent_dir={path}"]).data.latent_dir == path


@given(st.text(alphabet=st.sampled_from("\\${}a'\" .\u00fc=")))
def test_text_is_never_interpolated(text):
    assert OmegaConf.create({"a": "other", "x": _literal(text)})["x"] == text


IDLE = {**{name: ("8", why) for name, why in IGNORED.items()}, **{name: (values[0], why) for name, (values, why) in ONLY.items()}}


@pytest.mark.parametrize("name", IDLE)
def test_a_key_without_a_meaning_is_taken_with_a_notice(name, tmp_path, capsys):
    value, why = IDLE[name]
    assert name not in all_keys()
    assert compose([f"{name}={value}"]) == compose([])
    assert capsys.readouterr().err == f"note: {name}={value} is ignored: {why}\n"
    own = tmp_path / "own.yaml"
    *groups, key = name.split(".")
    own.write_text("".join(f"{group}: {{" for group in groups) + f"{key}: {value}" + "}" * len(groups))
    assert compose([], str(own)) == compose([])
    assert capsys.readouterr().err == f"note: {name} of {own} is ignored: {why}\n"


@pytest.mark.parametrize("name", ONLY)
def test_what_is_not_offered_is_refused_with_its_reason(name, tmp_path):
    values, why = ONLY[name]
    error = refused([f"{name}=0.5"])
    assert error.field == name
    assert why in error.message
    (tmp_path / "own.yaml").write_text(f"{name.replace('.', ': {')}: 0.5}}")
    assert refused([], str(tmp_path / "own.yaml")).message == error.message.replace("'0.5'", "0.5")


def test_a_number_may_be_written_in_its_ways():
    assert compose(["model.p_uniform=0.0", "model.cluster_size=0"]) == compose([])


def test_null_is_nothing_where_nothing_is_allowed():
    assert compose(["model.checkpoint_path=null"]).model.checkpoint_path is None
    assert "null" in refused(["data.latent_dir=null"]).message


def test_a_shipped_configuration_follows_the_words():
    config = compose(["prepare.out=else/where", "prepare.latent_dim=8"], "demo")
    assert (config.data.latent_dir, config.model.latent_dim) == ("else/where", 8)


@pytest.mark.parametrize(
    ("word", "field", "said"),
    [
        ("training.sede=1", "training.sede", "'training.seed'"),
        ("training.lr=1", "training.lr", "'optimizer.lr'"),
        ("trainin.seed=1", "trainin.seed", "'training.seed'"),
        ("+training.extra=1", "+training.extra", "unknown key"),
        ("~training.seed", "~training.seed", "unknown key"),
        ("training.seed=a", "training.seed", "Integer"),
        ("training.num_train_steps=1.5", "training.num_train_steps", "Integer"),
        ("training.seed=1,2", "training.seed", "Ambiguous"),
        ("training=3", "training", "Training"),
        ("optimizer.lr=fast", "optimizer.lr", "Float"),
        ("training.ledger=3", "training.ledger", "true or false"),
        ("training.mode_weights={l2x: 1}", "training.mode_weights.l2x", "'training.mode_weights.l2t'"),
        ("training.mode_weights.l2x=1", "training.mode_weights.l2x", "'training.mode_weights.l2t'"),
        ("training.mode_weights=[1, 2]", "training.mode_weights", "3 weights"),
        ("training.mode_weights={l2t", "training.mode_weights", "no viable alternative"),
        ('training.sequential_schedule=[{"type": "l2t", "stepz": 5}]', "training.sequential_schedule", "stepz"),
        ("prepare.kinds=definitions", "prepare.kinds", "list"),
        ("model=mmdit2", "model", "'mmdit'"),
        ("model.chunk=16", "model.chunk", "only model=rwkv7"),
        ("model.kernel=chunked", "model.kernel", "only model=rwkv7"),
        ("model.length=gold", "model.length", "predicted"),
    ],
)
def test_a_wrong_word_is_refused_and_its_key_named(word, field, said):
    error = refused([word])
    assert (error.code, error.field) == ("CONFIG", field)
    assert said in error.message
    assert re.fullmatch(r"error: E_CONFIG command-line .*", error.line())


def test_an_own_file_stands_on_the_schema(tmp_path):
    file = tmp_path / "mine with space.yaml"
    file.write_text("denoiser_type: rwkv\ntraining: {loss_type: l2t, seed: 9, mode_weights: [1, 0, 1]}\nmodel: {fusion: gated}\n")
    config = compose(["training.seed=3"], str(file))
    assert (config.model.denoiser, config.model.fusion, config.loss.loss_type, config.training.seed) == ("rwkv7", "gated", "l2t", 3)
    assert {mode: weight for mode, weight in config.training.mode_weights.items() if weight} == {"l2t": 1.0, "unconditional": 1.0}


def test_the_configuration_of_a_run_can_be_used_again(tmp_path):
    config = compose(["model=rwkv7", "training.mode_weights=[1, 2, 0]", "data.latent_dir=a b"], "demo")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    again = compose([], str(tmp_path / "config.yaml"))
    assert again.model == config.model
    assert again.training == config.training


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("training: {sede: 1}", "training.sede"),
        ("trainin: {seed: 1}", "trainin"),
        ("training: {seed: x}", "training.seed"),
        ("training: [", "yaml"),
        ("- a", "yaml"),
        ("loss: {loss_type: l2t}\ntraining: {loss_type: t2l}", "training.loss_type"),
        ("denoiser_type: mmdit2", "model.denoiser"),
        ("training: {num_epochs: 0}", "training.num_epochs"),
    ],
)
def test_a_wrong_file_is_refused_and_named(tmp_path, text, field):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    error = refused([], str(file))
    assert (re.sub(r":\d+$", "", error.where), error.field) == (str(file), field)


def test_a_configuration_that_does_not_exist_is_refused(tmp_path):
    assert "'demo'" in refused([], "demmo").message
    assert "no such file" in refused([], str(tmp_path / "none.yaml")).message
