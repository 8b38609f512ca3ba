/* libnvidia-ml.so.1 for cards that do not exist: what it answers is in the state's files.
 *
 * As with NVML itself, which cards there are is settled when it is initialised; what they measure is read at
 * every call. A process has the cards whose nodes it may open, as with the driver's own library.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "abi.h"
#include "stamp.h"
#include "state.h"

#define EXPORT __attribute__((visibility("default")))
#define MEMORY_UNLIMITED UINT64_MAX
#define NO_INSTANCE UINT32_MAX

/* A handle points here: [number][0] is a card, [number][1 + i] its slice i. */
static char handles[CARDS][1 + SLICES];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int users;
static int listed[CARDS];
static struct machine machine;

/* What a call is about: a copy, so that nothing is locked while it is answered. */
struct look {
	int number, index; /* index: of the card among those listed */
	struct card card;
	const struct slice *slice; /* NULL for a whole card */
};

int is_up(void);

int is_up(void)
{
	pthread_mutex_lock(&lock);
	int up = users > 0;
	pthread_mutex_unlock(&lock);
	return up;
}

/* The folder of the nodes; empty: every card may be used. */
static const char *device_folder(void)
{
	const char *folder = getenv("LABDOCK_SIMULATED_DEV");
	return folder ? folder : "/dev";
}

/* 0 when the node may be opened, otherwise why not. No driver is behind it, and that is no matter. */
static int node_error(const char *format, unsigned number)
{
	char path[4096];
	const char *folder = device_folder();
	if (!*folder)
		return 0;
	int length = snprintf(path, sizeof path, "%s/", folder);
	if (length < 0 || (size_t)length + 64 > sizeof path)
		return ENOENT;
	snprintf(path + length, 64, format, number);
	int file = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (file >= 0)
		close(file);
	return file >= 0 || errno == ENXIO || errno == ENODEV ? 0 : errno;
}

/* Read the state, and wait as long as the driver hangs. */
static int refresh(struct machine *fresh)
{
	const struct timespec pause = {0, 100000000};
	for (;;) {
		int found = read_state(fresh);
		if (found != STATE_READ || strcmp(fresh->fault, "hung"))
			return found;
		nanosleep(&pause, NULL);
	}
}

/* What *handle* stands for, and whether it can be asked; NULL for an out-pointer is refused. */
static int look_at(const void *handle, const void *out, struct look *look)
{
	if (!is_up())
		return UNINITIALIZED;
	/* A handle from elsewhere is anywhere: before the table wraps around to far behind it. */
	uintptr_t place = (uintptr_t)handle - (uintptr_t)handles;
	if (place >= sizeof handles || !out)
		return INVALID_ARGUMENT;
	struct machine *fresh = malloc(sizeof *fresh);
	if (!fresh)
		return UNKNOWN;
	int found = refresh(fresh);
	look->number = (int)(place / (1 + SLICES));
	look->card = fresh->card[look->number];
	int unloaded = !strcmp(fresh->fault, "not-loaded");
	free(fresh);
	if (found != STATE_READ || unloaded)
		return UNKNOWN;
	pthread_mutex_lock(&lock);
	int known = listed[look->number];
	look->index = 0;
	for (int i = 0; i < look->number; i++)
		look->index += listed[i];
	pthread_mutex_unlock(&lock);
	if (!known)
		return INVALID_ARGUMENT;
	if (!look->card.there || !strcmp(look->card.fault, "lost") || !strcmp(look->card.fault, "gone"))
		return GPU_IS_LOST;
	uintptr_t part = place % (1 + SLICES);
	look->slice = NULL;
	if (part && !look->card.slice_there[part - 1])
		return INVALID_ARGUMENT;
	if (part)
		look->slice = &look->card.slice[part - 1];
	return SUCCESS;
}

/* As look_at, for what only a whole card has. */
static int look_at_card(const void *handle, const void *out, struct look *look)
{
	int result = look_at(handle, out, look);
	return result == SUCCESS && look->slice ? NOT_SUPPORTED : result;
}

static int copy_text(const char *text, char *out, unsigned length)
{
	if (!out)
		return INVALID_ARGUMENT;
	size_t needed = strlen(text) + 1;
	if (needed > length)
		return INSUFFICIENT_SIZE;
	memcpy(out, text, needed);
	return SUCCESS;
}

/* A getter of one number: when it has a meaning, and what it is. `look` is at hand. */
#define NUMBER(name, type, whose, condition, expression)                                               \
	EXPORT int name(void *device, type *out);                                                     \
	int name(void *device, type *out)                                                             \
	{                                                                                             \
		struct look look;                                                                     \
		int result = whose(device, out, &look);                                               \
		if (result == SUCCESS && !(condition))                                                \
			result = NOT_SUPPORTED;                                                       \
		if (result == SUCCESS)                                                                \
			*out = (type)(expression);                                                    \
		return result;                                                                        \
	}

#define FUNCTION(name, ...)                                                                            \
	EXPORT int name(__VA_ARGS__);                                                                 \
	int name(__VA_ARGS__)

/* --- The library itself ------------------------------------------------------------------------------ */

