/* The stored cases of ONNX's group 'node'. */
#include "onnx/conformance.h"

int main(int argc, char **argv)
{
    return conformance_main("node", argc, argv);
}
