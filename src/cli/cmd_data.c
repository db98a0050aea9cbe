/* espalier data: what a dataset is, how its images come to their size, and how fast they are read. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "io/dataset.h"
#include "io/onnx.h"
#include "train/loader.h"

typedef struct data_request {
    const char *model, *split, *augment;
    esp_cli_images images;
    int64_t threads, limit;
    bool is_json, reads;
} data_request;

/* What reading every image once came to. */
typedef struct reading {
    int64_t images;
    double seconds;
} reading;

static esp_status parse_split(const char *word, esp_split *out, esp_error *err)
{
    for (int i = ESP_SPLIT_TRAIN; i <= ESP_SPLIT_VALIDATION; i++) {
        if (strcmp(word, esp_split_name((esp_split)i)) == 0) {
            *out = (esp_split)i;
            return ESP_OK;
        }
    }
    return esp_fail(err, ESP_INVALID, "--split: found '%s', expected train, test or validation", word);
}

static json_t *classes_json(const esp_dataset *dataset, const int64_t *counts)
{
    json_t *list = json_array();
    for (int c = 0; c < esp_dataset_class_count(dataset); c++) {
        json_array_append_new(list, json_pack("{s:o, s:I}", "name",
                                              esp_cli_json_text(esp_dataset_class_name(dataset, c)), "images",
                                              (json_int_t)counts[c]));
    }
    return list;
}

static esp_status print_json(const esp_dataset *dataset, const int64_t *counts, const reading *read,
                             esp_error *err)
{
    char transform[160];
    json_t *object = json_pack(
        "{s:o, s:o, s:I, s:i, s:i, s:i, s:s, s:b, s:o}", "data", esp_cli_json_text(esp_dataset_name(dataset)),
        "note", esp_cli_json_text(esp_dataset_note(dataset)), "images",
        (json_int_t)esp_dataset_count(dataset), "channels", esp_dataset_channels(dataset), "height",
        esp_dataset_height(dataset), "width", esp_dataset_width(dataset), "transform",
        esp_cli_transform_text(dataset, transform, sizeof transform), "lazy", esp_dataset_is_lazy(dataset),
        "classes", classes_json(dataset, counts));
    if (object && read->images > 0) {
        json_object_set_new(object, "read", json_integer(read->images));
        json_object_set_new(object, "seconds", json_real(read->seconds));
        json_object_set_new(object, "images_per_s", json_real((double)read->images / read->seconds));
        json_object_set_new(object, "skipped", json_integer(esp_dataset_skipped(dataset)));
        json_object_set_new(object, "skipped_messages", esp_cli_skipped_json(dataset));
    }
    return esp_cli_print_json(object, err);
}

static void print_people(const esp_dataset *dataset, const int64_t *counts, const reading *read)
{
    char transform[160], seconds[16];
    enum { MOST_CLASSES = 40 };
    int classes = esp_dataset_class_count(dataset), shown = classes < MOST_CLASSES ? classes : MOST_CLASSES;
    printf("data           %s: %s\n", esp_dataset_name(dataset), esp_dataset_note(dataset));
    printf("images         %" PRId64 " of %dx%dx%d\n", esp_dataset_count(dataset),
           esp_dataset_channels(dataset), esp_dataset_height(dataset), esp_dataset_width(dataset));
    printf("transform      %s\n", esp_cli_transform_text(dataset, transform, sizeof transform));
    printf("classes        %d\n", classes);
    for (int c = 0; c < shown; c++) {
        printf("  %4d  %-28s %" PRId64 " images\n", c, esp_dataset_class_name(dataset, c), counts[c]);
    }
    if (shown < classes) {
        printf("  ...   %d more\n", classes - shown);
    }
    if (read->images > 0) {
        printf("read           %" PRId64 " images in %s: %.0f images/s\n", read->images,
               esp_format_duration(seconds, sizeof seconds, read->seconds),
               (double)read->images / read->seconds);
        if (esp_dataset_skipped(dataset) > 0) {
            printf("left out       %" PRId64 " bad images\n", esp_dataset_skipped(dataset));
        }
    }
}

