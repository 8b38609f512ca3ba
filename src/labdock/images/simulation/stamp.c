#include "stamp.h"

#define MARK "LABDOCK SIMULATED DRIVER VERSION "
#define ROOM 32

/* volatile: what the compiler sees here is not what the file will hold. */
static const volatile char stamp[sizeof MARK + ROOM] = MARK;

const char *stamped_version(void)
{
	return (const char *)&stamp[sizeof MARK - 1];
}
