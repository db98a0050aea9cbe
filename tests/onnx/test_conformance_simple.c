/* The stored cases of ONNX's group 'simple'. */
#include "onnx/conformance.h"

int main(int argc, char **argv)
{
    return conformance_main("simple", argc, argv);
}
