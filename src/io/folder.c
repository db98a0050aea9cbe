/* folder:DIR, one directory per class. The list of files is read when the set is opened, the images when
 * batches ask for them. Order is that of torchvision's ImageFolder: classes by name, then directories by
 * path, then files by name, all as Python sorts text (by code point, which is the order of UTF-8 bytes).
 * Unlike ImageFolder, directories whose name begins with a dot are no classes.
 *
 * DIR has train/ and test/, val/ or validation/ (then classes lie in these, and those of train/ number the
 * labels), or the class directories themselves, which are split into test and training images by seed. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/memory.h"
#include "io/dataset_internal.h"
#include "io/image_file.h"

#define USUAL_TEST_SHARE 0.2
#define MOST_DEPTH       64
/* Images whose header is looked at to learn whether all have one size. */
#define SAMPLED_IMAGES 32

/* ---- lists of names ---- */

typedef struct name_list {
    char **names; /* in the arena */
    int64_t count, capacity;
} name_list;

static bool name_list_add(name_list *list, char *name)
{
    if (!name)
        return false;
    if (list->count == list->capacity) {
        int64_t capacity = list->capacity ? 2 * list->capacity : 64;
        char **grown = esp_realloc(list->names, (size_t)list->count, (size_t)capacity, sizeof *grown);

        if (!grown)
            return false;
        list->names = grown;
        list->capacity = capacity;
    }
    list->names[list->count++] = name;
    return true;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void name_list_sort(name_list *list)
{
    if (list->count > 1)
        qsort(list->names, (size_t)list->count, sizeof *list->names, compare_names);
}

/* ---- the set while it is listed, and as a source ---- */

/* The files of a set: paths relative to the directory, in order, with labels. */
typedef struct folder {
    char *directory;
    esp_arena *arena;
    name_list files;
    int32_t *labels;
    int64_t label_capacity;
    name_list classes;
    int64_t foreign; /* images of formats we do not read */
    int64_t empty_classes;
    bool skips_bad;
} folder;

static void folder_free(void *user)
{
    folder *it = user;

    if (!it)
        return;
    esp_free(it->files.names);
    esp_free(it->classes.names);
    esp_free(it->labels);
    esp_arena_free(it->arena);
    esp_free(it->directory);
    esp_free(it);
}

static esp_status fail_listing(esp_error *err)
{
    return esp_fail_memory(err, "the list of images", sizeof(char *));
}

/* Path of an image. False when it is too long to open. */
static bool full_path(const folder *it, int64_t index, char *buffer, size_t size)
{
    int length = snprintf(buffer, size, "%s/%s", it->directory, it->files.names[index]);

    return length > 0 && (size_t)length < size;
}

static esp_status folder_read(void *user, int64_t index, const esp_image_wish *wish, esp_image *image,
                              esp_error *err)
{
    char path[PATH_MAX];

    if (!full_path(user, index, path, sizeof path))
        return esp_fail(err, ESP_IO, "%.200s...: its path is too long", path);
    return esp_image_file_read(path, wish, image, err);
}

static const esp_image_source_ops folder_ops = {folder_read, folder_free};

/* ---- listing a directory ---- */

typedef enum entry_kind { ENTRY_OTHER, ENTRY_FILE, ENTRY_DIRECTORY } entry_kind;

static entry_kind kind_of(const char *directory, const struct dirent *entry)
{
    char path[PATH_MAX];
    struct stat facts;

    if (entry->d_type == DT_REG)
        return ENTRY_FILE;
    if (entry->d_type == DT_DIR)
        return ENTRY_DIRECTORY;
    if (entry->d_type != DT_LNK && entry->d_type != DT_UNKNOWN)
        return ENTRY_OTHER;
    int length = snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
    if (length < 0 || (size_t)length >= sizeof path)
        return ENTRY_OTHER;
    if (stat(path, &facts) != 0)
        return ENTRY_FILE; /* a link that leads nowhere is an image that cannot be read */
    return S_ISREG(facts.st_mode) ? ENTRY_FILE : S_ISDIR(facts.st_mode) ? ENTRY_DIRECTORY : ENTRY_OTHER;
}

/* Names in `directory` into the arena, sorted; either list may be NULL. Hidden directories are left out. */
static esp_status list_directory(const char *directory, esp_arena *arena, name_list *files,
                                 name_list *directories, esp_error *err)
{
    DIR *stream = opendir(directory);
    esp_status status = ESP_OK;

    if (!stream)
        return esp_fail(err, ESP_IO, "%s: %s", directory, strerror(errno));
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry)
            break;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        entry_kind kind = kind_of(directory, entry);
        bool is_hidden = entry->d_name[0] == '.';
        name_list *list = kind == ENTRY_FILE                      ? files
                          : kind == ENTRY_DIRECTORY && !is_hidden ? directories
                                                                  : NULL;
        if (list && !name_list_add(list, esp_arena_strdup(arena, entry->d_name))) {
            status = fail_listing(err);
            break;
        }
    }
    if (status == ESP_OK && errno != 0)
        status = esp_fail(err, ESP_IO, "%s: %s", directory, strerror(errno));
    closedir(stream);
    if (files)
        name_list_sort(files);
    if (directories)
        name_list_sort(directories);
    return status;
}