static void report(const esp_compute *compute, int64_t done, int64_t total, double seconds)
{
    double rate = seconds > 0.0 ? (double)done / seconds : 0.0;
    const esp_progress progress = {.stage = "read",
                                   .done = (double)done,
                                   .total = (double)total,
                                   .unit = "images",
                                   .rate = rate,
                                   .eta_s = rate > 0.0 ? (double)(total - done) / rate : -1.0,
                                   .detail = ""};
    esp_compute_report(compute, &progress);
}

/* Room for a batch of a dataset, and the order of its images. */
typedef struct batch_room {
    float *x, *share;
    int32_t *label, *other;
    uint32_t *order;
} batch_room;

static void batch_room_free(batch_room *room)
{
    esp_free(room->x);
    esp_free(room->share);
    esp_free(room->label);
    esp_free(room->other);
    esp_free(room->order);
}

static esp_status batch_room_make(const esp_dataset *dataset, int64_t images, int64_t batch, batch_room *out,
                                  esp_error *err)
{
    size_t size = (size_t)esp_dataset_channels(dataset) * (size_t)esp_dataset_height(dataset) *
                  (size_t)esp_dataset_width(dataset);
    out->x = esp_alloc((size_t)batch * size, sizeof(float));
    out->share = esp_alloc((size_t)batch, sizeof(float));
    out->label = esp_alloc((size_t)batch, sizeof(int32_t));
    out->other = esp_alloc((size_t)batch, sizeof(int32_t));
    out->order = esp_alloc((size_t)images, sizeof(uint32_t));
    if (!out->x || !out->share || !out->label || !out->other || !out->order) {
        return esp_fail_memory(err, "a batch", (size_t)batch * size * sizeof(float));
    }
    for (int64_t i = 0; i < images; i++) {
        out->order[i] = (uint32_t)i;
    }
    return ESP_OK;
}

/* Every image once, through the loader that training and evaluation use. */
static esp_status read_all(esp_cli *cli, const data_request *it, const esp_dataset *dataset,
                           const esp_augmentation *augmentation, reading *out, esp_error *err)
{
    enum { BATCH = 100 };
    int64_t count = esp_dataset_count(dataset);
    int64_t images = it->limit > 0 && it->limit < count ? it->limit : count;
    esp_normalization normalization = {.channels = esp_dataset_channels(dataset)};
    for (int c = 0; c < ESP_MAX_IMAGE_CHANNELS; c++) {
        normalization.std[c] = 1.0f;
    }
    const esp_loader_options options = {.augmentation = augmentation,
                                        .batch = BATCH,
                                        .threads = esp_compute_slots(&cli->compute),
                                        .leaves_out_bad = true};
    batch_room room = {0};
    esp_loader *loader = NULL;
    esp_status status = batch_room_make(dataset, images, BATCH, &room, err);
    if (status == ESP_OK) {
        status = esp_loader_new(dataset, &normalization, &options, &loader, err);
    }
    double start = esp_clock_s();
    if (status == ESP_OK) {
        status = esp_loader_begin(loader, 0, room.order, images, err);
    }
    const esp_batch_labels labels = {room.label, room.other, room.share};
    for (int64_t done = 0; status == ESP_OK && done < images;) {
        int64_t batch = images - done < BATCH ? images - done : BATCH;
        status = esp_loader_take(loader, &cli->compute, batch, room.x, &labels, err);
        done += batch;
        report(&cli->compute, done, images, esp_clock_s() - start);
    }
    *out = (reading){images, esp_clock_s() - start};
    esp_loader_free(loader);
    batch_room_free(&room);
    return status;
}

