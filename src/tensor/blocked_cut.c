/* The cut of a forward pass into tasks: a guess of what the whole costs, beside the multiplications, for
 * every cut worth considering, and of how evenly its tasks fill 2 to 16 threads. It depends on the problem
 * only. */
#include "tensor/blocked_conv_internal.h"

/* A task is worth its start from this much work on; more tasks than MOST_TASKS balance no better. */
enum { TASK_FLOPS = 3 << 19, MOST_TASKS = 128 };

/* Cycles, roughly: of a multiply and add; to start a task; to copy a line of x; to bring a line of x or of
 * weights from the third level, which is done ahead of their use. */
static const double flops_per_cycle = 50.0, task_cost = 2000.0, copy_cost = 6.0, line_cost = 1.0;

/* What a task passes over again and again should stay in the second level: rows of x beside a panel. */
static const double near_lines = 896.0 * 1024.0 / 64.0, fewest_near_lines = 256.0 * 1024.0 / 64.0,
                    most_near_lines = 640.0 * 1024.0 / 64.0;

static int64_t chunk_rows(const blocked_load *load)
{
    double lines = near_lines - load->weight_lines;
    lines = lines < fewest_near_lines ? fewest_near_lines : lines > most_near_lines ? most_near_lines : lines;
    int64_t rows = (int64_t)((lines - load->halo_lines) / load->row_lines);
    return conv_max(conv_min(rows, load->rows), 1);
}

/* How much larger the largest part is than parts of equal size. */
static double excess(int64_t count, int64_t parts)
{
    return (double)(conv_ceil_divide(count, parts) * parts) / (double)count;
}

/* How much longer tasks take on some threads than if they could be cut at will: the last round is as long as
 * the largest task. */
static double unevenness(int64_t tasks, double largest, int64_t threads)
{
    double rounds = (double)(conv_ceil_divide(tasks, threads) - 1) + largest;
    return rounds * (double)threads / (double)tasks;
}

static double cut_cost(const blocked_load *load, const blocked_cut *cut)
{
    double pieces = (double)conv_ceil_divide(load->pieces, cut->piece_tasks);
    double panels = (double)conv_ceil_divide(load->panels, cut->panel_tasks);
    int64_t rows = conv_ceil_divide(load->rows, cut->row_tasks);
    double chunks = (double)conv_ceil_divide(rows, cut->chunk_rows);
    double x_lines = (double)rows * load->row_lines + chunks * load->halo_lines;
    double w_lines = panels * load->weight_lines, passes = pieces * chunks;
    if (x_lines / chunks + w_lines < near_lines || panels <= 1.0)
        passes = 1.0;
    double cost = task_cost + w_lines * passes * line_cost;
    cost += pieces * x_lines * (load->copies ? copy_cost : line_cost);
    double total = cost * (double)cut->tasks + load->flops / flops_per_cycle;
    double largest = excess(load->pieces, cut->piece_tasks) * excess(load->rows, cut->row_tasks) *
                     excess(load->panels, cut->panel_tasks);
    return total * (4.0 * unevenness(cut->tasks, largest, 2) + 2.0 * unevenness(cut->tasks, largest, 4) +
                    unevenness(cut->tasks, largest, 16));
}

/* Numbers of parts worth considering: 1, 2, 4 ... and those that make parts of 1, 2, 4 ... */
enum { MOST_CHOICES = 16 };
typedef struct part_choices {
    int count;
    int64_t parts[MOST_CHOICES];
} part_choices;

static part_choices choices_for(int64_t whole, int64_t most)
{
    part_choices choices = {.count = 0};
    int64_t limit = conv_min(whole, most);
    for (int64_t size = 1; size <= limit && choices.count < MOST_CHOICES / 2; size *= 2)
        choices.parts[choices.count++] = size;
    for (int64_t size = 1; size < whole && choices.count < MOST_CHOICES; size *= 2)
        if (conv_ceil_divide(whole, size) <= limit)
            choices.parts[choices.count++] = conv_ceil_divide(whole, size);
    return choices;
}

typedef struct cut_search {
    const blocked_load *load;
    int64_t most;
    part_choices panels;
    blocked_cut best;
    double best_cost;
} cut_search;

/* All cuts with so many parts of pieces and rows. */
static void consider(cut_search *search, int64_t piece_tasks, int64_t row_tasks)
{
    blocked_cut cut = search->best;
    for (int i = 0; i < search->panels.count; i++) {
        cut.piece_tasks = piece_tasks, cut.row_tasks = row_tasks;
        cut.panel_tasks = search->panels.parts[i];
        cut.tasks = piece_tasks * row_tasks * cut.panel_tasks;
        if (cut.tasks > search->most)
            continue;
        double cost = cut_cost(search->load, &cut);
        if (search->best.tasks != 0 && cost >= search->best_cost)
            continue;
        search->best = cut;
        search->best_cost = cost;
    }
}

/* Rows are cut only where every piece is a task of its own. */
blocked_cut esp_blocked_cut(const blocked_load *load)
{
    double wanted = load->flops / (double)TASK_FLOPS;
    cut_search search = {.load = load, .best = {.chunk_rows = chunk_rows(load)}};
    search.most = wanted < 1.0 ? 1 : wanted > (double)MOST_TASKS ? MOST_TASKS : (int64_t)wanted;
    if (!load->groups_pieces)
        search.most = conv_max(search.most, load->pieces);
    search.panels = choices_for(load->panels, search.most);
    part_choices pieces = choices_for(load->pieces, search.most);
    for (int i = 0; load->groups_pieces && i < pieces.count; i++)
        consider(&search, pieces.parts[i], 1);
    part_choices rows = choices_for(load->rows, conv_max(search.most / load->pieces, 1));
    for (int i = 0; i < rows.count; i++)
        consider(&search, load->pieces, rows.parts[i]);
    return search.best;
}

blocked_share esp_blocked_share(const blocked_load *load, const blocked_cut *cut, int64_t task)
{
    int64_t row = task % cut->row_tasks, rest = task / cut->row_tasks;
    int64_t panel = rest % cut->panel_tasks, piece = rest / cut->panel_tasks;
    return (blocked_share){
        .first_piece = blocked_part(load->pieces, cut->piece_tasks, piece),
        .last_piece = blocked_part(load->pieces, cut->piece_tasks, piece + 1),
        .first_row = blocked_part(load->rows, cut->row_tasks, row),
        .last_row = blocked_part(load->rows, cut->row_tasks, row + 1),
        .first_panel = blocked_part(load->panels, cut->panel_tasks, panel),
        .last_panel = blocked_part(load->panels, cut->panel_tasks, panel + 1),
    };
}