static int start(void)
{
	struct machine *fresh = malloc(sizeof *fresh);
	if (!fresh)
		return UNKNOWN;
	int found = refresh(fresh), result = SUCCESS;
	if (found == STATE_MISSING || (found == STATE_READ && !strcmp(fresh->fault, "not-loaded")))
		result = DRIVER_NOT_LOADED;
	else if (found != STATE_READ)
		result = UNKNOWN;
	else if (strcmp(fresh->module, stamped_version()))
		result = VERSION_MISMATCH;
	if (result == SUCCESS) {
		int error = node_error("nvidiactl", 0);
		/* EPERM is the device cgroup's: the real library has no word for it either. */
		result = !error ? SUCCESS
			 : error == EACCES ? NO_PERMISSION : error == EPERM ? UNKNOWN : DRIVER_NOT_LOADED;
	}
	pthread_mutex_lock(&lock);
	if (result == SUCCESS && users++ == 0) {
		machine = *fresh;
		for (int i = 0; i < CARDS; i++)
			listed[i] = machine.card[i].there && strcmp(machine.card[i].fault, "gone") &&
				    !node_error("nvidia%u", (unsigned)i);
	}
	pthread_mutex_unlock(&lock);
	free(fresh);
	return result;
}

FUNCTION(nvmlInitWithFlags, unsigned flags)
{
	(void)flags;
	return start();
}

FUNCTION(nvmlInit_v2, void)
{
	return start();
}

FUNCTION(nvmlInit, void)
{
	return start();
}

FUNCTION(nvmlShutdown, void)
{
	pthread_mutex_lock(&lock);
	int result = users > 0 ? SUCCESS : UNINITIALIZED;
	if (users > 0)
		users--;
	pthread_mutex_unlock(&lock);
	return result;
}

EXPORT const char *nvmlErrorString(int result);
const char *nvmlErrorString(int result)
{
	static const char *const words[] = {
		[SUCCESS] = "Success",
		[UNINITIALIZED] = "Uninitialized",
		[INVALID_ARGUMENT] = "Invalid Argument",
		[NOT_SUPPORTED] = "Not Supported",
		[NO_PERMISSION] = "Insufficient Permissions",
		[NOT_FOUND] = "Not Found",
		[INSUFFICIENT_SIZE] = "Insufficient Size",
		[DRIVER_NOT_LOADED] = "Driver Not Loaded",
		[LIBRARY_NOT_FOUND] = "NVML Shared Library Not Found",
		[FUNCTION_NOT_FOUND] = "Function Not Found",
		[GPU_IS_LOST] = "GPU is lost",
		[OPERATING_SYSTEM] = "Operating System Error",
		[VERSION_MISMATCH] = "Driver/library version mismatch",
		[ARGUMENT_VERSION_MISMATCH] = "Argument Version Mismatch",
	};
	const int known = (int)(sizeof words / sizeof *words);
	return result >= 0 && result < known && words[result] ? words[result] : "Unknown Error";
}

FUNCTION(nvmlSystemGetDriverVersion, char *version, unsigned length)
{
	if (!is_up())
		return UNINITIALIZED;
	return copy_text(stamped_version(), version, length);
}

FUNCTION(nvmlSystemGetNVMLVersion, char *version, unsigned length)
{
	char text[2 * TEXT];
	if (!is_up())
		return UNINITIALIZED;
	pthread_mutex_lock(&lock);
	snprintf(text, sizeof text, "%u.%s", (unsigned)machine.cuda_major, stamped_version());
	pthread_mutex_unlock(&lock);
	return copy_text(text, version, length);
}

/* Says 13040 for CUDA 13.4, also where the driver is not up, as the real one does. */
static int cuda_version(int *version)
{
	if (!version)
		return INVALID_ARGUMENT;
	struct machine *fresh = malloc(sizeof *fresh);
	if (!fresh)
		return UNKNOWN;
	int found = read_state(fresh);
	*version = (int)(fresh->cuda_major * 1000 + fresh->cuda_minor * 10);
	free(fresh);
	return found == STATE_READ ? SUCCESS : found == STATE_MISSING ? LIBRARY_NOT_FOUND : UNKNOWN;
}

FUNCTION(nvmlSystemGetCudaDriverVersion, int *version)
{
	return cuda_version(version);
}

FUNCTION(nvmlSystemGetCudaDriverVersion_v2, int *version)
{
	return cuda_version(version);
}

FUNCTION(nvmlSystemGetProcessName, unsigned pid, char *name, unsigned length)
{
	char path[64], text[TEXT] = "";
	if (!is_up())
		return UNINITIALIZED;
	snprintf(path, sizeof path, "/proc/%u/comm", pid);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return NOT_FOUND;
	ssize_t have = read(file, text, sizeof text - 1);
	close(file);
	text[have > 0 ? have : 0] = 0;
	text[strcspn(text, "\n")] = 0;
	return copy_text(text, name, length);
}

/* --- Which cards ------------------------------------------------------------------------------------- */

static int count(unsigned *number)
{
	if (!is_up())
		return UNINITIALIZED;
	if (!number)
		return INVALID_ARGUMENT;
	*number = 0;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < CARDS; i++)
		*number += (unsigned)listed[i];
	pthread_mutex_unlock(&lock);
	return SUCCESS;
}

