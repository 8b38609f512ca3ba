"""A process of its own that asks NVML: ``python -m labdock.adapters.nvml_child LIBRARY``.

NVML may hang when a card is ill, and a library that is loaded is not replaced by a driver's upgrade; a
process can be ended for both. It answers each line on its input with one line of JSON: what
``core.driver.NvmlAnswer.from_data`` reads, or ``{"failed": [code, words]}``.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pynvml

T = TypeVar("T")

_TELLING = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_UNKNOWN)
"""Errors that say something of the card; the others say that it cannot answer this one question."""


class _Asking:
    """Asks about one GPU and keeps the first error that says something of it."""

    def __init__(self) -> None:
        self.error: tuple[int, str] | None = None

    def __call__(self, question: Callable[[], T], otherwise: T) -> T:
        try:
            return question()
        except pynvml.NVMLError as error:
            if error.value in _TELLING and self.error is None:
                self.error = (error.value, str(error))
            return otherwise


def answer() -> dict[str, Any]:
    """Everything about the machine, asked anew: NVML counts the cards when it is initialised.

    It is shut down again each time, so that nothing keeps the kernel module from being unloaded.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"failed": [error.value, str(error)]}
    try:
        return _machine()
    except pynvml.NVMLError as error:
        return {"failed": [error.value, str(error)]}
    finally:
        pynvml.nvmlShutdown()


def _machine() -> dict[str, Any]:
    cuda = _Asking()(lambda: int(pynvml.nvmlSystemGetCudaDriverVersion_v2()), None)
    gpus, lost = [], []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpus.append(_gpu(index, handle, pynvml.nvmlDeviceGetPciInfo(handle).busId))
        except pynvml.NVMLError as error:
            lost.append([index, error.value, str(error)])
    return {"cuda": cuda, "gpus": gpus, "lost": lost}


def _gpu(index: int, handle: Any, bus: str) -> dict[str, Any]:
    ask = _Asking()
    gpu = {
        "index": index,
        "bus": bus,
        "uuid": ask(lambda: pynvml.nvmlDeviceGetUUID(handle), ""),
        "name": ask(lambda: pynvml.nvmlDeviceGetName(handle), "NVIDIA GPU"),
        "memory_bytes": ask(partial(_memory, handle), None),
        "compute": ask(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle), None),
        "recovery": ask(lambda: _recovery(handle), None),
        "memory_errors": ask(lambda: _memory_errors(handle), None),
        "worn_out": ask(lambda: bool(pynvml.nvmlDeviceGetRemappedRows(handle)[3]), False),
        "mig": ask(lambda: bool(pynvml.nvmlDeviceGetMigMode(handle)[0]), False),
    }
    slices = _slices(handle, ask) if gpu["mig"] else []
    return {**gpu, "slices": slices, "error": ask.error}


def _memory(handle: Any) -> int | None:
    return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)


def _recovery(handle: Any) -> int | None:
    (value,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    return int(value.value.uiVal) if value.nvmlReturn == pynvml.NVML_SUCCESS else None


def _memory_errors(handle: Any) -> int:
    kind, since = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    return int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, since))


def _slices(handle: Any, ask: _Asking) -> list[dict[str, Any]]:
    slices = []
    for index in range(ask(lambda: int(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)), 0)):
        try:
            one = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except pynvml.NVMLError:
            # Places without a slice are counted too.
            continue
        slices.append(
            {
                "index": index,
                "uuid": pynvml.nvmlDeviceGetUUID(one),
                "gpu_instance": pynvml.nvmlDeviceGetGpuInstanceId(one),
                "compute_instance": pynvml.nvmlDeviceGetComputeInstanceId(one),
                "name": pynvml.nvmlDeviceGetName(one),
                "memory_bytes": ask(partial(_memory, one), None),
            }
        )
    return slices


def main() -> None:
    """Answer until the input ends."""
    # What the library itself prints goes to the log, and never between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # The binding asks for the library by its bare name, and gets the one that is loaded already.
    ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
    for _ in sys.stdin:
        print(json.dumps(answer()), file=answers, flush=True)


if __name__ == "__main__":
    main()
