/* Pieces that several views draw. */
#include "ui/views/parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "ui/chart.h"

const char *ui_layer_word(const ui_state *state, int layer)
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);
    const esp_preview_layer *item = &preview->items[layer];

    if (esp_plan_layer_is_ignored(&preview->plan, &preview->layers.items[layer]))
        return "ignored";
    return item->takes_part ? "" : item->role == ESP_ROLE_BODY ? "whole" : esp_role_word(item->role);
}

char *ui_layer_name(const esp_layer *layer, char *buffer, size_t size)
{
    static const char ending[] = ".weight";
    size_t length = strlen(layer->weight_name), cut = sizeof ending - 1;

    if (length > cut && strcmp(layer->weight_name + length - cut, ending) == 0)
        snprintf(buffer, size, "%.*s", (int)(length - cut), layer->weight_name);
    else
        snprintf(buffer, size, "%s", layer->name);
    return buffer;
}

char *ui_layer_shape(const ui_canvas *canvas, const esp_layer *layer, char *buffer, size_t size)
{
    const char *to = canvas->alphabet == UI_ASCII ? ">" : "\u2192";
    long long from = (long long)(layer->channels * layer->group), filters = (long long)layer->filters;

    if (layer->is_conv) {
        int used = 0;
        for (int i = 0; i < layer->kernel_rank && used < (int)size; i++)
            used += snprintf(buffer + used, size - (size_t)used, "%s%lld", i > 0 ? "x" : "",
                             (long long)layer->kernel[i]);
        if (used < (int)size)
            snprintf(buffer + used, size - (size_t)used, "%s %lld%s%lld",
                     layer->filter_axis > layer->channel_axis ? " up" : "", from, to, filters);
    } else
        snprintf(buffer, size, "fc %lld%s%lld", from, to, filters);
    return buffer;
}

int ui_scroll(int top, int cursor, int count, int height)
{
    if (cursor < top)
        top = cursor;
    if (cursor >= top + height)
        top = cursor - height + 1;
    if (top > count - height)
        top = count - height;
    return top < 0 ? 0 : top;
}

void ui_say_empty(ui_canvas *canvas, ui_rect rect, const char *text)
{
    int width = ui_text_width(text);
    int x = width < rect.width ? rect.x + (rect.width - width) / 2 : rect.x;

    ui_text(canvas, x, rect.y + rect.height / 2, rect.width, text, UI_DIM);
}

static void put_fact(ui_canvas *canvas, ui_rect *rect, int column, const char *label, ui_element element,
                     const char *text)
{
    if (rect->height <= 0)
        return;
    ui_text(canvas, rect->x, rect->y, column - 1, label, UI_DIM);
    ui_text_middle(canvas, rect->x + column, rect->y, rect->width - column, text, element);
    rect->y++;
    rect->height--;
}

