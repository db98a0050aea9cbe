/* The layout's properties, over every size a terminal may have. */
#include "ui/layout.h"
#include "unit/base/scratch.h"

static bool overlap(ui_rect a, ui_rect b)
{
    return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

static int rects_of(const ui_layout *layout, ui_rect rects[7])
{
    int count = 0;

    rects[count++] = layout->tabs;
    rects[count++] = layout->body;
    rects[count++] = layout->plan;
    rects[count++] = layout->status;
    rects[count++] = layout->message;
    rects[count++] = layout->hints;
    if (layout->has_side)
        rects[count++] = layout->side;
    return count;
}

static void check(int width, int height, bool wants_side)
{
    ui_layout layout = ui_layout_make(width, height, wants_side);
    ui_rect rects[7];
    int area = 0;

    assert_int_equal(layout.is_too_small, width < UI_LEAST_WIDTH || height < UI_LEAST_HEIGHT);
    if (layout.is_too_small)
        return;
    int count = rects_of(&layout, rects);
    for (int i = 0; i < count; i++) {
        assert_false(ui_rect_is_empty(rects[i]));
        assert_true(rects[i].x >= 0 && rects[i].y >= 0);
        assert_true(rects[i].x + rects[i].width <= width && rects[i].y + rects[i].height <= height);
        for (int j = 0; j < i; j++)
            assert_false(overlap(rects[i], rects[j]));
        area += rects[i].width * rects[i].height;
    }
    assert_int_equal(area, width * height); /* together they fill the screen */
    assert_true(layout.body.height >= 8 && layout.body.width >= 60);
    assert_true(!layout.has_side || (wants_side && layout.side.width >= 24));
}

static void every_size_is_filled_without_overlap(void **state)
{
    (void)state;
    for (int width = 1; width <= 300; width++)
        for (int height = 1; height <= 100; height++) {
            check(width, height, false);
            check(width, height, true);
        }
}

static void a_side_panel_appears_only_where_there_is_room_and_wish(void **state)
{
    (void)state;
    assert_false(ui_layout_make(UI_SIDE_FROM_WIDTH - 1, 40, true).has_side);
    assert_true(ui_layout_make(UI_SIDE_FROM_WIDTH, 40, true).has_side);
    assert_false(ui_layout_make(UI_SIDE_FROM_WIDTH, 40, false).has_side);
}

static void shrinking_never_goes_below_nothing(void **state)
{
    ui_rect rect = ui_rect_shrink((ui_rect){3, 4, 5, 6}, 1, 2, 10, 10);

    (void)state;
    assert_int_equal(rect.width, 0);
    assert_int_equal(rect.height, 0);
    rect = ui_rect_shrink((ui_rect){3, 4, 5, 6}, 1, 2, 1, 1);
    assert_int_equal(rect.x, 4);
    assert_int_equal(rect.y, 6);
    assert_int_equal(rect.width, 3);
    assert_int_equal(rect.height, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_is_filled_without_overlap),
        cmocka_unit_test(a_side_panel_appears_only_where_there_is_room_and_wish),
        cmocka_unit_test(shrinking_never_goes_below_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
