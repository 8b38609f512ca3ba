/* nvidia-smi for simulated cards: the table, the lists and the queries that people and programs ask for.
 *
 * Like the real one it knows nothing itself: all is asked of libnvidia-ml.so.1, found by the loader.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "abi.h"
#include "stamp.h"

#define CARDS 64
#define TEXT 128

/* The names of dlopen and dlsym that older images have too. */
#if defined(__x86_64__)
__asm__(".symver dlopen, dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
#else
__asm__(".symver dlopen, dlopen@GLIBC_2.17");
__asm__(".symver dlsym, dlsym@GLIBC_2.17");
#endif

enum { WRONG_USAGE = 2, NO_SUCH_CARD = 6 };

static void *library;

/* NVML's function *name*, or the end: every one asked for is in every version. */
static void *need(const char *name)
{
	void *function = dlsym(library, name);
	if (!function) {
		fprintf(stderr, "This version of libnvidia-ml.so.1 lacks %s.\n", name);
		exit(FUNCTION_NOT_FOUND);
	}
	return function;
}

#define ASK(name, types, ...) (((int(*) types)need(name))(__VA_ARGS__))

static const char *error_text(int result)
{
	return ((const char *(*)(int))need("nvmlErrorString"))(result);
}

static void connect_to_driver(void)
{
	library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
	if (!library) {
		puts("NVIDIA-SMI couldn't find the library libnvidia-ml.so.1. It comes with the driver: see that the");
		puts("driver is installed, and that this container was given a GPU.");
		exit(LIBRARY_NOT_FOUND);
	}
	int result = ASK("nvmlInit_v2", (void));
	if (result == DRIVER_NOT_LOADED) {
		puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. The simulated");
		puts("driver is not loaded here, or this container was given no GPU.");
		exit(result);
	}
	if (result != SUCCESS) {
		printf("Failed to initialize NVML: %s\n", error_text(result));
		if (result == VERSION_MISMATCH)
			printf("NVML library version: %s\n", stamped_version());
		exit(result);
	}
}

/* --- The cards asked about ------------------------------------------------------------------------------ */

struct card {
	unsigned index;
	void *device;
	int result; /* of asking for it */
};

static struct card cards[CARDS];
static unsigned card_count;

static unsigned count_cards(void)
{
	unsigned count = 0;
	int result = ASK("nvmlDeviceGetCount_v2", (unsigned *), &count);
	if (result != SUCCESS) {
		printf("The number of GPUs cannot be told: %s\n", error_text(result));
		exit(result);
	}
	return count < CARDS ? count : CARDS;
}

static struct card card_at(unsigned index)
{
	struct card card = {index, NULL, SUCCESS};
	card.result = ASK("nvmlDeviceGetHandleByIndex_v2", (unsigned, void **), index, &card.device);
	return card;
}

/* The card that *word* names: its index, UUID or address. */
static int find_card(const char *word, struct card *card)
{
	char *end;
	unsigned long index = strtoul(word, &end, 10);
	if (*word >= '0' && *word <= '9' && !*end) {
		if (index >= count_cards())
			return 0;
		*card = card_at((unsigned)index);
		return 1;
	}
	const char *name = strncmp(word, "GPU-", 4) ? "nvmlDeviceGetHandleByPciBusId_v2" : "nvmlDeviceGetHandleByUUID";
	*card = (struct card){0, NULL, SUCCESS};
	card->result = ASK(name, (const char *, void **), word, &card->device);
	if (card->result == SUCCESS)
		card->result = ASK("nvmlDeviceGetIndex", (void *, unsigned *), card->device, &card->index);
	return card->result == SUCCESS || card->result == GPU_IS_LOST;
}

/* Fill `cards` with those that *words* names, all if it is NULL. */
static void choose_cards(char *words)
{
	char *rest;
	for (char *word = words ? strtok_r(words, ",", &rest) : NULL; word; word = strtok_r(NULL, ",", &rest)) {
		if (card_count == CARDS || !find_card(word, &cards[card_count])) {
			printf("No devices were found: there is no GPU %s here.\n", word);
			exit(NO_SUCH_CARD);
		}
		card_count++;
	}
	if (words)
		return;
	for (unsigned count = count_cards(); card_count < count; card_count++)
		cards[card_count] = card_at(card_count);
	if (!card_count) {
		puts("No devices were found");
		exit(NO_SUCH_CARD);
	}
}

/* 0 for a card that can be asked, otherwise the code, having said why not. */
static int check_card(const struct card *card)
{
	if (card->result != SUCCESS)
		printf("Unable to determine the device handle for GPU %u: %s\n", card->index,
		       error_text(card->result));
	return card->result;
}

/* --- The list ------------------------------------------------------------------------------------------- */

static int list_cards(void)
{
	int worst = SUCCESS;
	for (unsigned i = 0; i < card_count; i++) {
		char name[TEXT] = "", uuid[TEXT] = "";
		void *device = cards[i].device;
		if (check_card(&cards[i]) != SUCCESS) {
			worst = cards[i].result;
			continue;
		}
		ASK("nvmlDeviceGetName", (void *, char *, unsigned), device, name, TEXT);
		ASK("nvmlDeviceGetUUID", (void *, char *, unsigned), device, uuid, TEXT);
		printf("GPU %u: %s (UUID: %s)\n", cards[i].index, name, uuid);
		unsigned most = 0;
		ASK("nvmlDeviceGetMaxMigDeviceCount", (void *, unsigned *), device, &most);
		for (unsigned j = 0; j < most; j++) {
			void *slice;
			if (ASK("nvmlDeviceGetMigDeviceHandleByIndex", (void *, unsigned, void **), device, j, &slice))
				continue;
			ASK("nvmlDeviceGetName", (void *, char *, unsigned), slice, name, TEXT);
			ASK("nvmlDeviceGetUUID", (void *, char *, unsigned), slice, uuid, TEXT);
			const char *profile = strstr(name, " MIG ");
			printf("  MIG %-12s Device %2u: (UUID: %s)\n", profile ? profile + 5 : "", j, uuid);
		}
	}
	return worst;
}

/* --- One fact of a card, as text ------------------------------------------------------------------------ */

static int tell_number(const char *name, void *device, uint64_t *value)
{
	unsigned number = 0;
	int result = ASK(name, (void *, unsigned *), device, &number);
	*value = number;
	return result;
}

static int tell_name(const struct card *card, char *text)
{
	return ASK("nvmlDeviceGetName", (void *, char *, unsigned), card->device, text, TEXT);
}

static int tell_uuid(const struct card *card, char *text)
{
	return ASK("nvmlDeviceGetUUID", (void *, char *, unsigned), card->device, text, TEXT);
}

static int tell_serial(const struct card *card, char *text)
{
	return ASK("nvmlDeviceGetSerial", (void *, char *, unsigned), card->device, text, TEXT);
}

static int tell_driver(const struct card *card, char *text)
{
	(void)card;
	return ASK("nvmlSystemGetDriverVersion", (char *, unsigned), text, TEXT);
}

static int tell_index(const struct card *card, char *text)
{
	snprintf(text, TEXT, "%u", card->index);
	return SUCCESS;
}

static int tell_count(const struct card *card, char *text)
{
	(void)card;
	snprintf(text, TEXT, "%u", count_cards());
	return SUCCESS;
}

static int tell_bus(const struct card *card, char *text)
{
	struct pci pci = {.bus_id = ""};
	int result = ASK("nvmlDeviceGetPciInfo_v3", (void *, struct pci *), card->device, &pci);
	snprintf(text, TEXT, "%s", pci.bus_id);
	return result;
}

static int tell_compute(const struct card *card, char *text)
{
	int major = 0, minor = 0;
	int result = ASK("nvmlDeviceGetCudaComputeCapability", (void *, int *, int *), card->device, &major, &minor);
	snprintf(text, TEXT, "%d.%d", major, minor);
	return result;
}

static int tell_mib(const struct card *card, char *text, int which)
{
	struct memory memory = {0, 0, 0};
	int result = ASK("nvmlDeviceGetMemoryInfo", (void *, struct memory *), card->device, &memory);
	uint64_t bytes = which == 0 ? memory.total : which == 1 ? memory.used : memory.free;
	snprintf(text, TEXT, "%llu", (unsigned long long)(bytes >> 20));
	return result;
}

static int tell_total(const struct card *card, char *text)
{
	return tell_mib(card, text, 0);
}

static int tell_used(const struct card *card, char *text)
{
	return tell_mib(card, text, 1);
}

static int tell_free(const struct card *card, char *text)
{
	return tell_mib(card, text, 2);
}

static int tell_rate(const struct card *card, char *text, int memory)
{
	struct utilization rates = {0, 0};
	int result = ASK("nvmlDeviceGetUtilizationRates", (void *, struct utilization *), card->device, &rates);
	snprintf(text, TEXT, "%u", memory ? rates.memory : rates.gpu);
	return result;
}

static int tell_utilization(const struct card *card, char *text)
{
	return tell_rate(card, text, 0);
}

static int tell_memory_utilization(const struct card *card, char *text)
{
	return tell_rate(card, text, 1);
}

static int tell_temperature(const struct card *card, char *text)
{
	unsigned degrees = 0;
	int result = ASK("nvmlDeviceGetTemperature", (void *, int, unsigned *), card->device, 0, &degrees);
	snprintf(text, TEXT, "%u", degrees);
	return result;
}

/* Watts with two decimals, from milliwatts. */
static int tell_watts(const char *name, const struct card *card, char *text)
{
	uint64_t milliwatts;
	int result = tell_number(name, card->device, &milliwatts);
	snprintf(text, TEXT, "%.2f", (double)milliwatts / 1000);
	return result;
}

static int tell_power(const struct card *card, char *text)
{
	return tell_watts("nvmlDeviceGetPowerUsage", card, text);
}

static int tell_power_limit(const struct card *card, char *text)
{
	return tell_watts("nvmlDeviceGetEnforcedPowerLimit", card, text);
}

static int tell_fan(const struct card *card, char *text)
{
	uint64_t speed;
	int result = tell_number("nvmlDeviceGetFanSpeed", card->device, &speed);
	snprintf(text, TEXT, "%llu", (unsigned long long)speed);
	return result;
}

static int tell_state(const struct card *card, char *text)
{
	uint64_t state;
	int result = tell_number("nvmlDeviceGetPerformanceState", card->device, &state);
	snprintf(text, TEXT, "P%llu", (unsigned long long)state);
	return result;
}

static int tell_mig(const struct card *card, char *text)
{
	unsigned current = 0, pending;
	int result = ASK("nvmlDeviceGetMigMode", (void *, unsigned *, unsigned *), card->device, &current, &pending);
	strcpy(text, current ? "Enabled" : "Disabled");
	return result;
}

static int tell_persistence(const struct card *card, char *text)
{
	uint64_t mode;
	int result = tell_number("nvmlDeviceGetPersistenceMode", card->device, &mode);
	strcpy(text, mode ? "Enabled" : "Disabled");
	return result;
}

static int tell_errors(const struct card *card, char *text)
{
	uint64_t errors = 0;
	int result = ASK("nvmlDeviceGetTotalEccErrors", (void *, int, int, uint64_t *), card->device, 1, 0, &errors);
	snprintf(text, TEXT, "%llu", (unsigned long long)errors);
	return result;
}

/* What a query shows: *unit* behind what was told, or in brackets why nothing was. */
static void show(const struct card *card, int (*tell)(const struct card *, char *), const char *unit, char *text)
{
	char told[TEXT] = "";
	int result = card->result == SUCCESS ? tell(card, told) : card->result;
	if (result == SUCCESS)
		snprintf(text, TEXT, "%.100s%s", told, unit);
	else
		snprintf(text, TEXT, "[%.100s]", result == NOT_SUPPORTED ? "N/A" : error_text(result));
}

/* --- The table ------------------------------------------------------------------------------------------ */

#define LINE "+-----------------------------------------+------------------------+----------------------+\n"
#define WIDE "+-----------------------------------------------------------------------------------------+\n"
#define BOLD "|=========================================+========================+======================|\n"

static struct process processes[CARDS][2 * CARDS];

/* The processes on *card*, in `processes[number]`. */
static unsigned read_processes(const struct card *card, unsigned number)
{
	unsigned room = sizeof processes[number] / sizeof *processes[number];
	if (card->result != SUCCESS)
		return 0;
	int result = ASK("nvmlDeviceGetComputeRunningProcesses_v3", (void *, unsigned *, struct process *),
			 card->device, &room, processes[number]);
	return result == SUCCESS ? room : 0;
}

static void process_name(uint32_t pid, char *name)
{
	if (ASK("nvmlSystemGetProcessName", (unsigned, char *, unsigned), pid, name, TEXT) != SUCCESS)
		strcpy(name, "[Not Found]");
}

/* What a cell of the table shows: *unit* behind what was told. */
static void fill_cell(const struct card *card, int (*tell)(const struct card *, char *), const char *unit,
		      char *text)
{
	char told[TEXT] = "";
	int result = card->result == SUCCESS ? tell(card, told) : card->result;
	if (result == SUCCESS)
		snprintf(text, TEXT, "%.100s%s", told, unit);
	else
		strcpy(text, result == NOT_SUPPORTED ? "N/A" : "ERR!");
}

static void print_head(void)
{
	char text[TEXT], driver[TEXT] = "";
	int cuda = 0;
	time_t now = time(NULL);
	struct tm local;
	localtime_r(&now, &local);
	strftime(text, sizeof text, "%a %b %e %H:%M:%S %Y", &local);
	puts(text);
	ASK("nvmlSystemGetDriverVersion", (char *, unsigned), driver, TEXT);
	ASK("nvmlSystemGetCudaDriverVersion_v2", (int *), &cuda);
	snprintf(text, sizeof text, "%d.%d", cuda / 1000, cuda % 1000 / 10);
	printf(WIDE "| NVIDIA-SMI %-13.13s Driver Version: %-15.15s CUDA Version: %-6.6s SIMULATED |\n" LINE, driver,
	       driver, text);
	puts("| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |");
	puts("| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |");
	puts("|                                         |                        |               MIG M. |");
	fputs(BOLD, stdout);
}

static void print_card(const struct card *card)
{
	char name[TEXT], mode[TEXT], bus[TEXT], ecc[TEXT], fan[TEXT], heat[TEXT], perf[TEXT], power[TEXT];
	char limit[TEXT], used[TEXT], total[TEXT], rate[TEXT], mig[TEXT], cell[TEXT];
	show(card, tell_name, "", name);
	fill_cell(card, tell_persistence, "", mode);
	fill_cell(card, tell_bus, "", bus);
	fill_cell(card, tell_errors, "", ecc);
	fill_cell(card, tell_fan, "%", fan);
	fill_cell(card, tell_temperature, "C", heat);
	fill_cell(card, tell_state, "", perf);
	fill_cell(card, tell_power, "W", power);
	fill_cell(card, tell_power_limit, "W", limit);
	fill_cell(card, tell_used, "MiB", used);
	fill_cell(card, tell_total, "MiB", total);
	fill_cell(card, tell_utilization, "%", rate);
	fill_cell(card, tell_mig, "", mig);
	printf("| %3u  %-30.30s %3.3s | %-16.16s   Off | %20.20s |\n", card->index, name,
	       strcmp(mode, "Enabled") ? "Off" : "On", bus, ecc);
	snprintf(cell, sizeof cell, "%.9s / %.8s", power, limit);
	printf("| %-5.5s %4.4s    %-4.4s %20.20s |", fan, heat, perf, cell);
	snprintf(cell, sizeof cell, "%.10s / %.10s", used, total);
	printf(" %22.22s | %8.8s     Default |\n", cell, rate);
	printf("|                                         |                        | %20.20s |\n" LINE, mig);
}

static int print_table(void)
{
	int worst = SUCCESS, found = 0;
	print_head();
	for (unsigned i = 0; i < card_count; i++) {
		if (cards[i].result != SUCCESS)
			worst = cards[i].result;
		print_card(&cards[i]);
	}
	fputs("\n" WIDE, stdout);
	puts("| Processes:                                                                              |");
	puts("|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |");
	puts("|=========================================================================================|");
	for (unsigned i = 0; i < card_count; i++) {
		unsigned count = read_processes(&cards[i], i);
		for (unsigned j = 0; j < count; j++, found = 1) {
			char name[TEXT];
			process_name(processes[i][j].pid, name);
			printf("| %4u   N/A  N/A  %15u      C   %-34.34s %7lluMiB |\n", cards[i].index,
			       processes[i][j].pid, name, (unsigned long long)(processes[i][j].memory >> 20));
		}
	}
	if (!found)
		puts("|  No running processes found                                                             |");
	fputs(WIDE, stdout);
	return worst;
}

/* --- Queries -------------------------------------------------------------------------------------------- */

static const struct field_of_card {
	const char *name, *other, *unit;
	int (*tell)(const struct card *, char *);
} card_fields[] = {
	{"index", "", "", tell_index},
	{"count", "", "", tell_count},
	{"name", "gpu_name", "", tell_name},
	{"uuid", "gpu_uuid", "", tell_uuid},
	{"serial", "gpu_serial", "", tell_serial},
	{"pci.bus_id", "gpu_bus_id", "", tell_bus},
	{"driver_version", "", "", tell_driver},
	{"persistence_mode", "", "", tell_persistence},
	{"compute_cap", "", "", tell_compute},
	{"pstate", "", "", tell_state},
	{"fan.speed", "", "%", tell_fan},
	{"memory.total", "", "MiB", tell_total},
	{"memory.used", "", "MiB", tell_used},
	{"memory.free", "", "MiB", tell_free},
	{"utilization.gpu", "", "%", tell_utilization},
	{"utilization.memory", "", "%", tell_memory_utilization},
	{"temperature.gpu", "", "", tell_temperature},
	{"power.draw", "", "W", tell_power},
	{"power.limit", "enforced.power.limit", "W", tell_power_limit},
	{"mig.mode.current", "", "", tell_mig},
	{"ecc.errors.uncorrected.volatile.total", "", "", tell_errors},
};

enum { GPU_NAME, GPU_BUS, GPU_UUID, PROCESS_PID, PROCESS_NAME, PROCESS_MEMORY };

static const struct {
	const char *name, *other, *unit;
	int what;
} process_fields[] = {
	{"gpu_name", "", "", GPU_NAME},
	{"gpu_bus_id", "", "", GPU_BUS},
	{"gpu_uuid", "", "", GPU_UUID},
	{"pid", "", "", PROCESS_PID},
	{"process_name", "name", "", PROCESS_NAME},
	{"used_gpu_memory", "used_memory", "MiB", PROCESS_MEMORY},
};

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define MOST_FIELDS 32

enum { WITHOUT_HEADER = 1, WITHOUT_UNITS = 2 };

static void usage(FILE *file)
{
	fputs("NVIDIA System Management Interface, for cards that Labdock simulates\n\n"
	      "nvidia-smi [-i ID,...]                                   the table\n"
	      "nvidia-smi [-i ID,...] -L                                the list of GPUs, with MIG slices\n"
	      "nvidia-smi [-i ID,...] --query-gpu=FIELD,... --format=csv[,noheader][,nounits]\n"
	      "nvidia-smi [-i ID,...] --query-compute-apps=FIELD,... --format=csv[,noheader][,nounits]\n"
	      "nvidia-smi --version | -h\n\n"
	      "ID is an index, a UUID or an address on the bus.\n\nFields of GPUs:\n",
	      file);
	for (size_t i = 0; i < LENGTH(card_fields); i++)
		fprintf(file, "  %s\n", card_fields[i].name);
	fputs("Fields of processes:\n", file);
	for (size_t i = 0; i < LENGTH(process_fields); i++)
		fprintf(file, "  %s\n", process_fields[i].name);
}

static void wrong(const char *what, const char *word)
{
	fprintf(stderr, "%s%s. Please run 'nvidia-smi -h' for help.\n", what, word);
	exit(WRONG_USAGE);
}

static int parse_format(char *words)
{
	char *rest;
	int flags = 0, csv = 0;
	for (char *word = strtok_r(words, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		if (!strcmp(word, "csv"))
			csv = 1;
		else if (!strcmp(word, "noheader"))
			flags |= WITHOUT_HEADER;
		else if (!strcmp(word, "nounits"))
			flags |= WITHOUT_UNITS;
		else
			wrong("There is no format ", word);
	}
	if (!csv)
		wrong("The format must be ", "csv");
	return flags;
}

static void print_header(const char *name, const char *unit, int first)
{
	printf("%s%s%s%s%s", first ? "" : ", ", name, *unit ? " [" : "", unit, *unit ? "]" : "");
}

static int query_cards(char *words, int flags)
{
	const struct field_of_card *asked[MOST_FIELDS];
	unsigned count = 0;
	int worst = SUCCESS;
	char *rest;
	for (char *word = strtok_r(words, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		size_t i = 0;
		while (i < LENGTH(card_fields) && strcmp(word, card_fields[i].name) && strcmp(word, card_fields[i].other))
			i++;
		if (i == LENGTH(card_fields) || count == MOST_FIELDS)
			wrong("There is no such field of a GPU, or there are too many: ", word);
		asked[count++] = &card_fields[i];
	}
	for (unsigned i = 0; i < count && !(flags & WITHOUT_HEADER); i++)
		print_header(asked[i]->name, asked[i]->unit, i == 0);
	if (!(flags & WITHOUT_HEADER))
		putchar('\n');
	for (unsigned i = 0; i < card_count; i++) {
		if (cards[i].result != SUCCESS)
			worst = cards[i].result;
		for (unsigned j = 0; j < count; j++) {
			char unit[8], text[TEXT];
			snprintf(unit, sizeof unit, " %s", asked[j]->unit);
			show(&cards[i], asked[j]->tell, !*asked[j]->unit || flags & WITHOUT_UNITS ? "" : unit, text);
			printf("%s%s", j ? ", " : "", text);
		}
		putchar('\n');
	}
	return worst;
}

static void print_process(const struct card *card, const struct process *process, int what, int flags)
{
	char text[TEXT] = "";
	switch (what) {
	case GPU_NAME:
		show(card, tell_name, "", text);
		break;
	case GPU_BUS:
		show(card, tell_bus, "", text);
		break;
	case GPU_UUID:
		show(card, tell_uuid, "", text);
		break;
	case PROCESS_PID:
		snprintf(text, sizeof text, "%u", process->pid);
		break;
	case PROCESS_NAME:
		process_name(process->pid, text);
		break;
	default:
		snprintf(text, sizeof text, "%llu%s", (unsigned long long)(process->memory >> 20),
			 flags & WITHOUT_UNITS ? "" : " MiB");
	}
	fputs(text, stdout);
}

static int query_processes(char *words, int flags)
{
	size_t asked[MOST_FIELDS];
	unsigned count = 0;
	char *rest;
	for (char *word = strtok_r(words, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		size_t i = 0;
		while (i < LENGTH(process_fields) && strcmp(word, process_fields[i].name) &&
		       strcmp(word, process_fields[i].other))
			i++;
		if (i == LENGTH(process_fields) || count == MOST_FIELDS)
			wrong("There is no such field of a process, or there are too many: ", word);
		asked[count++] = i;
	}
	for (unsigned i = 0; i < count && !(flags & WITHOUT_HEADER); i++)
		print_header(process_fields[asked[i]].name, process_fields[asked[i]].unit, i == 0);
	if (!(flags & WITHOUT_HEADER))
		putchar('\n');
	for (unsigned i = 0; i < card_count; i++) {
		unsigned found = read_processes(&cards[i], i);
		for (unsigned j = 0; j < found; j++) {
			for (unsigned k = 0; k < count; k++) {
				fputs(k ? ", " : "", stdout);
				print_process(&cards[i], &processes[i][j], process_fields[asked[k]].what, flags);
			}
			putchar('\n');
		}
	}
	return SUCCESS;
}

static int print_versions(void)
{
	char driver[TEXT] = "";
	int cuda = 0;
	connect_to_driver();
	ASK("nvmlSystemGetDriverVersion", (char *, unsigned), driver, TEXT);
	ASK("nvmlSystemGetCudaDriverVersion_v2", (int *), &cuda);
	printf("NVIDIA-SMI version  : %s (simulated by Labdock)\nNVML version        : %s\n", stamped_version(),
	       driver);
	printf("DRIVER version      : %s\nCUDA Version        : %d.%d\n", driver, cuda / 1000, cuda % 1000 / 10);
	return SUCCESS;
}

/* What stands behind "--name=" in *argument*, NULL if it is another. */
static char *value_of(char *argument, const char *name)
{
	size_t length = strlen(name);
	return strncmp(argument, name, length) ? NULL : argument + length;
}

int main(int argc, char **argv)
{
	char *ids = NULL, *of_cards = NULL, *of_processes = NULL, *format = NULL, *value;
	int list = 0;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help")) {
			usage(stdout);
			return SUCCESS;
		}
		if (!strcmp(argv[i], "--version"))
			return print_versions();
		if (!strcmp(argv[i], "-L") || !strcmp(argv[i], "--list-gpus"))
			list = 1;
		else if (!strcmp(argv[i], "-i") && i + 1 < argc)
			ids = argv[++i];
		else if ((value = value_of(argv[i], "--id=")))
			ids = value;
		else if ((value = value_of(argv[i], "--query-gpu=")))
			of_cards = value;
		else if ((value = value_of(argv[i], "--query-compute-apps=")))
			of_processes = value;
		else if ((value = value_of(argv[i], "--format=")))
			format = value;
		else
			wrong("Invalid combination of input arguments: ", argv[i]);
	}
	if (list + !!of_cards + !!of_processes > 1)
		wrong("Only one can be asked for: a list, GPUs or processes", "");
	if (!(of_cards || of_processes) != !format)
		wrong("--format=csv goes with a query, and a query with it", "");
	int flags = format ? parse_format(format) : 0;
	connect_to_driver();
	choose_cards(ids);
	return list           ? list_cards()
	       : of_cards     ? query_cards(of_cards, flags)
	       : of_processes ? query_processes(of_processes, flags)
			      : print_table();
}
