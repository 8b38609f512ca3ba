/* libcuda.so.1 for cards that do not exist: it says so to every program that wants to compute. */
#include <stdlib.h>

#include "state.h"

#define EXPORT __attribute__((visibility("default")))

enum { CUDA_SUCCESS = 0, CUDA_INVALID_VALUE = 1, CUDA_NOT_INITIALIZED = 3, CUDA_NO_DEVICE = 100 };

EXPORT int cuInit(unsigned flags);
EXPORT int cuDriverGetVersion(int *version);
EXPORT int cuDeviceGetCount(int *count);
EXPORT int cuGetErrorName(int error, const char **name);
EXPORT int cuGetErrorString(int error, const char **text);

static const struct {
	int error;
	const char *name, *text;
} errors[] = {
	{CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
	{CUDA_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
	{CUDA_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
	{CUDA_NO_DEVICE, "CUDA_ERROR_NO_DEVICE",
	 "no CUDA-capable device: Labdock simulates this card, and it cannot compute"},
};

int cuInit(unsigned flags)
{
	return flags ? CUDA_INVALID_VALUE : CUDA_NO_DEVICE;
}

int cuDriverGetVersion(int *version)
{
	if (!version)
		return CUDA_INVALID_VALUE;
	struct machine *machine = malloc(sizeof *machine);
	/* 0 says that there is no driver. */
	*version = machine && read_state(machine) == STATE_READ
			   ? (int)(machine->cuda_major * 1000 + machine->cuda_minor * 10)
			   : 0;
	free(machine);
	return CUDA_SUCCESS;
}

int cuDeviceGetCount(int *count)
{
	return count ? CUDA_NOT_INITIALIZED : CUDA_INVALID_VALUE;
}

static const char *find(int error, int text)
{
	for (unsigned i = 0; i < sizeof errors / sizeof *errors; i++)
		if (errors[i].error == error)
			return text ? errors[i].text : errors[i].name;
	return 0;
}

int cuGetErrorName(int error, const char **name)
{
	if (!name)
		return CUDA_INVALID_VALUE;
	*name = find(error, 0);
	return *name ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

int cuGetErrorString(int error, const char **text)
{
	if (!text)
		return CUDA_INVALID_VALUE;
	*text = find(error, 1);
	return *text ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}
