"""Lists the devices that `compile_only.py` compiles for: names, descriptions for XLA, and the makers' numbers.

Peaks and bandwidths are from cloud.google.com/tpu/docs and NVIDIA's data sheets, for dense matrices. A TPU multiplies
float32 in passes of bfloat16, so float32 has the peak of bfloat16 here. On GPUs the peak of float32 is that of TF32, in
which XLA convolves float32 by default.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Target:
    """One or more equal devices.

    Attributes:
      name: name on the command line.
      platform: "tpu" or "cuda".
      topology: name of the smallest topology that XLA builds and that has at least these devices; "" for a GPU.
      devices: number of devices that run the step.
      memory: bytes per device.
      bandwidth: bytes per second of each device's memory.
      links: bytes per second that a device can send to other chips; 0 for a single chip.
      peaks: operations per second of each device, by dtype.
      description: a GPU as text of XLA's GpuTargetConfigProto; "" for a TPU.
    """

    name: str
    platform: str
    topology: str
    devices: int
    memory: float
    bandwidth: float
    links: float
    peaks: dict[str, float]
    description: str = ""


# For each chip: bytes of memory, bytes a second of this memory, bytes a second over the chip's links in one direction,
# operations a second in bfloat16, dimensions of a slice, and number of devices that XLA sees. Each of the two cores of
# a v4 chip is a device with half of the chip's memory and speed.
_TPUS = {
    "v4": (32 * 2**30, 1.228e12, 0.3e12, 275e12, 3, 2),
    "v5e": (16 * 2**30, 0.819e12, 0.2e12, 197e12, 2, 1),
    "v5p": (95 * 2**30, 2.765e12, 0.6e12, 459e12, 3, 1),
    "v6e": (32 * 2**30, 1.64e12, 0.4e12, 918e12, 2, 1),
}
# By number of chips, the slice that holds them, in 2 and in 3 dimensions. XLA builds no slice of fewer chips than one
# host has, which is four. So one chip is a part of a slice of four.
_SLICES = {
    1: ("2x2", "2x2x1"),
    4: ("2x2", "2x2x1"),
    16: ("4x4", "2x2x4"),
    64: ("8x8", "4x4x4"),
    256: ("16x16", "4x8x8"),
}


def _tpus():
    for kind, (memory, bandwidth, links, peak, dimensions, cores) in _TPUS.items():
        for chips, slices in _SLICES.items():
            topology = slices[dimensions == 3]
            yield Target(
                kind if chips == 1 else f"{kind}-{chips}", "tpu", f"{kind}:{topology}", chips * cores, memory / cores,
                bandwidth / cores, links / cores * (chips > 1), dict.fromkeys(("bfloat16", "float32"), peak / cores),
            )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Gpu:
    name: str
    capability: str
    cores: int
    lanes: int
    clock: float
    cache: int
    shared: int
    memory: int
    bandwidth: int
    bfloat16: float
    tf32: float

    def description(self):
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {self.shared}
  shared_memory_per_block_optin: {self.shared - 1024} core_count: {self.cores} fpus_per_core: {self.lanes}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {self.bandwidth} l2_cache_size: {self.cache} clock_rate_ghz: {self.clock}
  device_memory_size: {self.memory} cuda_compute_capability {{ {self.capability} }}
  device_vendor: "NVIDIA Corporation" device_address_bits: 64 ecc_enabled: true name: "{self.name}"
  driver_version: "13.0.0" runtime_version: "13.5.0" compile_time_toolkit_version: "13.0.0" dnn_version: "9.28.1"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 28 patch: 1 }}
runtime_version {{ major: 13 minor: 5 patch: 0 }}
device_description_str: "{self.name}"
"""


_GPUS = {
    "a100": _Gpu(
        "NVIDIA A100-SXM4-80GB", "major: 8", 108, 64, 1.41, 40 << 20, 167936, 85100068864, 2039 * 10**9, 312e12, 156e12
    ),
    "h100": _Gpu(
        "NVIDIA H100 80GB HBM3", "major: 9 feature_extension: ACCELERATED_FEATURES", 132, 128, 1.98, 50 << 20, 233472,
        84942979072, 3352 * 10**9, 989e12, 495e12,
    ),
    "h200": _Gpu(
        "NVIDIA H200", "major: 9 feature_extension: ACCELERATED_FEATURES", 132, 128, 1.98, 50 << 20, 233472,
        151397597184, 4800 * 10**9, 989e12, 495e12,
    ),
    "b200": _Gpu(
        "NVIDIA B200", "major: 10 feature_extension: ACCELERATED_FEATURES", 148, 128, 1.965, 126 << 20, 233472,
        191514411008, 7672 * 10**9, 2250e12, 1125e12,
    ),
}  # fmt: skip


def _gpus():
    for name, gpu in _GPUS.items():
        peaks = {"bfloat16": gpu.bfloat16, "float32": gpu.tf32}
        yield Target(name, "cuda", "", 1, gpu.memory, gpu.bandwidth, 0.0, peaks, gpu.description())


TARGETS = {target.name: target for target in (*_tpus(), *_gpus())}
