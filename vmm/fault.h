/*
 * Copying from or to memory whose page may not be to be had: guest RAM that is
 * a mapped file raises SIGBUS where the file has become shorter, its disk
 * fails, or the file system is full. Such a copy ends with -EFAULT, not with
 * the process.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Installs the SIGBUS handler. Once, before any thread starts. 0 or a negative errno. */
int fault_install(void);

/* memcpy that survives SIGBUS on either side. Any thread. 0 or -EFAULT. */
int fault_copy(void *to, const void *from, size_t n);

/*
 * An aligned load or store of 16 bits, whole and in order with all other
 * accesses of this thread, that survives SIGBUS. Any thread. 0 or -EFAULT.
 */
int fault_load16(const uint16_t *from, uint16_t *value);
int fault_store16(uint16_t *to, uint16_t value);

/* Where this thread's last one of the -EFAULTs above was; forgotten with that. NULL: none. */
const void *fault_take_address(void);
