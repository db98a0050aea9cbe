/* Monotonic time. */
#ifndef ESP_BASE_CLOCK_H
#define ESP_BASE_CLOCK_H

/* Seconds since an arbitrary point; never goes back. */
double esp_clock_s(void);

#endif
