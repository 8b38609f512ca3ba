/* The simulated machine as its files have it; labdock/simulation/machine.py writes them. */
#ifndef LABDOCK_STATE_H
#define LABDOCK_STATE_H

#include <stdint.h>

#define CARDS 32
#define SLICES 7
#define PROCESSES 64
#define TEXT 96

struct slice {
	char uuid[TEXT], profile[TEXT];
	uint64_t memory, gpu_instance, compute_instance, processors, slices;
	uint64_t gpu_capability, compute_capability;
};

/* What a card measures: from the load, unless the machine's file holds it. */
struct measure {
	uint64_t value;
	int held;
};

struct card {
	int there; /* whether the machine has a card of this number, gone or not */
	char name[TEXT], uuid[TEXT], bus[TEXT], serial[TEXT], fault[TEXT];
	uint64_t memory, compute_major, compute_minor, power_limit, clock, memory_clock;
	uint64_t processors, architecture, pci_id, mig_most, has_fan;
	struct measure utilization, memory_utilization, memory_used, temperature, power, fan, energy;
	int mig, processes;
	uint32_t pid[PROCESSES];
	uint64_t pid_memory[PROCESSES];
	struct slice slice[SLICES];
	int slice_there[SLICES];
};

struct machine {
	char module[TEXT], fault[TEXT];
	uint64_t cuda_major, cuda_minor;
	struct card card[CARDS];
};

enum { STATE_READ, STATE_MISSING, STATE_DAMAGED };

/* Read the state into *machine; one of the three above. */
int read_state(struct machine *machine);

/* The folder of the state, without a slash at its end. */
const char *state_folder(void);
#endif