static esp_status describe(esp_cli *cli, const data_request *it, const char *spec, esp_error *err)
{
    esp_split split = ESP_SPLIT_TEST;
    esp_augmentation augmentation = {0};
    esp_graph *graph = NULL;
    esp_dataset *dataset = NULL;
    int64_t *counts = NULL;
    reading read = {0};
    esp_status status = it->split ? parse_split(it->split, &split, err) : ESP_OK;
    if (status == ESP_OK && it->augment) {
        status = esp_augmentation_parse(it->augment, &augmentation, err);
    }
    if (status == ESP_OK && it->model) {
        status = esp_onnx_load(it->model, &graph, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_open_data(spec, &it->images, split, graph, &dataset, err);
    }
    if (status == ESP_OK) {
        counts = esp_alloc_zero((size_t)esp_dataset_class_count(dataset), sizeof *counts);
        status = counts ? ESP_OK : esp_fail_memory(err, "a table", 0);
    }
    for (int64_t i = 0; status == ESP_OK && i < esp_dataset_count(dataset); i++) {
        counts[esp_dataset_label(dataset, i)]++;
    }
    if (status == ESP_OK && it->reads) {
        status = read_all(cli, it, dataset, &augmentation, &read, err);
    }
    esp_cli_end_progress();
    if (status == ESP_OK && it->is_json) {
        status = print_json(dataset, counts, &read, err);
    } else if (status == ESP_OK) {
        esp_cli_warn_skipped(dataset);
        print_people(dataset, counts, &read);
    }
    esp_free(counts);
    esp_dataset_unref(dataset);
    esp_graph_unref(graph);
    return status;
}

/* The schemes and the options of a spec, from the readers' own lists. */
static void print_specs(void)
{
    size_t count = 0;
    const esp_dataset_scheme *schemes = esp_dataset_schemes(&count);
    printf("\nSpecs: SCHEME[:DIR][?OPTION,OPTION=VALUE]\n");
    for (size_t i = 0; i < count; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s", schemes[i].name, schemes[i].default_directory ? "" : ":DIR");
        printf("  %-28s %s\n", left, schemes[i].help);
    }
    const esp_dataset_option *options = esp_dataset_options(&count);
    printf("\nOptions of a spec\n");
    for (size_t i = 0; i < count; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", options[i].name, options[i].argument ? "=" : "",
                 options[i].argument ? options[i].argument : "");
        printf("  %-28s %s\n", left, options[i].help);
    }
}

esp_status esp_command_data(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    data_request it = {0};
    bool is_done = false;
    const esp_option options[] = {
        {"split", 0, ESP_OPTION_TEXT, &it.split, "NAME", "train, test (default) or validation", 0, 0, 0},
        {"model", 'm', ESP_OPTION_TEXT, &it.model, "MODEL.onnx", "images at the size this model takes", 0, 0,
         0},
        ESP_CLI_IMAGES(&it.images),
        {"read", 0, ESP_OPTION_FLAG, &it.reads, NULL,
         "read every image once: finds bad ones, measures images/s", 0, 0, 0},
        {"augment", 0, ESP_OPTION_TEXT, &it.augment, "LIST",
         "with these augmentations: crop=4,flip,resized=0.08:1,jitter=0.4,hue=0.1,cutout=8,mixup=0.2", 0, 0,
         0},
        {"limit", 'n', ESP_OPTION_INT, &it.limit, "N", "read the first N images only", 1, 1e9, 0},
        {"threads", 't', ESP_OPTION_INT, &it.threads, "N", "default: all cores", 1, 1024, 0},
        {"json", 0, ESP_OPTION_FLAG, &it.is_json, NULL, "one JSON object instead of text", 0, 0, 0},
        {0},
    };
    const esp_command_syntax syntax = {
        "data",
        "What a dataset is: images, sizes, classes; with --read also whether all "
        "images can be read, and how fast.",
        "SPEC [options]",
        "  espalier data fashion-mnist\n"
        "  espalier data folder:photos --split train --read --skip-bad",
        1,
        1,
        options,
        false};
    char *items[argc + 1];
    esp_positionals positionals = {0, items};
    esp_status status = esp_cli_parse(&syntax, argc, argv, &positionals, &is_done, err);
    if (status == ESP_OK && is_done) {
        print_specs();
    }
    if (status != ESP_OK || is_done) {
        return status;
    }
    if (it.augment) {
        it.reads = true;
    }
    status = esp_cli_start(cli, it.threads, err);
    return status == ESP_OK ? describe(cli, &it, positionals.items[0], err) : status;
}
