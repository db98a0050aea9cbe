/* Files for readers that take a directory: one scratch directory per process, rewritten by every input. */
#ifndef ESP_TESTS_FUZZ_SCRATCH_FILES_H
#define ESP_TESTS_FUZZ_SCRATCH_FILES_H

#include <stddef.h>
#include <stdint.h>

/* The directory, made on first use and removed at exit; aborts when it cannot be. */
const char *fuzz_directory(void);

/* (Over)writes `name` in it. */
void fuzz_write(const char *name, const void *data, size_t size);

#endif