FUNCTION(nvmlDeviceGetCount_v2, unsigned *number)
{
	return count(number);
}

FUNCTION(nvmlDeviceGetCount, unsigned *number)
{
	return count(number);
}

/* Hand out a handle; a card that is lost has none any more. */
static int hand_out(void *handle, void **device)
{
	struct look look;
	int result = look_at(handle, device, &look);
	if (result == SUCCESS)
		*device = handle;
	return result;
}

static int by_index(unsigned index, void **device)
{
	if (!is_up())
		return UNINITIALIZED;
	for (int i = 0; i < CARDS; i++) {
		pthread_mutex_lock(&lock);
		int there = listed[i];
		pthread_mutex_unlock(&lock);
		if (there && index-- == 0)
			return hand_out(handles[i], device);
	}
	return INVALID_ARGUMENT;
}

FUNCTION(nvmlDeviceGetHandleByIndex_v2, unsigned index, void **device)
{
	return by_index(index, device);
}

FUNCTION(nvmlDeviceGetHandleByIndex, unsigned index, void **device)
{
	return by_index(index, device);
}

/* The listed card that *is_it* says it is of, with the first machine's facts: those never change. */
static int by_text(const char *text, int (*is_it)(const struct card *, const char *), void **device)
{
	if (!is_up())
		return UNINITIALIZED;
	if (!text || !device)
		return INVALID_ARGUMENT;
	for (int i = 0; i < CARDS; i++) {
		pthread_mutex_lock(&lock);
		int found = listed[i] && is_it(&machine.card[i], text);
		pthread_mutex_unlock(&lock);
		if (found)
			return hand_out(handles[i], device);
	}
	return NOT_FOUND;
}

static int has_uuid(const struct card *card, const char *uuid)
{
	return !strcmp(card->uuid, uuid);
}

static int has_serial(const struct card *card, const char *serial)
{
	return !strcmp(card->serial, serial);
}

static int has_bus(const struct card *card, const char *bus)
{
	unsigned wanted[4] = {0, 0, 0, 0}, mine[4] = {0, 0, 0, 0};
	if (sscanf(bus, "%8x:%2x:%2x.%1x", &wanted[0], &wanted[1], &wanted[2], &wanted[3]) < 3)
		return 0;
	sscanf(card->bus, "%8x:%2x:%2x.%1x", &mine[0], &mine[1], &mine[2], &mine[3]);
	return !memcmp(wanted, mine, sizeof mine);
}

/* Whether this process may use the slice: it has the nodes of both its capabilities. */
static int may_use(const struct slice *slice)
{
	return !node_error("nvidia-caps/nvidia-cap%u", (unsigned)slice->gpu_capability) &&
	       !node_error("nvidia-caps/nvidia-cap%u", (unsigned)slice->compute_capability);
}

/* The slices of a card that this process may use are counted without gaps. */
static int slice_handle(struct look *look, unsigned index, const char *uuid, void **device)
{
	for (int i = 0; i < SLICES; i++) {
		const struct slice *slice = &look->card.slice[i];
		if (!look->card.slice_there[i] || !may_use(slice))
			continue;
		if (uuid ? !strcmp(slice->uuid, uuid) : index-- == 0) {
			*device = &handles[look->number][1 + i];
			return SUCCESS;
		}
	}
	return NOT_FOUND;
}

FUNCTION(nvmlDeviceGetHandleByUUID, const char *uuid, void **device)
{
	int result = by_text(uuid, has_uuid, device);
	for (int i = 0; result == NOT_FOUND && i < CARDS; i++) {
		struct look look;
		if (look_at(handles[i], device, &look) == SUCCESS)
			result = slice_handle(&look, 0, uuid, device);
	}
	return result;
}

FUNCTION(nvmlDeviceGetHandleBySerial, const char *serial, void **device)
{
	return by_text(serial, has_serial, device);
}

FUNCTION(nvmlDeviceGetHandleByPciBusId_v2, const char *bus, void **device)
{
	return by_text(bus, has_bus, device);
}

FUNCTION(nvmlDeviceGetHandleByPciBusId, const char *bus, void **device)
{
	return by_text(bus, has_bus, device);
}

/* --- MIG --------------------------------------------------------------------------------------------- */

FUNCTION(nvmlDeviceGetMigMode, void *device, unsigned *current, unsigned *pending)
{
	struct look look;
	int result = look_at_card(device, current, &look);
	if (result == SUCCESS && !pending)
		result = INVALID_ARGUMENT;
	if (result == SUCCESS && !look.card.mig_most)
		result = NOT_SUPPORTED;
	if (result == SUCCESS)
		*current = *pending = (unsigned)look.card.mig;
	return result;
}

NUMBER(nvmlDeviceGetMaxMigDeviceCount, unsigned, look_at_card, 1, look.card.mig_most)
NUMBER(nvmlDeviceIsMigDeviceHandle, unsigned, look_at, 1, look.slice != NULL)
NUMBER(nvmlDeviceGetGpuInstanceId, unsigned, look_at, look.slice, look.slice->gpu_instance)
NUMBER(nvmlDeviceGetComputeInstanceId, unsigned, look_at, look.slice, look.slice->compute_instance)
NUMBER(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, void *, look_at, look.slice, handles[look.number])

