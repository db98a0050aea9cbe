/* Times are measured when they are first asked for: a search by bisection asks for few of the widths there
 * are. The JSON object of the machine is the table itself, keyed by the text of the geometry, so that file
 * and memory cannot differ. */
#include "train/latency_table.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/paths.h"
#include "base/text.h"
#include "tensor/arrange.h"
#include "tensor/engine.h"
#include "tensor/group_conv.h"
#include "train/dense_form.h"
#include "train/latency.h"

enum { TABLE_VERSION = 1, REPEATS = 7 };

struct esp_latency_table {
    const esp_compute *compute;
    char *path; /* NULL: kept nowhere */
    char *machine;
    json_t *times; /* of this machine */
    int64_t measured;
};

/* ---- where, and on what ---- */

esp_status esp_latency_table_path(char **out, esp_error *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    esp_text text = {0};

    *out = NULL;
    if (cache && cache[0] == '/')
        esp_text_printf(&text, "%s/espalier/latency.json", cache);
    else if (home && home[0])
        esp_text_printf(&text, "%s/.cache/espalier/latency.json", home);
    else
        return esp_fail(err, ESP_IO, "latency table: neither XDG_CACHE_HOME nor HOME says where to keep it");
    *out = esp_text_take(&text);
    return *out ? ESP_OK : esp_fail_memory(err, "a path", 0);
}

/* Appends the value of the first line "name : value" of /proc/cpuinfo, if there is one. */
static bool append_cpu_fact(esp_text *text, const char *cpuinfo, const char *name, const char *before)
{
    size_t length = strlen(name);

    for (const char *line = cpuinfo; line && *line;
         line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        const char *colon = strchr(line, ':'), *end = strchr(line, '\n');
        const char *after = line + length;
        if (strncmp(line, name, length) != 0 || !colon || !end || colon > end)
            continue;
        while (after < colon && (*after == ' ' || *after == '\t'))
            after++;
        if (after != colon)
            continue;
        colon += colon[1] == ' ' ? 2 : 1;
        esp_text_append(text, before);
        esp_text_append_n(text, colon, (size_t)(end - colon));
        return true;
    }
    return false;
}

static void append_processor(esp_text *text)
{
    char *cpuinfo = NULL;
    size_t size = 0;
    struct utsname system;
    bool has_name = false;

    if (esp_file_read("/proc/cpuinfo", &cpuinfo, &size, NULL) == ESP_OK) {
        has_name = append_cpu_fact(text, cpuinfo, "model name", "");
        append_cpu_fact(text, cpuinfo, "cpu family", " family ");
        append_cpu_fact(text, cpuinfo, "model", " model ");
    }
    esp_free(cpuinfo);
    if (!has_name && uname(&system) == 0)
        esp_text_append(text, system.machine);
}

static char *name_machine(const esp_compute *compute)
{
    const esp_engine *engine = esp_engine_default();
    esp_text text = {0};

    esp_text_printf(&text, "espalier %s, ", esp_version());
    append_processor(&text);
    esp_text_printf(&text, ", %s%s%s, %d threads", esp_isa_name(engine->isa),
                    engine->has_winograd ? " winograd" : "", engine->has_blocked ? " blocked" : "",
                    esp_compute_slots(compute));
    return esp_text_take(&text);
}

/* ---- the file ---- */

/* The file's object of machines, a new reference; an empty one when the file is none of ours. */
static json_t *read_machines(const char *path)
{
    json_t *root = NULL, *machines = NULL;

    if (path && esp_file_exists(path) && esp_json_load(path, &root, NULL) == ESP_OK &&
        json_integer_value(json_object_get(root, "version")) == TABLE_VERSION)
        machines = json_incref(json_object_get(root, "machines"));
    json_decref(root);
    if (machines && !json_is_object(machines)) {
        json_decref(machines);
        machines = NULL;
    }
    return machines ? machines : json_object();
}

static esp_status open_table(const esp_compute *compute, const char *path, esp_latency_table *table)
{
    json_t *machines;

    table->compute = compute;
    table->path = esp_strdup(path);
    table->machine = name_machine(compute);
    if ((path && !table->path) || !table->machine)
        return ESP_NO_MEMORY;
    machines = read_machines(path);
    table->times = json_incref(json_object_get(machines, table->machine));
    json_decref(machines);
    if (!json_is_object(table->times)) {
        json_decref(table->times);
        table->times = json_object();
    }
    return table->times ? ESP_OK : ESP_NO_MEMORY;
}

