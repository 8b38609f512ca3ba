/* Every function of nvml.h exists: those without a meaning here are not supported, once NVML is up.
 *
 * They are weak, so that one in nvml.c takes the place of its stub. What arguments they are called with
 * does not matter: on the processors this is built for the caller clears them away.
 */
#include "abi.h"

int is_up(void);

#define STUB(name)                                                                                     \
	__attribute__((weak, visibility("default"))) int name(void);                                  \
	int name(void)                                                                                \
	{                                                                                             \
		return is_up() ? NOT_SUPPORTED : UNINITIALIZED;                                       \
	}
#include "stubs.list"
