/* The file of a scan: JSON lines, appended. The first line says what was scanned:
 *   {"espalier": "sensitivity", "version": 1, "model", "graph", "data", "images", "seed", "mean", "std",
 * "plan"} then, in any order and as things get done:
 *   {"scan": {"ratios": [...], "curves": [names]}}   what a call was after
 *   {"curve": {"name", "layers", "set", "note"}}
 *   {"baseline": {"loss", "top1", "top5", "params", "macs"}}
 *   {"curve": name, "point": {...}}
 * A line goes out in one write, so that a process that is killed leaves whole lines and at most the beginning
 * of one, which the next reader passes over and the next writer cuts off. */
#include "prune/sensitivity_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

enum { FILE_VERSION = 1 };

struct scan_file {
    int descriptor;
    char *path;
    esp_sensitivity *found; /* what was in it */
};

/* ---- reading ---- */

/* What a file says. */
typedef struct file_contents {
    esp_sensitivity *sensitivity;
    json_t *head, *scan; /* the first line; the last "scan" */
    size_t whole_bytes;  /* up to and with the last newline */
} file_contents;

static void contents_free(file_contents *contents)
{
    json_decref(contents->head);
    json_decref(contents->scan);
    esp_sensitivity_free(contents->sensitivity);
    *contents = (file_contents){0};
}

static esp_sensitivity_curve *curve_named(esp_sensitivity *sensitivity, const char *name)
{
    for (int c = 0; name && c < sensitivity->curve_count; c++)
        if (strcmp(sensitivity->curves[c].name, name) == 0)
            return &sensitivity->curves[c];
    return NULL;
}

/* A curve that is not known yet, without points; false when it is none of ours. */
static bool read_curve(esp_sensitivity *sensitivity, const json_t *json, bool *is_out_of_memory)
{
    const json_t *layers = json_object_get(json, "layers");
    const char *name = json_string_value(json_object_get(json, "name"));
    const char *note = json_string_value(json_object_get(json, "note"));
    size_t count = (size_t)sensitivity->curve_count, layer_count = json_array_size(layers);
    esp_sensitivity_curve *grown, *curve;

    if (!name || !note || !layer_count || !json_is_integer(json_object_get(json, "set")))
        return false;
    if (curve_named(sensitivity, name))
        return true;
    grown = esp_realloc(sensitivity->curves, count, count + 1, sizeof *grown);
    if (grown)
        sensitivity->curves = grown;
    *is_out_of_memory = !grown;
    if (!grown)
        return true;
    curve = &grown[count];
    *curve = (esp_sensitivity_curve){.set = (int)json_integer_value(json_object_get(json, "set"))};
    sensitivity->curve_count++;
    curve->name = esp_strdup(name);
    curve->layers = esp_alloc_zero(layer_count, sizeof *curve->layers);
    *is_out_of_memory = !curve->name || !curve->layers;
    snprintf(curve->note, sizeof curve->note, "%s", note);
    for (size_t l = 0; !*is_out_of_memory && l < layer_count; l++) {
        const char *layer = json_string_value(json_array_get(layers, l));
        curve->layers[l] = esp_strdup(layer ? layer : "");
        *is_out_of_memory = !curve->layers[l];
        curve->layer_count++;
    }
    return true;
}