esp_status esp_latency_table_open(const esp_compute *compute, const char *path, esp_latency_table **out,
                                  esp_error *err)
{
    esp_latency_table *table = esp_alloc_zero(1, sizeof *table);

    *out = NULL;
    if (!table || open_table(compute, path, table) != ESP_OK) {
        esp_latency_table_free(table);
        return esp_fail_memory(err, "a latency table", sizeof *table);
    }
    *out = table;
    return ESP_OK;
}

void esp_latency_table_free(esp_latency_table *table)
{
    if (!table)
        return;
    json_decref(table->times);
    esp_free(table->machine);
    esp_free(table->path);
    esp_free(table);
}

static esp_status make_directory_of(const char *path, esp_error *err)
{
    char *directory = esp_path_directory(path);
    esp_status status =
        directory ? esp_directory_make(directory, err) : esp_fail_memory(err, "a path", strlen(path));

    esp_free(directory);
    return status;
}

esp_status esp_latency_table_save(esp_latency_table *table, esp_error *err)
{
    json_t *machines, *known, *root = NULL;
    esp_status status;

    if (!table->path || !table->measured)
        return ESP_OK;
    status = make_directory_of(table->path, err);
    if (status != ESP_OK)
        return status;
    machines = read_machines(table->path);
    known = json_object_get(machines, table->machine);
    if (json_is_object(known))
        json_object_update_missing(table->times, known);
    if (machines && json_object_set(machines, table->machine, table->times) == 0)
        root = json_pack("{s:i, s:O}", "version", TABLE_VERSION, "machines", machines);
    status = root ? esp_json_save(root, table->path, err) : esp_fail_memory(err, "a latency table", 0);
    json_decref(root);
    json_decref(machines);
    return status;
}

const char *esp_latency_table_machine(const esp_latency_table *table)
{
    return table->machine;
}

int64_t esp_latency_table_known(const esp_latency_table *table)
{
    return (int64_t)json_object_size(table->times);
}

int64_t esp_latency_table_measured(const esp_latency_table *table)
{
    return table->measured;
}

/* ---- measuring ---- */

int64_t esp_latency_width(int64_t width, int64_t full)
{
    int64_t step = width <= 64 ? 4 : width <= 256 ? 8 : 16;
    int64_t up = (width + step - 1) / step * step;

    return up < full ? up : full;
}

/* A self-grouped layer on plain images, made up. */
typedef struct grouped_form {
    const esp_compute *compute;
    const esp_latency_case *item;
    esp_filter_group *groups;
    int64_t *channels; /* [groups, read channels] */
    float *w;          /* of the largest group: all read the same numbers */
    esp_group_conv *plan;
    esp_view x, y;
    void *packed, *scratch;
} grouped_form;

static int64_t channels_read(const esp_latency_case *item)
{
    int64_t read = item->geometry.channels * item->read / ESP_LATENCY_READ_STEPS;

    return read > 0 ? read : 1;
}

/* `read` channels evenly spread, each group's shifted by one, ascending. */
static void spread_channels(int64_t channels, int64_t read, int64_t shift, int64_t *out)
{
    int64_t wrapped = 0;

    while (wrapped < read && (read - 1 - wrapped) * channels / read + shift % channels >= channels)
        wrapped++;
    for (int64_t i = 0; i < read; i++) {
        int64_t from = (i + read - wrapped) % read;
        out[i] = (from * channels / read + shift) % channels;
    }
}

static float *filled(int64_t count)
{
    float *values = esp_alloc((size_t)count, sizeof *values);

    if (values)
        esp_fill_f32(values, count, 0.01f);
    return values;
}

