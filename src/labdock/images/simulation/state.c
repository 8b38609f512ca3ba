#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_FOLDER "/run/nvidia-simulated"
#define LARGEST (1 << 18)

const char *state_folder(void)
{
	const char *folder = getenv("LABDOCK_SIMULATED_STATE");
	return folder && *folder ? folder : DEFAULT_FOLDER;
}

/* Whether there is nothing in *text* but lines of ASCII: callers of NVML cannot take other names. */
static int is_plain(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (text[i] != '\n' && (text[i] < ' ' || text[i] > '~'))
			return 0;
	return 1;
}

/* The file's text with a zero behind it, to be freed; NULL with errno when there is none to be had. */
static char *read_text(const char *name)
{
	char path[4096];
	int length = snprintf(path, sizeof path, "%s/%s", state_folder(), name);
	if (length < 0 || (size_t)length >= sizeof path) {
		errno = ENOENT;
		return NULL;
	}
	int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file < 0)
		return NULL;
	char *text = malloc(LARGEST + 1);
	size_t have = 0;
	while (text && have <= LARGEST) {
		ssize_t more = read(file, text + have, LARGEST + 1 - have);
		if (more < 0 && errno == EINTR)
			continue;
		if (more <= 0)
			break;
		have += (size_t)more;
	}
	close(file);
	if (text && (have > LARGEST || !is_plain(text, have))) {
		free(text);
		text = NULL;
		errno = EINVAL;
	}
	if (text)
		text[have] = 0;
	return text;
}

/* A whole number; nothing else, and nothing that does not fit. */
static int parse_number(const char *word, uint64_t *number)
{
	char *end;
	if (*word < '0' || *word > '9')
		return 0;
	errno = 0;
	unsigned long long value = strtoull(word, &end, 10);
	if (*end || errno)
		return 0;
	*number = value;
	return 1;
}

static int parse_pair(const char *word, uint64_t *major, uint64_t *minor)
{
	char first[TEXT];
	const char *dot = strchr(word, '.');
	if (!dot || (size_t)(dot - word) >= sizeof first)
		return 0;
	memcpy(first, word, (size_t)(dot - word));
	first[dot - word] = 0;
	return parse_number(first, major) && parse_number(dot + 1, minor);
}

static int parse_word(const char *word, char *text)
{
	size_t length = strlen(word);
	if (length >= TEXT)
		return 0;
	memcpy(text, word, length + 1);
	return 1;
}

