/* Coupled sets, the result: slots with the same writers, readers and reason form a set. Found by partition
 * refinement: all slots start in one part per reason; every layer, as writer and as reader, splits the parts
 * it touches. */
#include <string.h>

#include "base/memory.h"
#include "prune/coupling_internal.h"

typedef struct refinement {
    int *part;     /* per slot */
    int *split_to; /* per part: where its touched slots went in this round, valid when stamp matches */
    int *split_at;
    int *touched_at; /* per slot: round of the last visit */
    int part_count, round;
} refinement;

static void refinement_release(refinement *self)
{
    esp_free(self->part);
    esp_free(self->split_to);
    esp_free(self->split_at);
    esp_free(self->touched_at);
}

/* A part splits at most once per slot in it, so there are never more parts than slots, plus one per round's
 * leftovers: parts that become empty keep their number, hence the limit of two per touch is bounded by
 * `limit`. */
static esp_status refinement_prepare(refinement *self, int32_t slot_limit, int64_t touches, esp_error *err)
{
    size_t slots = (size_t)slot_limit, parts = slots + (size_t)touches + 2;
    self->part = esp_alloc_zero(slots, sizeof(int));
    self->touched_at = esp_alloc_zero(slots, sizeof(int));
    self->split_to = esp_alloc_zero(parts, sizeof(int));
    self->split_at = esp_alloc_zero(parts, sizeof(int));
    if (self->part == NULL || self->touched_at == NULL || self->split_to == NULL || self->split_at == NULL)
        return esp_fail_memory(err, "coupled sets", parts * sizeof(int));
    self->part_count = 1;
    return ESP_OK;
}

static void touch(refinement *self, int32_t slot)
{
    if (self->touched_at[slot] == self->round)
        return;
    self->touched_at[slot] = self->round;
    int part = self->part[slot];
    if (self->split_at[part] != self->round) {
        self->split_at[part] = self->round;
        self->split_to[part] = self->part_count++;
    }
    self->part[slot] = self->split_to[part];
}

static void refine_by(refinement *self, int64_t count, const int32_t *slots)
{
    self->round++;
    for (int64_t i = 0; slots != NULL && i < count; i++)
        touch(self, slots[i]);
}

/* Layers that have filters (columns) of their own for a slot. */
static bool is_writer(const esp_coupling *coupling, int layer)
{
    return !coupling->follows_input[layer];
}

static int64_t count_touches(const esp_coupling *coupling)
{
    int64_t touches = coupling->slot_limit;
    for (int i = 0; i < coupling->layers->count; i++)
        touches += coupling->layers->items[i].filters + coupling->layers->items[i].channels;
    return touches;
}

/* Equal reasons are one string (every reason is made once per node), so pointers compare. */
static void refine_by_reasons(refinement *self, const esp_coupling *coupling)
{
    const char *last = NULL;
    for (int32_t slot = 1; slot < coupling->slot_limit; slot++) {
        const char *reason = coupling->slot_reason[slot];
        if (reason == NULL || reason == last)
            continue;
        last = reason;
        if (self->touched_at[slot] != 0)
            continue;
        self->round++;
        for (int32_t other = slot; other < coupling->slot_limit; other++) {
            if (coupling->slot_reason[other] == reason)
                touch(self, other);
        }
    }
}

/* Numbers parts by their first slot and collects their slots. */
static esp_status collect_slots(esp_coupling *coupling, const refinement *self, esp_error *err)
{
    size_t limit = (size_t)coupling->slot_limit;
    int *number = esp_alloc_zero((size_t)self->part_count, sizeof *number);
    coupling->slot_set = esp_arena_alloc(coupling->arena, limit, sizeof *coupling->slot_set);
    coupling->sets = esp_arena_alloc(coupling->arena, limit, sizeof *coupling->sets);
    int32_t *slots = esp_arena_alloc(coupling->arena, limit, sizeof *slots);
    esp_status status = ESP_OK;
    if (number == NULL || coupling->slot_set == NULL || coupling->sets == NULL || slots == NULL) {
        status = esp_fail_memory(err, "coupled sets", limit * sizeof *coupling->sets);
        goto done;
    }
    coupling->slot_set[0] = -1;
    for (int32_t slot = 1; slot < coupling->slot_limit; slot++) {
        int part = self->part[slot];
        if (number[part] == 0)
            number[part] = ++coupling->set_count;
        coupling->slot_set[slot] = number[part] - 1;
        coupling->sets[number[part] - 1].slot_count++;
    }
    for (int i = 0; i < coupling->set_count; i++) {
        coupling->sets[i].slots = slots;
        slots += coupling->sets[i].slot_count;
        coupling->sets[i].slot_count = 0;
    }
    for (int32_t slot = 1; slot < coupling->slot_limit; slot++) {
        esp_coupled_set *set = &coupling->sets[coupling->slot_set[slot]];
        ((int32_t *)set->slots)[set->slot_count++] = slot;
        set->pinned_by = coupling->slot_reason[slot];
    }
done:
    esp_free(number);
    return status;
}

/* Appends `layer` to the lists of the sets that hold its slots: to count them first (lists NULL), then to
 * fill. */
