/* Colour jitter in bytes, with the arithmetic of Pillow (Blend.c, Convert.c) under torchvision's ColorJitter,
 * so that a factor changes a picture here as it does there. Pixels lie in planes. */
#include <math.h>
#include <stddef.h>

#include "train/image.h"

typedef struct picture {
    uint8_t *pixels;
    int64_t plane;
    int channels;
} picture;

/* Convert.c, L24: ITU-R 601-2 in 16 bits. */
static uint8_t luma(const picture *p, int64_t i)
{
    if (p->channels < 3) {
        return p->pixels[i];
    }
    uint32_t sum = p->pixels[i] * 19595u + p->pixels[p->plane + i] * 38470u +
                   p->pixels[2 * p->plane + i] * 7471u + 0x8000u;
    return (uint8_t)(sum >> 16);
}

/* Blend.c: from `base` (factor 0) to `value` (factor 1) and beyond, cut off, not rounded. */
static uint8_t blend(int base, int value, float factor)
{
    float mixed = (float)base + factor * (float)(value - base);
    return (uint8_t)(mixed <= 0.0f ? 0.0f : mixed >= 255.0f ? 255.0f : mixed);
}

static void blend_plain(const picture *p, int base, float factor)
{
    for (int64_t i = 0; i < p->plane * p->channels; i++) {
        p->pixels[i] = blend(base, p->pixels[i], factor);
    }
}

static void change_brightness(const picture *p, float factor)
{
    blend_plain(p, 0, factor);
}

static void change_contrast(const picture *p, float factor)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < p->plane; i++) {
        sum += luma(p, i);
    }
    blend_plain(p, (int)((double)sum / (double)p->plane + 0.5), factor);
}

static void change_saturation(const picture *p, float factor)
{
    if (p->channels != 3) {
        return;
    }
    for (int64_t i = 0; i < p->plane; i++) {
        int grey = luma(p, i);
        for (int c = 0; c < 3; c++) {
            uint8_t *pixel = p->pixels + c * p->plane + i;
            *pixel = blend(grey, *pixel, factor);
        }
    }
}

/* ---- hue: Convert.c, rgb2hsv and hsv2rgb, hue and saturation in bytes ---- */

static void to_hsv(int r, int g, int b, int *hue, int *saturation, int *value)
{
    int most = r > g ? r : g, least = r < g ? r : g;
    most = most > b ? most : b;
    least = least < b ? least : b;
    *value = most;
    *hue = *saturation = 0;
    if (most == least) {
        return;
    }
    float range = (float)(most - least);
    float rc = (float)(most - r) / range, gc = (float)(most - g) / range, bc = (float)(most - b) / range;
    float h = r == most   ? bc - gc
              : g == most ? (float)(2.0 + (double)rc - (double)bc)
                          : (float)(4.0 + (double)gc - (double)rc);
    h = (float)fmod((double)h / 6.0 + 1.0, 1.0);
    *hue = (int)((double)h * 255.0);
    *saturation = (int)((double)(range / (float)most) * 255.0);
}

static uint8_t rounded(double value)
{
    return (uint8_t)(value < 0.0 ? 0.0 : value > 255.0 ? 255.0 : round(value));
}

static void from_hsv(int hue, int saturation, int value, uint8_t rgb[3])
{
    double sector = (double)((float)hue * 6.0f) / 255.0;
    int i = (int)floor(sector);
    float f = (float)(sector - (double)i), s = (float)((double)(float)saturation / 255.0);
    uint8_t v = (uint8_t)value;
    uint8_t p = rounded((double)(float)value * (1.0 - (double)s));
    uint8_t q = rounded((double)(float)value * (1.0 - (double)(s * f)));
    uint8_t t = rounded((double)(float)value * (1.0 - (double)s * (1.0 - (double)f)));
    const uint8_t sectors[6][3] = {{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}};
    for (int c = 0; c < 3; c++) {
        rgb[c] = saturation == 0 ? v : sectors[i % 6][c];
    }
}

/* `turn` is a share of the circle; in 255 steps, as torchvision's np.uint8(hue * 255). */
static void change_hue(const picture *p, float turn)
{
    if (p->channels != 3) {
        return;
    }
    int steps = (int)((double)turn * 255.0);
    for (int64_t i = 0; i < p->plane; i++) {
        int hue, saturation, value;
        uint8_t rgb[3];
        uint8_t *r = p->pixels + i, *g = r + p->plane, *b = g + p->plane;
        to_hsv(*r, *g, *b, &hue, &saturation, &value);
        from_hsv((hue + steps) & 255, saturation, value, rgb);
        *r = rgb[0];
        *g = rgb[1];
        *b = rgb[2];
    }
}

/* ---- the whole ---- */

void esp_colour_change(esp_colour colour, float amount, int channels, int64_t plane, uint8_t *pixels)
{
    static void (*const changes[])(const picture *, float) = {
        [ESP_COLOUR_BRIGHTNESS] = change_brightness,
        [ESP_COLOUR_CONTRAST] = change_contrast,
        [ESP_COLOUR_SATURATION] = change_saturation,
        [ESP_COLOUR_HUE] = change_hue,
    };
    const picture p = {pixels, plane, channels};
    changes[colour](&p, amount);
}

void esp_colour_jitter(const esp_augmentation *augmentation, esp_rng *rng, int channels, int64_t plane,
                       uint8_t *pixels)
{
    const double strengths[] = {augmentation->brightness, augmentation->contrast, augmentation->saturation,
                                augmentation->hue};
    uint32_t order[4] = {0, 1, 2, 3};
    double draws[4];
    esp_rng_shuffle(rng, order, 4);
    for (int k = 0; k < 4; k++) { /* all are drawn, so that one strength more leaves the others' factors */
        draws[k] = esp_rng_uniform(rng);
    }
    for (int k = 0; k < 4; k++) {
        esp_colour kind = (esp_colour)order[k];
        double strength = strengths[kind];
        if (strength <= 0.0) {
            continue;
        }
        double middle = kind == ESP_COLOUR_HUE ? 0.0 : 1.0;
        double low = middle - strength, high = middle + strength;
        low = kind != ESP_COLOUR_HUE && low < 0.0 ? 0.0 : low;
        esp_colour_change(kind, (float)(low + (high - low) * draws[kind]), channels, plane, pixels);
    }
}
