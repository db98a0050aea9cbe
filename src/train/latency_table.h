/* How long a layer takes on this machine at widths it does not have yet: measured once, kept in a file.
 *
 * The file is JSON: {"version": 1, "machines": {MACHINE: {LAYER: seconds, ...}, ...}}. MACHINE names the
 * program's version, the processor, what the kernels may use and the number of threads; LAYER the geometry
 * ("conv 1x64x56x56 f64 k3x3 s1x1 d1x1 p1,1,1,1 g1"), with " groups16 read4/8" behind it for a self-grouped
 * layer. Times of other machines in the file are kept. A file that cannot be read as such counts as empty: it
 * is a cache. */
#ifndef ESP_TRAIN_LATENCY_TABLE_H
#define ESP_TRAIN_LATENCY_TABLE_H

#include "base/compute.h"
#include "tensor/conv.h"

/* Steps in which the share of channels that a group reads is measured. */
enum { ESP_LATENCY_READ_STEPS = 8 };

/* One layer at one width. */
typedef struct esp_latency_case {
    esp_conv_geometry geometry; /* a fully connected layer is a 1x1 convolution of an image of one pixel */
    int64_t groups; /* 0: dense. Otherwise its filters fall into so many groups, as equal as can be, that each
                       read `read` of ESP_LATENCY_READ_STEPS parts of the channels, evenly spread: what
                       self-grouping makes. The faster of the grouped and the dense form counts */
    int64_t read;
} esp_latency_case;

typedef struct esp_latency_table esp_latency_table;

/* "$XDG_CACHE_HOME/espalier/latency.json", or below ~/.cache; a new string (esp_free). ESP_IO when neither
 * variable is set. */
esp_status esp_latency_table_path(char **out, esp_error *err);

/* What is known of this machine at the thread count of `compute`. `path` NULL: nothing is read or kept. The
 * file need not exist. `compute` is borrowed for the table's life. */
esp_status esp_latency_table_open(const esp_compute *compute, const char *path, esp_latency_table **out,
                                  esp_error *err);
void esp_latency_table_free(esp_latency_table *table); /* NULL is allowed; saves nothing */

/* Median seconds of a forward pass, from the table or measured now (some runs with the kernels that the
 * engine prefers, see dense_form.h; short layers on one thread too, if that is faster). ESP_INVALID for a
 * geometry that is none; ESP_CANCELLED. */
esp_status esp_latency_table_seconds(esp_latency_table *table, const esp_latency_case *item, double *out,
                                     esp_error *err);

/* Adds what was measured to the file, whatever other processes have added since, atomically; makes its
 * directory. Does nothing when nothing was measured. */
esp_status esp_latency_table_save(esp_latency_table *table, esp_error *err);

const char *esp_latency_table_machine(const esp_latency_table *table);
int64_t esp_latency_table_known(const esp_latency_table *table);    /* times in it */
int64_t esp_latency_table_measured(const esp_latency_table *table); /* of them measured since it was opened */

/* The next width at which layers are measured: a multiple of 4 up to 64, of 8 up to 256, of 16 above, and
 * never more than `full`: a layer of 57 filters takes as long as one of 60, because kernels work on whole
 * vectors. */
int64_t esp_latency_width(int64_t width, int64_t full);

#endif