FUNCTION(nvmlDeviceGetMigDeviceHandleByIndex, void *device, unsigned index, void **slice)
{
	struct look look;
	int result = look_at_card(device, slice, &look);
	if (result == SUCCESS && !look.card.mig_most)
		result = NOT_SUPPORTED;
	if (result == SUCCESS && index >= look.card.mig_most)
		result = INVALID_ARGUMENT;
	return result == SUCCESS ? slice_handle(&look, index, NULL, slice) : result;
}

static int get_attributes(void *device, struct attributes *out)
{
	struct look look;
	int result = look_at(device, out, &look);
	if (result == SUCCESS && !look.slice)
		result = NOT_SUPPORTED;
	if (result == SUCCESS)
		*out = (struct attributes){
			.processors = (uint32_t)look.slice->processors,
			.copy_engines = (uint32_t)look.slice->slices,
			.gpu_slices = (uint32_t)look.slice->slices,
			.compute_slices = (uint32_t)look.slice->slices,
			.memory_mib = look.slice->memory >> 20,
		};
	return result;
}

FUNCTION(nvmlDeviceGetAttributes_v2, void *device, struct attributes *out)
{
	return get_attributes(device, out);
}

FUNCTION(nvmlDeviceGetAttributes, void *device, struct attributes *out)
{
	return get_attributes(device, out);
}

/* --- What a card is ---------------------------------------------------------------------------------- */

NUMBER(nvmlDeviceGetIndex, unsigned, look_at_card, 1, look.index)
NUMBER(nvmlDeviceGetMinorNumber, unsigned, look_at_card, 1, look.number)
NUMBER(nvmlDeviceGetBrand, unsigned, look_at, 1, look.card.has_fan ? 5 : 14)
NUMBER(nvmlDeviceGetArchitecture, unsigned, look_at, 1, look.card.architecture)
NUMBER(nvmlDeviceGetNumGpuCores, unsigned, look_at_card, 1, look.card.processors * 128)
NUMBER(nvmlDeviceGetMultiGpuBoard, unsigned, look_at_card, 1, 0)
NUMBER(nvmlDeviceGetNumFans, unsigned, look_at_card, 1, look.card.has_fan)
NUMBER(nvmlDeviceGetPersistenceMode, unsigned, look_at_card, 1, 1)
NUMBER(nvmlDeviceGetComputeMode, unsigned, look_at, 1, 0)
NUMBER(nvmlDeviceGetDisplayMode, unsigned, look_at_card, 1, 0)
NUMBER(nvmlDeviceGetDisplayActive, unsigned, look_at_card, 1, 0)
NUMBER(nvmlDeviceGetPerformanceState, unsigned, look_at_card, 1, look.card.utilization.value ? 0 : 8)
NUMBER(nvmlDeviceGetPowerState, unsigned, look_at_card, 1, look.card.utilization.value ? 0 : 8)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned, look_at_card, 1, 4)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned, look_at_card, 1, 4)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned, look_at_card, 1, 16)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned, look_at_card, 1, 16)

FUNCTION(nvmlDeviceGetName, void *device, char *name, unsigned length)
{
	char text[2 * TEXT + 8];
	struct look look;
	int result = look_at(device, name, &look);
	if (result != SUCCESS)
		return result;
	snprintf(text, sizeof text, "%s%s%s", look.card.name, look.slice ? " MIG " : "",
		 look.slice ? look.slice->profile : "");
	return copy_text(text, name, length);
}

FUNCTION(nvmlDeviceGetUUID, void *device, char *uuid, unsigned length)
{
	struct look look;
	int result = look_at(device, uuid, &look);
	if (result != SUCCESS)
		return result;
	return copy_text(look.slice ? look.slice->uuid : look.card.uuid, uuid, length);
}

FUNCTION(nvmlDeviceGetSerial, void *device, char *serial, unsigned length)
{
	struct look look;
	int result = look_at_card(device, serial, &look);
	if (result == SUCCESS && (look.card.has_fan || !*look.card.serial))
		result = NOT_SUPPORTED;
	return result == SUCCESS ? copy_text(look.card.serial, serial, length) : result;
}

FUNCTION(nvmlDeviceGetVbiosVersion, void *device, char *version, unsigned length)
{
	struct look look;
	int result = look_at_card(device, version, &look);
	return result == SUCCESS ? copy_text("00.00.00.00.00", version, length) : result;
}

static int get_pci(void *device, struct pci *pci, size_t size)
{
	struct look look;
	unsigned domain = 0, bus = 0, slot = 0;
	int result = look_at_card(device, pci, &look);
	if (result != SUCCESS)
		return result;
	sscanf(look.card.bus, "%4x:%2x:%2x", &domain, &bus, &slot);
	struct pci found = {
		.domain = domain,
		.bus = bus,
		.device = slot,
		.id = (uint32_t)(look.card.pci_id << 16 | 0x10de),
	};
	snprintf(found.legacy_id, sizeof found.legacy_id, "%04X:%02X:%02X.0", domain & 0xffff, bus & 0xff,
		 slot & 0xff);
	snprintf(found.bus_id, sizeof found.bus_id, "%08X:%02X:%02X.0", domain, bus & 0xff, slot & 0xff);
	memcpy(pci, &found, size);
	return SUCCESS;
}