void ui_fact(ui_canvas *canvas, ui_rect *rect, const char *label, ui_element element, const char *format, ...)
{
    char text[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put_fact(canvas, rect, UI_FACT_COLUMN, label, element, text);
}

void ui_fact_at(ui_canvas *canvas, ui_rect *rect, int column, const char *label, ui_element element,
                const char *format, ...)
{
    char text[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put_fact(canvas, rect, column, label, element, text);
}

void ui_paragraph(ui_canvas *canvas, ui_rect *rect, const char *text, ui_element element)
{
    while (*text && rect->height > 0 && rect->width > 0) {
        size_t length = strlen(text), fit = (size_t)rect->width;
        char line[256];
        if (fit > sizeof line - 1)
            fit = sizeof line - 1;
        if (length > fit) {
            length = fit;
            while (length > 0 && text[length] != ' ')
                length--;
            if (length == 0)
                length = fit;
        }
        snprintf(line, sizeof line, "%.*s", (int)length, text);
        ui_text(canvas, rect->x, rect->y, rect->width, line, element);
        rect->y++;
        rect->height--;
        text += length;
        text += strspn(text, " ");
    }
}

bool ui_filter_is_kept(const esp_preview_layer *item, int64_t filter)
{
    return esp_mask_filter_kept(&item->mask, filter) > 0;
}

/* Column `i` of `width` shows the filters [first, last) of the sorted order. */
void ui_draw_sorted(ui_canvas *canvas, ui_rect rect, const esp_layer_detail *detail,
                    const esp_preview_layer *item)
{
    double most = detail->scores[detail->order[detail->filters - 1]];
    int64_t per_filter = rect.width / detail->filters;
    int columns = per_filter > 0 ? (int)(per_filter * detail->filters) : rect.width;

    for (int i = 0; i < columns; i++) {
        int64_t rank = per_filter > 0 ? i / per_filter : ((int64_t)i + 1) * detail->filters / rect.width - 1;
        int32_t filter = detail->order[rank < 0 ? 0 : rank];
        bool is_gap = per_filter >= 3 && i % per_filter == per_filter - 1;
        double share = most > 0 ? detail->scores[filter] / most : 0.0;
        if (is_gap)
            continue;
        if (!ui_filter_is_kept(item, filter) && canvas->is_mono)
            ui_column_hatched(canvas, rect.x + i, rect, share, UI_CUT);
        else
            ui_column(canvas, rect.x + i, rect, share, ui_filter_is_kept(item, filter) ? UI_KEPT : UI_CUT);
    }
}

/* ---- the side panel ---- */

static void draw_counts(ui_canvas *canvas, ui_rect *rect, const esp_layer *layer,
                        const esp_preview_layer *item)
{
    const char *to = canvas->alphabet == UI_ASCII ? "->" : "\u2192";
    char before[16], after[16];

    esp_format_count(before, sizeof before, (double)item->params_before);
    esp_format_count(after, sizeof after, (double)item->params_after);
    ui_fact(canvas, rect, "weights", UI_TEXT, "%s %s %s", before, to, after);
    if (item->params_stored > item->params_after)
        ui_fact(canvas, rect, "stored", UI_WARN, "%s, zeros stay",
                esp_format_count(after, sizeof after, (double)item->params_stored));
    esp_format_count(before, sizeof before, (double)item->macs_before);
    esp_format_count(after, sizeof after, (double)item->macs_after);
    ui_fact(canvas, rect, "MACs", UI_TEXT, "%s %s %s", before, to, after);
    ui_fact(canvas, rect, "filters", UI_TEXT, "%lld of %lld", (long long)item->filters_kept,
            (long long)layer->filters);
    ui_fact(canvas, rect, "channels", UI_TEXT, "%lld of %lld", (long long)item->channels_kept,
            (long long)layer->channels);
    if (item->grouping.labels)
        ui_fact(canvas, rect, "groups", UI_TEXT, "%lld asked, %lld executed", (long long)item->grouping.k,
                (long long)item->grouping.executed_groups);
    if (item->takes_part) {
        ui_fact(canvas, rect, "asked", UI_TEXT, "%.3g", item->asked);
        ui_fact(canvas, rect, "got", UI_TEXT, "%.3f", item->got);
    }
}

/* Why the layer does not get what is asked: each reason once, however many coupled sets it speaks of. */
static void draw_ledger(const ui_state *state, ui_canvas *canvas, ui_rect *rect)
{
    const esp_reasons *reasons = state->snapshot->reasons;
    const esp_ledger_layer *layer;

    if (!reasons || reasons->box != state->snapshot->box)
        return;
    layer = &reasons->ledger.layers[state->layer];
    for (int i = 0; i < layer->entry_count; i++) {
        const esp_ledger_entry *entry = &layer->entries[i];
        double share = entry->share;
        bool is_told = false;
        for (int j = 0; j < layer->entry_count; j++) {
            bool is_same = j != i && layer->entries[j].reason == entry->reason;
            is_told = is_told || (is_same && j < i);
            share += is_same ? layer->entries[j].share : 0.0;
        }
        if (!is_told)
            ui_fact(canvas, rect, i == 0 ? "difference" : "", UI_WARN, "%+.3g%% %s", -100.0 * share,
                    esp_reason_word(entry->reason));
    }
}

/* Columns of the text for wide places are single blanks here. */
static void squeeze_blanks(char *text)
{
    char *to = text;

    for (const char *from = text + strspn(text, " "); *from; from++)
        if (*from != ' ' || (from[1] != ' ' && from[1] != '\0'))
            *to++ = *from;
    *to = '\0';
}

static void draw_explanation(ui_canvas *canvas, ui_rect rect, const esp_explanation *explanation)
{
    ui_rect inside = ui_rect_shrink(rect, 2, 1, 1, 0);
    char title[64];

    snprintf(title, sizeof title, "Filter %lld", (long long)explanation->channel);
    ui_heading(canvas, rect.x + 1, rect.y, rect.width - 1, title);
    for (const char *line = explanation->text; *line && inside.height > 0;) {
        char copy[512];
        size_t length = strcspn(line, "\n");
        snprintf(copy, sizeof copy, "%.*s", (int)length, line);
        squeeze_blanks(copy);
        if (copy[0])
            ui_paragraph(canvas, &inside, copy, line == explanation->text ? UI_STRONG : UI_TEXT);
        else
            inside = ui_rect_shrink(inside, 0, 1, 0, 0);
        line += length + (line[length] == '\n');
    }
}

void ui_draw_layer_side(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_layer *layer = ui_selected_layer(state);
    const esp_preview_layer *item = ui_selected_preview(state);
    const esp_layer_detail *detail = ui_selected_detail(state);
    ui_rect inside = ui_rect_shrink(rect, 2, 1, 1, 0);
    char shape[48], name[128];

    ui_vertical(canvas, rect.x, rect.y, rect.height, UI_BORDER);
    if (!layer)
        return;
    if (state->view == UI_VIEW_SALIENCY && ui_selected_explanation(state)) {
        draw_explanation(canvas, rect, ui_selected_explanation(state));
        return;
    }
    ui_heading(canvas, rect.x + 1, rect.y, rect.width - 1, "Selected");
    ui_text_middle(canvas, inside.x, inside.y, inside.width, ui_layer_name(layer, name, sizeof name),
                   UI_STRONG);
    inside = ui_rect_shrink(inside, 0, 1, 0, 0);
    ui_fact(canvas, &inside, "node", UI_TEXT, "%s", layer->name);
    ui_fact(canvas, &inside, "shape", UI_TEXT, "%s%s", ui_layer_shape(canvas, layer, shape, sizeof shape),
            layer->group > 1 ? " grouped" : "");
    ui_fact(canvas, &inside, "part", UI_TEXT, "%s", esp_role_word(item->role));
    draw_counts(canvas, &inside, layer, item);
    draw_ledger(state, canvas, &inside);
    if (item->note[0])
        ui_paragraph(canvas, &inside, item->note, UI_WARN);
    if (!detail || inside.height < 6 || state->view == UI_VIEW_SALIENCY)
        return;
    ui_heading(canvas, rect.x + 1, inside.y + 1, rect.width - 1, esp_criterion_at(state->criterion)->name);
    inside = ui_rect_shrink(inside, 0, 2, 0, 0);
    if (inside.height > 8)
        inside.height = 8;
    ui_draw_sorted(canvas, inside, detail, item);
}
