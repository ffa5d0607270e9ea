"""The schema: plain values in, a checked configuration out, and back."""

from __future__ import annotations

from importlib.resources import files

import pytest
import yaml

from lgdlm.cli.compose import compose, shipped_configs
from lgdlm.config import MODELS, Config
from lgdlm.errors import InputError
from lgdlm.schema import all_keys, as_dict, from_dict, from_yaml, groups, to_yaml


@pytest.mark.parametrize("denoiser", MODELS)
def test_a_configuration_survives_yaml(denoiser):
    config = Config(model=MODELS[denoiser]())
    assert from_yaml(to_yaml(config), "config.yaml") == config
    assert type(from_dict(as_dict(config), "x").model) is MODELS[denoiser]


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_configuration_survives_yaml(name):
    config = compose([], name)
    assert from_yaml(to_yaml(config), "config.yaml") == config


@pytest.mark.parametrize("name", shipped_configs())
def test_every_key_of_a_shipped_configuration_is_in_the_schema(name):
    values = yaml.safe_load((files("lgdlm.configs") / f"{name}.yaml").read_text())
    keys = [f"{group}.{key}" for group, inside in values.items() if group != "defaults" for key in inside]
    assert set(keys) <= set(all_keys())


def test_keys_left_out_take_their_defaults():
    assert from_dict({}, "x") == Config()
    assert from_dict({"training": {"seed": 7}}, "x").training.num_epochs == Config().training.num_epochs


@pytest.mark.parametrize("name", all_keys())
def test_every_key_says_what_it_does_in_one_line(name):
    key = all_keys()[name]
    assert key.help
    assert "\n" not in key.help
    assert key.default is None or not key.choices or key.default in key.choices


@pytest.mark.parametrize(
    ("values", "field", "said"),
    [
        ({"trainin": {}}, "trainin", "'training'"),
        ({"training": {"sed": 1}}, "training.sed", "'training.seed'"),
        ({"training": {"seed": "1"}}, "training.seed", "int is expected, got str '1'"),
        ({"training": {"seed": True}}, "training.seed", "int is expected"),
        ({"training": {"seed": None}}, "training.seed", "int is expected"),
        ({"training": {"ledger": 1}}, "training.ledger", "bool is expected"),
        ({"training": {"train_batch_size": 0}}, "training.train_batch_size", "at least 1"),
        ({"training": {"ema_decay": 1.5}}, "training.ema_decay", "at most 1"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr", "finite"),
        ({"training": {"mode_weights": {"l2t": float("inf")}}}, "training.mode_weights", "finite"),
        ({"training": {"sequential_schedule": [{"type": "l2x"}]}}, "training.sequential_schedule[0].type", "'l2t'"),
        ({"training": {"sequential_schedule": {"type": "l2t"}}}, "training.sequential_schedule", "list is expected"),
        ({"loss": {"loss_type": "cycle"}}, "loss.loss_type", "is not one of unconditional"),
        ({"model": {"denoiser": "mmdit2"}}, "model.denoiser", "'mmdit'"),
        ({"model": {"denoiser": "mmdit", "chunk": 16}}, "model.chunk", "only model=rwkv7"),
        ({"model": {"hidden_sise": 16}}, "model.hidden_sise", "'model.hidden_size'"),
        ({"model": 3}, "model", "a group of keys"),
    ],
)
def test_a_wrong_value_is_refused_and_named(values, field, said):
    with pytest.raises(InputError) as caught:
        from_dict(values, "config.yaml")
    assert (caught.value.code, caught.value.where, caught.value.field) == ("CONFIG", "config.yaml", field)
    assert said in caught.value.message


@pytest.mark.parametrize("text", ["training: [", "- a\n- b", "training: {seed: 1, seed"])
def test_yaml_that_is_no_configuration_is_refused(text):
    with pytest.raises(InputError, match="E_CONFIG run/config.yaml"):
        from_yaml(text, "run/config.yaml")


def test_an_integer_stands_for_a_float_and_nothing_else_is_converted():
    lr = from_dict({"optimizer": {"lr": 1}}, "x").optimizer.lr
    assert (lr, type(lr)) == (1.0, float)


@pytest.mark.parametrize("name", [n for n, key in all_keys().items() if key.at_least is not None or key.at_most is not None])
def test_bounds_hold_at_the_bound_and_not_beyond(name):
    key, (group, _, field) = all_keys()[name], name.partition(".")
    step = 1 if key.type in (int, int | None) else 1e-6
    denoiser = {"denoiser": next(m for m, kind in MODELS.items() if hasattr(kind(), field))} if group == "model" else {}
    for bound, beyond in ((key.at_least, -step), (key.at_most, step)):
        if bound is not None:
            assert getattr(getattr(from_dict({group: {field: bound, **denoiser}}, "x"), group), field) == bound
            with pytest.raises(InputError):
                from_dict({group: {field: bound + beyond, **denoiser}}, "x")


@pytest.mark.parametrize("name", [n for n, key in all_keys().items() if key.choices and n != "model.denoiser"])
def test_every_choice_is_taken_and_no_other(name):
    group, _, field = name.partition(".")
    denoiser = {"denoiser": next(m for m, kind in MODELS.items() if hasattr(kind(), field))} if group == "model" else {}
    for choice in all_keys()[name].choices:
        assert getattr(getattr(from_dict({group: {field: choice, **denoiser}}, "x"), group), field) == choice
    with pytest.raises(InputError, match="is not one of"):
        from_dict({group: {field: "no-such-choice", **denoiser}}, "x")


def test_the_groups_are_those_of_the_configuration():
    assert set(groups()) == set(vars(Config()))