FUNCTION(nvmlDeviceGetPciInfo_v3, void *device, struct pci *pci)
{
	return get_pci(device, pci, sizeof *pci);
}

/* The older shapes end before the longer address, the oldest before the subsystem. */
FUNCTION(nvmlDeviceGetPciInfo_v2, void *device, struct pci *pci)
{
	return get_pci(device, pci, offsetof(struct pci, bus_id));
}

FUNCTION(nvmlDeviceGetPciInfo, void *device, struct pci *pci)
{
	return get_pci(device, pci, offsetof(struct pci, subsystem));
}

FUNCTION(nvmlDeviceGetCudaComputeCapability, void *device, int *major, int *minor)
{
	struct look look;
	int result = look_at(device, major, &look);
	if (result == SUCCESS && !minor)
		result = INVALID_ARGUMENT;
	if (result == SUCCESS) {
		*major = (int)look.card.compute_major;
		*minor = (int)look.card.compute_minor;
	}
	return result;
}

/* --- What it measures -------------------------------------------------------------------------------- */

/* What the driver keeps for itself. */
static uint64_t reserved(uint64_t total)
{
	return total / 128;
}

static struct memory_v2 memory_of(const struct look *look)
{
	uint64_t total = look->slice ? look->slice->memory : look->card.memory;
	uint64_t used = look->slice ? 0 : look->card.memory_used.value, kept = reserved(total);
	if (used > total - kept)
		used = total - kept;
	return (struct memory_v2){0, total, kept, total - kept - used, used};
}

FUNCTION(nvmlDeviceGetMemoryInfo, void *device, struct memory *memory)
{
	struct look look;
	int result = look_at(device, memory, &look);
	if (result == SUCCESS) {
		struct memory_v2 found = memory_of(&look);
		*memory = (struct memory){found.total, found.free, found.used + found.reserved};
	}
	return result;
}

FUNCTION(nvmlDeviceGetMemoryInfo_v2, void *device, struct memory_v2 *memory)
{
	struct look look;
	int result = look_at(device, memory, &look);
	if (result == SUCCESS && memory->version != (sizeof *memory | 2 << 24))
		result = ARGUMENT_VERSION_MISMATCH;
	if (result == SUCCESS) {
		uint32_t version = memory->version;
		*memory = memory_of(&look);
		memory->version = version;
	}
	return result;
}

FUNCTION(nvmlDeviceGetBAR1MemoryInfo, void *device, struct memory *memory)
{
	struct look look;
	int result = look_at(device, memory, &look);
	if (result == SUCCESS) {
		uint64_t total = look.slice ? look.slice->memory : look.card.memory;
		*memory = (struct memory){total, total - (1 << 20), 1 << 20};
	}
	return result;
}

FUNCTION(nvmlDeviceGetUtilizationRates, void *device, struct utilization *utilization)
{
	struct look look;
	int result = look_at_card(device, utilization, &look);
	if (result == SUCCESS && look.card.mig)
		result = NOT_SUPPORTED;
	if (result == SUCCESS)
		*utilization = (struct utilization){(uint32_t)look.card.utilization.value,
						    (uint32_t)look.card.memory_utilization.value};
	return result;
}

static int get_coder(void *device, unsigned *utilization, unsigned *period_us)
{
	struct look look;
	int result = look_at_card(device, utilization, &look);
	if (result == SUCCESS && !period_us)
		result = INVALID_ARGUMENT;
	if (result == SUCCESS) {
		*utilization = 0;
		*period_us = 167000;
	}
	return result;
}

FUNCTION(nvmlDeviceGetEncoderUtilization, void *device, unsigned *utilization, unsigned *period_us)
{
	return get_coder(device, utilization, period_us);
}

FUNCTION(nvmlDeviceGetDecoderUtilization, void *device, unsigned *utilization, unsigned *period_us)
{
	return get_coder(device, utilization, period_us);
}

FUNCTION(nvmlDeviceGetTemperature, void *device, int sensor, unsigned *degrees)
{
	struct look look;
	int result = look_at_card(device, degrees, &look);
	if (result == SUCCESS && sensor != 0)
		result = INVALID_ARGUMENT;
	if (result == SUCCESS)
		*degrees = (unsigned)look.card.temperature.value;
	return result;
}

FUNCTION(nvmlDeviceGetTemperatureV, void *device, struct temperature *temperature)
{
	struct look look;
	int result = look_at_card(device, temperature, &look);
	if (result == SUCCESS && temperature->version != (sizeof *temperature | 1 << 24))
		result = ARGUMENT_VERSION_MISMATCH;
	if (result == SUCCESS && temperature->sensor != 0)
		result = INVALID_ARGUMENT;
	if (result == SUCCESS)
		temperature->degrees = (int32_t)look.card.temperature.value;
	return result;
}

