"""Masks turned into coloured, blurred, low-resolution training images, on the fly, in TensorFlow."""

from __future__ import annotations

import math

import tensorflow as tf

from pretraining.letters import Bank
from pretraining.settings import Augment

DRAWS = 16  # independent random draws per group of images


def _ink(masks: tf.Tensor, size: int, seeds: tf.Tensor, settings: Augment) -> tf.Tensor:
    """Ink at the training resolution, float32 0..1: (group, side, side, 1) -> (group, size, size, 1).

    The crop, the noise and the contrast curve are drawn per image, the low resolution once per group.
    """
    count, side = tf.shape(masks)[0], tf.shape(masks)[1]
    zoom = tf.random.stateless_uniform([count, 2], seeds[0], *settings.zoom)
    move = tf.random.stateless_uniform([count, 2], seeds[1], -settings.move, settings.move)
    centre = 0.5 + move
    boxes = tf.concat([centre - zoom / 2, centre + zoom / 2], axis=1)
    ink = tf.image.crop_and_resize(masks, boxes, tf.range(count), tf.stack([side, side]))
    low, high = (math.log(bound) for bound in settings.lowres)
    lowres = tf.cast(tf.round(tf.exp(tf.random.stateless_uniform([], seeds[2], low, high))), tf.int32)
    coarse = tf.random.stateless_uniform([], seeds[3]) < settings.lowres_share
    side = tf.where(coarse, lowres, side)
    ink = tf.image.resize(ink, tf.stack([side, side]), "area")
    level = tf.random.stateless_uniform([count, 1, 1, 1], seeds[4], 0.0, settings.noise)
    ink += level * tf.random.stateless_normal(tf.shape(ink), seeds[5])
    gain = tf.random.stateless_uniform([count, 1, 1, 1], seeds[6], *settings.gain)
    threshold = tf.random.stateless_uniform([count, 1, 1, 1], seeds[7], *settings.threshold)
    ink = tf.clip_by_value((ink - threshold) * gain + 0.5, 0.0, 1.0)
    return tf.image.resize(ink, [size, size], "bilinear")


def _colours(count: tf.Tensor, seeds: tf.Tensor, settings: Augment) -> tuple[tf.Tensor, tf.Tensor]:
    """Colours of ground and ink, 0..255, float32 (count, 1, 1, 3) each.

    Before tinting they are at least `min_contrast` apart.
    """
    ground = tf.random.stateless_uniform([count, 1], seeds[8], 0.0, 255.0)
    gap = tf.random.stateless_uniform([count, 1], seeds[9], settings.min_contrast, 255.0)
    # Towards the farther end of the scale, so that clipping leaves the contrast.
    ink = tf.clip_by_value(tf.where(ground < 127.5, ground + gap, ground - gap), 0.0, 255.0)
    pair = tf.stack([ground, ink], axis=1) + settings.tint * tf.random.stateless_normal([count, 2, 3], seeds[10])
    dice = tf.random.stateless_uniform([count, 1, 1], seeds[11])
    plain = tf.where(dice < settings.plain_share / 2, [[0.0], [255.0]], [[255.0], [0.0]])
    pair = tf.where(dice < settings.plain_share, plain, tf.clip_by_value(pair, 0.0, 255.0))
    return pair[:, 0, None, None, :], pair[:, 1, None, None, :]


def paint(masks: tf.Tensor, size: int, seed: tf.Tensor, settings: Augment) -> tf.Tensor:
    """Training images from one group of masks.

    Takes uint8 (group, side, side) and an int32 seed (2,); returns float32 (group, size, size, 3),
    pixels 0..255.
    """
    count = tf.shape(masks)[0]
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, DRAWS))
    ink = _ink(tf.cast(masks[..., None], tf.float32) / 255.0, size, seeds, settings)
    ground, colour = _colours(count, seeds, settings)
    image = ground + (colour - ground) * ink
    level = tf.random.stateless_uniform([count, 1, 1, 1], seeds[12], 0.0, settings.shading)
    shading = level * tf.random.stateless_normal([count, 3, 3, 3], seeds[13])
    image += tf.image.resize(shading, [size, size], "bilinear")
    level = tf.random.stateless_uniform([count, 1, 1, 1], seeds[14], 0.0, settings.pixel_noise)
    noise = level * tf.random.stateless_normal([count, size, size, 1], seeds[15])
    # Half of the images stay clean: a scan blown up has no noise at the final resolution.
    noisy = tf.cast(tf.range(count) % 2, tf.float32)[:, None, None, None]
    return tf.clip_by_value(image + noisy * noise, 0.0, 255.0)


def to_input(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels 0..255 to the network's -1..1."""
    return pixels / 127.5 - 1.0


def training_images(bank: Bank, size: int, batch: int, seed: int, settings: Augment) -> tf.data.Dataset:
    """Endless batches: images float32 (batch, size, size, 3) in -1..1, labels int32 (batch,)."""
    if batch % settings.group:
        raise ValueError(f"batch {batch} is not a multiple of the group of {settings.group} images")
    masks, labels = tf.constant(bank.masks), tf.constant(bank.labels)

    def group(picks: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        draw = tf.stack([tf.constant(seed, tf.int32), tf.cast(number, tf.int32)])
        return to_input(paint(tf.gather(masks, picks), size, draw, settings)), tf.gather(labels, picks)

    def merge(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.reshape(images, [batch, size, size, 3]), tf.reshape(labels, [batch])

    picks = tf.data.Dataset.range(len(bank.labels)).shuffle(len(bank.labels), seed=seed).repeat()
    picks = picks.batch(settings.group, drop_remainder=True)
    groups = tf.data.Dataset.zip(picks, tf.data.Dataset.range(2**31 - 1))
    groups = groups.map(group, num_parallel_calls=2, deterministic=True)
    return groups.batch(batch // settings.group, drop_remainder=True).map(merge).prefetch(2)
