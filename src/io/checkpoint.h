/* Checkpoints: the state of a training in one file.
 *
 * The file, all numbers little-endian:
 *   8 bytes   "ESPCKPT" and a newline
 *   uint32    version, 1
 *   uint32    number of blocks
 *   per block:
 *     uint32  length of its name
 *     uint64  bytes of its data
 *     name (UTF-8, no ending zero), data
 *     uint32  CRC-32 (zlib's) of all of the block up to here
 *   uint32    CRC-32 of the 16 bytes at the front
 * and nothing after it. What the blocks mean is train/trainer_state.c's; a training's own names have no '/'.
 */
#ifndef ESP_IO_CHECKPOINT_H
#define ESP_IO_CHECKPOINT_H

#include "train/train_state.h"

/* Writes atomically: a crash or a full disk leaves the old file. `extra` (may be NULL) is what the caller
 * wants to find again beside the training's state; its names must be others. */
esp_status esp_checkpoint_save(const char *path, const esp_train_state *state, const esp_train_state *extra,
                               esp_error *err);

/* ESP_FORMAT for what is no checkpoint, truncated or damaged (sizes and sums are checked before they are
 * believed), ESP_UNSUPPORTED for another version; messages name the file. `*out` must be empty and is set on
 * success only; release with esp_train_state_free. */
esp_status esp_checkpoint_load(const char *path, esp_train_state *out, esp_error *err);

#endif