static esp_status make_groups(grouped_form *it, esp_error *err)
{
    const esp_conv_geometry *g = &it->item->geometry;
    int64_t count = it->item->groups, read = channels_read(it->item);
    int64_t largest = (g->filters + count - 1) / count;

    it->groups = esp_alloc_zero((size_t)count, sizeof *it->groups);
    it->channels = esp_alloc((size_t)(count * read), sizeof *it->channels);
    it->w = filled(largest * read * g->kernel_h * g->kernel_w);
    if (!it->groups || !it->channels || !it->w)
        return esp_fail_memory(err, "a layer's groups", (size_t)(count * read) * sizeof *it->channels);
    for (int64_t i = 0; i < count; i++) {
        int64_t *channels = it->channels + i * read;
        spread_channels(g->channels, read, i, channels);
        it->groups[i] = (esp_filter_group){.filters = g->filters / count + (i < g->filters % count),
                                           .channel_count = read,
                                           .channels = channels,
                                           .w = it->w};
    }
    return ESP_OK;
}

static esp_status make_images(grouped_form *it, esp_error *err)
{
    const esp_conv_geometry *g = &it->item->geometry;
    int slots = esp_compute_slots(it->compute);

    it->x = (esp_view){.dtype = ESP_F32,
                       .shape = {.rank = 4, .dims = {g->batch, g->channels, g->height, g->width}}};
    it->y = (esp_view){.dtype = ESP_F32,
                       .shape = {.rank = 4, .dims = {g->batch, g->filters, g->out_height, g->out_width}}};
    it->x.layout = esp_group_conv_x_layout(it->plan);
    it->y.layout = esp_group_conv_y_layout(it->plan);
    it->x.data = filled(esp_view_storage(&it->x));
    it->y.data = filled(esp_view_storage(&it->y));
    it->packed = esp_alloc(esp_group_conv_packed_bytes(it->plan), 1);
    it->scratch = esp_alloc(esp_group_conv_scratch(it->plan, slots), 1);
    if (!it->x.data || !it->y.data || !it->packed || !it->scratch)
        return esp_fail_memory(err, "a layer's grouped form", esp_group_conv_packed_bytes(it->plan));
    return ESP_OK;
}

static esp_status time_grouped(grouped_form *it, double *out)
{
    double seconds[REPEATS];
    esp_status status = esp_group_conv_pack(it->compute, it->plan, it->groups, it->packed);

    for (int i = -1; status == ESP_OK && i < REPEATS; i++) { /* the first warms up */
        double start = esp_clock_s();
        status = esp_group_conv_run(it->compute, it->plan, &it->x, it->packed, NULL, &it->y, it->scratch);
        seconds[i < 0 ? 0 : i] = esp_clock_s() - start;
    }
    if (status == ESP_OK)
        *out = esp_median(seconds, REPEATS);
    return status;
}

/* Infinite where the layer has no grouped form. */
static esp_status grouped_seconds(const esp_compute *compute, const esp_latency_case *item, double *out,
                                  esp_error *err)
{
    grouped_form it = {.compute = compute, .item = item};
    esp_status status = make_groups(&it, err);
    double seconds = INFINITY;

    if (status == ESP_OK && esp_group_conv_plan(esp_engine_default(), &item->geometry, it.groups,
                                                item->groups, NULL, &it.plan, NULL) == ESP_OK) {
        status = make_images(&it, err);
        if (status == ESP_OK && (status = time_grouped(&it, &seconds)) != ESP_OK)
            esp_fail(err, status, status == ESP_CANCELLED ? "cancelled" : "running a grouped layer failed");
    }
    if (status == ESP_OK)
        *out = seconds;
    esp_group_conv_free(it.plan);
    esp_free(it.x.data);
    esp_free(it.y.data);
    esp_free(it.packed);
    esp_free(it.scratch);
    esp_free(it.w);
    esp_free(it.channels);
    esp_free(it.groups);
    return status;
}

static void name_case(const esp_latency_case *item, char *key, size_t size)
{
    const esp_conv_geometry *g = &item->geometry;
    int length = snprintf(
        key, size,
        "conv %lldx%lldx%lldx%lld f%lld k%lldx%lld s%lldx%lld d%lldx%lld p%lld,%lld,%lld,%lld g%lld",
        (long long)g->batch, (long long)g->channels, (long long)g->height, (long long)g->width,
        (long long)g->filters, (long long)g->kernel_h, (long long)g->kernel_w, (long long)g->stride_h,
        (long long)g->stride_w, (long long)g->dilation_h, (long long)g->dilation_w, (long long)g->pad_top,
        (long long)g->pad_left, (long long)g->pad_bottom, (long long)g->pad_right, (long long)g->group);

    if (item->groups && length > 0 && (size_t)length < size)
        snprintf(key + length, size - (size_t)length, " groups%lld read%lld/%d", (long long)item->groups,
                 (long long)item->read, ESP_LATENCY_READ_STEPS);
}