/* Puts a point in its place by ratio; one that is there already is replaced. */
static bool read_point(esp_sensitivity *sensitivity, const json_t *line, bool *is_out_of_memory)
{
    esp_sensitivity_curve *curve =
        curve_named(sensitivity, json_string_value(json_object_get(line, "curve")));
    esp_sensitivity_point point, *points;
    double same_ratio;
    int place = 0;

    if (!curve || !scan_point_from_json(json_object_get(line, "point"), &point, &same_ratio) ||
        !(point.ratio > 0 && point.ratio < 1))
        return false;
    while (place < curve->point_count && curve->points[place].ratio < point.ratio)
        place++;
    if (place == curve->point_count || curve->points[place].ratio > point.ratio) {
        size_t count = (size_t)curve->point_count;
        points = esp_realloc(curve->points, count, count + 1, sizeof *points);
        *is_out_of_memory = !points;
        if (!points)
            return true;
        memmove(&points[place + 1], &points[place], (count - (size_t)place) * sizeof *points);
        curve->points = points;
        curve->point_count++;
        /* those behind have moved, and so have those that are named by their place */
        for (int p = place + 1; p < curve->point_count; p++)
            curve->points[p].same_as += curve->points[p].same_as >= place;
    }
    for (int p = 0; p < place; p++)
        if (same_ratio > 0 && curve->points[p].ratio == same_ratio)
            point.same_as = p;
    if (same_ratio == 0)
        point.same_as = ESP_SENSITIVITY_WHOLE;
    curve->points[place] = point;
    return true;
}

/* False for a line that is none of ours. */
static bool read_line(file_contents *contents, const json_t *line, bool *is_out_of_memory)
{
    const json_t *curve = json_object_get(line, "curve"), *scan = json_object_get(line, "scan");
    double ignored;

    if (scan) {
        json_decref(contents->scan);
        contents->scan = json_incref((json_t *)(uintptr_t)scan);
        return json_is_object(scan);
    }
    if (json_is_object(curve))
        return read_curve(contents->sensitivity, curve, is_out_of_memory);
    if (json_object_get(line, "point"))
        return read_point(contents->sensitivity, line, is_out_of_memory);
    if (!scan_point_from_json(json_object_get(line, "baseline"), &contents->sensitivity->baseline, &ignored))
        return false;
    contents->sensitivity->baseline.same_as = ESP_SENSITIVITY_WHOLE;
    return true;
}

static esp_status read_head(file_contents *contents, json_t *head, const char *path, esp_error *err)
{
    const char *kind = json_string_value(json_object_get(head, "espalier"));
    const char *model = json_string_value(json_object_get(head, "model"));
    const char *graph = json_string_value(json_object_get(head, "graph"));
    const char *data = json_string_value(json_object_get(head, "data"));
    esp_sensitivity *it = contents->sensitivity;

    if (!kind || strcmp(kind, "sensitivity") != 0 || !model || !graph || !data ||
        !json_is_object(json_object_get(head, "plan")))
        return esp_fail(err, ESP_FORMAT, "%s: line 1 does not begin a sensitivity scan", path);
    if (json_integer_value(json_object_get(head, "version")) != FILE_VERSION)
        return esp_fail(err, ESP_FORMAT, "%s: version %lld of the file, expected %d", path,
                        (long long)json_integer_value(json_object_get(head, "version")), FILE_VERSION);
    contents->head = json_incref(head);
    it->plan = json_incref(json_object_get(head, "plan"));
    it->images = json_integer_value(json_object_get(head, "images"));
    it->seed = (uint64_t)json_integer_value(json_object_get(head, "seed"));
    it->model = esp_strdup(model);
    it->graph_name = esp_strdup(graph);
    it->data = esp_strdup(data);
    return it->model && it->graph_name && it->data ? ESP_OK : esp_fail_memory(err, path, strlen(data));
}

static esp_status read_text(file_contents *contents, const char *path, char *text, esp_error *err)
{
    esp_status status = ESP_OK;
    int number = 0;
    char *end;

    for (char *line = text; status == ESP_OK && (end = strchr(line, '\n')); line = end + 1) {
        json_t *json = NULL;
        char where[32];
        bool is_out_of_memory = false;
        *end = '\0';
        snprintf(where, sizeof where, "line %d", ++number);
        status = esp_json_parse(line, where, &json, err);
        if (status != ESP_OK)
            esp_error_prefix(err, "%s", path);
        else if (number == 1)
            status = read_head(contents, json, path, err);
        else if (!read_line(contents, json, &is_out_of_memory))
            status = esp_fail(err, ESP_FORMAT, "%s: line %d is none of a sensitivity scan", path, number);
        if (status == ESP_OK && is_out_of_memory)
            status = esp_fail_memory(err, path, sizeof(esp_sensitivity_point));
        json_decref(json);
        contents->whole_bytes = (size_t)(end + 1 - text);
    }
    return status;
}

