/* Groups: the importance matrix of the selected layer as a heatmap. Rows are filters, ordered so that those
 * that read the same channels lie together; columns are channels, ordered by the group that needs them most;
 * so the blocks appear. Masked entries are dim. A matrix larger than the screen is averaged down. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "ui/chart.h"
#include "ui/views/parts.h"

#define TABLE_WIDTH      26
#define MOST_CELL_HEIGHT 3

/* One executed group: filters with equal mask rows. */
typedef struct group {
    int32_t id;
    int64_t size, channels_kept;
} group;

typedef struct matrix {
    const esp_layer_detail *detail;
    const esp_preview_layer *item;
    int64_t group_count;
    group *groups;      /* in the order they are shown */
    int32_t *of_filter; /* group id per filter */
    int32_t *rows;      /* filters in order */
    int32_t *columns;   /* channels in order */
} matrix;

static void matrix_free(matrix *m)
{
    esp_free(m->groups);
    esp_free(m->of_filter);
    esp_free(m->rows);
    esp_free(m->columns);
}

static float importance(const matrix *m, int64_t filter, int64_t channel)
{
    return m->detail->importance[filter * m->detail->channels + channel];
}

/* ---- order ---- */

static int by_size(const void *a, const void *b)
{
    const group *x = a, *y = b;

    if (x->channels_kept != y->channels_kept)
        return x->channels_kept < y->channels_kept ? 1 : -1;
    if (x->size != y->size)
        return x->size < y->size ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static void describe_groups(matrix *m)
{
    int64_t filters = m->detail->filters;

    for (int64_t g = 0; g < m->group_count; g++)
        m->groups[g] = (group){.id = (int32_t)g};
    for (int64_t f = 0; f < filters; f++) {
        group *own = &m->groups[m->of_filter[f]];
        own->size++;
        own->channels_kept = esp_mask_filter_kept(&m->item->mask, f);
    }
    qsort(m->groups, (size_t)m->group_count, sizeof *m->groups, by_size);
}

static void order_rows(matrix *m)
{
    int64_t next = 0;

    for (int64_t g = 0; g < m->group_count; g++)
        for (int64_t f = 0; f < m->detail->filters; f++)
            if (m->of_filter[f] == m->groups[g].id)
                m->rows[next++] = (int32_t)f;
}

typedef struct column_key {
    int64_t strongest; /* place of the group that needs the channel most */
    double weight;
    int32_t channel;
} column_key;

static int by_group_then_weight(const void *a, const void *b)
{
    const column_key *x = a, *y = b;

    if (x->strongest != y->strongest)
        return x->strongest < y->strongest ? -1 : 1;
    if (x->weight < y->weight || x->weight > y->weight)
        return x->weight < y->weight ? 1 : -1;
    return (x->channel > y->channel) - (x->channel < y->channel);
}

/* Mean importance of a channel to one group (`first` .. its last row in the order). */
static double mean_to_group(const matrix *m, int64_t first, int64_t size, int64_t channel)
{
    double total = 0.0;

    for (int64_t r = first; r < first + size; r++)
        if (esp_mask_get(&m->item->mask, m->rows[r], channel))
            total += (double)importance(m, m->rows[r], channel);
    return size > 0 ? total / (double)size : 0.0;
}

static void order_columns(matrix *m, column_key *keys)
{
    for (int64_t c = 0; c < m->detail->channels; c++) {
        double most = 0.0;
        int64_t first = 0;
        keys[c] = (column_key){.channel = (int32_t)c, .strongest = m->group_count};
        for (int64_t g = 0; g < m->group_count; g++) {
            double mean = mean_to_group(m, first, m->groups[g].size, c);
            if (mean > most) {
                most = mean;
                keys[c].strongest = g;
            }
            first += m->groups[g].size;
        }
        keys[c].weight = most;
    }
    qsort(keys, (size_t)m->detail->channels, sizeof *keys, by_group_then_weight);
    for (int64_t c = 0; c < m->detail->channels; c++)
        m->columns[c] = keys[c].channel;
}

static bool matrix_make(const esp_layer_detail *detail, const esp_preview_layer *item, matrix *out)
{
    size_t filters = (size_t)detail->filters, channels = (size_t)detail->channels;
    matrix m = {.detail = detail, .item = item};
    column_key *keys = esp_alloc(channels, sizeof *keys);
    bool is_whole;

    m.of_filter = esp_alloc(filters, sizeof *m.of_filter);
    m.rows = esp_alloc(filters, sizeof *m.rows);
    m.columns = esp_alloc(channels, sizeof *m.columns);
    m.groups = esp_alloc(filters, sizeof *m.groups);
    is_whole = keys && m.of_filter && m.rows && m.columns && m.groups;
    if (is_whole) {
        m.group_count = esp_mask_executed_groups(&item->mask, m.of_filter);
        describe_groups(&m);
        order_rows(&m);
        order_columns(&m, keys);
    }
    esp_free(keys);
    if (!is_whole)
        matrix_free(&m);
    *out = m;
    return is_whole;
}

/* ---- heatmap ---- */

/* The range of matrix rows (or columns) that screen cell `i` of `cells` shows. */
static int64_t range_start(int64_t i, int64_t cells, int64_t count)
{
    return i * count / cells;
}

static void draw_entry(const matrix *m, ui_canvas *canvas, int x, int y, const int64_t rows[2],
                       const int64_t columns[2])
{
    double total = 0.0;
    int64_t kept = 0, count = 0;

    for (int64_t r = rows[0]; r < rows[1]; r++)
        for (int64_t c = columns[0]; c < columns[1]; c++) {
            total += (double)importance(m, m->rows[r], m->columns[c]);
            kept += esp_mask_get(&m->item->mask, m->rows[r], m->columns[c]) ? 1 : 0;
            count++;
        }
    double mean = count > 0 ? total / (double)count : 0.0;
    double heat = m->detail->importance_max > 0 ? sqrt(mean / (double)m->detail->importance_max) : 0.0;
    int step = (int)fmin(heat * UI_HEAT_STEPS, UI_HEAT_STEPS - 1);
    bool is_plain = canvas->alphabet == UI_ASCII || canvas->is_mono;
    if (2 * kept <= count) /* most of it is cut */
        ui_put(canvas, x, y, is_plain ? ' ' : 0x00b7, UI_MASKED);
    else
        ui_put(canvas, x, y, is_plain ? ui_heat_rune(canvas, step) : 0x2588, (ui_element)(UI_HEAT_0 + step));
}

/* Cells per entry where there is room, entries per cell where there is not. */
static int cells_for(int64_t entries, int room, int most_each)
{
    int64_t each = room / entries;

    if (each < 1)
        return room;
    return (int)((each < most_each ? each : most_each) * entries);
}

static void draw_heatmap(const matrix *m, ui_canvas *canvas, ui_rect rect)
{
    int tall = (int)fmin((double)rect.height / (double)m->detail->filters,
                         (double)rect.width / 2.0 / (double)m->detail->channels);
    int each = tall < 1 ? 1 : tall > MOST_CELL_HEIGHT ? MOST_CELL_HEIGHT : tall;
    int width = cells_for(m->detail->channels, rect.width, 2 * each);
    int height = cells_for(m->detail->filters, rect.height, each);

    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            int64_t rows[2] = {range_start(y, height, m->detail->filters),
                               range_start(y + 1, height, m->detail->filters)};
            int64_t columns[2] = {range_start(x, width, m->detail->channels),
                                  range_start(x + 1, width, m->detail->channels)};
            rows[1] = rows[1] > rows[0] ? rows[1] : rows[0] + 1;
            columns[1] = columns[1] > columns[0] ? columns[1] : columns[0] + 1;
            draw_entry(m, canvas, rect.x + x, rect.y + y, rows, columns);
        }
}