/* ---- one class ---- */

/* The directories between a class and where the listing is, to see when a link leads back. */
typedef struct ancestor {
    const struct ancestor *parent;
    dev_t device;
    ino_t inode;
    int depth;
} ancestor;

static esp_status enter(const char *path, const ancestor *parent, ancestor *out, esp_error *err)
{
    struct stat facts;

    if (stat(path, &facts) != 0)
        return esp_fail(err, ESP_IO, "%s: %s", path, strerror(errno));
    *out = (ancestor){parent, facts.st_dev, facts.st_ino, parent ? parent->depth + 1 : 0};
    for (const ancestor *above = parent; above; above = above->parent)
        if (above->device == facts.st_dev && above->inode == facts.st_ino)
            return esp_fail(err, ESP_IO, "%s: a symbolic link leads back to a directory above", path);
    if (out->depth > MOST_DEPTH)
        return esp_fail(err, ESP_IO, "%s: directories are nested deeper than %d", path, MOST_DEPTH);
    return ESP_OK;
}

/* All directories of a class, itself first, as paths relative to the set's. */
static esp_status list_tree(folder *it, const char *relative, const ancestor *parent, name_list *out,
                            esp_error *err)
{
    ancestor here;
    name_list inner = {0};
    char *path = esp_path_join(it->directory, relative);
    esp_status status = path ? enter(path, parent, &here, err) : fail_listing(err);

    if (status == ESP_OK && !name_list_add(out, esp_arena_strdup(it->arena, relative)))
        status = fail_listing(err);
    if (status == ESP_OK)
        status = list_directory(path, it->arena, NULL, &inner, err);
    for (int64_t i = 0; i < inner.count && status == ESP_OK; i++) {
        char *below = esp_path_join(relative, inner.names[i]);

        status = below ? list_tree(it, below, &here, out, err) : fail_listing(err);
        esp_free(below);
    }
    esp_free(inner.names);
    esp_free(path);
    return status;
}

static esp_status add_image(folder *it, const char *relative, const char *name, int label, esp_error *err)
{
    size_t length = strlen(relative) + strlen(name) + 2;
    char *path = esp_arena_alloc(it->arena, length, 1);

    if (!path)
        return fail_listing(err);
    snprintf(path, length, "%s/%s", relative, name);
    if (it->files.count == it->label_capacity) {
        int64_t capacity = it->label_capacity ? 2 * it->label_capacity : 64;
        int32_t *grown = esp_realloc(it->labels, (size_t)it->files.count, (size_t)capacity, sizeof *grown);

        if (!grown)
            return fail_listing(err);
        it->labels = grown;
        it->label_capacity = capacity;
    }
    it->labels[it->files.count] = label;
    return name_list_add(&it->files, path) ? ESP_OK : fail_listing(err);
}