/* A file without a whole first line has no head. */
static esp_status read_file(const char *path, file_contents *contents, esp_error *err)
{
    char *text = NULL;
    size_t size;
    esp_status status;

    *contents = (file_contents){.sensitivity = esp_alloc_zero(1, sizeof(esp_sensitivity))};
    if (!contents->sensitivity)
        return esp_fail_memory(err, path, sizeof(esp_sensitivity));
    status = esp_file_read(path, &text, &size, err);
    if (status == ESP_OK && strlen(text) != size)
        status = esp_fail(err, ESP_FORMAT, "%s: holds zero bytes, expected lines of JSON", path);
    if (status == ESP_OK)
        status = read_text(contents, path, text, err);
    esp_free(text);
    if (status != ESP_OK)
        contents_free(contents);
    return status;
}

static bool has_all(const esp_sensitivity *sensitivity, const json_t *scan)
{
    const json_t *ratios = json_object_get(scan, "ratios"), *curves = json_object_get(scan, "curves");

    for (size_t c = 0; c < json_array_size(curves); c++) {
        const esp_sensitivity_curve *curve = curve_named((esp_sensitivity *)(uintptr_t)sensitivity,
                                                         json_string_value(json_array_get(curves, c)));
        size_t found = 0;
        for (size_t r = 0; curve && r < json_array_size(ratios); r++)
            for (int p = 0; p < curve->point_count; p++)
                found += curve->points[p].ratio == json_number_value(json_array_get(ratios, r));
        if (!curve || (!curve->note[0] && found < json_array_size(ratios)))
            return false;
    }
    return scan != NULL;
}

esp_status esp_sensitivity_load(const char *path, esp_sensitivity **out, esp_error *err)
{
    file_contents contents;
    esp_status status = read_file(path, &contents, err);

    *out = NULL;
    if (status != ESP_OK)
        return status;
    if (!contents.head) {
        contents_free(&contents);
        return esp_fail(err, ESP_FORMAT, "%s: has no whole line, expected a sensitivity scan", path);
    }
    for (int c = 0; c < contents.sensitivity->curve_count; c++)
        contents.sensitivity->resumed += contents.sensitivity->curves[c].point_count;
    contents.sensitivity->is_complete = has_all(contents.sensitivity, contents.scan);
    *out = contents.sensitivity;
    contents.sensitivity = NULL;
    contents_free(&contents);
    return ESP_OK;
}

/* ---- what a scan and a file have in common ---- */

static json_t *reals(const float *values, int count)
{
    json_t *list = json_array();

    for (int i = 0; i < count; i++)
        json_array_append_new(list, json_real((double)values[i]));
    return list;
}

static json_t *make_head(const scan_site *site, const esp_sensitivity *sensitivity)
{
    const esp_normalization *normalization = &site->sweep.normalization;

    return json_pack("{s:s, s:i, s:s, s:o, s:o, s:I, s:I, s:o, s:o, s:O}", "espalier", "sensitivity",
                     "version", FILE_VERSION, "model", sensitivity->model, "graph",
                     scan_text_to_json(sensitivity->graph_name), "data", scan_text_to_json(sensitivity->data),
                     "images", (json_int_t)sensitivity->images, "seed", (json_int_t)sensitivity->seed, "mean",
                     reals(normalization->mean, normalization->channels), "std",
                     reals(normalization->std, normalization->channels), "plan", sensitivity->plan);
}