/* ---- table ---- */

static void draw_table(const matrix *m, ui_canvas *canvas, ui_rect rect)
{
    int64_t channels = m->detail->channels;

    ui_text(canvas, rect.x, rect.y, rect.width, "group  size  channels", UI_HEADING);
    ui_horizontal(canvas, rect.x, rect.y + 1, rect.width, UI_BORDER);
    for (int i = 0; i < m->group_count && i < rect.height - 2; i++) {
        const group *g = &m->groups[i];
        int y = rect.y + 2 + i;
        if (i == rect.height - 3 && i + 1 < m->group_count) {
            ui_textf(canvas, rect.x, y, rect.width, UI_DIM, "%lld more", (long long)(m->group_count - i));
            break;
        }
        ui_textf(canvas, rect.x, y, rect.width, g->channels_kept ? UI_TEXT : UI_DIM, "%5d %5lld %5lld", i + 1,
                 (long long)g->size, (long long)g->channels_kept);
        if (rect.width > 20)
            ui_bar(canvas, rect.x + 18, y, rect.width - 19, (double)g->channels_kept / (double)channels,
                   UI_KEPT);
    }
}

static void draw_legend(const matrix *m, ui_canvas *canvas, ui_rect rect)
{
    bool is_plain = canvas->alphabet == UI_ASCII || canvas->is_mono;
    int64_t all = m->detail->filters * m->detail->channels;
    int x = rect.x + ui_text(canvas, rect.x, rect.y, rect.width, "importance ", UI_DIM);

    for (int i = 0; i < UI_HEAT_STEPS && x + 1 < rect.x + rect.width; i++)
        ui_put(canvas, x++, rect.y, is_plain ? ui_heat_rune(canvas, i) : 0x2588, (ui_element)(UI_HEAT_0 + i));
    ui_textf(canvas, x + 2, rect.y, rect.x + rect.width - x - 2, UI_DIM,
             "%lld group%s, %.0f%% of %lldx%lld kept", (long long)m->group_count,
             m->group_count == 1 ? "" : "s", 100.0 * (double)esp_mask_kept(&m->item->mask) / (double)all,
             (long long)m->detail->filters, (long long)m->detail->channels);
}

static void draw_groups(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_layer *layer = ui_selected_layer(state);
    const esp_layer_detail *detail = ui_selected_detail(state);
    ui_rect map = ui_rect_shrink(rect, 1, 2, TABLE_WIDTH + 2, 1);
    char name[128];
    matrix m;

    if (!layer) {
        ui_say_empty(canvas, rect, "opening the model");
        return;
    }
    ui_heading(canvas, rect.x, rect.y, rect.width, ui_layer_name(layer, name, sizeof name));
    if (!detail || !matrix_make(detail, ui_selected_preview(state), &m)) {
        ui_say_empty(canvas, rect, "looking");
        return;
    }
    ui_text(canvas, rect.x + 1, rect.y + 1, map.width, "filters down, channels across", UI_DIM);
    draw_heatmap(&m, canvas, map);
    draw_table(&m, canvas,
               (ui_rect){rect.x + rect.width - TABLE_WIDTH, rect.y + 1, TABLE_WIDTH - 1, rect.height - 2});
    draw_legend(&m, canvas, (ui_rect){rect.x + 1, rect.y + rect.height - 1, rect.width - 2, 1});
    matrix_free(&m);
}

const ui_view_ops ui_view_groups = {
    .title = "Groups", .has_side = false, .draw = draw_groups, .draw_side = NULL};