/* The images that lie in one directory of a class. */
static esp_status list_images(folder *it, const char *relative, int label, esp_error *err)
{
    name_list names = {0};
    char *path = esp_path_join(it->directory, relative);
    esp_status status = path ? list_directory(path, it->arena, &names, NULL, err) : fail_listing(err);

    for (int64_t i = 0; i < names.count && status == ESP_OK; i++) {
        if (esp_image_name_is_readable(names.names[i]))
            status = add_image(it, relative, names.names[i], label, err);
        else
            it->foreign += esp_image_name_is_foreign(names.names[i]);
    }
    esp_free(names.names);
    esp_free(path);
    return status;
}

/* `relative` is the class's directory. */
static esp_status list_class(folder *it, const char *relative, int label, esp_error *err)
{
    name_list directories = {0};
    int64_t before = it->files.count, foreign = it->foreign;
    esp_status status = list_tree(it, relative, NULL, &directories, err);

    name_list_sort(&directories);
    for (int64_t i = 0; i < directories.count && status == ESP_OK; i++)
        status = list_images(it, directories.names[i], label, err);
    esp_free(directories.names);
    if (status != ESP_OK || it->files.count > before)
        return status;
    it->empty_classes++;
    if (it->skips_bad)
        return ESP_OK;
    status =
        esp_fail(err, ESP_FORMAT, "%s/%s: no images of its class, expected .jpg, .jpeg or .png files%s",
                 it->directory, relative, it->foreign > foreign ? " (there are some of other formats)" : "");
    esp_error_set_hint(err, "remove the directory, or keep the class without images by ?skip-bad");
    return status;
}

/* ---- which directories are which split ---- */

typedef struct split_names {
    const char *train, *test, *validation; /* NULL: not there; test may be what is called val */
} split_names;

static const char *first_of(const name_list *list, const char *const *words)
{
    for (; *words; words++)
        for (int64_t i = 0; i < list->count; i++)
            if (strcmp(list->names[i], *words) == 0)
                return list->names[i];
    return NULL;
}

/* All NULL when the directories are classes. */
static split_names find_splits(const name_list *directories)
{
    static const char *const train[] = {"train", "training", NULL};
    static const char *const test[] = {"test", "testing", NULL};
    static const char *const validation[] = {"val", "validation", "valid", NULL};
    split_names found = {first_of(directories, train), first_of(directories, test),
                         first_of(directories, validation)};
    int64_t words = (found.train != NULL) + (found.test != NULL) + (found.validation != NULL);
    bool is_split = (found.train && words > 1) || (words > 0 && words == directories->count);

    if (!is_split)
        return (split_names){0};
    if (!found.test) {
        found.test = found.validation;
        found.validation = NULL;
    }
    return found;
}

/* Classes of `part` of the set ("" = itself). */
static esp_status list_classes(folder *it, const char *part, name_list *out, esp_error *err)
{
    char *path = *part ? esp_path_join(it->directory, part) : esp_strdup(it->directory);
    esp_status status = path ? list_directory(path, it->arena, NULL, out, err) : fail_listing(err);

    if (status == ESP_OK && out->count == 0)
        status = esp_fail(err, ESP_FORMAT, "%s: no directories, expected one per class", path);
    esp_free(path);
    return status;
}

static int label_of(const name_list *classes, const char *name)
{
    for (int64_t i = 0; i < classes->count; i++)
        if (strcmp(classes->names[i], name) == 0)
            return (int)i;
    return -1;
}

/* Lists the images of `part`, whose classes are numbered as those of `numbering` (the training images) are.
 */
