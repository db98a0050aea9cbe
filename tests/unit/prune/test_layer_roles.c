/* Roles of layers, found from the graph's shape. */
#include <string.h>

#include "unit/base/scratch.h"
#include "unit/prune/prune_nets.h"

/* Checks the role of one node's layer. */
static void check_role(const net_view *view, const char *node, esp_role expected)
{
    esp_role found = view->layers->items[net_layer(view, node)].role;

    if (found != expected)
        fail_msg("'%s' is %s, expected %s", node, esp_role_word(found), esp_role_word(expected));
}

static void residual_network_has_a_stem_and_a_shortcut(void **state)
{
    net_view view = net_look(net_residual(1));
    (void)state;

    check_role(&view, "Conv1", ESP_ROLE_STEM);
    check_role(&view, "Conv4", ESP_ROLE_BODY);
    check_role(&view, "Conv7", ESP_ROLE_BODY);
    check_role(&view, "Conv11", ESP_ROLE_BODY);
    check_role(&view, "Conv14", ESP_ROLE_BODY);
    check_role(&view, "Conv16", ESP_ROLE_SHORTCUT);
    check_role(&view, "Gemm22", ESP_ROLE_BODY);
    net_forget(&view);
}

static void fully_connected_layers_are_no_stems(void **state)
{
    net_tensor x;
    net n = net_start(2, 3, 3, 1, &x);
    (void)state;

    net_output(&n, net_fc(&n, net_flatten(&n, x), 4, NET_GEMM_PLAIN));
    net_view view = net_look(net_finish(&n));
    check_role(&view, "Gemm2", ESP_ROLE_BODY);
    net_forget(&view);
}

static void shortcut_may_pool_and_normalise_on_its_way(void **state)
{
    net_tensor x, y, z;
    net n = net_start(2, 8, 8, 1, &x);
    (void)state;

    x = net_unary(&n, "Relu", net_conv3(&n, x, 4));                                 /* Conv1 Relu2 */
    y = net_unary(&n, "Relu", net_conv1(&n, x, 6));                                 /* Conv3 Relu4 */
    y = net_conv(&n, y, 6, (net_conv_options){.kernel = 3, .stride = 2, .pad = 1}); /* Conv5 */
    z = net_norm(&n, net_conv1(&n, net_pool(&n, "AveragePool", x, 2, 2, 0), 6));    /* 6, Conv7, 8 */
    net_output(&n, net_binary(&n, "Add", y, z));
    net_view view = net_look(net_finish(&n));
    check_role(&view, "Conv7", ESP_ROLE_SHORTCUT);
    check_role(&view, "Conv3", ESP_ROLE_BODY);
    check_role(&view, "Conv5", ESP_ROLE_BODY);
    net_forget(&view);
}

static void projection_before_an_identity_block_is_no_shortcut(void **state)
{
    net_tensor x, y;
    net n = net_start(2, 6, 6, 1, &x);
    (void)state;

    /* as in MobileNetV2: the 1x1 result itself goes around the next block; its own way to the Add is not the
     * shorter of two ways from what it reads, because all ways lead through it */
    x = net_conv1(&n, net_unary(&n, "Relu", net_conv3(&n, x, 4)), 3); /* Conv1 Relu2 Conv3 */
    y = net_conv1(&n, net_unary(&n, "Relu", net_conv1(&n, x, 8)), 3); /* Conv4 Relu5 Conv6 */
    net_output(&n, net_binary(&n, "Add", x, y));
    net_view view = net_look(net_finish(&n));
    check_role(&view, "Conv3", ESP_ROLE_BODY);
    check_role(&view, "Conv4", ESP_ROLE_BODY);
    check_role(&view, "Conv6", ESP_ROLE_BODY);
    net_forget(&view);
}

static void branches_of_one_layer_each_have_no_shortcut(void **state)
{
    net_tensor x, y;
    net n = net_start(2, 6, 6, 1, &x);
    (void)state;

    x = net_conv3(&n, x, 4);                                       /* Conv1 */
    y = net_conv3(&n, x, 4);                                       /* Conv2 */
    net_output(&n, net_binary(&n, "Add", y, net_conv1(&n, x, 4))); /* Conv3 */
    net_view view = net_look(net_finish(&n));
    check_role(&view, "Conv3", ESP_ROLE_BODY);
    net_forget(&view);
}

static void gates_are_no_shortcuts(void **state)
{
    net_tensor x, gate;
    net n = net_start(2, 6, 6, 1, &x);
    (void)state;

    /* squeeze and excitation: the 1x1 layers lie on the longer way */
    x = net_conv3(&n, x, 4);                                           /* Conv1 */
    gate = net_unary(&n, "Relu", net_conv1(&n, net_global(&n, x), 2)); /* 2, Conv3, Relu4 */
    gate = net_unary(&n, "Sigmoid", net_conv1(&n, gate, 4));           /* Conv5, 6 */
    net_output(&n, net_binary(&n, "Mul", x, gate));
    net_view view = net_look(net_finish(&n));
    check_role(&view, "Conv3", ESP_ROLE_BODY);
    check_role(&view, "Conv5", ESP_ROLE_BODY);
    net_forget(&view);
}

static void depthwise_layers_are_grouped(void **state)
{
    net_tensor x;
    net n = net_start(4, 6, 6, 1, &x);
    (void)state;

    x = net_conv1(&n, x, 4);
    net_output(&n, net_conv(&n, x, 4, (net_conv_options){.kernel = 3, .pad = 1, .group = 4})); /* Conv2 */
    net_view view = net_look(net_finish(&n));
    check_role(&view, "Conv1", ESP_ROLE_STEM);
    check_role(&view, "Conv2", ESP_ROLE_GROUPED);
    net_forget(&view);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(residual_network_has_a_stem_and_a_shortcut),
        cmocka_unit_test(fully_connected_layers_are_no_stems),
        cmocka_unit_test(shortcut_may_pool_and_normalise_on_its_way),
        cmocka_unit_test(projection_before_an_identity_block_is_no_shortcut),
        cmocka_unit_test(branches_of_one_layer_each_have_no_shortcut),
        cmocka_unit_test(gates_are_no_shortcuts),
        cmocka_unit_test(depthwise_layers_are_grouped),
    };
    return cmocka_run_group_tests_name("roles", tests, NULL, NULL);
}