static esp_status check_case(const esp_latency_case *item, const char *key, esp_error *err)
{
    const esp_conv_geometry *g = &item->geometry;
    bool is_sound = g->batch > 0 && g->channels > 0 && g->filters > 0 && g->group > 0 && g->kernel_h > 0 &&
                    g->kernel_w > 0 && g->out_height > 0 && g->out_width > 0 && g->height > 0 &&
                    g->width > 0 && g->channels % g->group == 0 && g->filters % g->group == 0;

    if (!is_sound)
        return esp_fail(err, ESP_INVALID, "latency table: '%s' is no layer", key);
    if (item->groups && (item->groups < 0 || item->groups > g->filters || g->group != 1 || item->read < 1 ||
                         item->read > ESP_LATENCY_READ_STEPS))
        return esp_fail(err, ESP_INVALID, "latency table: '%s': found %lld groups of %lld filters", key,
                        (long long)item->groups, (long long)g->filters);
    return ESP_OK;
}

static esp_status measure_forms(const esp_compute *compute, const esp_latency_case *item, double *out,
                                esp_error *err)
{
    double dense = 0, grouped = INFINITY;
    esp_status status = esp_dense_form_seconds(compute, &item->geometry, &dense, err);

    if (status == ESP_OK && item->groups)
        status = grouped_seconds(compute, item, &grouped, err);
    if (status == ESP_OK)
        *out = fmin(dense, grouped);
    return status;
}

/* Other work on the machine only ever makes a layer slower, and an entry stays for good: measured again until
 * two measurements agree about the fastest, so often at most. */
#define AGREEMENT 1.05
enum { MEASUREMENTS_MOST = 6 };

static esp_status measure_surely(const esp_compute *compute, const esp_latency_case *item, double *out,
                                 esp_error *err)
{
    double fastest = INFINITY;
    bool is_sure = false;
    esp_status status = ESP_OK;

    for (int i = 0; status == ESP_OK && !is_sure && i < MEASUREMENTS_MOST; i++) {
        double seconds = 0;
        status = measure_forms(compute, item, &seconds, err);
        is_sure = fmax(seconds, fastest) <= AGREEMENT * fmin(seconds, fastest);
        fastest = fmin(fastest, seconds);
    }
    if (status == ESP_OK)
        *out = fastest;
    return status;
}

/* Layers shorter than this may be faster on one thread: executors try both (graph/thread_trial.h). */
#define SHORT_SECONDS 1e-4

static esp_status measure_case(const esp_compute *compute, const esp_latency_case *item, double *out,
                               esp_error *err)
{
    const esp_compute alone = {.cancel = compute ? compute->cancel : NULL};
    double seconds = 0, lonely = INFINITY;
    esp_status status = measure_surely(compute, item, &seconds, err);

    if (status == ESP_OK && seconds < SHORT_SECONDS && esp_compute_slots(compute) > 1)
        status = measure_surely(&alone, item, &lonely, err);
    if (status == ESP_OK)
        *out = fmin(seconds, lonely);
    return status;
}

esp_status esp_latency_table_seconds(esp_latency_table *table, const esp_latency_case *item, double *out,
                                     esp_error *err)
{
    char key[256];
    const json_t *known;
    esp_status status;
    double seconds = 0;

    name_case(item, key, sizeof key);
    status = check_case(item, key, err);
    if (status != ESP_OK)
        return status;
    known = json_object_get(table->times, key);
    if (json_is_number(known) && json_number_value(known) > 0) {
        *out = json_number_value(known);
        return ESP_OK;
    }
    if (esp_compute_is_cancelled(table->compute))
        return esp_fail(err, ESP_CANCELLED, "latency table: cancelled");
    status = measure_case(table->compute, item, &seconds, err);
    if (status != ESP_OK)
        return status;
    seconds = fmax(seconds, 1e-9); /* the clock ticks too slowly to see it */
    if (json_object_set_new(table->times, key, json_real(seconds)) != 0)
        return esp_fail_memory(err, "a latency table", 0);
    table->measured++;
    *out = seconds;
    return ESP_OK;
}