static esp_status list_part(folder *it, const char *part, const char *numbering, esp_error *err)
{
    name_list own = {0};
    esp_status status = list_classes(it, numbering, &it->classes, err);

    if (status == ESP_OK)
        status = list_classes(it, part, &own, err);
    for (int64_t i = 0; i < own.count && status == ESP_OK; i++) {
        int label = label_of(&it->classes, own.names[i]);
        char *relative = *part ? esp_path_join(part, own.names[i]) : esp_strdup(own.names[i]);

        if (label < 0)
            status = esp_fail(err, ESP_FORMAT, "%s/%s: class '%s' is not one of the %" PRId64 " in %s/%s",
                              it->directory, part, own.names[i], it->classes.count, it->directory, numbering);
        else
            status = relative ? list_class(it, relative, label, err) : fail_listing(err);
        esp_free(relative);
    }
    esp_free(own.names);
    if (status == ESP_OK && it->files.count == 0)
        status = esp_fail(err, ESP_FORMAT,
                          "%s%s%s: no images, expected .jpg, .jpeg or .png files in %" PRId64 " directories",
                          it->directory, *part ? "/" : "", part, it->classes.count);
    return status;
}

/* ---- the dataset ---- */

/* The size of all images, as far as a sample of them shows. Files that cannot be read say nothing: they are
 * found out when their batch is read. */
static void sample_sizes(folder *it, esp_image_sizes *sizes)
{
    esp_image room = {0};
    int64_t count = it->files.count < SAMPLED_IMAGES ? it->files.count : SAMPLED_IMAGES;
    bool has_one_size = true, is_grey = true;
    esp_image_facts first = {0};

    for (int64_t i = 0; i < count; i++) {
        char path[PATH_MAX];
        esp_image_facts facts;

        if (!full_path(it, i * it->files.count / count, path, sizeof path) ||
            esp_image_file_facts(path, &room, &facts, NULL) != ESP_OK)
            continue;
        if (first.width == 0)
            first = facts;
        has_one_size = has_one_size && facts.width == first.width && facts.height == first.height;
        is_grey = is_grey && facts.channels == 1;
    }
    esp_image_free(&room);
    if (first.width == 0)
        return;
    sizes->own_channels = is_grey ? 1 : 3;
    sizes->own_height = has_one_size ? first.height : 0;
    sizes->own_width = has_one_size ? first.width : 0;
}

static esp_status label_dataset(const folder *it, esp_dataset *dataset, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int64_t c = 0; c < it->classes.count && status == ESP_OK; c++)
        status = esp_dataset_set_class_name(dataset, (int)c, it->classes.names[c], err);
    for (int64_t i = 0; i < it->files.count; i++)
        esp_dataset_set_label(dataset, i, it->labels[i]);
    return status;
}

static esp_status make_dataset(const esp_dataset_request *request, const char *part, folder *take_it,
                               esp_dataset **out, esp_error *err)
{
    char note[256], foreign[64] = "", empty[64] = "";
    folder *it = take_it;
    esp_dataset *dataset = NULL;
    esp_lazy_images images = {.ops = &folder_ops,
                              .take_user = it,
                              .sizes = request->query->sizes,
                              .skips_bad = it->skips_bad,
                              .cache_bytes = (size_t)request->query->cache_mib << 20};

    sample_sizes(it, &images.sizes);
    if (it->foreign > 0)
        snprintf(foreign, sizeof foreign, "; %" PRId64 " files of other formats left out", it->foreign);
    if (it->empty_classes > 0)
        snprintf(empty, sizeof empty, "; %" PRId64 " classes without images", it->empty_classes);
    snprintf(note, sizeof note, "%" PRId64 " images of %" PRId64 " classes%s%s%s%s", it->files.count,
             it->classes.count, *part ? " in " : "", part, foreign, empty);
    /* the set owns `it` from here on, also when making it fails: labels are read through the set's reference
     */
    int64_t count = it->files.count, classes = it->classes.count;
    if (classes > INT_MAX)
        classes = INT_MAX;
    esp_status status =
        esp_dataset_new_lazy(request->spec, note, count, (int)classes, &images, &dataset, err);
    if (status == ESP_OK)
        status = label_dataset(it, dataset, err);
    if (status == ESP_OK)
        *out = dataset;
    else
        esp_dataset_unref(dataset);
    return status;
}