static esp_status refuse(const char *path, const char *key, const json_t *found, const json_t *expected,
                         esp_error *err)
{
    char *has = found ? json_dumps(found, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    char *wants = json_dumps(expected, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS);

    esp_fail(err, ESP_STATE, "%s: is a scan with another %s: found %.180s, expected %.180s", path, key,
             has ? has : "none", wants ? wants : "another");
    esp_error_set_hint(err, "give another file, or the model, data and options it was begun with");
    free(has);
    free(wants);
    return ESP_STATE;
}

/* Everything but the graph's name has to be equal. */
static esp_status check_head(const char *path, const json_t *found, const json_t *expected, esp_error *err)
{
    static const char *const keys[] = {"model", "data", "images", "seed", "plan", "mean", "std"};

    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
        if (!json_equal(json_object_get(found, keys[k]), json_object_get(expected, keys[k])))
            return refuse(path, keys[k], json_object_get(found, keys[k]), json_object_get(expected, keys[k]),
                          err);
    return ESP_OK;
}

static bool has_layers_of(const esp_sensitivity_curve *a, const esp_sensitivity_curve *b)
{
    bool is_equal = a->layer_count == b->layer_count;

    for (int l = 0; is_equal && l < a->layer_count; l++)
        is_equal = strcmp(a->layers[l], b->layers[l]) == 0;
    return is_equal;
}

/* Results of points that the scan is after; what they mask was found out anew. */
static void take_points(esp_sensitivity *sensitivity, esp_sensitivity *found)
{
    for (int c = 0; c < sensitivity->curve_count; c++) {
        esp_sensitivity_curve *curve = &sensitivity->curves[c];
        const esp_sensitivity_curve *old = curve_named(found, curve->name);
        for (int p = 0; old && has_layers_of(curve, old) && p < curve->point_count; p++)
            for (int q = 0; q < old->point_count; q++) {
                esp_sensitivity_point point = old->points[q];
                if (point.ratio != curve->points[p].ratio)
                    continue;
                point.same_as = curve->points[p].same_as;
                curve->points[p] = point;
                sensitivity->resumed++;
            }
    }
}

/* ---- writing ---- */

static esp_status write_line(scan_file *file, json_t *take_line, esp_error *err)
{
    char *text = take_line ? esp_json_dump(take_line, 1) : NULL;
    size_t length = text ? strlen(text) : 0;
    char *line = text ? esp_realloc(text, length + 1, length + 2, 1) : NULL;
    ssize_t written;

    json_decref(take_line);
    if (!line) {
        esp_free(text);
        return esp_fail_memory(err, file->path, length);
    }
    line[length] = '\n';
    do
        written = write(file->descriptor, line, length + 1);
    while (written < 0 && errno == EINTR);
    esp_free(line);
    if (written != (ssize_t)(length + 1) || (fdatasync(file->descriptor) != 0 && errno != EINVAL))
        return esp_fail(err, ESP_IO, "%s: %s", file->path,
                        written < 0 || written == (ssize_t)(length + 1) ? strerror(errno) : "is full");
    return ESP_OK;
}

static esp_status write_scan(scan_file *file, const esp_sensitivity_options *options,
                             const esp_sensitivity *sensitivity, esp_error *err)
{
    json_t *ratios = json_array(), *names = json_array();
    esp_status status;

    for (int r = 0; r < options->ratio_count; r++)
        json_array_append_new(ratios, json_real(options->ratios[r]));
    for (int c = 0; c < sensitivity->curve_count; c++)
        json_array_append_new(names, scan_text_to_json(sensitivity->curves[c].name));
    status = write_line(file, json_pack("{s:{s:o, s:o}}", "scan", "ratios", ratios, "curves", names), err);
    for (int c = 0; status == ESP_OK && c < sensitivity->curve_count; c++) {
        const esp_sensitivity_curve *curve = &sensitivity->curves[c];
        if (!curve_named(file->found, curve->name))
            status = write_line(file, json_pack("{s:o}", "curve", scan_curve_to_json(curve)), err);
    }
    return status;
}

static esp_status open_file(const char *path, bool resumes, scan_file **out, esp_error *err)
{
    scan_file *file = esp_alloc_zero(1, sizeof *file);
    esp_status status = ESP_OK;

    *out = NULL;
    if (!file)
        return esp_fail_memory(err, path, sizeof *file);
    file->path = esp_strdup(path);
    file->descriptor = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | (resumes ? 0 : O_EXCL), 0666);
    if (file->descriptor < 0 && errno == EEXIST) {
        status = esp_fail(err, ESP_INVALID, "%s: exists already", path);
        esp_error_set_hint(err, "resume it (--resume, resume=true), or give another file");
    } else if (file->descriptor < 0 || !file->path) {
        status = esp_fail(err, ESP_IO, "%s: %s", path, strerror(errno));
    } else if (flock(file->descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        status = esp_fail(err, ESP_STATE, "%s: another scan is writing into it", path);
    }
    if (status == ESP_OK)
        *out = file;
    else
        scan_file_close(file);
    return status;
}

/* An empty file, or one with the beginning of a first line only, is begun anew. */
static esp_status begin_file(scan_file *file, const json_t *head, const file_contents *contents,
                             esp_error *err)
{
    if (ftruncate(file->descriptor, (off_t)contents->whole_bytes) != 0)
        return esp_fail(err, ESP_IO, "%s: %s", file->path, strerror(errno));
    return contents->head ? ESP_OK : write_line(file, json_incref((json_t *)(uintptr_t)head), err);
}

esp_status scan_file_open(const esp_sensitivity_options *options, const scan_site *site,
                          esp_sensitivity *sensitivity, scan_file **out, double *baseline_loss,
                          esp_error *err)
{
    file_contents contents = {0};
    scan_file *file = NULL;
    json_t *head;
    esp_status status;

    *out = NULL;
    *baseline_loss = -1;
    if (!options->path)
        return ESP_OK;
    head = make_head(site, sensitivity);
    status = head ? open_file(options->path, options->resumes, &file, err)
                  : esp_fail_memory(err, options->path, 0);
    if (status == ESP_OK)
        status = read_file(options->path, &contents, err);
    if (status == ESP_OK && contents.head)
        status = check_head(options->path, contents.head, head, err);
    if (status == ESP_OK)
        status = begin_file(file, head, &contents, err);
    if (status == ESP_OK) {
        take_points(sensitivity, contents.sensitivity);
        if (contents.sensitivity->baseline.is_done)
            *baseline_loss = contents.sensitivity->baseline.loss;
        file->found = contents.sensitivity;
        contents.sensitivity = NULL;
        *out = file;
    } else {
        scan_file_close(file);
    }
    contents_free(&contents);
    json_decref(head);
    return status;
}

esp_status scan_file_begin(scan_file *file, const esp_sensitivity_options *options,
                           const esp_sensitivity *sensitivity, esp_error *err)
{
    esp_status status = file ? write_scan(file, options, sensitivity, err) : ESP_OK;

    if (!file || status != ESP_OK || file->found->baseline.is_done)
        return status;
    return write_line(file, json_pack("{s:o}", "baseline", scan_point_to_json(NULL, &sensitivity->baseline)),
                      err);
}

esp_status scan_file_point(scan_file *file, const esp_sensitivity *sensitivity, int curve, int point,
                           esp_error *err)
{
    const esp_sensitivity_curve *it = &sensitivity->curves[curve];

    if (!file)
        return ESP_OK;
    return write_line(file,
                      json_pack("{s:o, s:o}", "curve", scan_text_to_json(it->name), "point",
                                scan_point_to_json(it, &it->points[point])),
                      err);
}

void scan_file_close(scan_file *file)
{
    if (!file)
        return;
    if (file->descriptor >= 0)
        close(file->descriptor);
    esp_sensitivity_free(file->found);
    esp_free(file->path);
    esp_free(file);
}
