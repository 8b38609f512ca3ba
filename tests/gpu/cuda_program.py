"""A small CUDA program on the driver alone: ``python cuda_program.py [ROOT [MEMORY]]``.

Run as a file of its own. It goes to live in ROOT if that is given, has the first card compute something, and
prints the card's UUID and which files of the driver it used. With MEMORY it then holds so many bytes until
its input ends.
"""

from __future__ import annotations

import ctypes
import os
import sys
import uuid

# Compiled by the driver as it is loaded: that takes other libraries than running it.
PTX = b"""
.version 6.3
.target sm_52
.address_size 64
.visible .entry count(.param .u64 where)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [where];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r1;
    ret;
}
"""
NUMBERS = 64


def main(root: str = "", memory: str = "0") -> None:
    if root:
        os.chroot(root)
        os.chdir("/")
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: object) -> None:
        code = getattr(cuda, name)(*arguments)
        if code != 0:
            sys.exit(f"{name}: CUDA error {code}")

    call("cuInit", 0)
    count, device = ctypes.c_int(), ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(count))
    call("cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(16)
    call("cuDeviceGetUuid_v2", name, device)
    context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)

    pointer = ctypes.c_uint64()
    size = ctypes.c_size_t(max(4 * NUMBERS, int(memory)))
    call("cuMemAlloc_v2", ctypes.byref(pointer), size)
    call("cuMemsetD8_v2", pointer, ctypes.c_ubyte(0xFF), size)
    numbers = (ctypes.c_uint32 * NUMBERS)()
    call("cuMemcpyDtoH_v2", numbers, pointer, ctypes.c_size_t(4 * NUMBERS))
    if set(numbers) != {0xFFFFFFFF}:
        sys.exit("the card's memory does not hold what was written there")

    call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(PTX))
    call("cuModuleGetFunction", ctypes.byref(function), module, b"count")
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(pointer))
    call("cuLaunchKernel", function, 1, 1, 1, NUMBERS, 1, 1, 0, None, arguments, None)
    call("cuMemcpyDtoH_v2", numbers, pointer, ctypes.c_size_t(4 * NUMBERS))
    if list(numbers) != list(range(NUMBERS)):
        sys.exit("the card computed something else")

    print(count.value, f"GPU-{uuid.UUID(bytes=name.raw)}")
    with open("/proc/self/maps") as maps:  # noqa: PTH123  as little as can be is imported
        files = {line.split()[-1] for line in maps if ".so" in line}
    print(*sorted(file for file in files if "nvidia" in file or "libcuda" in file))
    sys.stdout.flush()
    if int(memory):
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
