/* A network small enough to write down, for tests that need one whose shapes hold. */
#ifndef ESP_TESTS_SAMPLE_H
#define ESP_TESTS_SAMPLE_H

#include "graph/graph.h"

/* x [batch,2,6,6] -> Conv -> Relu -> Constant, Reshape -> y [batch,48]. Fails the test when it cannot be
 * built. */
esp_graph *sample_network(int64_t opset, int64_t ir_version);

/* Fails the test with the error's message unless the call, in which the error is called `err`, succeeds. */
#define REQUIRE(call)                                                                                        \
    do {                                                                                                     \
        esp_error err_ = {0};                                                                                \
        esp_error *err = &err_;                                                                              \
        if ((call) != ESP_OK)                                                                                \
            fail_msg("%s", err_.message);                                                                    \
    } while (0)

#endif
