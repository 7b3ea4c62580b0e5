"""Recipes: every shipped one loads, mistakes are named, nothing can be set that nothing reads."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

import serkit
from serkit.data.protocols import PROTOCOLS
from serkit.encoders import list_encoders, list_presets
from serkit.errors import InputError
from serkit.models.heads import HeadConfig, create_head
from serkit.training.augment import Augmentation
from serkit.training.fit import TrainingOptions
from serkit.training.given import GIVEN
from serkit.training.recipe import Recipe, dump_recipe, list_recipes, load_recipe, load_variants, read_summary

SOURCE = Path(serkit.__file__).parent
MINIMAL = """
name = "minimal"
[data]
manifest = "m.csv"
[labels]
classes = ["happy", "sad"]
[protocol]
name = "group-k-fold"
k = 5
[encoder]
layers = [1]
"""


@pytest.fixture
def write(tmp_path):
    def write_recipe(text, name="minimal.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_recipe


def refusal(*arguments):
    with pytest.raises(InputError) as caught:
        load_recipe(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SHIPPED = [(name, variant) for name in list_recipes() for variant in load_variants(name)]


@pytest.mark.parametrize(("name", "variant"), SHIPPED, ids=[variant.recipe.name for _, variant in SHIPPED])
def test_every_shipped_recipe_loads_and_fits_together(name, variant, write):
    recipe = variant.recipe
    assert recipe.name == "/".join(filter(None, (name, variant.name))) and recipe.summary
    assert load_recipe(write(dump_recipe(recipe))) == recipe
    assert recipe.protocol.name in PROTOCOLS
    assert set(recipe.protocol.options(0)) <= {*PROTOCOLS[recipe.protocol.name].options, "dev", "seed"}
    known = {GIVEN, *(item.name for item in (*list_encoders(), *list_presets()))}
    assert {recipe.encoder.name, *(stream.name for stream in recipe.streams)} <= known
    assert set(recipe.labels.merge.values()) <= set(recipe.labels.classes)
    for chain in (recipe.augment.chain, *(recipe.augment.union or ())):
        Augmentation(chain)
    create_head(recipe.head, [(4, 8)] * (1 + len(recipe.streams)), len(recipe.labels.classes))


def test_defaults_and_dump(write):
    recipe = load_recipe(write(MINIMAL))
    assert recipe.seeds == (0, 1, 2) and recipe.head == HeadConfig() and recipe.training == TrainingOptions()
    assert recipe.protocol.options(0) == {"k": 5, "dev": 0.2, "seed": 0}
    assert recipe.scheme().classes == ("happy", "sad")
    assert load_recipe(write(dump_recipe(recipe), "again.toml")) == recipe
    assert dump_recipe(load_recipe(write(dump_recipe(recipe), "again.toml"))) == dump_recipe(recipe)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "unknown key 'training.epoch': did you mean 'epochs'"),
        ("head.droput=0.1", "unknown key 'head.droput': did you mean 'dropout'"),
        ("sedes=[1]", "unknown key 'sedes': did you mean 'seeds'"),
        ("training.epochs=0", "training.epochs: input should be greater"),
        ("training.epochs=many", "training.epochs: input should be a valid integer"),
        ("head.kind=frame", "head.kind: input should be 'pooled' or 'frames'"),
        ("training.lr=-1", "training.lr: input should be greater than 0"),
        ("training.lr", "write section.key=value"),
        ("=3", "write section.key=value"),
        ("name.first=3", "'name' is not a section"),
        ("training=3", "'training' is a section"),
    ],
)
def test_a_mistake_is_named_with_its_section(override, message, write):
    text = MINIMAL + "[training]\nepochs = 2\n"
    assert message in refusal(write(text), [override])


def test_overrides_have_toml_types(write):
    overrides = [
        "training.lr=1e-3", "seeds=[4, 5]", "head.statistics=true", "head.frame_hidden=[8, 8]", "name=plain words",
        "encoder.trim=35", "encoder.options.weights=some/where", "protocol.k=3", "data.where={ channel = 'speech' }",
    ]  # fmt: skip
    recipe = load_recipe(write(MINIMAL), overrides)
    assert recipe.training.lr == 1e-3 and recipe.seeds == (4, 5) and recipe.head.statistics is True
    assert recipe.head.frame_hidden == (8, 8) and recipe.name == "plain words" and recipe.encoder.trim == 35.0
    assert recipe.encoder.options == {"weights": "some/where"} and recipe.protocol.options(0)["k"] == 3
    assert recipe.data.where == {"channel": "speech"}
    assert load_recipe(write(MINIMAL), ["training.epochs=2", "training.epochs=3"]).training.epochs == 3


def test_an_extending_recipe_changes_only_what_it_says(write):
    write(
        MINIMAL
        + "[head]\ndropout = 0.5\nmembers = 3\n[training]\nepochs = 7\nlr = 0.5\n"
        + '[augment]\ncopies = 2\nchain = [{ name = "gain" }, { name = "trim" }]\n',
        "base.toml",
    )
    top = write('extends = "base.toml"\nname = "top"\n[head]\nmembers = 1\n[augment]\nchain = [{ name = "speed" }]\n')
    recipe = load_recipe(top)
    assert recipe.name == "top" and recipe.head.members == 1 and recipe.head.dropout == 0.5
    assert recipe.training.epochs == 7 and recipe.augment.copies == 2 and recipe.protocol.options(0)["k"] == 5
    assert recipe.augment.chain == ({"name": "speed"},)
    assert load_recipe(top, ["head.members=2"]).head.members == 2


def test_some_tables_are_replaced_as_a_whole(write):
    base = MINIMAL.replace('manifest = "m.csv"', 'corpora = { a = "a", b = "b" }\nwhere = { channel = "speech" }')
    base = base.replace('"sad"]', '"sad"]\nmerge = { glad = "happy" }')
    write(base, "base.toml")
    recipe = load_recipe(
        write(
            'extends = "base.toml"\n[data]\ncorpora = { c = "c" }\nwhere = {}\n[labels]\nmerge = { blue = "sad" }\n'
            '[protocol]\nname = "leave-one-speaker-out"\ndev = 0\n'
        )
    )
    assert recipe.data.corpora == {"c": "c"} and recipe.data.where == {} and recipe.labels.merge == {"blue": "sad"}
    assert recipe.labels.classes == ("happy", "sad")
    assert recipe.protocol.options(0) == {"dev": 0, "seed": 0}, "options of another protocol were kept"


def test_shipped_recipes_can_be_extended_by_name(write):
    recipe = load_recipe(write('extends = "default/speakers"\nname = "mine"\n[training]\nepochs = 1\n'))
    base = load_recipe("default/speakers")
    changed = base.model_copy(update={"name": "mine", "training": base.training.model_copy(update={"epochs": 1})})
    assert recipe == changed


def test_chains_are_followed_and_circles_refused(write):
    write(MINIMAL + "[training]\nepochs = 2\n", "a.toml")
    write('extends = "a.toml"\n[training]\nlr = 0.25\n', "b.toml")
    recipe = load_recipe(write('extends = "b.toml"\nname = "c"\n', "c.toml"))
    assert (recipe.training.epochs, recipe.training.lr, recipe.name) == (2, 0.25, "c")
    write('extends = "c.toml"\n', "a.toml")
    assert "extends itself" in refusal(write('extends = "b.toml"\nname = "c"\n', "c.toml"))
    assert "extends itself" in refusal(write('extends = "self.toml"\n', "self.toml"))


def test_recipes_that_are_not_there_or_not_toml_are_named(write, tmp_path):
    assert "did you mean 'default/speakers'" in refusal("default/speaker")
    assert "gone.toml: no such recipe file" in refusal(tmp_path / "gone.toml")
    assert "minimal.toml: is not TOML" in refusal(write("name = \n"))
    assert "no recipe named 'nowhere'" in refusal(write('extends = "nowhere"\n'))
    assert "labels" in refusal(write('name = "x"\n[data]\n[protocol]\nname = "part"\n[encoder]\nlayers = [0]\n'))


def recipe_models(model=Recipe):
    yield model
    for field in model.model_fields.values():
        for kind in get_args(field.annotation) or [field.annotation]:  # a section may be left out: X | None
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from recipe_models(kind)


def test_a_setting_that_nothing_reads_is_an_error():
    models = {model.__name__: model for model in recipe_models()}
    assert {"HeadConfig", "TrainingOptions", "EncoderSection"} <= set(models)
    assert {"FinetuneOptions", "LoraOptions", "Regularisation", "BatchOptions", "CtcConfig"} <= set(models)
    assert {"FusionConfig", "TextSection"} <= set(models)
    assert len(models) == 23
    read = set()
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = {
            id(node)
            for parent in ast.walk(tree)
            if isinstance(parent, ast.ClassDef) and parent.name in models
            for child in parent.body
            if isinstance(child, ast.AnnAssign)
            for node in ast.walk(child)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in own:
                read.add(node.attr)
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                read.add(node.slice.value)  # protocols read their options from a dictionary
    del models["TasksConfig"]  # its tasks are taken by name, all in one test of theirs
    unread = [f"{name}.{field}" for name, model in models.items() for field in model.model_fields if field not in read]
    assert unread == []


def test_models_are_frozen_and_closed(write):
    recipe = load_recipe(write(MINIMAL))
    for model in recipe_models():
        assert model.model_config["frozen"] and (
            model.model_config["extra"] == "forbid" or model.__name__ == "ProtocolSection"
        )
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


def test_later_bases_win_and_the_recipe_itself_wins_over_all(write):
    write(MINIMAL + "[training]\nepochs = 7\nlr = 0.5\n", "one.toml")
    write("[training]\nepochs = 8\nbatch_size = 3\n", "two.toml")
    recipe = load_recipe(write('extends = ["one.toml", "two.toml"]\nname = "top"\n[training]\nbatch_size = 4\n'))
    assert (recipe.training.epochs, recipe.training.lr, recipe.training.batch_size) == (8, 0.5, 4)


def test_another_encoder_takes_the_place_without_the_options_of_the_first(write):
    text = MINIMAL.replace("[encoder]\n", '[encoder]\noptions = { weights = "x" }\ntrim = 35\n')
    recipe = load_recipe(write(text), ["encoder=spectrogram"])
    assert recipe.encoder.name == "spectrogram" and recipe.encoder.options == {} and recipe.encoder.trim == 35
    assert recipe.encoder.layers == load_recipe(write(text)).encoder.layers
    write(text, "base.toml")
    top = write('extends = "base.toml"\nname = "top"\n[encoder]\nname = "spectrogram"\n', "top.toml")
    assert load_recipe(top).encoder.options == {} and load_recipe(top).encoder.trim == 35


@pytest.mark.parametrize(
    ("layers", "chosen"), [('"all"', (0, 1, 2)), ("[-1]", (2,)), ("[2, 0]", (2, 0)), ("[3]", None), ("[-4]", None)]
)
def test_layers_are_numbers_or_all(layers, chosen, write):
    encoder = load_recipe(write(MINIMAL), [f"encoder.layers={layers}"]).encoder
    if chosen:
        assert encoder.chosen(3) == chosen
    else:
        with pytest.raises(InputError, match="there are 0 to 2, or -1 for the last"):
            encoder.chosen(3)


def test_the_folds_may_be_drawn_for_each_seed(write):
    assert load_recipe(write(MINIMAL), ["protocol.seed=run"]).protocol.options(7)["seed"] == 7
    assert load_recipe(write(MINIMAL), ["protocol.seed=3"]).protocol.options(7)["seed"] == 3


PEPINO = [name for name in list_recipes() if name.startswith("pepino/")]


def test_pepino_has_thirteen_experiments_on_each_corpus_it_used():
    ids = {name.removeprefix("pepino/").removeprefix("iemocap/") for name in PEPINO}
    assert len(ids) == 13 and len(PEPINO) == 13 + 11
    facts = {
        name: (recipe.features.normalise, recipe.encoder.layers, recipe.training.batch_size, len(recipe.streams))
        for name in PEPINO
        for recipe in [load_recipe(name)]
    }
    for name, fact in facts.items():
        end = name.rpartition("/")[2]
        assert fact[0] == ("global" if end.endswith(("global", "lstm", "fusion")) or "issa" in end else "speaker")
        assert fact[1] == {"local": (0,), "contextual": (-1,)}.get(end.partition("-")[2], "all")
        assert fact[2] == (16 if end.endswith("lstm") else 32) and fact[3] == end.endswith("fusion")


@pytest.mark.parametrize("name", PEPINO)
def test_pepino_is_trained_as_the_paper_says(name):
    recipe = load_recipe(name)
    training, head, iemocap = recipe.training, recipe.head, "iemocap" in name
    assert (training.optimizer, training.lr, training.epsilon, training.clip_value) == ("adam", 1e-4, 1e-7, 1)
    assert (training.epochs, training.patience, training.monitor) == (100, 4, "loss")
    assert (training.balance, training.label_smoothing, training.weight_decay, training.crop) == ("none", 0, 0, 1)
    assert (training.schedule, training.warmup, training.clip_norm) == ("constant", 0, 0)
    assert (head.mix, head.pooling, head.activation, head.dropout) == ("absolute", "mean", "relu", 0.2)
    assert (head.drop, head.drop_last, head.init, head.members) == ("elements", False, "glorot", 1)
    assert recipe.seeds == (123, 1234, 2345, 3456, 4567)
    assert recipe.features.max_frames == (400 if iemocap else 250)
    assert recipe.encoder.limit == (15 if iemocap and recipe.encoder.name.startswith("wav2vec2") else None)
    assert len(recipe.data.exclude) == len(set(recipe.data.exclude)) == (58 if iemocap else 0)
    assert len(recipe.labels.classes) == (4 if iemocap else 8 if "issa" in name else 7)


def test_parts_are_train_dev_and_test_and_replace_those_of_the_base(write):
    base = MINIMAL.replace('manifest = "m.csv"', 'parts = { train = "a.csv", dev = "b.csv", test = "c.csv" }')
    write(base, "base.toml")
    path = write('extends = "base.toml"\n[data]\nparts = { train = "d.csv", test = "e.csv" }\n')
    assert load_recipe(path).data.parts == {"train": "d.csv", "test": "e.csv"}
    assert load_recipe(path, ["data.parts.test=f.csv"]).data.parts == {"train": "d.csv", "test": "f.csv"}
    assert "data.parts.valid" in refusal(path, ["data.parts.valid=f.csv"])


FACTORS = """
[factors.corpus.one]
data.manifest = "one.csv"
[factors.corpus.two]
data.manifest = "two.csv"
[factors.decay.weak]
training.weight_decay = 0.01
[factors.decay.strong]
training = { weight_decay = 0.5, epochs = 7 }
"""


def test_levels_of_factors_are_crossed_and_change_the_recipe(write):
    path = write(MINIMAL + FACTORS)
    variants = load_variants(path)
    assert [variant.name for variant in variants] == ["one+weak", "one+strong", "two+weak", "two+strong"]
    assert variants[1].levels == {"corpus": "one", "decay": "strong"}
    facts = [(each.recipe.data.manifest, each.recipe.training.weight_decay) for each in variants]
    assert facts == [("one.csv", 0.01), ("one.csv", 0.5), ("two.csv", 0.01), ("two.csv", 0.5)]
    assert [variant.recipe.training.epochs for variant in variants] == [20, 7, 20, 7]
    name = load_variants(write(MINIMAL, "lone.toml"))[0].recipe.name
    assert [variant.recipe.name for variant in variants] == [f"{name}/{variant.name}" for variant in variants]
    assert read_summary(path).endswith("(4 recipes)")


def test_overrides_win_over_levels(write):
    variants = load_variants(write(MINIMAL + FACTORS), ["training.weight_decay=0.2"])
    assert {variant.recipe.training.weight_decay for variant in variants} == {0.2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FACTORS, "is an experiment of 4 recipes (one+weak, one+strong, two+weak, two+strong, ...): name one recipe"),
        ("[factors]\ncorpus = 3\n", "factors.corpus holds tables, one for each level"),
        ("[factors.corpus]\none = 3\n", "factors.corpus holds tables, one for each level"),
        ("[factors.decay.weak]\ntraining.weigth_decay = 1\n", "(weak): unknown key 'training.weigth_decay'"),
        ("[tests.other]\nmanfest = 'x.csv'\n", "unknown key 'tests.other.manfest': did you mean 'manifest'"),
    ],
)
def test_a_mistake_in_an_experiment_is_named(text, message, write):
    assert message in refusal(write(MINIMAL + text))


def test_the_sections_in_the_docs_make_recipes(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "finetuning.md"
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    given = ['[data]\nmanifest = "x"\n[labels]\nclasses = ["a", "b"]\n', ""]
    assert len(blocks) == len(given)
    for block, more in zip(blocks, given, strict=True):
        (tmp_path / "docs.toml").write_text(
            f'name = "docs"\n[protocol]\nname = "part"\n{more}{block}', encoding="utf-8"
        )
        assert load_recipe(tmp_path / "docs.toml").finetune.freeze == "front-end"
