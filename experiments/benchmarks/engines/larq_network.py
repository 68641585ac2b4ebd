"""Makes a Larq Compute Engine file of a `.recu` file. Needs TensorFlow, Larq and its converter, no recu_jax."""

import functools

import larq
import larq_compute_engine
import numpy as np
import tensorflow as tf
from tensorflow.keras import layers

from experiments.benchmarks.engines import recu_file


def _padded(x, operation, values=0.0):
    top, bottom, left, right = operation["padding"]
    return tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]], constant_values=values) if top else x


def _channels(factor, bias):
    """Returns a layer that computes x * factor + bias for each channel. The converter moves it into a convolution."""
    ones, zeros = (functools.partial(tf.keras.initializers.Constant, v) for v in (1.0, 0.0))
    layer = layers.BatchNormalization(
        epsilon=0.0, gamma_initializer=tf.keras.initializers.Constant(factor),
        beta_initializer=tf.keras.initializers.Constant(bias), moving_mean_initializer=zeros(),
        moving_variance_initializer=ones(),
    )  # fmt: skip
    return lambda x: layer(x, training=False)


def _binary_conv(x, operation):
    words = operation["arrays"]["kernel"]
    kernel = np.where(recu_file.bits(words, x.shape[-1]), 1.0, -1.0).transpose(1, 2, 3, 0)
    # With strides of 2, TensorFlow pads an even side at its end alone, and a .recu file at its start.
    reverse = operation["strides"] == [2, 2]
    if reverse:
        x, kernel = tf.reverse(x, (1, 2)), kernel[::-1, ::-1]
    y = larq.layers.QuantConv2D(
        kernel.shape[-1], kernel.shape[:2], operation["strides"], "same", pad_values=0.0, input_quantizer="ste_sign",
        kernel_quantizer="ste_sign", use_bias=False, kernel_initializer=tf.keras.initializers.Constant(kernel),
    )(x)  # fmt: skip
    return tf.reverse(y, (1, 2)) if reverse else y


def _apply(operation, x, *others):
    """Returns the output of an operation as a Keras tensor. Signs become real where a convolution takes their signs."""
    op, arrays = operation["op"], operation["arrays"]
    strides, window = (operation.get(key) for key in ("strides", "window"))
    if op == "conv":
        return tf.nn.conv2d(_padded(x, operation), arrays["kernel"], strides, "VALID")
    if op == "binary_conv":
        return _binary_conv(x, operation)
    if op == "affine":
        alpha, mean, factor, bias = arrays["affine"]
        return _channels(alpha * factor, bias - mean * factor)(x)
    if op == "batch_norm":
        mean, factor, bias = arrays["norm"]
        return _channels(factor, bias - mean * factor)(x)
    if op == "scale":
        return _channels(arrays["alpha"], np.zeros_like(arrays["alpha"]))(x)
    if op == "threshold":
        threshold, direction = arrays["threshold"].astype(np.float32)
        return _channels(direction, np.float32(0.5) - threshold)(x)
    if op == "max_pool":
        turn = np.where(recu_file.bits(arrays["least"], x.shape[-1]), -1.0, 1.0) if "least" in arrays else np.ones(1)
        turned = x * tf.constant(turn, tf.float32) if (turn < 0).any() else x
        pooled = tf.nn.max_pool2d(_padded(turned, operation, -np.inf), window, strides, "VALID")
        return pooled * tf.constant(turn, tf.float32) if (turn < 0).any() else pooled
    if op == "pad_channels":
        return tf.pad(x, [[0, 0]] * 3 + [operation["channels"]])
    if op == "dense":
        return tf.matmul(x, arrays["kernel"]) + arrays["bias"]
    if op == "add":
        return x + others[0]
    simple = {
        "sign": lambda x: x,
        "hard_tanh": lambda x: tf.clip_by_value(x, -1.0, 1.0),
        "relu": tf.nn.relu,
        "avg_pool": lambda x: tf.nn.avg_pool2d(x, window, strides, "VALID"),
        "mean": lambda x: tf.reduce_mean(x, (1, 2)),
        "flatten": lambda x: tf.reshape(x, (1, -1)),
    }
    return simple[op](x)


def convert(path) -> bytes:
    """Returns the network of a `.recu` file for Larq's interpreter, for one image of normalized pixels."""
    operations = recu_file.read(path)
    outputs = [tf.keras.Input(operations[0]["shape"], batch_size=1)]
    for operation in operations[1:]:
        outputs.append(_apply(operation, *(outputs[i] for i in operation["inputs"])))
    return larq_compute_engine.convert_keras_model(tf.keras.Model(outputs[0], outputs[-1]))
