"""Pictures to embeddings: against the plain network, over threads, and where pictures or weights are bad."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search_space.errors import UserError
from tests.lfs.evaluation_files import NUM_PICTURES, make_evaluation, small_model, spoil
from tests.trainers.small_trainer import CONFIG, SIZE, make_trainer
from trainers import embedder
from trainers.data.decode import decode_picture
from trainers.data.lists import read_list
from trainers.data.lmdb_source import LmdbSource
from trainers.embedder import BackboneModel, EmbedOptions, Shard, backbone_weights, embed_shard, map_ahead


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("evaluation")
    make_evaluation(made)
    return made


def shard_of(folder: Path, lmdb: str = "train.lmdb") -> Shard:
    keys, _ = read_list(folder / "train.txt")
    return Shard(number=3, lmdb=str(folder / lmdb), keys=tuple(keys))


def test_embeddings_are_those_of_the_plain_network_picture_by_picture(folder: Path) -> None:
    model, shard = small_model(), shard_of(folder)
    for flip in (False, True):
        found = embed_shard(model, shard, EmbedOptions(flip=flip))
        assert (found.number, found.bad, found.embeddings.shape) == (3, (), (NUM_PICTURES, 8))
        assert found.embeddings.dtype == np.float32
        for row in (0, 17, 59):
            picture = decode_picture(LmdbSource(shard.lmdb).get(shard.keys[row]), SIZE).astype(np.float32)
            inputs = [picture] + ([picture[:, ::-1]] if flip else [])
            with torch.no_grad():
                expected = sum(
                    model.module()(torch.tensor((p - 127.5) / 128).permute(2, 0, 1)[None]).numpy()[0] for p in inputs
                )
            np.testing.assert_allclose(found.embeddings[row], expected, atol=2e-6)


def test_a_trained_model_embeds_as_its_trainer_does(folder: Path) -> None:
    trainer = make_trainer(folder)
    weights = trainer.initial_weights()
    network = small_model().network
    images = torch.randint(0, 256, (5, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = BackboneModel(network=network, weights=backbone_weights(weights))
    trainer._model.load_backbone(weights)
    with torch.inference_mode():
        expected = trainer._model.embed(images, flip_average=True).numpy()
    assert CONFIG.channels_last
    np.testing.assert_array_equal(embedder.Embedder(model, device="cpu")(images), expected)


def test_the_mean_over_steps_is_taken_where_there_is_one() -> None:
    one, two = np.zeros(1, np.float32), np.ones(1, np.float32)
    weights = {"backbone.a": one, "backbone.b": one, "average.backbone.a": two, "head.weight": one}
    assert backbone_weights(weights) == {"a": two, "b": one}


def test_threads_and_repeats_give_the_same_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "BATCH", 7)
    model, shard = small_model(), shard_of(folder)
    once = embed_shard(model, shard, EmbedOptions(num_threads=1)).embeddings
    for threads in (1, 3):
        again = embed_shard(model, shard, EmbedOptions(num_threads=threads)).embeddings
        np.testing.assert_array_equal(again, once)


def test_a_bad_picture_is_named_or_skipped_and_changes_no_other(folder: Path) -> None:
    spoil(folder, "2/3", "9/5")
    model, whole, spoiled = small_model(), shard_of(folder), shard_of(folder, "spoiled.lmdb")
    with pytest.raises(UserError, match=r"spoiled.lmdb: key '2/3': expected a JPEG"):
        embed_shard(model, spoiled, EmbedOptions())
    found = embed_shard(model, spoiled, EmbedOptions(skip_bad=True))
    assert [row for row, _ in found.bad] == [15, 59]
    assert "key '9/5'" in found.bad[1][1]
    expected = embed_shard(model, whole, EmbedOptions()).embeddings
    assert np.isnan(found.embeddings[[15, 59]]).all()
    expected[[15, 59]] = np.nan
    np.testing.assert_array_equal(found.embeddings, expected)


def test_a_missing_key_is_never_skipped(folder: Path) -> None:
    shard = replace(shard_of(folder), keys=("0/0", "nobody/1"))
    with pytest.raises(UserError, match="key 'nobody/1' is not in this LMDB"):
        embed_shard(small_model(), shard, EmbedOptions(skip_bad=True))


def test_a_diverged_model_is_said_to_be_one(folder: Path) -> None:
    model = small_model()
    weights = dict(model.weights)
    weights["embed.0.weight"] = np.full_like(weights["embed.0.weight"], np.inf)
    with pytest.raises(UserError, match="finite, got one of key '0/0' that is not: the model has diverged"):
        embed_shard(BackboneModel(network=model.network, weights=weights), shard_of(folder), EmbedOptions())


@pytest.mark.parametrize("change", ["shape", "missing", "extra", "type"])
def test_weights_of_another_network_are_refused(change: str) -> None:
    model = small_model()
    weights = dict(model.weights)
    name = "embed.0.weight"
    if change == "shape":
        weights[name] = weights[name][:-1]
    elif change == "missing":
        del weights[name]
    elif change == "extra":
        weights["more"] = weights[name]
    else:
        weights[name] = weights[name].astype(np.int64)
    with pytest.raises(
        UserError, match="must have no `more`" if change == "extra" else "must have `embed.0.weight` of"
    ):
        BackboneModel(network=model.network, weights=weights)


def test_the_digest_is_of_network_and_weights() -> None:
    assert small_model(1).digest == small_model(1).digest
    assert len({small_model(1).digest, small_model(2).digest, small_model(1, dim=9).digest}) == 3


def test_work_is_mapped_in_order_and_errors_come_through() -> None:
    assert list(map_ahead(lambda x: x * x, range(50), 4)) == [x * x for x in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda x: 1 // x, [1, 0, 1], 2))