/* Cuts a set without directories for its splits. */
static esp_status cut_test(const esp_dataset_request *request, esp_dataset *take_set, esp_dataset **out,
                           esp_error *err)
{
    double share = request->query->test < 0 ? USUAL_TEST_SHARE : request->query->test;
    bool wants_test = request->split == ESP_SPLIT_TEST;
    esp_dataset *rest = NULL, *held = NULL;

    if (share == (wants_test ? 1.0 : 0.0)) {
        *out = take_set;
        return ESP_OK;
    }
    if (share == (wants_test ? 0.0 : 1.0)) {
        esp_dataset_unref(take_set);
        return esp_fail(err, ESP_INVALID, "dataset '%s' has no %s images: the test share is %g",
                        request->spec, wants_test ? "test" : "training", share);
    }
    esp_status status = esp_dataset_split(take_set, share, request->query->seed, &rest, &held, err);
    esp_dataset_unref(take_set);
    esp_dataset_unref(wants_test ? rest : held);
    if (status == ESP_OK)
        *out = wants_test ? held : rest;
    return status;
}

static folder *folder_new(const esp_dataset_request *request)
{
    folder *it = esp_alloc_zero(1, sizeof *it);

    if (!it)
        return NULL;
    it->directory = esp_strdup(request->directory);
    it->arena = esp_arena_new();
    it->skips_bad = request->query->skips_bad;
    if (it->directory && it->arena)
        return it;
    folder_free(it);
    return NULL;
}

/* The directory of the split that is wanted, in `*part`; "" when there are none. */
static esp_status choose_part(const esp_dataset_request *request, const folder *it, const split_names *splits,
                              const char **part, esp_error *err)
{
    bool has_splits = splits->train || splits->test;

    *part = "";
    *request->has_validation = splits->validation != NULL;
    if (request->split == ESP_SPLIT_VALIDATION && !splits->validation)
        *request->gave_training = true;
    if (!has_splits)
        return ESP_OK;
    if (request->query->test >= 0)
        return esp_fail(err, ESP_INVALID, "%s has a directory %s, so option 'test' means nothing",
                        it->directory, splits->test ? splits->test : splits->train);
    *part = request->split == ESP_SPLIT_TEST         ? splits->test
            : !splits->validation                    ? splits->train
            : request->split == ESP_SPLIT_VALIDATION ? splits->validation
                                                     : splits->train;
    if (*part)
        return ESP_OK;
    return esp_fail(err, ESP_IO, "%s has no %s images: no directory %s/%s", it->directory,
                    esp_split_name(request->split), it->directory,
                    request->split == ESP_SPLIT_TEST ? "test or val" : "train");
}

esp_status esp_folder_open(const esp_dataset_request *request, esp_dataset **out, esp_error *err)
{
    name_list directories = {0};
    const char *part = "";
    folder *it = folder_new(request);

    *out = NULL;
    if (!it)
        return fail_listing(err);
    esp_status status = list_directory(it->directory, it->arena, NULL, &directories, err);
    split_names splits = find_splits(&directories);
    if (status == ESP_OK)
        status = choose_part(request, it, &splits, &part, err);
    if (status == ESP_OK)
        status = list_part(it, part, splits.train ? splits.train : part, err);
    esp_free(directories.names);
    if (status != ESP_OK) {
        folder_free(it);
        return status;
    }
    esp_dataset *dataset = NULL;
    status = make_dataset(request, part, it, &dataset, err);
    if (status == ESP_OK && !*part)
        return cut_test(request, dataset, out, err);
    *out = dataset;
    return status;
}
