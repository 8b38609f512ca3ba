/* The driver's version, written into the file when it is laid out. */
#ifndef LABDOCK_STAMP_H
#define LABDOCK_STAMP_H
const char *stamped_version(void);
#endif