static void note_layer(esp_coupling *coupling, int layer, int64_t count, const int32_t *slots,
                       bool is_writing, int *noted)
{
    for (int64_t i = 0; slots != NULL && i < count; i++) {
        int index = coupling->slot_set[slots[i]];
        esp_coupled_set *set = &coupling->sets[index];
        if (noted[index] == layer + 1)
            continue;
        noted[index] = layer + 1;
        int *list = (int *)(is_writing ? set->writers : set->readers);
        int *length = is_writing ? &set->writer_count : &set->reader_count;
        if (list != NULL)
            list[*length] = layer;
        (*length)++;
    }
}

static void note_all(esp_coupling *coupling, bool is_writing, int *noted)
{
    memset(noted, 0, (size_t)coupling->set_count * sizeof *noted);
    for (int i = 0; i < coupling->layers->count; i++) {
        const esp_layer *layer = &coupling->layers->items[i];
        if (!is_writing)
            note_layer(coupling, i, layer->channels, coupling->reads[i], false, noted);
        else if (is_writer(coupling, i))
            note_layer(coupling, i, layer->filters, coupling->writes[i], true, noted);
    }
}

static esp_status collect_layers(esp_coupling *coupling, esp_error *err)
{
    int *noted = esp_alloc_zero((size_t)coupling->set_count, sizeof *noted);
    if (noted == NULL)
        return esp_fail_memory(err, "coupled sets", (size_t)coupling->set_count * sizeof *noted);
    esp_status status = ESP_OK;
    note_all(coupling, true, noted);
    note_all(coupling, false, noted);
    for (int i = 0; i < coupling->set_count; i++) {
        esp_coupled_set *set = &coupling->sets[i];
        int total = set->writer_count + set->reader_count;
        int *list = esp_arena_alloc(coupling->arena, (size_t)total + 1, sizeof *list);
        if (list == NULL) {
            status = esp_fail_memory(err, "coupled sets", (size_t)total * sizeof *list);
            goto done;
        }
        set->writers = list;
        set->readers = list + set->writer_count;
        set->writer_count = set->reader_count = 0;
    }
    note_all(coupling, true, noted);
    note_all(coupling, false, noted);
done:
    esp_free(noted);
    return status;
}

esp_status coupling_make_sets(esp_coupling *coupling, esp_error *err)
{
    refinement self = {0};
    esp_status status = refinement_prepare(&self, coupling->slot_limit, count_touches(coupling), err);
    if (status != ESP_OK)
        goto done;
    refine_by_reasons(&self, coupling);
    for (int i = 0; i < coupling->layers->count; i++) {
        const esp_layer *layer = &coupling->layers->items[i];
        if (is_writer(coupling, i))
            refine_by(&self, layer->filters, coupling->writes[i]);
        refine_by(&self, layer->channels, coupling->reads[i]);
    }
    status = collect_slots(coupling, &self, err);
    if (status == ESP_OK)
        status = collect_layers(coupling, err);
done:
    refinement_release(&self);
    return status;
}

/* ---- reading the result ---- */

esp_value_slots esp_coupling_value(const esp_coupling *coupling, int value)
{
    const coupling_value *item = &coupling->values[value];
    return (esp_value_slots){item->axis, item->count, item->slots};
}

int esp_coupling_set_count(const esp_coupling *coupling)
{
    return coupling->set_count;
}

const esp_coupled_set *esp_coupling_set(const esp_coupling *coupling, int index)
{
    return &coupling->sets[index];
}

int esp_coupling_slot_set(const esp_coupling *coupling, int32_t slot)
{
    return coupling->slot_set[slot];
}

int32_t esp_coupling_slot_limit(const esp_coupling *coupling)
{
    return coupling->slot_limit;
}

const char *esp_coupling_pinned_by(const esp_coupling *coupling, int32_t slot)
{
    return coupling->slot_reason[slot];
}

const int32_t *esp_coupling_writes(const esp_coupling *coupling, int layer)
{
    return coupling->writes[layer];
}

const int32_t *esp_coupling_reads(const esp_coupling *coupling, int layer)
{
    return coupling->reads[layer];
}

bool esp_coupling_follows(const esp_coupling *coupling, int node)
{
    return coupling->is_followed[node];
}

bool esp_coupling_layer_follows(const esp_coupling *coupling, int layer)
{
    return coupling->follows_input[layer];
}

const esp_channel_moves *esp_coupling_moves_of(const esp_coupling *coupling, int node, int output)
{
    static const esp_channel_moves none = {0};
    return coupling->moves[node] == NULL ? &none : &coupling->moves[node][output];
}

const esp_channel_moves *esp_coupling_moves(const esp_coupling *coupling, int node)
{
    return esp_coupling_moves_of(coupling, node, 0);
}

int64_t esp_channel_sources(const esp_channel_moves *moves, int64_t channel, const int32_t **out)
{
    if (moves->begin == NULL) {
        *out = &moves->source[channel];
        return moves->source[channel] >= 0;
    }
    *out = &moves->from[moves->begin[channel]];
    return moves->begin[channel + 1] - moves->begin[channel];
}

int esp_coupling_layer_at(const esp_coupling *coupling, int node)
{
    return coupling->layer_of_node[node];
}
