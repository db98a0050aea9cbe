/* docs/onnx-support.md says of the operators what the op table says; --write rewrites it. */
#include <stdio.h>
#include <string.h>

#include "onnx/support_document.h"

int main(int argc, char **argv)
{
    bool writes = argc == 2 && strcmp(argv[1], "--write") == 0;
    if (argc > 1 && !writes) {
        fprintf(stderr, "usage: %s [--write]\n", argv[0]);
        return 2;
    }
    return !support_document_operators(writes);
}
