/* Augmentation: random changes of training images, as data. One table of words is the parser, the text form
 * and what errors name; every surface (command line, Lua, JSON) goes through it. */
#ifndef ESP_TRAIN_AUGMENTATION_H
#define ESP_TRAIN_AUGMENTATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/rng.h"
#include "base/status.h"

/* All fields at zero: no augmentation. The order in which they act is the order here. */
typedef struct esp_augmentation {
    int crop_padding; /* random crop of the original size from the image padded by this many zeros; 0 = off */
    bool flips;       /* horizontal flip with probability 1/2 */
    /* A random box with this share of the image's area (uniform) and this ratio of width to height
     * (log-uniform), resized to the size of the batch, instead of the evaluation's resize and centre crop
     * (torchvision's RandomResizedCrop; Szegedy et al. 2015). `most_area` 0 = off. */
    double least_area, most_area;
    double least_ratio, most_ratio; /* both 0: 3/4 and 4/3 */
    /* Colours, in random order (torchvision's ColorJitter): factors uniform in [1 - v, 1 + v], not below 0;
     * the hue turns by up to this share of the circle, at most 0.5. */
    double brightness, contrast, saturation, hue;
    int cutout; /* a square of this side, centred anywhere, is 0 after normalisation (DeVries, Taylor 2017) */
    double mixup; /* x = s*x1 + (1-s)*x2, s ~ Beta(mixup, mixup) (Zhang et al. 2018); 0 = off */
} esp_augmentation;

/* Longest canonical text with its ending zero. */
#define ESP_AUGMENTATION_TEXT_MAX 256

/* Parses "crop=4,flip,resized=0.08:1,ratio=0.75:1.3333,jitter=0.4,hue=0.1,cutout=8,mixup=0.2"; "" and "none"
 * are no augmentation. `jitter=V` is brightness, contrast and saturation in one. ESP_INVALID names the word,
 * what was found and expected, and the nearest word. `*out` is set on success only. */
esp_status esp_augmentation_parse(const char *text, esp_augmentation *out, esp_error *err);

/* The words, for Lua's keys and help; `*count` of them, NULL-terminated. */
const char *const *esp_augmentation_words(size_t *count);

/* The ranges of all fields. */
esp_status esp_augmentation_check(const esp_augmentation *augmentation, esp_error *err);

/* The text that parses to the same; "" when nothing is on. `buffer` of at least ESP_AUGMENTATION_TEXT_MAX.
 * Returns it. */
char *esp_augmentation_text(const esp_augmentation *augmentation, char *buffer, size_t size);

bool esp_augmentation_is_none(const esp_augmentation *augmentation); /* NULL: true */

/* The random choices of one kind for one image: independent for each (epoch_seed, kind, image), so that one
 * kind more does not change what the others do. */
typedef enum esp_choice {
    ESP_CHOICE_PLACE,
    ESP_CHOICE_BOX,
    ESP_CHOICE_COLOUR,
    ESP_CHOICE_CUTOUT,
    ESP_CHOICE_MIX
} esp_choice;
void esp_choice_seed(esp_rng *rng, uint64_t epoch_seed, esp_choice kind, uint32_t image);
/* The seed of an epoch's choices. */
uint64_t esp_epoch_seed(uint64_t seed, uint64_t epoch);

/* The weight s of the image itself in a mixture: Beta(mixup, mixup). */
double esp_mixup_share(const esp_augmentation *augmentation, uint64_t epoch_seed, uint32_t image);

#endif
