/* Name tables (open addressing, FNV-1a, at most 3/4 full) and metadata lists of graphs. */
#include <string.h>

#include "base/memory.h"
#include "graph/graph_internal.h"

static uint64_t name_hash(const char *name)
{
    uint64_t hash = 14695981039346656037u;
    for (; *name != '\0'; name++)
        hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return hash;
}

/* The entry that holds `name`, or the free one where it belongs. Capacity is a power of two above zero. */
static esp_name_entry *name_slot(const esp_name_table *table, const char *name)
{
    size_t mask = (size_t)table->capacity - 1;
    size_t at = (size_t)name_hash(name) & mask;
    while (table->entries[at].name != NULL && strcmp(table->entries[at].name, name) != 0)
        at = (at + 1) & mask;
    return &table->entries[at];
}

int esp_name_table_find(const esp_name_table *table, const char *name)
{
    if (table->count == 0)
        return -1;
    const esp_name_entry *entry = name_slot(table, name);
    return entry->name == NULL ? -1 : entry->index;
}

static bool name_table_grow(esp_name_table *table)
{
    esp_name_table larger = {.capacity = table->capacity == 0 ? 64 : table->capacity * 2,
                             .count = table->count};
    larger.entries = esp_alloc_zero((size_t)larger.capacity, sizeof *larger.entries);
    if (larger.entries == NULL)
        return false;
    for (int i = 0; i < table->capacity; i++) {
        if (table->entries[i].name != NULL)
            *name_slot(&larger, table->entries[i].name) = table->entries[i];
    }
    esp_free(table->entries);
    *table = larger;
    return true;
}

bool esp_name_table_add(esp_name_table *table, const char *name, int index)
{
    if (4 * (table->count + 1) > 3 * table->capacity && !name_table_grow(table))
        return false;
    *name_slot(table, name) = (esp_name_entry){.name = name, .index = index};
    table->count++;
    return true;
}

void esp_name_table_free(esp_name_table *table)
{
    esp_free(table->entries);
    *table = (esp_name_table){0};
}

static int metadata_index(const esp_metadata_list *list, const char *key)
{
    for (int i = 0; i < list->count; i++) {
        if (strcmp(list->items[i].key, key) == 0)
            return i;
    }
    return -1;
}

const char *esp_metadata_find(const esp_metadata_list *list, const char *key)
{
    int index = metadata_index(list, key);
    return index < 0 ? NULL : list->items[index].value;
}

static void metadata_remove(esp_metadata_list *list, int index)
{
    esp_free(list->items[index].key);
    esp_free(list->items[index].value);
    for (int i = index + 1; i < list->count; i++)
        list->items[i - 1] = list->items[i];
    list->count--;
}

bool esp_metadata_set(esp_metadata_list *list, const char *key, const char *value)
{
    int index = metadata_index(list, key);
    if (value == NULL) {
        if (index >= 0)
            metadata_remove(list, index);
        return true;
    }
    char *value_copy = esp_strdup(value);
    if (value_copy == NULL)
        return false;
    if (index >= 0) {
        esp_free(list->items[index].value);
        list->items[index].value = value_copy;
        return true;
    }
    char *key_copy = esp_strdup(key);
    size_t count = (size_t)list->count;
    esp_metadata *items = key_copy == NULL ? NULL : esp_realloc(list->items, count, count + 1, sizeof *items);
    if (items == NULL) {
        esp_free(key_copy);
        esp_free(value_copy);
        return false;
    }
    list->items = items;
    list->items[list->count++] = (esp_metadata){.key = key_copy, .value = value_copy};
    return true;
}

bool esp_metadata_copy(esp_metadata_list *target, const esp_metadata_list *source)
{
    *target = (esp_metadata_list){0};
    for (int i = 0; i < source->count; i++) {
        if (!esp_metadata_set(target, source->items[i].key, source->items[i].value)) {
            esp_metadata_free(target);
            return false;
        }
    }
    return true;
}

void esp_metadata_free(esp_metadata_list *list)
{
    for (int i = 0; i < list->count; i++) {
        esp_free(list->items[i].key);
        esp_free(list->items[i].value);
    }
    esp_free(list->items);
    *list = (esp_metadata_list){0};
}