FUNCTION(nvmlDeviceGetTemperatureThreshold, void *device, int threshold, unsigned *degrees)
{
	static const unsigned degrees_at[] = {92, 89, 95, 87};
	struct look look;
	int result = look_at_card(device, degrees, &look);
	if (result == SUCCESS && (threshold < 0 || threshold > 8))
		result = INVALID_ARGUMENT;
	if (result == SUCCESS && (size_t)threshold >= sizeof degrees_at / sizeof *degrees_at)
		result = NOT_SUPPORTED;
	if (result == SUCCESS)
		*degrees = degrees_at[threshold];
	return result;
}

NUMBER(nvmlDeviceGetFanSpeed, unsigned, look_at_card, look.card.has_fan, look.card.fan.value)
NUMBER(nvmlDeviceGetPowerUsage, unsigned, look_at_card, 1, look.card.power.value)
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned, look_at_card, 1, look.card.power_limit)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, look_at_card, 1, look.card.power_limit)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, look_at_card, 1, look.card.power_limit)
NUMBER(nvmlDeviceGetPowerManagementMode, unsigned, look_at_card, 1, 1)
NUMBER(nvmlDeviceGetTotalEnergyConsumption, uint64_t, look_at_card, 1, look.card.energy.value)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, uint64_t, look_at_card, 1, !look.card.utilization.value)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, uint64_t, look_at_card, 1, !look.card.utilization.value)

FUNCTION(nvmlDeviceGetFanSpeed_v2, void *device, unsigned fan, unsigned *speed)
{
	struct look look;
	int result = look_at_card(device, speed, &look);
	if (result == SUCCESS && !look.card.has_fan)
		result = NOT_SUPPORTED;
	if (result == SUCCESS && fan >= look.card.has_fan)
		result = INVALID_ARGUMENT;
	if (result == SUCCESS)
		*speed = (unsigned)look.card.fan.value;
	return result;
}

FUNCTION(nvmlDeviceGetPowerManagementLimitConstraints, void *device, unsigned *least, unsigned *most)
{
	struct look look;
	int result = look_at_card(device, least, &look);
	if (result == SUCCESS && !most)
		result = INVALID_ARGUMENT;
	if (result == SUCCESS) {
		*least = (unsigned)look.card.power_limit / 3;
		*most = (unsigned)look.card.power_limit;
	}
	return result;
}

static int get_clock(void *device, int kind, unsigned *clock, int most)
{
	struct look look;
	int result = look_at_card(device, clock, &look);
	if (result == SUCCESS && (kind < 0 || kind > 3))
		result = INVALID_ARGUMENT;
	if (result == SUCCESS) {
		unsigned highest = (unsigned)(kind == 2 ? look.card.memory_clock : look.card.clock);
		*clock = most || look.card.utilization.value || kind == 2 ? highest : highest / 6;
	}
	return result;
}

FUNCTION(nvmlDeviceGetClockInfo, void *device, int kind, unsigned *clock)
{
	return get_clock(device, kind, clock, 0);
}

FUNCTION(nvmlDeviceGetMaxClockInfo, void *device, int kind, unsigned *clock)
{
	return get_clock(device, kind, clock, 1);
}

FUNCTION(nvmlDeviceGetPcieThroughput, void *device, int direction, unsigned *kib_a_second)
{
	struct look look;
	int result = look_at_card(device, kib_a_second, &look);
	if (result == SUCCESS && (direction < 0 || direction > 1))
		result = INVALID_ARGUMENT;
	if (result == SUCCESS)
		*kib_a_second = (unsigned)look.card.utilization.value * (direction ? 2048 : 512);
	return result;
}

/* --- What is wrong with it --------------------------------------------------------------------------- */

/* Cards for games have no error correction. */
static int corrects(const struct look *look)
{
	return !look->card.has_fan;
}

static int is_ecc(const struct look *look)
{
	return !strcmp(look->card.fault, "ecc");
}

static int is_remap(const struct look *look)
{
	return !strcmp(look->card.fault, "remap");
}

static int has_rows(const struct look *look)
{
	return corrects(look) && look->card.architecture >= 7;
}

FUNCTION(nvmlDeviceGetEccMode, void *device, unsigned *current, unsigned *pending)
{
	struct look look;
	int result = look_at_card(device, current, &look);
	if (result == SUCCESS && !pending)
		result = INVALID_ARGUMENT;
	if (result == SUCCESS && !corrects(&look))
		result = NOT_SUPPORTED;
	if (result == SUCCESS)
		*current = *pending = 1;
	return result;
}

/* kind: 0 corrected, 1 not; counter: 0 since the driver was loaded, 1 ever */
FUNCTION(nvmlDeviceGetTotalEccErrors, void *device, int kind, int counter, uint64_t *errors)
{
	struct look look;
	int result = look_at_card(device, errors, &look);
	if (result == SUCCESS && (kind < 0 || kind > 1 || counter < 0 || counter > 1))
		result = INVALID_ARGUMENT;
	if (result == SUCCESS && !corrects(&look))
		result = NOT_SUPPORTED;
	if (result == SUCCESS)
		*errors = kind == 1 && (is_ecc(&look) || is_remap(&look));
	return result;
}

