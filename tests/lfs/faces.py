"""The small faces that tests train on."""

from trainers.data.builtin import FaceSetSpec

TINY = FaceSetSpec(
    num_train_people=16, num_train_pictures=8, num_pair_people=20, num_pair_pictures=6, num_same=20, side=32
)  # fmt: skip
