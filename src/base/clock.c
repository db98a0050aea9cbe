/* Monotonic time from the kernel; it runs on across changes of the wall clock. */
#include "base/clock.h"

#include <time.h>

double esp_clock_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