/* place: 2 is the card's memory, where the simulated errors are. */
FUNCTION(nvmlDeviceGetMemoryErrorCounter, void *device, int kind, int counter, int place, uint64_t *errors)
{
	int result = nvmlDeviceGetTotalEccErrors(device, kind, counter, errors);
	if (result == SUCCESS && place != 2)
		*errors = 0;
	return result;
}

FUNCTION(nvmlDeviceGetRemappedRows, void *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
	 unsigned *failed)
{
	struct look look;
	int result = look_at_card(device, corrected, &look);
	if (result == SUCCESS && (!uncorrected || !pending || !failed))
		result = INVALID_ARGUMENT;
	if (result == SUCCESS && !has_rows(&look))
		result = NOT_SUPPORTED;
	if (result == SUCCESS) {
		*corrected = 0;
		*uncorrected = (unsigned)is_remap(&look);
		*pending = (unsigned)is_ecc(&look);
		*failed = (unsigned)is_remap(&look);
	}
	return result;
}

/* Older cards retire pages where newer ones remap rows. */
NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, unsigned, look_at_card, corrects(&look) && !has_rows(&look),
       is_ecc(&look) || is_remap(&look))

/* The recovery actions: 0 none, 1 reset the card. */
static int field_value(const struct look *look, unsigned field, uint64_t *value)
{
	int faulty = is_ecc(look) || is_remap(look);
	switch (field) {
	case 1: /* error correction, now and after the next start */
	case 2:
		*value = 1;
		return corrects(look);
	case 4: /* uncorrected errors, since the driver was loaded and ever */
	case 6:
		*value = (uint64_t)faulty;
		return corrects(look);
	case 31: /* pages that wait to be retired */
		*value = (uint64_t)faulty;
		return corrects(look) && !has_rows(look);
	case 83: /* energy in mJ */
		*value = look->card.energy.value;
		return 1;
	case 143: /* rows remapped for uncorrected errors; waiting; failed */
		*value = (uint64_t)is_remap(look);
		return has_rows(look);
	case 144:
		*value = (uint64_t)is_ecc(look);
		return has_rows(look);
	case 145:
		*value = (uint64_t)is_remap(look);
		return has_rows(look);
	case 185: /* power in mW, averaged and now */
	case 186:
		*value = look->card.power.value;
		return 1;
	case 230:
		*value = (uint64_t)faulty;
		return 1;
	default:
		return 0;
	}
}

FUNCTION(nvmlDeviceGetFieldValues, void *device, int number, struct field *fields)
{
	struct look look;
	int result = look_at_card(device, fields, &look);
	if (result == SUCCESS && number < 0)
		result = INVALID_ARGUMENT;
	for (int i = 0; result == SUCCESS && i < number; i++) {
		uint64_t value = 0;
		int known = field_value(&look, fields[i].id, &value);
		fields[i].result = known ? SUCCESS : NOT_SUPPORTED;
		fields[i].time_us = (int64_t)time(NULL) * 1000000;
		fields[i].latency_us = 0;
		fields[i].type = 3;
		fields[i].value.large = value;
	}
	return result;
}

/* --- Who is on it ------------------------------------------------------------------------------------ */

/* The number that fits is told when the room given is too small; entries of *size* bytes begin alike. */
static int get_processes(void *device, unsigned *room, void *out, size_t size)
{
	struct look look;
	int result = look_at(device, room, &look);
	if (result != SUCCESS)
		return result;
	unsigned have = look.slice ? 0 : (unsigned)look.card.processes, given = *room;
	*room = have;
	if (have > given)
		return INSUFFICIENT_SIZE;
	if (have && !out)
		return INVALID_ARGUMENT;
	for (unsigned i = 0; i < have; i++) {
		struct process process = {look.card.pid[i], look.card.pid_memory[i], NO_INSTANCE, NO_INSTANCE};
		memcpy((char *)out + i * size, &process, size);
	}
	return SUCCESS;
}

#define PROCESS_LIST(name, type, running)                                                              \
	FUNCTION(name, void *device, unsigned *room, type *out)                                       \
	{                                                                                             \
		struct look look;                                                                     \
		if (running)                                                                          \
			return get_processes(device, room, out, sizeof *out);                         \
		int result = look_at(device, room, &look);                                            \
		if (result == SUCCESS)                                                                \
			*room = 0;                                                                    \
		return result;                                                                        \
	}

PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses, struct process_v1, 1)
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v2, struct process, 1)
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3, struct process, 1)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses, struct process_v1, 0)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, struct process, 0)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, struct process, 0)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses, struct process_v1, 0)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, struct process, 0)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, struct process, 0)