/* "pid:bytes,pid:bytes" */
static int parse_processes(char *text, struct card *card)
{
	char *rest;
	for (char *word = strtok_r(text, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		uint64_t pid, memory;
		char *colon = strchr(word, ':');
		if (!colon || card->processes == PROCESSES)
			return 0;
		*colon = 0;
		if (!parse_number(word, &pid) || pid > UINT32_MAX || !parse_number(colon + 1, &memory))
			return 0;
		card->pid[card->processes] = (uint32_t)pid;
		card->pid_memory[card->processes++] = memory;
	}
	return 1;
}

static int set_machine(struct machine *machine, const char *key, const char *word)
{
	if (!strcmp(key, "module"))
		return parse_word(word, machine->module);
	if (!strcmp(key, "fault"))
		return parse_word(word, machine->fault);
	if (!strcmp(key, "cuda"))
		return parse_pair(word, &machine->cuda_major, &machine->cuda_minor);
	return 1;
}

static int set_card(struct card *card, const char *key, char *word, int held)
{
	const struct {
		const char *key;
		struct measure *measure;
	} measures[] = {
		{"utilization", &card->utilization}, {"memory_utilization", &card->memory_utilization},
		{"memory_used", &card->memory_used}, {"temperature", &card->temperature},
		{"power", &card->power},             {"fan", &card->fan},
		{"energy", &card->energy},
	};
	for (size_t i = 0; i < sizeof measures / sizeof *measures; i++)
		if (!strcmp(key, measures[i].key)) {
			struct measure *measure = measures[i].measure;
			uint64_t value;
			if (!parse_number(word, &value))
				return 0;
			if (held || !measure->held)
				*measure = (struct measure){value, held};
			return 1;
		}
	if (!held)
		return 1;
	const struct {
		const char *key;
		uint64_t *number;
	} numbers[] = {
		{"memory", &card->memory},         {"power_limit", &card->power_limit},
		{"clock", &card->clock},           {"memory_clock", &card->memory_clock},
		{"processors", &card->processors}, {"architecture", &card->architecture},
		{"pci_id", &card->pci_id},         {"mig_most", &card->mig_most},
		{"has_fan", &card->has_fan},
	};
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		if (!strcmp(key, numbers[i].key))
			return parse_number(word, numbers[i].number);
	const struct {
		const char *key;
		char *text;
	} texts[] = {
		{"name", card->name},     {"uuid", card->uuid},   {"bus", card->bus},
		{"serial", card->serial}, {"fault", card->fault},
	};
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (!strcmp(key, texts[i].key))
			return parse_word(word, texts[i].text);
	if (!strcmp(key, "compute"))
		return parse_pair(word, &card->compute_major, &card->compute_minor);
	if (!strcmp(key, "mig"))
		card->mig = strcmp(word, "off") != 0;
	if (!strcmp(key, "processes"))
		return parse_processes(word, card);
	return 1;
}

static int set_slice(struct slice *slice, const char *key, const char *word)
{
	const struct {
		const char *key;
		uint64_t *number;
	} numbers[] = {
		{"memory", &slice->memory},
		{"gpu_instance", &slice->gpu_instance},
		{"compute_instance", &slice->compute_instance},
		{"processors", &slice->processors},
		{"slices", &slice->slices},
		{"gpu_capability", &slice->gpu_capability},
		{"compute_capability", &slice->compute_capability},
	};
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		if (!strcmp(key, numbers[i].key))
			return parse_number(word, numbers[i].number);
	if (!strcmp(key, "uuid"))
		return parse_word(word, slice->uuid);
	if (!strcmp(key, "profile"))
		return parse_word(word, slice->profile);
	return 1;
}

/* Lines "[machine]", "[card N]", "[slice N I]" and "key = value"; the load has only cards' measures. */
static int parse(char *text, struct machine *machine, int load)
{
	char *rest;
	struct card *card = NULL;
	struct slice *slice = NULL;
	int in_machine = 0;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		unsigned number, index;
		char end, end2;
		if (*line == '[') {
			card = NULL;
			slice = NULL;
			in_machine = !load && !strcmp(line, "[machine]");
			if (in_machine)
				continue;
			if (sscanf(line, "[card %2u%c%c", &number, &end, &end2) == 2 && end == ']') {
				if (number >= CARDS)
					return 0;
				if (!load)
					machine->card[number].there = 1;
				else if (!machine->card[number].there)
					continue; /* written before the card was taken out */
				card = &machine->card[number];
			} else if (sscanf(line, "[slice %2u %2u%c%c", &number, &index, &end, &end2) == 3 &&
				   end == ']' && !load) {
				if (number >= CARDS || index >= SLICES)
					return 0;
				slice = &machine->card[number].slice[index];
				machine->card[number].slice_there[index] = 1;
			} else {
				return 0;
			}
			continue;
		}
		char *equals = strchr(line, '=');
		if (!equals || equals == line)
			return 0;
		char *word = equals + 1 + (equals[1] == ' ');
		equals[equals[-1] == ' ' ? -1 : 0] = 0;
		if (in_machine ? !set_machine(machine, line, word)
			       : card ? !set_card(card, line, word, !load)
				      : slice && !set_slice(slice, line, word))
			return 0;
	}
	return 1;
}

/* Whether everything is there that a driver cannot be without; measures are brought within reason. */
static int check(struct machine *machine)
{
	if (!*machine->module || machine->cuda_major > 1000 || machine->cuda_minor > 99)
		return 0;
	for (int i = 0; i < CARDS; i++) {
		struct card *card = &machine->card[i];
		unsigned domain, bus, device, function;
		if (!card->there)
			continue;
		if (!*card->name || !*card->uuid || !card->memory || card->memory > UINT64_C(1) << 50 ||
		    sscanf(card->bus, "%4x:%2x:%2x.%1x", &domain, &bus, &device, &function) != 4)
			return 0;
		struct measure *percents[] = {&card->utilization, &card->memory_utilization, &card->fan};
		for (size_t j = 0; j < sizeof percents / sizeof *percents; j++)
			if (percents[j]->value > 100)
				percents[j]->value = 100;
		if (card->memory_used.value > card->memory)
			card->memory_used.value = card->memory;
		if (card->temperature.value > 150)
			card->temperature.value = 150;
		if (card->power.value > UINT32_MAX)
			card->power.value = UINT32_MAX;
		for (int j = 0; j < SLICES; j++)
			if (card->slice_there[j] && (!*card->slice[j].uuid || !card->slice[j].memory))
				return 0;
	}
	return 1;
}

int read_state(struct machine *machine)
{
	memset(machine, 0, sizeof *machine);
	char *text = read_text("machine");
	if (!text)
		return errno == ENOENT || errno == ENOTDIR ? STATE_MISSING : STATE_DAMAGED;
	int good = parse(text, machine, 0);
	free(text);
	/* Without a load the cards are as cold as they come: nothing there to read is no damage. */
	text = good ? read_text("load") : NULL;
	if (text) {
		good = parse(text, machine, 1);
		free(text);
	}
	return good && check(machine) ? STATE_READ : STATE_DAMAGED;
}
