/* What NVML's callers and the library agree on: codes and the shapes of what is handed over. */
#ifndef LABDOCK_ABI_H
#define LABDOCK_ABI_H

#include <stdint.h>

enum {
	SUCCESS = 0,
	UNINITIALIZED = 1,
	INVALID_ARGUMENT = 2,
	NOT_SUPPORTED = 3,
	NO_PERMISSION = 4,
	NOT_FOUND = 6,
	INSUFFICIENT_SIZE = 7,
	DRIVER_NOT_LOADED = 9,
	LIBRARY_NOT_FOUND = 12,
	FUNCTION_NOT_FOUND = 13,
	GPU_IS_LOST = 15,
	OPERATING_SYSTEM = 17,
	VERSION_MISMATCH = 18,
	ARGUMENT_VERSION_MISMATCH = 25,
	UNKNOWN = 999,
};

struct memory {
	uint64_t total, free, used;
};

struct memory_v2 {
	uint32_t version;
	uint64_t total, reserved, free, used;
};

struct set_limits {
	const char *name_space;
	uint64_t soft, hard;
};

struct get_limits {
	const char *name_space;
	uint64_t soft, hard, used;
};

struct utilization {
	uint32_t gpu, memory;
};

struct pci {
	char legacy_id[16];
	uint32_t domain, bus, device, id, subsystem;
	char bus_id[32];
};

struct process_v1 {
	uint32_t pid;
	uint64_t memory;
};

struct process {
	uint32_t pid;
	uint64_t memory;
	uint32_t gpu_instance, compute_instance;
};

struct process_sample {
	uint32_t pid;
	uint64_t time_us;
	uint32_t cores, memory, encoder, decoder;
};

struct attributes {
	uint32_t processors, copy_engines, decoders, encoders, jpeg, optical_flow, gpu_slices, compute_slices;
	uint64_t memory_mib;
};

struct temperature {
	uint32_t version, sensor;
	int32_t degrees;
};

struct field {
	uint32_t id, scope;
	int64_t time_us, latency_us;
	uint32_t type;
	int32_t result;
	union {
		double floating;
		uint32_t number;
		uint64_t large;
	} value;
};

_Static_assert(sizeof(struct memory_v2) == 40, "as nvmlMemory_v2_t");
_Static_assert(sizeof(struct pci) == 68, "as nvmlPciInfo_t");
_Static_assert(sizeof(struct process_v1) == 16, "as nvmlProcessInfo_v1_t");
_Static_assert(sizeof(struct process) == 24, "as nvmlProcessInfo_t");
_Static_assert(sizeof(struct process_sample) == 32, "as nvmlProcessUtilizationSample_t");
_Static_assert(sizeof(struct attributes) == 40, "as nvmlDeviceAttributes_t");
_Static_assert(sizeof(struct field) == 40, "as nvmlFieldValue_t");
#endif