/* Each process has an equal part of what the card does. */
FUNCTION(nvmlDeviceGetProcessUtilization, void *device, struct process_sample *out, unsigned *room,
	 uint64_t since_us)
{
	struct look look;
	int result = look_at_card(device, room, &look);
	if (result == SUCCESS && look.card.mig)
		result = NOT_SUPPORTED;
	if (result != SUCCESS)
		return result;
	uint64_t now_us = (uint64_t)time(NULL) * 1000000;
	unsigned have = now_us > since_us ? (unsigned)look.card.processes : 0, given = *room;
	*room = have;
	if (!have)
		return NOT_FOUND;
	if (!out || have > given)
		return INSUFFICIENT_SIZE;
	for (unsigned i = 0; i < have; i++)
		out[i] = (struct process_sample){
			.pid = look.card.pid[i],
			.time_us = now_us,
			.cores = (uint32_t)look.card.utilization.value / have,
			.memory = (uint32_t)look.card.memory_utilization.value / have,
		};
	return SUCCESS;
}

/* --- Limits of memory for a cgroup ------------------------------------------------------------------- */

/* Where the limit of *name_space* is kept: a file of the card's folder, named after the cgroup's. */
static int limit_path(const struct look *look, const char *name_space, char *path, size_t size)
{
	int length = snprintf(path, size, "%s/limits/%d/", state_folder(), look->number);
	if (length < 0 || (size_t)length >= size)
		return 0;
	size_t at = (size_t)length, last = at + 240;
	for (; *name_space; name_space++) {
		if (at + 4 >= size || at >= last)
			return 0;
		if (*name_space == '/' || *name_space == '%')
			at += (size_t)snprintf(path + at, 4, "%%%02X", (unsigned)*name_space);
		else
			path[at++] = *name_space;
	}
	path[at] = 0;
	return 1;
}

static int look_at_limits(void *device, const char *name_space, struct look *look, char *path, size_t size)
{
	int result = look_at_card(device, name_space, look);
	if (result != SUCCESS)
		return result;
	if (!limit_path(look, name_space, path, size))
		return INVALID_ARGUMENT;
	if (look->card.mig)
		return NOT_SUPPORTED;
	int folder = open(name_space, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0)
		return OPERATING_SYSTEM;
	close(folder);
	return SUCCESS;
}

/* Make *path* hold the limit at once; errno when it cannot. */
static int write_limit(const char *path, const struct set_limits *limits)
{
	char folder[4096], fresh[4200], text[64];
	snprintf(folder, sizeof folder, "%s", path);
	*strrchr(folder, '/') = 0;
	char *last = strrchr(folder, '/');
	*last = 0;
	if (mkdir(folder, 0755) && errno != EEXIST)
		return 0;
	*last = '/';
	if (mkdir(folder, 0755) && errno != EEXIST)
		return 0;
	snprintf(fresh, sizeof fresh, "%s/.new-%d", folder, (int)getpid());
	int file = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (file < 0)
		return 0;
	int length = snprintf(text, sizeof text, "%llu %llu\n", (unsigned long long)limits->soft,
			      (unsigned long long)limits->hard);
	int written = write(file, text, (size_t)length) == length;
	return !close(file) && written && !rename(fresh, path);
}

FUNCTION(nvmlDeviceSetMemoryLimits_v1, void *device, struct set_limits *limits)
{
	char path[4096];
	struct look look;
	int result = look_at_limits(device, limits ? limits->name_space : NULL, &look, path, sizeof path);
	if (result != SUCCESS)
		return result;
	if (geteuid() != 0)
		return NO_PERMISSION;
	int none = limits->soft == 0 && limits->hard == MEMORY_UNLIMITED;
	if (!none && (limits->soft > limits->hard || limits->soft > look.card.memory ||
		      (limits->hard != MEMORY_UNLIMITED && limits->hard > look.card.memory)))
		return INVALID_ARGUMENT;
	if (none ? !unlink(path) || errno == ENOENT : write_limit(path, limits))
		return SUCCESS;
	return errno == EROFS || errno == EACCES || errno == EPERM ? NO_PERMISSION : UNKNOWN;
}

/* What those processes of the card use that are in the cgroup. */
static uint64_t used_in(const char *name_space, const struct card *card)
{
	char path[4096];
	uint64_t used = 0;
	unsigned pid;
	int length = snprintf(path, sizeof path, "%s/cgroup.procs", name_space);
	FILE *file = length > 0 && (size_t)length < sizeof path ? fopen(path, "re") : NULL;
	while (file && fscanf(file, "%9u", &pid) == 1)
		for (int i = 0; i < card->processes; i++)
			used += card->pid[i] == pid ? card->pid_memory[i] : 0;
	if (file)
		fclose(file);
	return used;
}

FUNCTION(nvmlDeviceGetMemoryLimits_v1, void *device, struct get_limits *limits)
{
	char path[4096], text[64] = "";
	unsigned long long soft, hard;
	struct look look;
	int result = look_at_limits(device, limits ? limits->name_space : NULL, &look, path, sizeof path);
	if (result != SUCCESS)
		return result;
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return errno == ENOENT || errno == ENOTDIR ? NOT_FOUND : UNKNOWN;
	ssize_t have = read(file, text, sizeof text - 1);
	close(file);
	if (have <= 0 || sscanf(text, "%20llu %20llu", &soft, &hard) != 2)
		return UNKNOWN;
	limits->soft = soft;
	limits->hard = hard;
	limits->used = used_in(limits->name_space, &look.card);
	return SUCCESS;
}
