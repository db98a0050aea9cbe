/* What tests of every layer need: cmocka with the headers it wants, a directory to write in, files to put
 * there. */
#ifndef ESP_TESTS_SCRATCH_H
#define ESP_TESTS_SCRATCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* A new empty directory under $TMPDIR or /tmp; the string is valid until scratch_remove. */
char *scratch_make(void);

/* Removes the directory with all it holds, and frees the string. */
void scratch_remove(char *take_directory);

/* "directory/name" in one of eight buffers used in turn. */
const char *scratch_path(const char *directory, const char *name);

/* Writes and reads whole files with the C library alone. The read one is followed by a zero byte (free()). */
void scratch_write(const char *path, const void *data, size_t size);
char *scratch_read(const char *path, size_t *out_size);

/* Number of entries in a directory, those that begin with a dot included. */
int scratch_count(const char *directory);

/* The directory with the models and data that are not part of the project ($ESPALIER_SHARED, else ../shared
 * beside the source), or NULL, after a line that says so, when there is none: then the test should skip(). */
const char *shared_directory(void);

#endif
